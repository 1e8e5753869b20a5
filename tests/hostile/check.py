"""Runs `ingest` on hostile sources and looks at all that it left.

Enters: a source, and where its pairs stand if that is known. Leaves: what is wrong, in words; nothing if all is well.
"""

import io
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from schemas import manifest as manifests
from schemas import records, rejections, shards
from schemas.identity import example_uid
from tests import commands

_MEMORY = 4 << 30  # bytes: a bomb that goes off needs more


@dataclass
class Outcome:
    """What became of one source."""

    problems: list[str] = field(default_factory=list)
    counts: manifests.Counts | None = None
    seconds: float = 0.0
    peak_bytes: int = 0


def ingest(source: str, folder: Path, places: list[str] | None, seconds: float) -> Outcome:
    """Ingests a source into a folder of its own, within `seconds`, and checks what came of it."""
    outcome, output = Outcome(), folder / "corpus"
    folder.mkdir(parents=True)
    before, begin = _files(folder.parent, without=folder), time.monotonic()
    program = (
        "import sys; from infra import cli; code = cli.main(sys.argv[1:]); "
        # Not ru_maxrss, which begins with that of the process that started this one.
        "[peak] = [line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')]; "
        "print('peak', peak); sys.exit(code)"
    )
    command = ["ingest", f"--source={source}", "--name=hostile", f"--output={output}", "--shards=1"]
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, *command, "--max_rejected_fraction=1", "--min_side=1"],
            cwd=commands.ROOT, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        outcome.problems.append(f"{source}: not done after {seconds} s")
        return outcome
    outcome.seconds = time.monotonic() - begin
    if done.returncode:
        outcome.problems.append(f"{source}: exit {done.returncode}: {done.stderr[-2000:]}")
        return outcome
    outcome.peak_bytes = 1024 * int(done.stdout.split()[-1])
    if outcome.peak_bytes > _MEMORY:
        outcome.problems.append(f"{source}: {outcome.peak_bytes} bytes of memory")
    if extra := sorted(_files(folder.parent, without=folder) - before):
        outcome.problems.append(f"{source}: files outside the output: {extra[:5]}")
    manifest = manifests.read(str(output))
    outcome.counts = manifest.counts
    outcome.problems += _rows(output, manifest)
    outcome.problems += _accounts(output, manifest, places)
    return outcome


def _files(folder: Path, *, without: Path) -> set[str]:
    return {
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        if not Path(root).is_relative_to(without)
        for name in names
    }


def _rows(output: Path, manifest: manifests.Manifest) -> list[str]:
    """Every stored row opens as what it says it is."""
    problems, reader = [], shards.open_dataset(str(output), manifest)
    for first in range(0, len(reader), 64):
        for record in reader.read(range(first, min(first + 64, len(reader)))):
            row = records.decode_example(record)
            with Image.open(io.BytesIO(row.image)) as opened:
                opened.load()
                plain = opened.format in ("JPEG", "PNG") and opened.mode in ("RGB", "L")
                if not plain or opened.size != (row.width, row.height):
                    problems.append(f"{row.source}: stored as {opened.format} {opened.mode} {opened.size}")
            if row.uid != example_uid(row.image, row.text):
                problems.append(f"{row.source}: its uid is not that of its image and text")
            if not row.text.strip() or not all(text.isprintable() for text in (row.source, row.url, row.language)):
                problems.append(f"{row.source}: an empty text, or a field that a terminal would obey")
    return problems


def _accounts(output: Path, manifest: manifests.Manifest, places: list[str] | None) -> list[str]:
    """Nothing has disappeared, and what is missing can be traced."""
    reader, counts = shards.open_dataset(str(output), manifest), manifest.counts
    kept = [records.decode_example(record).source for record in reader.read(range(len(reader)))]
    rejected = [
        row
        for path in sorted((output / rejections.DIRECTORY).glob("*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    problems = []
    if counts.read != counts.kept + counts.duplicates + sum(counts.rejected.values()) or counts.kept != len(kept):
        problems.append(f"{output}: {counts} does not add up, {len(kept)} rows are there")
    if Counter(row["reason"] for row in rejected) != Counter({str(r): n for r, n in counts.rejected.items()}):
        problems.append(f"{output}: the rejections listed are not those counted")
    problems += [f"{output}: a rejection without its place: {row}" for row in rejected if not row["source"]]
    if places is not None:
        named = Counter([*kept, *(row["source"] for row in rejected)])
        if unknown := [place for place in named if place not in set(places)]:
            problems.append(f"{output}: {unknown[:5]} are no places of the source")
        if twice := [place for place, times in named.items() if times > 1]:
            problems.append(f"{output}: {twice[:5]} are there more than once")
        if len(places) != counts.read or len(places) - len(named) != counts.duplicates:
            problems.append(f"{output}: {len(places)} pairs, {len(named)} of them named, and {counts}")
    return problems
