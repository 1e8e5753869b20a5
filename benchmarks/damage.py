"""What `verify` says of a published folder that was damaged in one place: it has to name the file.

Enters: a sound published folder and a source of randomness. Leaves: the folder as it was, how often each kind of damage
was named, and what went unnoticed. A part of `benchmarks.publishing`.
"""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beam_pipelines import verify


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def is_shard(name: str) -> bool:
    """Whether a file of a dataset is one of its shards."""
    return "-of-" in name


def findings(made: Path) -> list[str]:
    """What `verify` finds."""
    return [finding for result in verify.run(verify.VerifyConfig(path=str(made))) for finding in result.findings]


def named(found: list[str], *names: str) -> bool:
    """Whether there is a finding for each of these files."""
    return set(names) <= {finding.split(":")[0] for finding in found}


def flip(made: Path, flips: int, rng: random.Random) -> tuple[list[dict[str, Any]], list[str]]:
    """Flips one bit at a time, in a file that is drawn first, so that small files get as many as each shard."""
    whole, flipped, noticed, problems = contents(made), Counter[str](), Counter[str](), []
    for _ in range(flips):
        name = rng.choice(sorted(whole))
        bit = rng.randrange(8 * len(whole[name]))
        altered = bytearray(whole[name])
        altered[bit // 8] ^= 1 << bit % 8
        (made / name).write_bytes(altered)
        kind = "shards" if is_shard(name) else name
        flipped[kind] += 1
        if named(found := findings(made), name):
            noticed[kind] += 1
        else:
            problems.append(f"bit {bit} of {name} was flipped, and verify found {found}")
        (made / name).write_bytes(whole[name])
    if found := findings(made):
        problems.append(f"verify found {found} in what is sound")
    return [{"file": kind, "times": flipped[kind], "named": noticed[kind]} for kind in sorted(flipped)], problems


def harm(made: Path, rng: random.Random) -> tuple[list[dict[str, Any]], list[str]]:
    """Does every other kind of harm to every shard in turn."""
    whole = {name: content for name, content in contents(made).items() if is_shard(name)}
    shards, counts, problems = sorted(whole), [], []

    def missing(shard: Path, _: Path) -> list[str]:
        shard.unlink()
        return [shard.name]

    def extra(shard: Path, _: Path) -> list[str]:
        shutil.copy(shard, added := shard.with_name(f"{shard.name}-copy"))
        return [added.name]

    def truncated(shard: Path, _: Path) -> list[str]:
        os.truncate(shard, rng.randrange(shard.stat().st_size))
        return [shard.name]

    def renamed(shard: Path, _: Path) -> list[str]:
        shard.rename(moved := shard.with_name(f"other-{shard.name}"))
        return [shard.name, moved.name]

    def swapped(shard: Path, other: Path) -> list[str]:
        other.write_bytes(whole[shard.name])
        shard.write_bytes(whole[other.name])
        return [shard.name, other.name]

    kinds: list[Callable[[Path, Path], list[str]]] = [missing, extra, truncated, renamed, swapped]
    for kind in kinds:
        noticed = 0
        for place, name in enumerate(shards):
            touched = kind(made / name, made / shards[place - 1])
            if named(found := findings(made), *touched):
                noticed += 1
            else:
                problems.append(f"{kind.__name__}: {touched}, and verify found {found}")
            for other in touched:
                (made / other).unlink(missing_ok=True)
            for other in (name, shards[place - 1]):
                (made / other).write_bytes(whole[other])
        counts.append({"harm": kind.__name__, "times": len(shards), "named": noticed})
    return counts, problems
