"""What was rejected, by stage and reason, with pictures where the source still lies there and decodes.

Enters: the rejections beside the artifacts, and the source that the pool was read from. Leaves: counts, and a few
examples of each reason. A rejection names file and key, so the source is read again, through the same code that
`ingest` reads it with, until the examples are found or enough was read. A round may come from somebody else, and its
manifest names any file or bucket as its source: one that lies outside of the round is opened only if that is asked for.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow.parquet as pq

from beam_pipelines import sources
from beam_pipelines.ingest_config import SOURCE_FIELDS
from beam_pipelines.sources import RawPair
from infra.report import pictures, rows
from infra.report.layout import Layout
from infra.report.pictures import Picture
from schemas import manifest as manifests
from schemas import rejections, storage
from schemas.errors import SuperbatchError

_STAGES = ("pool", "embeddings", "curated")
_MOST_PAIRS, _MOST_BYTES = 20_000, 1 << 28  # read again of a source
_MOST_REJECTIONS = 200_000  # looked at for examples
_ROW = re.compile(r"(.+?)(?:@|\[)([0-9]+)")  # a shard and a row in it


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """All rejections of one stage for one reason."""

    stage: str
    reason: str
    rows: int
    share: float
    """of the rows that the stage read"""
    examples: list[Picture]
    listed: bool
    """whether there is a row for each in `rejections/`, or only the count"""
    unopened: str = ""
    """the source, if it lies outside of the round and was not opened"""


def collect(layout: Layout, pictures_each: int, *, anywhere: bool) -> list[Rejected]:
    """Counts rejections and gathers examples, the stages in their order and the commonest reason first.

    Args:
      layout: of the round.
      pictures_each: examples of a reason.
      anywhere: whether to open a source that lies outside of the round.
    """
    found = []
    for role in _STAGES:
        manifest = layout.manifest(role)
        if manifest is None or not manifest.counts.rejected:
            continue
        wanted = _examples(layout.path(role), manifest, pictures_each)
        reader = _Raw(layout, manifest, anywhere) if role == "pool" else None
        shown = _show(layout, reader, [r for listed in wanted.values() for r in listed])
        for reason, count in sorted(manifest.counts.rejected.items(), key=lambda item: (-item[1], item[0])):
            listed = wanted.get(reason, [])
            found.append(
                Rejected(
                    stage=layout.artifacts[role].stage, reason=reason.replace("_", " "), rows=count,
                    share=count / max(manifest.counts.read, 1), listed=bool(listed),
                    examples=[shown[rejection.source] for rejection in listed],
                    unopened=reader.unopened if reader else "",
                )
            )  # fmt: skip
    return found


def _examples(directory: str, manifest: manifests.Manifest, each: int) -> dict[str, list[rejections.Rejection]]:
    """The first rejections of every reason, each source once."""
    found: dict[str, dict[str, rejections.Rejection]] = {}
    looked_at = 0
    for name in sorted(f.name for f in manifest.files if f.name.startswith(f"{rejections.DIRECTORY}/")):
        with (storage.as_path(directory) / name).open("rb") as file:
            for batch in pq.ParquetFile(file).iter_batches():
                looked_at += batch.num_rows
                for row in batch.to_pylist():
                    of_reason = found.setdefault(row["reason"], {})
                    if len(of_reason) < each and row["source"] not in of_reason:
                        row["reason"] = rejections.Reason(row["reason"])
                        of_reason[row["source"]] = rejections.Rejection(**row)
        if looked_at >= _MOST_REJECTIONS:
            break
    return {reason: list(listed.values()) for reason, listed in found.items()}


def _show(layout: Layout, raw: "_Raw | None", wanted: list[rejections.Rejection]) -> dict[str, Picture]:
    sought = {rejection.source for rejection in wanted}
    found = dict(_rows(layout, sought) if raw is None else raw.read(sought))
    shown = {}
    for rejection in wanted:
        text, image = found.get(rejection.source, ("", None))
        if image is None:
            small, problem = None, "not looked for" if raw and raw.unopened else "its source was not found"
        elif not image:
            small, problem = None, "it has no picture"
        else:
            small, problem = pictures.thumbnail(image)
        detail = pictures.shown(rejection.detail)
        shown[rejection.source] = Picture(
            thumbnail=small,
            text=pictures.caption(text) or pictures.shown(rejection.source),
            problem=problem,
            note=detail,
        )
    return shown


class _Raw:
    """The source that the pool was read from, as far as it may be opened."""

    def __init__(self, layout: Layout, manifest: manifests.Manifest, anywhere: bool):
        config = {name: value for name in SOURCE_FIELDS if isinstance(value := manifest.config.get(name), str)}
        self._source = config.pop("source", "")
        self._fields = {name.removesuffix("_field"): value for name, value in config.items()}
        self._holds = (lambda _: True) if anywhere else layout.holds
        closed = bool(self._source) and not self._holds(self._source.partition(":")[2])
        self.unopened = pictures.shown(self._source, pictures.LONGEST_LINE) if closed else ""

    def read(self, sought: set[str]) -> Iterator[tuple[str, tuple[str, bytes]]]:
        """Reads the source again, and yields text and image of what is sought in it."""
        left, pairs, size = set(sought), 0, 0
        if self.unopened or not self._source:
            return
        try:
            source, address = sources.parse(self._source, self._fields)
            for task in source.list_tasks(address):
                if not any(name.startswith(task.name) for name in left) or not self._holds(task.path):
                    continue
                for pair in source.read(task):
                    name = rejections.printable(pair.source)
                    pairs, size = pairs + 1, size + len(pair.image)
                    if name in left and self._holds(_file_of(pair, task)):
                        left.discard(name)
                        yield name, (pair.text, pair.image)
                    if not left or pairs >= _MOST_PAIRS or size >= _MOST_BYTES:
                        return
        except (SuperbatchError, OSError):  # it was moved or deleted: rejections outlive their source
            return


def _file_of(pair: RawPair, task: sources.Task) -> str:
    """The file that a pair's picture has of its own, in sources in which it has one: a link may lead anywhere."""
    return f"{task.path.rpartition('/')[0]}/{pair.source.rpartition('::')[2]}"


def _rows(layout: Layout, sought: set[str]) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Later stages reject rows of the pool, which are named by shard and row."""
    pool = layout.manifest("pool")
    if pool is None:
        return
    starts: Mapping[str, int] = dict(
        zip([s.name for s in pool.shards], _starts([s.rows for s in pool.shards]), strict=True)
    )
    read = rows.reader_of(layout, "pool")
    for name in sorted(sought):
        match = _ROW.match(name)
        if match and match[1] in starts and starts[match[1]] + int(match[2]) < pool.rows:
            [example] = read([starts[match[1]] + int(match[2])])
            yield name, (example.text, example.image)


def _starts(lengths: list[int]) -> list[int]:
    return [sum(lengths[:place]) for place in range(len(lengths))]
