"""A peer of `ingest`: the same raw pairs, checked by the same function, written by TFDS's own builder.

Enters: a folder that `ingest` reads too. Leaves: an ArrayRecord dataset of the same rows, in another order. TFDS
shuffles by a hash of the keys as `ingest` does, up to a gigabyte in memory, and fails on a key that comes twice, where
`ingest` drops the second and counts it. Rejections are counted nowhere and kept nowhere, and no file is hashed: there
is less to do.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from beam_pipelines import ingest, sources
from schemas import features
from schemas.rejections import RejectedError


def build(folder: Path, config: ingest.IngestConfig, directory: Path, shards: int) -> int:
    """Builds the dataset; returns its number of rows."""
    builder = _builder_class()(source=f"folder:{folder}", config_=config, data_dir=str(directory))
    builder.download_and_prepare(download_config=_download_config(shards), file_format="array_record")
    return builder.info.splits["train"].num_examples


def _download_config(shards: int) -> Any:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    return tfds.download.DownloadConfig(num_shards=shards)


def _builder_class() -> Any:
    import tensorflow_datasets as tfds

    class GeneratedPairs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def __init__(self, *, source: str, config_: ingest.IngestConfig, **keywords: Any):
            self._source, self._ingest = source, config_
            super().__init__(**keywords)

        def _info(self) -> Any:
            return self.dataset_info_from_configs(features=features.declare("corpus"))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[str, dict[str, Any]]]:
            source, address = sources.parse(self._source)
            for task in source.list_tasks(address):
                for raw in source.read(task):
                    try:
                        row = ingest.normalise_pair(raw, self._ingest)
                    except RejectedError:
                        continue
                    yield row.uid, {
                        "image": io.BytesIO(row.image), "text": row.text, "uid": row.uid, "image_id": row.image_id,
                        "language": row.language, "url": row.url, "source": row.source, "width": row.width,
                        "height": row.height,
                    }  # fmt: skip

    return GeneratedPairs
