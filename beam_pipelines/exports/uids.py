"""`uids`: which rows a dataset has, as DataComp describes a subset: `uids.npy`.

An array of `np.dtype("u8,u8")`, sorted: the first 16 hex digits of each uid and the last 16, as two numbers. A shard
leaves its uids in a working file, 16 bytes each. The last step reads them all, sorts and writes them: it holds 16 bytes
a row of the whole dataset in memory, and is the only step of an export that grows with it.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from beam_pipelines import job
from beam_pipelines.exports import Dataset, Task, examples
from beam_pipelines.exports.commit import commit_once
from schemas import manifest as manifests
from schemas import storage
from schemas.errors import IntegrityError

FILE_NAME = "uids.npy"
_UID_BYTES = 16


class Uids:
    """One file for all shards."""

    def shard_name(self, dataset: Dataset, index: int) -> str:
        """A working file, which does not stay."""
        return f"{job.WORK_DIRECTORY}/uids-{index:05d}"

    def write(self, path: Path, dataset: Dataset, task: Task, rows: Iterable[bytes]) -> None:
        """Writes the uids of the rows, in their order, as bytes."""
        with path.open("wb") as file:
            for example in examples(dataset, task, rows):
                file.write(bytes.fromhex(example.uid))

    def beside(self, shard: str, rows: int) -> dict[str, bytes]:
        """Nothing."""
        return {}

    def complete(
        self, output: str, dataset: Dataset, written: list[manifests.Shard]
    ) -> tuple[list[manifests.Shard], list[manifests.File]]:
        """Sorts the uids of all shards into one file.

        Raises:
          IntegrityError: a working file is damaged, or the file is there with other uids.
        """
        root = storage.as_path(output)
        uids = np.empty(dataset.rows, f"S{_UID_BYTES}")
        first = 0
        for index, shard in enumerate(written):
            path = root / self.shard_name(dataset, index)
            content = path.read_bytes()
            if len(content) != shard.rows * _UID_BYTES:
                raise IntegrityError(
                    f"{path} has {len(content)} bytes, and {shard.rows} uids were due: delete it and run again"
                )
            uids[first : first + shard.rows] = np.frombuffer(content, uids.dtype)
            first += shard.rows
        # As bytes they stand in the order of the numbers, and sort several times as fast.
        uids.sort()
        numbers = uids.view(">u8").byteswap(inplace=True).view("<u8,<u8")

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.save(file, numbers)

        return [commit_once(root / FILE_NAME, dataset.rows, save)], []
