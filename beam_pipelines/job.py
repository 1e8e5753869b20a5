"""How every Beam job is started: options checked, runner named, failures turned into one line.

Enters: a function that builds the graph, and the flags that the job's own config did not know. Leaves: a finished
local run, or a submitted remote one. Nothing after this is needed for the output to be complete.
"""

import argparse
import builtins
import contextlib
import dataclasses
import difflib
import importlib
import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import apache_beam as beam
import tyro
from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions, StandardOptions

from beam_pipelines import console, flags, progress
from schemas import errors, job_config, rejections, storage
from schemas import manifest as manifests

# Today's DirectRunner tries to download a binary before it falls back to this one.
LOCAL_RUNNER = "FnApiRunner"
WORK_DIRECTORY = storage.WORK_DIRECTORY
log = logging.getLogger(__name__)
_STEP = re.compile(r" \[while running '.*?'\]")
_ERRORS = {e.__name__: e for e in (errors.ConfigError, errors.DataError, errors.IntegrityError)}


def command(name: str, module: Any, arguments: list[str]) -> int:
    """Runs a job's module from the command line: its `Config` takes the flags, and Beam those it does not know.

    What the job made is told in one line: an artifact's counts, or whatever else it returns as it describes itself.
    """
    arguments = flags.spell_out(arguments, flags.of_config(module.Config))
    config, beam_flags = tyro.cli(
        module.Config, prog=name, args=arguments, use_underscores=True, return_unknown_args=True
    )
    made = module.run(config, list(beam_flags))
    if made is None:
        print(f"{name}: submitted; the job goes on without this command, and {config.output} is complete when it ends")
    else:
        print(summary(config.output, made) if isinstance(made, manifests.Manifest) else made)
    return 0


def main(name: str) -> NoReturn:
    """Runs `python -m beam_pipelines.<name>`, as a Flex template does.

    The module is imported anew under its own name: what is pickled for workers must not live in `__main__`.
    """
    module = importlib.import_module(f"beam_pipelines.{name}")
    sys.exit(console.run_command(name, lambda: command(name, module, sys.argv[1:])))


def parse_options(beam_flags: list[str], config: Any) -> PipelineOptions:
    """Parses Beam's own flags with every options class, since Beam drops unknown flags silently.

    Args:
      beam_flags: those that the job's own config did not know.
      config: the job's config; its fields are what a mistyped flag may have meant.

    Raises:
      ConfigError: a flag that neither the job nor Beam knows, or a value Beam refuses.
    """
    _import_runner(beam_flags)
    parser: Any = _Parser(add_help=False, allow_abbrev=False)
    for options in (PipelineOptions, *_subclasses(PipelineOptions)):
        if "_add_argparse_args" in options.__dict__:
            options._add_argparse_args(parser)
    words = flags.spell_out(beam_flags, flags.of_parser(parser))
    _, unknown = parser.parse_known_args(words)
    if unknown:
        known = [f"--{field.name}" for field in dataclasses.fields(config)]
        known += sorted(o for action in parser._actions for o in action.option_strings if o.startswith("--"))
        name = unknown[0].split("=")[0]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "see --help for this job's own flags"
        raise errors.ConfigError(f"unknown flag {unknown[0]!r}: {hint}")
    options = PipelineOptions(words)
    if options.view_as(StandardOptions).runner is None:
        options.view_as(StandardOptions).runner = LOCAL_RUNNER
    # Workers import the installed package; nothing of the launcher's session travels.
    options.view_as(SetupOptions).save_main_session = False
    return options


def _import_runner(words: list[str]) -> None:
    """Imports the module of a runner that is named by its full path: it brings options of its own."""
    parser: Any = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--runner", default="")
    module, _, _ = parser.parse_known_args(words)[0].runner.rpartition(".")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise errors.ConfigError(f"runner is in {module}, which cannot be imported: {error}") from None


def run(
    build: Callable[[beam.Pipeline], Any], options: PipelineOptions, is_complete: Callable[[], bool] = lambda: False
) -> bool:
    """Builds and runs a pipeline; local runners are waited for, remote ones are left running.

    Args:
      build: adds the steps.
      options: Beam's.
      is_complete: asked after a failure. Another attempt at this very job may have completed it meanwhile and have
        removed what this one was reading; then nothing has failed.

    Returns:
      True if the job has finished, False if it was submitted and goes on elsewhere.

    Raises:
      ConfigError, DataError, IntegrityError, OSError: what stopped the job, as its step said it.
    """
    progress.forget()
    try:
        pipeline = beam.Pipeline(options=options)
    except ValueError as error:
        raise errors.ConfigError(f"runner is {options.view_as(StandardOptions).runner!r}: {error}") from None
    build(pipeline)
    remote = "Dataflow" in (options.view_as(StandardOptions).runner or "")
    try:
        result = pipeline.run()
        if remote:
            return False
        result.wait_until_finish()
    except Exception as error:
        with contextlib.suppress(errors.SuperbatchError, OSError):
            if is_complete():
                log.info("another attempt at this job has completed it meanwhile")
                return True
        raise _translate(error) from error
    return True


def refuse_overlap(field: str, path: str, others: dict[str, str]) -> None:
    """Checks that an output lies in none of the directories that a job reads or writes, nor one of them in it.

    Raises:
      ConfigError: naming both.
    """
    for name, other in others.items():
        if storage.overlap(path, other):
            raise errors.ConfigError(
                f"{field} is {path!r} and {name} is {other!r}, where one lies in the other: every artifact has its "
                "directory to itself. Choose another one"
            )


def claim(
    directory: str, kind: manifests.Kind, config: Any, identity: list[str], parents: list[manifests.Parent]
) -> manifests.Manifest | None:
    """Marks an unfinished output as this job's, so that a rerun resumes it and another job is refused.

    Returns:
      The manifest, if another attempt at this job has finished since it was asked for; else None.

    Raises:
      ConfigError: a job with other settings or inputs began in this directory, or has finished there.
    """
    path = storage.as_path(directory) / WORK_DIRECTORY / "job.json"
    resolved = job_config.resolved(config)
    wanted = {
        "config": {name: resolved[name] for name in identity},
        "parents": {parent.role: parent.fingerprint for parent in parents},
    }
    try:
        first = storage.write_once(path, json.dumps(wanted, indent=2).encode())
    except FileNotFoundError:  # an attempt that has finished just now cleans up
        if not manifests.exists(directory):
            raise
        first = True
    if first:
        try:
            return finished(directory, kind, config, identity, parents)
        except errors.ConfigError:
            clean_up(directory)  # of the mark that was not due
            raise
    try:
        begun = json.loads(path.read_bytes())
        settings, before = begun["config"], begun["parents"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.IntegrityError(f"{path} is damaged ({error!r}): delete {directory} and start again") from None
    job_config.refuse_other(directory, settings, config, identity)
    job_config.refuse_other_parents(directory, before, parents)
    return None


def finished(
    directory: str, kind: manifests.Kind, config: Any, identity: list[str], parents: list[manifests.Parent]
) -> manifests.Manifest | None:
    """Returns the manifest of this very job's finished output, None if it is not finished.

    Raises:
      ConfigError: the directory holds a finished artifact of other settings or inputs.
    """
    if not manifests.exists(directory):
        return None
    manifest = manifests.read(directory, kind=kind)
    job_config.refuse_other(directory, manifest.config, config, identity)
    job_config.refuse_other_parents(directory, {p.role: p.fingerprint for p in manifest.parents}, parents)
    # Left over if an attempt was stopped between its manifest and its cleaning up.
    clean_up(directory)
    return manifest


def clean_up(directory: str) -> None:
    """Removes what attempts left beside a complete artifact.

    Only after the manifest: another attempt that still writes here fails then, looks for the manifest, and ends well.
    """
    storage.remove_tree(storage.as_path(directory) / WORK_DIRECTORY)
    storage.remove_temporary(directory)


def summary(directory: str, manifest: manifests.Manifest) -> str:
    """The line a job ends with."""
    counts = manifest.counts
    rejected = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.rejected.items(), key=lambda r: -r[1]))
    return (
        f"{manifest.kind} {directory}: read {counts.read} = kept {counts.kept} + duplicates {counts.duplicates} "
        f"+ rejected {sum(counts.rejected.values())}{f' ({rejected})' if rejected else ''}; "
        f"{len(manifest.shards)} shards, fingerprint {manifest.fingerprint[:12]}"
    )


def check_rejected(counts: manifests.Counts, allowed: float) -> None:
    """Fails a job that rejected too much.

    Raises:
      DataError: naming the share, the bound and the top reasons.
    """
    if counts.rejected_fraction > allowed:
        counted = {r: n for r, n in counts.rejected.items() if r != rejections.Reason.NOT_DOWNLOADED}
        top = sorted(counted.items(), key=lambda item: -item[1])[:3]
        reasons = ", ".join(f"{reason} ({n})" for reason, n in top)
        raise errors.DataError(
            f"{counts.rejected_fraction:.1%} of {counts.found} rows were rejected, and --max_rejected_fraction is "
            f"{allowed:.1%}. Top reasons: {reasons}. See rejections/ in the output; raise the bound if this is expected"
        )


def _translate(error: Exception) -> Exception:
    """Finds what stopped a step inside what a runner raised, if it is told in one line; else all stays as it is."""
    chain, seen = [], error
    while seen is not None:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    for found in chain:
        if isinstance(found, errors.SuperbatchError):
            return type(found)(_without_step(str(found)))
    # Beam wraps what a step raised, or raises it again with the step's name added; below that is the step's own.
    own = next((found for found in chain if not _STEP.search(str(found))), error)
    if isinstance(own, console.told_in_one_line()):
        return own
    # A runner with workers elsewhere hands on text only.
    for line in reversed(str(error).splitlines()):
        match = re.match(r"(?:[a-z_]+\.)*(\w+Error): (.*)", line.strip())
        if not match:
            continue
        name, message = match[1], _without_step(match[2])
        if name in _ERRORS:
            return _ERRORS[name](message)
        system = getattr(builtins, name, None)
        if name == "HttpError" or (isinstance(system, type) and issubclass(system, OSError)):
            return OSError(message if system is OSError else f"{name}: {message}")
    return error


def _without_step(message: str) -> str:
    return _STEP.sub("", message)


def _subclasses(cls: type) -> list[Any]:
    found = []
    for sub in cls.__subclasses__():
        found += [sub, *_subclasses(sub)]
    return found


class _Parser(argparse.ArgumentParser):
    def __init__(self, **keywords: Any):
        super().__init__(conflict_handler="resolve", **keywords)

    def error(self, message: str) -> Any:
        raise errors.ConfigError(f"Beam's flags: {message}")
