"""The one last step of every job that writes rows: fed by each shard's result, it makes the artifact complete.

It runs inside the graph, may run twice, and writes the manifest last.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import apache_beam as beam

from beam_pipelines import job
from schemas import features, rejections, storage
from schemas import manifest as manifests
from schemas.errors import IntegrityError


@dataclass(frozen=True)
class ShardResult:
    """A committed shard, and the tally of what happened to its rows."""

    index: int
    shard: manifests.Shard
    duplicates: int = 0
    rejected: int = 0  # of what this step looks for; their reason is the job's to know
    facts: dict[str, Any] = field(default_factory=dict)


class Gather(beam.PTransform):
    """Brings a few named collections together: {name: collection} gives one {name: list}.

    By a key rather than by side inputs, which not every runner computes only once.
    """

    def expand(self, input_or_inputs: Any) -> Any:
        keyed = {
            name: collection | f"Key {name}" >> beam.Map(lambda item: (0, item))
            for name, collection in input_or_inputs.items()
        }
        return (
            keyed
            | "Group all" >> beam.CoGroupByKey()
            | "As lists" >> beam.MapTuple(lambda _, found: {name: list(items) for name, items in found.items()})
        )


def complete_dataset(
    directory: str,
    dataset: manifests.DatasetInfo,
    written: list[ShardResult],
    *,
    row_kind: features.RowKind,
    expected_shards: int,
    extra_files: tuple[str, ...] = (),
    said: Mapping[str, str] = MappingProxyType({}),
    **manifest_fields: Any,
) -> manifests.Manifest:
    """Writes TFDS metadata and the manifest for committed shards, then removes what attempts left behind.

    Args:
      row_kind: which features the rows have.
      expected_shards: how many shards the job set out to write.
      extra_files: further files of the artifact, already in the directory. Those in the results' facts as `index` were
        described where they were written.
      said: what TFDS is to know beside features and shards: homepage, license, citation.
      **manifest_fields: passed on to `manifests.make`.

    Raises:
      IntegrityError: a shard's result is missing or comes twice.
    """
    shards = in_order(directory, written, expected_shards)
    names = features.write_metadata(directory, dataset, row_kind, shards, manifest_fields["version"], **said)
    names += [n for n in storage.relative_files(directory) if n.startswith(f"{rejections.DIRECTORY}/")]
    names += extra_files
    files = manifests.describe_files(directory, names)
    files += [r.facts["index"] for r in sorted(written, key=lambda result: result.index) if "index" in r.facts]
    return commit(directory, shards=shards, files=files, dataset=dataset, **manifest_fields)


def in_order(directory: str, written: list[ShardResult], expected: int) -> list[manifests.Shard]:
    """Returns the shards that were written, in their order.

    Raises:
      IntegrityError: a shard's result is missing or comes twice.
    """
    ordered = sorted(written, key=lambda result: result.index)
    if [result.index for result in ordered] != list(range(expected)):
        raise IntegrityError(
            f"{directory}: results of shards {[r.index for r in ordered]} came in, and 0 … {expected - 1} were "
            "to be written"
        )
    return [result.shard for result in ordered]


def commit(directory: str, **manifest_fields: Any) -> manifests.Manifest:
    """Writes the manifest, then removes what attempts left behind."""
    manifest = manifests.write(directory, manifests.make(**manifest_fields))
    job.clean_up(directory)
    return manifest
