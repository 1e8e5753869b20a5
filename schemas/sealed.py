"""Small records of a publication in which a single other bit is noticed.

A record's file is the record's one serialization: indented JSON, the fields in the model's order, then `checksum`,
which is the sha256 of their canonical JSON, and a newline. A reader makes those bytes again and compares them all,
white space among them.
"""

import hashlib
import json
from typing import Self

from pydantic import BaseModel, ConfigDict

from schemas.errors import IntegrityError
from schemas.identity import canonical_json

_CHECKSUM = "checksum"


class Sealed(BaseModel):
    """Base of such records; their fields are plain texts and numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def serialise(self) -> bytes:
        """Returns the only bytes that a file of this record may have."""
        fields = self.model_dump(mode="json")
        sealed = fields | {_CHECKSUM: hashlib.sha256(canonical_json(fields)).hexdigest()}
        return json.dumps(sealed, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, stored: bytes, where: str) -> Self:
        """Reads a record back.

        Args:
          stored: the file's bytes.
          where: the file, for messages.

        Raises:
          IntegrityError: they are not exactly those of a record of this kind whose checksum holds.
        """
        try:
            fields = json.loads(stored)
            record = cls.model_validate({name: fields[name] for name in fields if name != _CHECKSUM})
            expected = record.serialise()
        except (ValueError, TypeError, RecursionError) as error:
            raise IntegrityError(f"{where} was altered, or is no {cls.__name__.lower()}: {error}") from None
        if expected != stored:
            raise IntegrityError(f"{where} was altered: its bytes are not those that its own content gives")
        return record
