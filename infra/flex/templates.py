"""The specs of the Flex templates, made from the jobs' own configs: `python -m infra.flex.templates`.

Enters: the config dataclass of each Beam job. Leaves: one metadata file a job in `infra/flex/metadata/`, whose
parameters are the job's flags; or, with `--image --output`, whole container specs, which Dataflow launches. Flags,
their texts, defaults and choices come from the config, so a template cannot offer what its job does not take.
"""

import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import re
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

import tyro

from beam_pipelines import console, exports
from schemas import storage
from schemas.errors import ConfigError

METADATA = Path(__file__).parent / "metadata"
# Terraform uploads what lies in its own module: a folder that is copied elsewhere has to be whole.
TERRAFORM_METADATA = Path(__file__).parents[1] / "terraform" / "examples" / "minimal" / "superbatch" / "metadata"
BUCKET = r"^gs://[a-z0-9][a-z0-9._-]+[a-z0-9](/.*)?$"
SOURCE = r"^(webdataset|img2dataset|parquet|tfds|folder):gs://.+$"
_IMAGE = r"[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}"
_INTEGER = r"^-?[0-9]+$"
_NUMBER = r"^-?[0-9]+(\.[0-9]+)?([eE]-?[0-9]+)?$"


@dataclass(frozen=True)
class BeamFlag:
    """A flag of Beam's that a template offers as well."""

    name: str
    help: str
    regex: str


ACCELERATORS = (
    BeamFlag(
        "dataflow_service_options",
        "accelerator of each worker; a GPU: worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver (machine "
        "type g2-standard-8); a TPU: worker_accelerator=type:tpu-v5-lite-podslice;topology:1x1 (machine type "
        "ct5lp-hightpu-1t). Their images are built with JAX_EXTRA=cuda12 or tpu",
        r"^[a-z_]+(=[a-z0-9:;_.-]+)?$",
    ),
    BeamFlag(
        "number_of_worker_harness_threads",
        "shards that a worker process embeds at a time; 1 where workers have an accelerator",
        r"^[1-9][0-9]*$",
    ),
)


@dataclass(frozen=True)
class Template:
    """How a job is offered as a template, beyond what its config says."""

    job: str
    title: str
    paths: Mapping[str, str]  # fields that name something in a bucket, and what they must look like
    left_out: tuple[str, ...] = ()  # fields of what does not run on Beam
    required: tuple[str, ...] = ()  # fields that the config leaves open for what was left out
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beam_flags: tuple[BeamFlag, ...] = ()

    @property
    def config(self) -> type[Any]:
        """The job's config dataclass."""
        return importlib.import_module(f"beam_pipelines.{self.job}").Config


TEMPLATES = (
    Template("ingest", "Superbatch ingest: raw pairs to a corpus", {"source": SOURCE, "output": BUCKET}),
    Template(
        "embed",
        "Superbatch embed: a corpus to aligned embeddings",
        {"corpus": BUCKET, "reference": BUCKET, "output": BUCKET, "tokenizer": BUCKET},
        beam_flags=ACCELERATORS,
    ),
    Template(
        "curate",
        "Superbatch curate: selections to a curated dataset",
        dict.fromkeys(("corpus", "selections", "output", "control", "embeddings", "decontaminate"), BUCKET),
    ),
    Template(
        "export",
        "Superbatch export: a dataset for other programs",
        {"dataset": BUCKET, "output": BUCKET},
        left_out=("checkpoint",),
        required=("dataset",),
        choices={"format": typing.get_args(exports.DatasetFormat)},
    ),
    Template(
        "publish",
        "Superbatch publish: a dataset to an immutable version",
        {"dataset": BUCKET, "destination": BUCKET},
    ),
)


def metadata(template: Template) -> dict[str, Any]:
    """Returns a template's metadata as Dataflow reads it (its message `TemplateMetadata`, as JSON)."""
    config = template.config
    helps, hints = _field_docstrings(config), typing.get_type_hints(config)
    parameters = [
        _parameter(template, f, hints[f.name], helps[f.name])
        for f in dataclasses.fields(config)
        if f.name not in template.left_out
    ]
    for flag in template.beam_flags:
        named = {"name": flag.name, "label": _label(flag.name), "helpText": _sentence(flag.help)}
        parameters.append(named | {"isOptional": True, "paramType": "TEXT", "regexes": [flag.regex]})
    description = _sentence(" ".join((config.__doc__ or "").split()))
    return {"name": template.title, "description": description, "parameters": parameters}


def container_spec(template: Template, image: str) -> dict[str, Any]:
    """Returns what Dataflow launches: the image of a job and its metadata.

    Args:
      template: of the job.
      image: of all jobs, REPOSITORY/NAME:TAG; each job's own has its name appended. Workers run the launcher's image.
    """
    own = f"{image}-{template.job}"
    return {
        "image": own,
        "sdkInfo": {"language": "PYTHON"},
        "metadata": metadata(template),
        "defaultEnvironment": {"sdkContainerImage": own, "ipConfiguration": "WORKER_IP_PRIVATE"},
    }


def serialise(content: dict[str, Any]) -> bytes:
    """The bytes of a spec's file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _parameter(template: Template, f: "dataclasses.Field[Any]", hint: Any, help_text: str) -> dict[str, Any]:
    kind, default = _without_none(hint), _default(f)
    made: dict[str, Any] = {
        "name": f.name,
        "label": _label(f.name),
        "helpText": _sentence(help_text),
        "isOptional": default is not dataclasses.MISSING and f.name not in template.required,
    }
    choices = template.choices.get(f.name, typing.get_args(kind) if typing.get_origin(kind) is Literal else ())
    if choices:
        made |= {"paramType": "ENUM", "enumOptions": [{"value": choice, "label": choice} for choice in choices]}
    elif kind is bool:
        made |= {"paramType": "BOOLEAN"}
    elif kind in (int, float):
        made |= {"paramType": "NUMBER", "regexes": [_INTEGER if kind is int else _NUMBER]}
    else:
        made |= {"paramType": "TEXT"}
        if f.name in template.paths:
            made |= {"regexes": [template.paths[f.name]]}
    if default not in (dataclasses.MISSING, None, {}):
        made |= {"defaultValue": str(default).lower() if kind is bool else str(default)}
    return made


def _default(f: "dataclasses.Field[Any]") -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _without_none(hint: Any) -> Any:
    """Takes the `| None` off a type."""
    if typing.get_origin(hint) not in (Union, types.UnionType):
        return hint
    [kind] = (kind for kind in typing.get_args(hint) if kind is not type(None))
    return kind


def _field_docstrings(config: type[Any]) -> dict[str, str]:
    """Reads the text below each field of a dataclass, which Python itself does not keep."""
    [declared] = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(declared, ast.ClassDef)
    found = {}
    for statement, following in itertools.pairwise([*declared.body, ast.Pass()]):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            if not isinstance(following, ast.Expr) or not isinstance(following.value, ast.Constant):
                raise ConfigError(f"{config.__name__}.{statement.target.id} has no text below it: say what it is")
            found[statement.target.id] = " ".join(str(following.value.value).split())
    return found


def _label(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:].rstrip(".") + "."


@dataclass(frozen=True, kw_only=True)
class TemplatesConfig:
    """Write the specs of the Flex templates; without flags, the metadata that the repository holds."""

    image: str | None = None
    """image of all jobs as it was pushed, REPOSITORY/NAME:TAG; each job's own is that with its name appended"""
    output: str | None = None
    """with --image: directory or gs:// to write a container spec for each job to"""

    def __post_init__(self) -> None:
        if (self.image is None) != (self.output is None):
            raise ConfigError(f"image is {self.image!r} and output is {self.output!r}: give both or none")
        if self.image is not None and (not re.fullmatch(_IMAGE, self.image) or self.image.endswith(":latest")):
            raise ConfigError(
                f"image is {self.image!r}; it must be REPOSITORY/NAME:TAG, with a tag that is never moved (not latest)"
            )


def run(config: TemplatesConfig) -> list[str]:
    """Writes the files; returns their paths."""
    written = []
    for template in TEMPLATES:
        if config.image is None or config.output is None:
            content = serialise(metadata(template))
            targets = [storage.as_path(str(folder)) for folder in (METADATA, TERRAFORM_METADATA)]
        else:
            content, targets = serialise(container_spec(template, config.image)), [storage.as_path(config.output)]
        for target in targets:
            storage.replace(target / f"{template.job}.json", content)
            written.append(str(target / f"{template.job}.json"))
    return written


def main() -> int:
    """Runs the command."""
    name = "python -m infra.flex.templates"

    def write() -> int:
        print("\n".join(run(tyro.cli(TemplatesConfig, prog=name, use_underscores=True))))
        return 0

    return console.run_command(name, write)


if __name__ == "__main__":
    raise SystemExit(main())
