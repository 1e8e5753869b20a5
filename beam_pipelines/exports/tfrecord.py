"""`tfrecord`: the dataset for `tf.data`, with TFDS's own metadata; big_vision reads it so.

Shard i holds the records of the dataset's shard i, byte for byte: only the file around them is another one. It reads
with `tfds.builder_from_directory(DIR).as_dataset(SPLIT)`, and with `tfds.load("NAME:VERSION", data_dir=D)` where DIR is
D/NAME/VERSION.
"""

from collections.abc import Iterable
from pathlib import Path

from beam_pipelines import tfrecord
from beam_pipelines.exports import Dataset, Task
from schemas import features, shards
from schemas import manifest as manifests

_SUFFIX = "tfrecord"


class TfRecord:
    """One TFRecord file for each shard."""

    def shard_name(self, dataset: Dataset, index: int) -> str:
        """TFDS's name."""
        return shards.shard_name(dataset.info, index, dataset.shards, _SUFFIX)

    def write(self, path: Path, dataset: Dataset, task: Task, rows: Iterable[bytes]) -> None:
        """Copies the records into another framing."""
        with path.open("wb") as file:
            for record in rows:
                tfrecord.write(file, record)

    def beside(self, shard: str, rows: int) -> dict[str, bytes]:
        """Nothing."""
        return {}

    def complete(
        self, output: str, dataset: Dataset, written: list[manifests.Shard]
    ) -> tuple[list[manifests.Shard], list[manifests.File]]:
        """Writes TFDS's metadata, which tell the rights as well."""
        names = features.write_metadata(
            output, dataset.info, dataset.row_kind, written, dataset.version, _SUFFIX,
            **dataset.origin.rights.for_tfds(),
        )  # fmt: skip
        return written, manifests.describe_files(output, names)
