"""TFRecord files: records one after another, each framed by its length and checksums. No TensorFlow.

A record is its length (8 bytes), that length's masked CRC-32C (4), the content and its masked CRC-32C (4), integers
little-endian; see https://www.tensorflow.org/tutorials/load_data/tfrecord.
"""

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from schemas.errors import IntegrityError


def write(file: BinaryIO, record: bytes) -> None:
    """Appends one record."""
    length = struct.pack("<Q", len(record))
    file.write(length + _masked_crc(length))
    file.write(record + _masked_crc(record))


def count(file: BinaryIO, size: int) -> int:
    """Counts the records of a file of `size` bytes by their lengths, without reading the records.

    Raises:
      IntegrityError: a length does not match its checksum, or the file ends within a record.
    """
    rows = place = 0
    while place < size:
        file.seek(place)
        header = file.read(12)
        if len(header) < 12 or header[8:] != _masked_crc(header[:8]):
            raise IntegrityError(f"row {rows}: the file ends or is damaged at byte {place}")
        place += len(header) + struct.unpack("<Q", header[:8])[0] + 4
        if place > size:
            raise IntegrityError(f"row {rows}: the file ends within the record")
        rows += 1
    return rows


def read(file: io.BufferedReader, rows: int, largest: int) -> Iterator[tuple[int, bytes | str]]:
    """Yields (row, record, or what is wrong with it) of a file of so many rows.

    A record that does not match its checksum costs itself only; behind a wrong length nothing can be found again.

    Args:
      file: opened at its beginning.
      rows: how many records are expected.
      largest: bytes of the largest record that is read; larger ones are passed over.
    """
    for row in range(rows):
        header = file.read(12)
        if len(header) < 12 or header[8:] != _masked_crc(header[:8]):
            yield row, f"rows {row} to {rows - 1}: the file ends or is damaged at byte {file.tell() - len(header)}"
            return
        [length] = struct.unpack("<Q", header[:8])
        if length > largest:
            file.seek(length + 4, 1)
            yield row, f"{length} bytes, {largest} allowed"
            continue
        content = file.read(length + 4)
        if len(content) < length + 4:
            yield row, f"rows {row} to {rows - 1}: the file ends within the record"
            return
        intact = content[length:] == _masked_crc(content[:length])
        yield row, content[:length] if intact else "the record does not match its checksum"


def _masked_crc(content: bytes) -> bytes:
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
