"""How a dataset is read by other programs, for its card: code and commands that run as they stand.

`PATH` is the directory that the card lies in, local or on `gs://`. A test runs what Python there is.
"""

from string import Template

from beam_pipelines import croissant
from schemas import index
from schemas.manifest import DatasetInfo

PLACEHOLDER = "PATH"

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

```python
tfds.load("$NAME:$VERSION", split="$SPLIT", data_dir="DATA_DIR")  # a tf.data.Dataset
config.input.data = dict(name="$NAME:$VERSION", split="$SPLIT", data_dir="DATA_DIR")  # in a config of big_vision
```

### WebDataset, for open_clip

```sh
superbatch export --dataset=PATH --format=webdataset --output=TARS
python -m open_clip_train.main --dataset-type=webdataset --train-num-samples=$ROWS \\
    --train-data="TARS/$NAME-{00000..$LAST}.tar" --model=ViT-B-16 --batch-size=256
```

### DuckDB

```python
import duckdb

# On gs://, first: duckdb.register_filesystem(fsspec.filesystem("gs"))
index = duckdb.read_parquet("PATH/$INDEX")
print(index.aggregate("language, count(*) AS rows").order("rows DESC, language"))
```

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


def text(name: str, version: str, dataset: DatasetInfo, rows: int, shards: int) -> str:
    """The section's Markdown.

    Args:
      name: of the dataset.
      version: as in its manifest.
      dataset: how TFDS names the rows.
      rows: how many there are.
      shards: in how many files.
    """
    return Template(_TEXT).substitute(
        NAME=name,
        VERSION=version,
        SPLIT=dataset.split,
        ROWS=rows,
        LAST=f"{shards - 1:05d}",
        INDEX=index.pattern(dataset),
        RECORDS=croissant.RECORDS,
    )
