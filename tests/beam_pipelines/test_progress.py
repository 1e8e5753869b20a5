"""Progress: rates leave out what an earlier attempt did, and lines come when it is time."""

import pytest

from beam_pipelines import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands at `clock.now` seconds."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    progress.forget()
    return Clock


def test_a_line_names_parts_rows_rate_what_is_left_and_what_was_rejected(clock):
    tracked = progress.of("embed", "/out", "shard", 4, 4000)
    tracked.finish_part(taken_up=1000)
    assert tracked.count(500, ["not_embedded"]) is None
    clock.now += 11
    assert tracked.count(600, ["not_embedded", "text_too_long"]) == (
        "embed: 1 of 4 shards, 2,100 of 4,000 rows, 100 rows/s, about 0 min 19 s left; "
        "rejected: 2 not_embedded, 1 text_too_long"
    )
    clock.now += 5
    assert tracked.count(1) is None


def test_without_a_known_number_of_rows_parts_say_what_is_left(clock):
    tracked = progress.of("ingest", "/out", "task", 100)
    tracked.finish_part(taken_up=7)
    clock.now += 20
    assert tracked.count(3) == "ingest: 1 of 100 tasks, 10 rows, 0 rows/s"
    tracked.finish_part()
    clock.now += 20
    assert tracked.count(3) == "ingest: 2 of 100 tasks, 13 rows, 0 rows/s, about 1 h 5 min left"


def test_every_job_of_a_process_has_its_own(clock):
    assert progress.of("embed", "/a", "shard", 1) is progress.of("embed", "/a", "shard", 1)
    assert progress.of("embed", "/a", "shard", 1) is not progress.of("embed", "/b", "shard", 1)
    before = progress.of("embed", "/a", "shard", 1)
    progress.forget()
    assert progress.of("embed", "/a", "shard", 1) is not before
