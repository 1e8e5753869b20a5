"""How a dataset, or an export of it, is read by other programs, for its card: code and commands that run as they stand.

`PATH` is the directory that the card lies in, local or on `gs://`. A test runs what Python there is.
"""

from string import Template

from beam_pipelines import croissant
from beam_pipelines.exports import DatasetFormat
from schemas import index
from schemas.manifest import DatasetInfo

PLACEHOLDER = "PATH"

_TFRECORD = """\
```python
tfds.load("$NAME:$VERSION", split="$SPLIT", data_dir="DATA_DIR")  # a tf.data.Dataset
config.input.data = dict(name="$NAME:$VERSION", split="$SPLIT", data_dir="DATA_DIR")  # in a config of big_vision
```
"""
_OPEN_CLIP = """\
python -m open_clip_train.main --dataset-type=webdataset --train-num-samples=$ROWS \\
    --train-data="$TARS/$NAME-{00000..$LAST}.tar" --model=ViT-B-16 --batch-size=256
"""
_DUCKDB = """\
```python
import duckdb

# On gs://, first: duckdb.register_filesystem(fsspec.filesystem("gs"))
index = duckdb.read_parquet("PATH/$INDEX")
print(index.aggregate("language, count(*) AS rows").order("rows DESC, language"))
```
"""
_TEXT = """\
### TFDS

```python
import tensorflow_datasets as tfds

source = tfds.builder_from_directory("PATH").as_data_source("$SPLIT")
row = source[0]
print(len(source), row["text"].decode(), row["image"].shape)
```

Rows are read in any order; pictures come decoded, texts as bytes. TFDS makes no `tf.data` of ArrayRecord: see TFRecord
below.

### Grain

```python
import grain
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

source = tfds.builder_from_directory("PATH").as_data_source("$SPLIT")


def load(row):
    picture = Image.fromarray(row["image"]).resize((224, 224))
    return {"image": np.asarray(picture), "text": row["text"].decode()}


rows = grain.MapDataset.source(source).seed(0).shuffle().repeat().map(load)
batches = iter(rows.batch(8).to_iter_dataset(grain.ReadOptions(num_threads=16)))
print(next(batches)["image"].shape)
```

### Superbatch

```sh
superbatch train --corpus=PATH --workdir=WORKDIR --preset=B/16 --steps=10000
superbatch evaluate --checkpoint=WORKDIR --corpus=HELD_OUT
```

### TFRecord, for tf.data and big_vision

```sh
superbatch export --dataset=PATH --format=tfrecord --output=DATA_DIR/$NAME/$VERSION
```

$TFRECORD
### WebDataset, for open_clip

```sh
superbatch export --dataset=PATH --format=webdataset --output=TARS
$OPEN_CLIP```

### DuckDB

$DUCKDB
### Croissant

```python
import itertools

import mlcroissant

# Of a copy on a disk: croissant.json and index/ are enough.
records = mlcroissant.Dataset("PATH/croissant.json").records("$RECORDS")
for record in itertools.islice(records, 3):
    print(record["$RECORDS/uid"], record["$RECORDS/text"].decode())
```
"""

_OF_EXPORTS: dict[DatasetFormat, str] = {
    "tfrecord": f"""\
TFDS finds it by its name where `PATH` is `DATA_DIR/$NAME/$VERSION`, and anywhere with
`tfds.builder_from_directory("PATH").as_dataset("$SPLIT")`.

{_TFRECORD}""",
    "webdataset": f"""\
```sh
{_OPEN_CLIP}```
""",
    "uids": """\
```python
import numpy as np

uids = np.load("PATH/uids.npy")
print(len(uids), [f"{first:016x}{last:016x}" for first, last in uids[:3].tolist()])
```

DataComp's `resharder.py -s PATH/uids.npy` takes these rows out of tars that `superbatch export --format=webdataset`
made of this dataset or of what it was picked from.
""",
    "parquet": _DUCKDB,
}


def text(name: str, version: str, dataset: DatasetInfo, rows: int, shards: int) -> str:
    """The section's Markdown, of a dataset.

    Args:
      name: of the dataset.
      version: as in its manifest.
      dataset: how TFDS names the rows.
      rows: how many there are.
      shards: in how many files.
    """
    names = _names(name, version, dataset, rows, shards) | {"TARS": "TARS", "INDEX": index.pattern(dataset)}
    parts = {"TFRECORD": _TFRECORD, "OPEN_CLIP": _OPEN_CLIP, "DUCKDB": _DUCKDB}
    return Template(_TEXT).substitute(
        names, **{part: Template(content).substitute(names) for part, content in parts.items()}
    )


def of_export(of: DatasetFormat, version: str, dataset: DatasetInfo, rows: int, shards: int) -> str:
    """The section's Markdown, of an export in a format; it has as many files as the dataset has shards."""
    names = _names(dataset.name, version, dataset, rows, shards)
    return Template(_OF_EXPORTS[of]).substitute(
        names, TARS=PLACEHOLDER, INDEX=f"{dataset.name}-{dataset.split}-*.parquet"
    )


def _names(name: str, version: str, dataset: DatasetInfo, rows: int, shards: int) -> dict[str, str]:
    return {
        "NAME": name,
        "VERSION": version,
        "SPLIT": dataset.split,
        "ROWS": str(rows),
        "LAST": f"{shards - 1:05d}",
        "RECORDS": croissant.RECORDS,
    }
