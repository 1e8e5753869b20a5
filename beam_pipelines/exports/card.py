"""`README.md` of an export: what it is, of which dataset, under which licence, and how its format is read.

It follows from the dataset's manifest alone, without a clock, a host or a path, so two exports of one dataset have the
same card. What the dataset is, its own card says: its fingerprint leads there.
"""

from typing import Any

import yaml

from beam_pipelines import markdown, usage
from beam_pipelines.exports import Dataset, DatasetFormat

FILE_NAME = "README.md"
_WHAT: dict[DatasetFormat, str] = {
    "tfrecord": "TFRecord files with TFDS's metadata: file i holds the records of the dataset's shard i, byte for "
    "byte.",
    "webdataset": "Tars, one of each of the dataset's shards, with its rows in order: `UID.jpg` or `UID.png`, "
    "`UID.txt` with the text and `UID.json` with the rest. `sizes.json` says how many rows a tar has.",
    "uids": "Which rows the dataset has, as DataComp describes a subset: `uids.npy`, a sorted array of the first and "
    "the last 16 hex digits of each uid.",
    "parquet": "Tables of everything but the images, one of each of the dataset's shards, with its rows in order: "
    "`row` is the row in the whole dataset; `shard` and `row_in_shard` say where its image is.",
}
_ENDINGS: dict[DatasetFormat, str] = {"webdataset": "tar", "parquet": "parquet"}  # that Hugging Face's viewer shows


def render(of: DatasetFormat, dataset: Dataset) -> bytes:
    """Writes the card of an export in a format."""
    info, origin = dataset.info, dataset.origin
    sections = [
        f"# {markdown.text(info.name)} {markdown.text(dataset.version)}, exported as {of}\n\n{_WHAT[of]}",
        f"Made by `superbatch export --format={of}` of {markdown.text(origin.name)} {markdown.text(origin.version)}, "
        f"{dataset.rows:,} rows, whose fingerprint is {markdown.code(origin.fingerprint)}. `manifest.json` records "
        f"that as well, and every file's size and sha256; `superbatch verify {usage.PLACEHOLDER}` checks them.",
        f"## Licence\n\n{origin.rights.as_markdown()}",
        f"## How to read it\n\n`{usage.PLACEHOLDER}` is this directory.\n\n"
        + usage.of_export(of, dataset.version, info, dataset.rows, dataset.shards).rstrip(),
    ]
    front = yaml.safe_dump(_front(of, dataset), allow_unicode=True, sort_keys=False, width=10_000)
    return "\n\n".join([f"---\n{front}---", *sections]).encode() + b"\n"


def _front(of: DatasetFormat, dataset: Dataset) -> dict[str, Any]:
    """The fields that Hugging Face reads."""
    named = {"pretty_name": f"{dataset.info.name} {dataset.version}", **dataset.origin.rights.for_the_hub()}
    if of not in _ENDINGS:
        return named
    files = {"split": dataset.info.split, "path": f"{dataset.info.name}-*.{_ENDINGS[of]}"}
    return named | {"configs": [{"config_name": "default", "data_files": [files]}]}
