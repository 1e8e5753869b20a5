"""What TFDS needs to know so that anyone can read our rows with no code of ours.

Enters: a directory of committed shards. Leaves: `features.json` and `dataset_info.json` beside them, after which
`tfds.builder_from_directory(DIR).as_data_source(split)` reads it (`as_dataset` where the shards are TFRecord files).
"""

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from schemas import storage
from schemas.errors import IntegrityError
from schemas.manifest import DatasetInfo, Shard

RowKind = Literal["corpus", "curated", "weighted", "embeddings"]
FILES = ("dataset_info.json", "features.json")
_DESCRIPTIONS = {
    "corpus": "Image-text pairs: decode-checked, normalised, exact duplicates dropped, shuffled once.",
    "curated": "Image-text pairs picked by joint example selection (JEST, arXiv 2406.17711).",
    "weighted": "Image-text pairs picked by joint example selection (JEST, arXiv 2406.17711), with weights of mean 1.",
    "embeddings": "A reference model's embeddings of a corpus: row i of shard k belongs to row i of its shard k.",
}
_HOMEPAGE = "https://arxiv.org/abs/2406.17711"


def declare(kind: RowKind) -> Any:
    """Returns the `tfds.features.FeaturesDict` of a kind of row."""
    import tensorflow_datasets as tfds

    if kind == "embeddings":
        raw = tfds.features.Scalar(np.object_)
        return tfds.features.FeaturesDict(
            {"uid": tfds.features.Text(), "valid": np.bool_, "image_embedding": raw, "text_embedding": raw}
        )
    features: dict[str, Any] = {
        "image": tfds.features.Image(),
        **{name: tfds.features.Text() for name in ("text", "uid", "image_id", "language", "url", "source")},
        "width": np.int32,
        "height": np.int32,
    }
    if kind in ("curated", "weighted"):
        features |= {
            "selection/visits": np.int64,
            "selection/first_step": np.int64,
            "selection/last_step": np.int64,
            "selection/learnability": np.float32,
        }
    if kind == "weighted":
        features["selection/weight"] = np.float32
    return tfds.features.FeaturesDict(features)


def row_kind(directory: str) -> RowKind:
    """Says which rows a corpus has, plain or curated ones, by its `features.json`.

    Raises:
      IntegrityError: it is missing, or describes other features.
    """
    path = storage.as_path(directory) / FILES[1]
    try:
        found = set(json.loads(storage.read_bytes(path))["featuresDict"]["features"])
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{path} is missing or damaged ({error!r}): `superbatch verify` says what else is"
        ) from None
    kinds: tuple[RowKind, ...] = ("corpus", "curated", "weighted")
    for kind in kinds:
        if found == set(declare(kind)):
            return kind
    raise IntegrityError(f"{path} describes other features than a corpus has: {', '.join(sorted(found))}")


def write_metadata(
    directory: str,
    dataset: DatasetInfo,
    kind: RowKind,
    shards: list[Shard],
    version: str,
    suffix: str = "array_record",
    **said: str,
) -> list[str]:
    """Writes TFDS's own metadata for committed shards; returns the names of the files it wrote.

    `said` is what is known of the dataset beside that, in `tfds.core.DatasetInfo`'s words: homepage, license, citation.

    TFDS writes in place, and another attempt of the same job may be hashing these very files: they are made elsewhere,
    beside empty files with the shards' names, which TFDS looks at, and take their places whole.

    Args:
      suffix: the kind of file that the shards are, `array_record` or `tfrecord`.
    """
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory(prefix="superbatch-") as made:
        for shard in shards:
            Path(made, shard.name).touch()
        _write_metadata(tfds, Path(made), dataset, kind, shards, version, suffix, said)
        for name in FILES:
            storage.replace(storage.as_path(directory) / name, Path(made, name).read_bytes())
    return list(FILES)


def _write_metadata(
    tfds: Any,
    folder: Path,
    dataset: DatasetInfo,
    kind: RowKind,
    shards: list[Shard],
    version: str,
    suffix: str,
    said: dict[str, str],
) -> None:
    split = tfds.core.SplitInfo(
        name=dataset.split,
        shard_lengths=[shard.rows for shard in shards],
        num_bytes=sum(shard.bytes for shard in shards),
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name=dataset.name,
            split=dataset.split,
            filetype_suffix=suffix,
        ),
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        version=version,
        features=declare(kind),
        split_infos=[split],
        description=_DESCRIPTIONS[kind],
        check_data=False,
        **{"homepage": _HOMEPAGE, "citation": "", **said},
    )
