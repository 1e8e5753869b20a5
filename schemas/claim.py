"""`_claim.json`: the first file of a published version, and the proof of whose it is.

It is written only where there is none, before anything else, so of several publishers of one version one holds it, and
the others read who that is. It stays beside the manifest for good, and names the same fingerprint.
"""

from schemas import storage
from schemas.errors import DataError
from schemas.sealed import Sealed

FILE_NAME = "_claim.json"


class Claim(Sealed):
    """Which content a version has or will have, who publishes it, and since when."""

    fingerprint: str
    files: str  # sha256 over the names and hashes of all files: what the fingerprint leaves out, cards among it
    name: str
    version: str
    publisher: str
    created: str


def read_claim(directory: str) -> Claim:
    """Reads and checks the claim of a published version.

    Raises:
      DataError: there is none.
      IntegrityError: one of its bytes is not what the command wrote.
    """
    path = storage.as_path(directory) / FILE_NAME
    try:
        stored = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{directory} was not published: it has no {FILE_NAME}") from None
    return Claim.parse(stored, str(path))
