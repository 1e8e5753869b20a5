"""Raw data in the formats that `ingest` reads, as the tools that make them write it."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    """Writes (name, content) as the members of a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_img2dataset(folder: Path, rows: Sequence[dict[str, Any]], name: str = "00000") -> Path:
    """Writes a shard as img2dataset does: all urls that were tried in the Parquet file, those with an image in the tar.

    A row gives at least `caption`; `status` is `success` if there is an image.
    """
    members, tried = [], []
    for number, row in enumerate(rows):
        image, key = row.get("image"), f"{name}{number:04d}"
        meta = {
            "url": f"http://example.org/{number}.png", "key": key, "error_message": None, "width": 32, "height": 32,
            "status": "success" if image is not None else "failed_to_download",
        } | {field: value for field, value in row.items() if field != "image"}  # fmt: skip
        tried.append(meta)
        if image is not None:
            members += [(f"{key}.png", image), (f"{key}.json", json.dumps(meta).encode())]
            if meta["caption"] is not None:
                members.append((f"{key}.txt", meta["caption"].encode()))
    write_tar(folder / f"{name}.tar", members)
    pq.write_table(pa.Table.from_pylist(tried), folder / f"{name}.parquet")
    (folder / f"{name}_stats.json").write_text(json.dumps({"count": len(rows)}))
    return folder


def write_tfds(
    folder: Path, features: Any, splits: dict[str, Sequence[Sequence[dict[str, Any]]]], suffix: str = "array_record"
) -> Path:
    """Writes a prepared TFDS dataset: of every split, the examples of each shard."""
    import tensorflow_datasets as tfds
    from apache_beam.io.tfrecordio import _TFRecordUtil
    from array_record.python.array_record_module import ArrayRecordWriter

    folder.mkdir(parents=True)
    infos = []
    for split, parts in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name="pairs", split=split, filetype_suffix=suffix
        )
        for index, part in enumerate(parts):
            path = str(template.sharded_filepath(shard_index=index, num_shards=len(parts)))
            rows = [features.serialize_example(features.encode_example(example)) for example in part]
            if suffix == "array_record":
                writer = ArrayRecordWriter(path, "group_size:1")
                for row in rows:
                    writer.write(row)
                writer.close()
            else:
                with open(path, "wb") as file:
                    for row in rows:
                        _TFRecordUtil.write_record(file, row)
        lengths = [len(part) for part in parts]
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1, filename_template=template))
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=infos, description="d", homepage="h", citation="c",
        check_data=False,
    )  # fmt: skip
    return folder
