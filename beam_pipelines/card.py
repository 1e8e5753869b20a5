"""The dataset card: `README.md` beside the manifest, in Hugging Face's style.

Enters: what a finished job knows of a dataset: its settings, parents, counts, languages and rights. Leaves: a page for
whoever thinks of training on it. It follows from these alone, without a clock or a host, so that a second attempt
writes the same bytes. The dataset's fingerprint is not on it: the manifest, written after it, has that.
"""

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import yaml

from beam_pipelines import croissant, markdown, usage
from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.curate_plan import Output
from beam_pipelines.rights import Rights
from schemas import index, job_config, manifest, rejections
from schemas.rejections import Reason

FILE_NAME = "README.md"
_LANGUAGES = 20  # as many are listed
_TASKS = ["image-to-text", "zero-shot-image-classification"]
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")
_LARGEST = "10B<n<100B"
_TYPES = {pa.float32(): "float32"}  # Arrow says float
_WHAT = {
    None: "Image-text pairs that a learner picked out of a larger pool by joint example selection (JEST, arXiv "
    "2406.17711): pairs that it could still learn from, and that a reference trained on curated data finds easy.",
    "uniform": "A uniform sample of the pool that a curated dataset was picked from, of the same size: the control "
    "that the curated one has to beat.",
    "top_reference": "The pairs that the reference model alone scores best, from the pool that a curated dataset was "
    "picked from and of the same size: a control for what the learner adds.",
}
_WHY = {
    Reason.OVER_BUDGET: "ranked below those that fill the budget",
    Reason.CONTAMINATED: "the image is like one of the evaluation's",
    Reason.NEAR_DUPLICATE: "the image is like one that was taken already",
    Reason.OVER_QUOTA: "its language or source had filled its quota",
}


def description(output: Output) -> str:
    """What a dataset is, in one paragraph of plain text."""
    return _WHAT[output.control]


def render(output: Output, counts: manifest.Counts, languages: Mapping[str, int]) -> bytes:
    """Writes the card.

    Args:
      output: the dataset.
      counts: what became of the rows of the pool.
      languages: how many of its rows each has.
    """
    rights = Rights.of(output.config)
    sections = [
        f"# {markdown.text(output.name)} {output.version}\n\n{description(output)}",
        f"## Licence\n\n{rights.as_markdown()}",
        f"## Rows\n\n{_counts(output, counts)}\n\n{_languages(languages)}",
        f"## How they were chosen\n\n{_settings(output)}",
        f"## What it was made from\n\n{_parents(output)}",
        f"## Features\n\n{_features(output)}",
        f"## Files\n\n{_files(output)}",
        f"## How to read it\n\n`{usage.PLACEHOLDER}` is this directory, local or on `gs://`.\n\n"
        + usage.text(output.name, output.version, output.dataset, output.rows, output.shards).rstrip(),
    ]
    front = yaml.safe_dump(_front(output, rights, languages), allow_unicode=True, sort_keys=False, width=10_000)
    return "\n\n".join([f"---\n{front}---", *sections, ""]).rstrip("\n").encode() + b"\n"


def by_rows(languages: Mapping[str, int]) -> list[str]:
    """Languages that are known, those of most rows first."""
    known = [language for language in languages if language != "und"]
    return sorted(known, key=lambda language: (-languages[language], language))


def _front(output: Output, rights: Rights, languages: Mapping[str, int]) -> dict[str, Any]:
    """The fields that Hugging Face reads. Its viewer shows the index."""
    primary = list(dict.fromkeys(tag.split("-")[0].lower() for tag in by_rows(languages)))
    files = {"split": output.dataset.split, "path": index.pattern(output.dataset)}
    return {
        "pretty_name": f"{output.name} {output.version}",
        **rights.for_the_hub(),
        **({"language": primary} if primary else {}),
        "task_categories": _TASKS,
        "size_categories": [_size(output.rows)],
        "configs": [{"config_name": "default", "data_files": [files]}],
    }


def _size(rows: int) -> str:
    return next((name for power, name in enumerate(_SIZES, start=3) if rows < 10**power), _LARGEST)


def _counts(output: Output, counts: manifest.Counts) -> str:
    unranked = "never picked" if output.control is None else "without a valid embedding"
    why = {**_WHY, Reason.NOT_PICKED: unranked}

    def line(what: str, rows: int, note: str = "") -> list[str]:
        return [what, f"{rows:,}", f"{rows / counts.read:.1%}", note]

    rows = [line("read: the pool", counts.read), line("**kept**", counts.kept)]
    rows += [line("duplicates", counts.duplicates)] if counts.duplicates else []
    rows += [line(f"`{reason}`", n, why.get(reason, "")) for reason, n in sorted(counts.rejected.items())]
    return markdown.table(["", "rows", "share", ""], rows)


def _languages(languages: Mapping[str, int]) -> str:
    ranked = sorted(languages.items(), key=lambda item: (-item[1], item[0]))
    shown, others = ranked[:_LANGUAGES], ranked[_LANGUAGES:]
    rows = [[markdown.code(language), f"{n:,}"] for language, n in shown]
    rows += [[f"{len(others)} others", f"{sum(n for _, n in others):,}"]] if others else []
    return markdown.table(["language", "rows"], rows)


def _settings(output: Output) -> str:
    config = job_config.resolved(output.config)
    rows = [[f"`{name}`", _setting(config[name])] for name in job_config.content_fields(output.config)]
    ranking = (
        f"Rows of the pool were ranked by the policy {markdown.code(output.config.policy)}"
        if isinstance(output.config, CurateConfig)
        else f"Rows of the pool were ranked for the control {markdown.code(str(output.control))}"
    )
    intro = f"{ranking}, and the first {output.rows:,} that nothing rules out were kept. They stand in shuffled order."
    return f"{intro} Settings that decide the content:\n\n{markdown.table(['setting', 'value'], rows)}"


def _setting(value: Any) -> str:
    if value in (None, {}):
        return "not set"
    if isinstance(value, dict):
        return markdown.code(json.dumps(value, ensure_ascii=False))
    return markdown.code(f"{value:g}" if isinstance(value, float) and value < 1 else str(value).removesuffix(".0"))


def _parents(output: Output) -> str:
    rows = [[p.role, markdown.code(p.path), markdown.code(p.fingerprint)] for p in output.parents]
    return markdown.table(["input", "where it was read", "fingerprint"], rows)


def _features(output: Output) -> str:
    rows = [["`image`", "image", "JPEG or PNG; in the shards only"]]
    for column in index.columns(output.row_kind):
        name = f"`{column.name}`" if column.places else f"`{column.feature}`"
        note = "; in the index only" if column.places else ""
        rows.append([name, _TYPES.get(column.type, str(column.type)), f"{column.says}{note}"])
    return markdown.table(["feature", "type", "what it is"], rows)


def _files(output: Output) -> str:
    rows = f"{output.dataset.name}-{output.dataset.split}.array_record-*"
    files = {
        rows: f"the rows, in {output.shards} shards that TFDS and Grain read (`features.json`, `dataset_info.json`)",
        index.pattern(output.dataset): "the same rows without images, for queries; a feature `selection/visits` is a "
        "column `selection_visits` there",
        croissant.FILE_NAME: "the index and the shards, described for loaders and search engines",
        f"{rejections.DIRECTORY}/": "where there is one, which rows were left out because of their images",
        manifest.FILE_NAME: "the fingerprint of this dataset, its settings, and every file's size and sha256; "
        f"`superbatch verify {usage.PLACEHOLDER}` checks them",
    }
    return "\n".join(f"* `{name}`: {what}" for name, what in files.items())
