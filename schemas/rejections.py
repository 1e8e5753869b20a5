"""Rejections: what was not kept, why, and where it came from.

Parquet beside the artifact, one row a rejected example. The reasons are a closed list: a new one is a change
to this file, so that counts can be compared between runs and releases.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas import storage

DIRECTORY = "rejections"  # beside the artifact
DETAIL_LIMIT = 300


class Reason(StrEnum):
    """Why a row is not in an artifact."""

    NOT_DOWNLOADED = "not_downloaded"
    UNREADABLE_SOURCE = "unreadable_source"
    UNSAFE_PATH = "unsafe_path"
    FILE_TOO_LARGE = "file_too_large"
    INVALID_RECORD = "invalid_record"
    MISSING_IMAGE = "missing_image"
    MISSING_TEXT = "missing_text"
    EMPTY_TEXT = "empty_text"
    INVALID_TEXT = "invalid_text"
    TEXT_TOO_LONG = "text_too_long"
    BOILERPLATE_TEXT = "boilerplate_text"
    REPEATED_TEXT = "repeated_text"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED_IMAGE = "truncated_image"
    UNDECODABLE_IMAGE = "undecodable_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    IMAGE_TOO_SMALL = "image_too_small"
    EXTREME_ASPECT_RATIO = "extreme_aspect_ratio"
    NOT_EMBEDDED = "not_embedded"
    NOT_PICKED = "not_picked"
    CONTAMINATED = "contaminated"
    NEAR_DUPLICATE = "near_duplicate"
    OVER_QUOTA = "over_quota"
    OVER_BUDGET = "over_budget"


class RejectedError(Exception):
    """An example is not stored; carries the reason and what the library said."""

    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """One rejected example: `source` names file and key, `detail` what the library said."""

    source: str
    stage: str
    reason: Reason
    detail: str = ""


SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)


def write(path: Any, rejections: list[Rejection]) -> None:
    """Commits a part file of rejections; a file already there is the same attempt's, and stays."""
    rows = [
        {
            "source": printable(r.source),
            "stage": r.stage,
            "reason": str(r.reason),
            "detail": printable(r.detail)[:DETAIL_LIMIT],
        }
        for r in rejections
    ]
    with storage.temporary_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary)
        storage.commit(temporary, path)


def printable(text: str) -> str:
    """Returns text that any encoder takes: lone surrogates and control characters become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
