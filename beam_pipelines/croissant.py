"""`croissant.json`: a dataset described in Croissant 1.0, for search engines and loaders.

Enters: a dataset's name, version, rights and shards. Leaves: JSON-LD beside the manifest. Its records are the index's
rows, which every Croissant loader can read; the shards, which none can, are files with their size and sha256. All
addresses are relative to the dataset's directory, so a copy of it is described as well.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from beam_pipelines.rights import Rights
from schemas import index
from schemas.features import RowKind
from schemas.manifest import DatasetInfo, Shard

FILE_NAME = "croissant.json"
RECORDS = "rows"
_INDEX = "index"
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES = {pa.string(): "sc:Text", pa.int32(): "cr:Int32", pa.int64(): "cr:Int64", pa.float32(): "cr:Float32"}


def render(**described: Any) -> bytes:
    """The file's content; see `describe`."""
    return json.dumps(describe(**described), indent=2, ensure_ascii=False).encode() + b"\n"


def describe(
    *,
    name: str,
    version: str,
    description: str,
    rights: Rights,
    dataset: DatasetInfo,
    kind: RowKind,
    shards: Sequence[Shard],
    languages: Sequence[str],
) -> dict[str, Any]:
    """Describes a dataset whose index lies beside its shards.

    Args:
      name: of the dataset.
      version: as in its manifest.
      description: one paragraph.
      rights: what is not stated in them is left out.
      dataset: how TFDS names the rows.
      kind: which features they have.
      shards: all of them, in order.
      languages: of the texts, as BCP-47 tags.
    """
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": description,
        "version": version,
        **_stated(rights),
        **({"inLanguage": list(languages)} if languages else {}),
        "distribution": [_index(dataset), *map(_shard, shards)],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": RECORDS,
                "name": RECORDS,
                "description": "One record a row: everything but the image, and the shard and row where that lies.",
                "key": {"@id": f"{RECORDS}/uid"},
                "field": [_field(column) for column in index.columns(kind)],
            }
        ],
    }


def _stated(rights: Rights) -> dict[str, str]:
    stated = {
        "license": rights.license_url or rights.license,
        "url": rights.homepage,
        "creditText": rights.attribution,
        "citeAs": rights.attribution,
        "datePublished": rights.published,
    }
    return {name: value for name, value in stated.items() if value is not None}


def _index(dataset: DatasetInfo) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": _INDEX,
        "name": _INDEX,
        "description": "The index of the rows, one file a shard.",
        "encodingFormat": "application/x-parquet",
        "includes": index.pattern(dataset),
    }


def _shard(shard: Shard) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": shard.name,
        "name": shard.name,
        "description": f"{shard.rows} rows: ArrayRecord of serialized tf.train.Example.",
        "contentUrl": shard.name,
        "contentSize": f"{shard.bytes} B",
        "encodingFormat": "application/octet-stream",
        "sha256": shard.sha256,
    }


def _field(column: index.Column) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{RECORDS}/{column.name}",
        "name": column.name,
        "description": column.says,
        "dataType": _TYPES[column.type],
        "source": {"fileSet": {"@id": _INDEX}, "extract": {"column": column.name}},
    }
