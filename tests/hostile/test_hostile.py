"""Five hundred hostile pairs and some damaged containers; `python -m benchmarks.hostile` runs ten thousand."""

import time

import pytest

from infra import cli
from tests.hostile import check, containers, images, pairs, texts

SEED = 7
CASES = {"folder": 170, "webdataset": 170, "parquet": 160}


@pytest.mark.parametrize("format_", pairs.FORMATS)
def test_every_hostile_pair_is_accounted_for(tmp_path, format_):
    written = pairs.write(tmp_path / "raw", format_, CASES[format_], SEED)
    outcome = check.ingest(written.source, tmp_path / "out", written.places, seconds=200)
    assert outcome.problems == []
    assert outcome.counts is not None
    assert outcome.counts.read == CASES[format_]
    assert outcome.counts.kept > CASES[format_] // 10  # it is not simply all refused
    assert len(outcome.counts.rejected) >= 5
    assert cli.main(["verify", str(tmp_path / "out" / "corpus")]) == 0


def test_damaged_containers_crash_nothing_and_write_nowhere_else(tmp_path):
    for number, source in enumerate(containers.write(tmp_path / "raw", 12, SEED)):
        outcome = check.ingest(source, tmp_path / f"out-{number}", None, seconds=200)
        assert outcome.problems == []


def test_cases_depend_on_their_number_alone():
    def cases() -> list[tuple[bytes, bytes]]:
        return [(images.image(rng), texts.raw(rng)) for rng in (pairs.generator(0, "folder", i) for i in range(50))]

    first = cases()
    time.sleep(1.1)  # what looks at the clock would see another second
    assert cases() == first
    assert len(set(first)) > 45
