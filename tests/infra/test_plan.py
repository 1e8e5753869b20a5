"""The arithmetic of a plan against cases reckoned by hand, and what is wrong with its inputs."""

from dataclasses import replace
from pathlib import Path

import pytest

from infra import cli, timings
from infra import round as rounds
from infra.plan import estimate, prices, report, sample, stages
from infra.plan.facts import Choosing, Curate, Facts, Job, Training
from infra.plan.sample import Raw
from tests.conftest import picture, write_folder, write_miniature
from trainer import flops
from trainer.model import Architecture

TRAINING = Training(fixed=10, step=0.5, save=2, evaluation=3, cold=7, tokenizer_per_text=0.001)


@pytest.fixture(scope="module")
def round_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("planned")
    write_miniature(root)
    return root / "round.toml"


@pytest.fixture
def settings(round_file):
    return stages.read(str(round_file))


def facts(**changes) -> Facts:
    raw = Raw(rows=1000, counted=True, tasks=1, row_bytes=100, read_seconds=0.0)
    known = Facts(
        machine="two cores", cores=2, load=0.0, sampled=1000, rehearsed_here=True, seconds=1.0,
        raw={"seed": replace(raw, rows=200), "pool": raw, "evaluation": replace(raw, rows=50)},
        kept={"seed": 1.0, "pool": 0.8, "evaluation": 1.0}, rejected={"pool": 0.0},
        row_bytes={"seed": 120, "pool": 120, "evaluation": 120}, key_bytes=300, decode_seconds=1e-9,
        ingest=Job(fixed=1, per_row=0.01, cold=4), embed=Job(fixed=2, per_row=0.001, cold=5),
        curate=Curate(fixed=3, per_row=0.01, cold=1, per_keyed=0.001), evaluate=Job(fixed=1, per_row=0.1, cold=2),
        training=dict.fromkeys(("train", "distill", "downstream"), TRAINING),
        choosing=Choosing(per_pick=0.001, per_keyed=0.002, per_taken=0.01, pick_bytes=40),
    )  # fmt: skip
    return replace(known, **changes)


def planned(settings, known: Facts, rows: int | None = None, fleet=None, **how) -> estimate.Scenario:
    size = estimate.size_of(settings, known, rows, how.get("epochs"), how.get("task_rows"))
    return estimate.scenario(settings, known, size, fleet, prices.read(None))


def stage(scenario: estimate.Scenario, name: str) -> estimate.StagePlan:
    return next(stage for stage in scenario.stages if stage.name == name)


def fleet(**changes) -> estimate.Fleet:
    chip = prices.Device(source="", hour=2, peak_tflops=100, memory_gib=16, host_vcpus=10)
    known = {"device": "x", "chip": chip, "devices": 8, "mfu": 0.5, "workers": 4, "request_seconds": 0.01}
    return estimate.Fleet(**known | changes)


def test_a_plan_has_the_stages_of_the_round(settings):
    assert [stage.name for stage in stages.of(settings)] == [stage.name for stage, _ in rounds.plan(settings)]
    two = replace(settings, rounds=2)
    assert [s.name for s in stages.of(two)] == [s.name for s, _ in rounds.plan(two)]
    assert [s.number for s in stages.of(two) if s.kind in ("train", "distill")] == [1, 1, 2, 2]


def test_seconds_here_are_what_is_fixed_and_what_grows(settings):
    scenario = planned(settings, facts())
    assert stage(scenario, "ingest seed").seconds == pytest.approx(4 + 1 + 0.01 * 200)  # the first one is cold
    assert stage(scenario, "ingest pool").seconds == pytest.approx(1 + 0.01 * 1000)
    assert stage(scenario, "embed").seconds == pytest.approx(5 + 2 + 0.001 * 800)
    assert stage(scenario, "train reference").seconds == pytest.approx(10 + 3 * 0.5 + 0.001 * 200 + 7)
    # 5 steps, a checkpoint after every second and after the last: two more than the one that is in `fixed`
    distill = stage(scenario, "distill").seconds
    assert distill == pytest.approx(10 + 5 * 0.5 + 0.001 * 800 + 2 * 2 + 7)
    # 16 rows in each of three datasets, 800 keyed and ranked for each control, 5 × 8 picks ranked
    assert stage(scenario, "curate").seconds == pytest.approx(1 + 3 + 48 * 0.01 + 2 * 800 * 0.003 + 40 * 0.001)
    first, second = (stage(scenario, f"evaluate {name}, seed 0").seconds for name in ("curated", "control"))
    assert (first, second) == (pytest.approx(2 + 1 + 5), pytest.approx(1 + 5))
    assert scenario.seconds == pytest.approx(sum(s.seconds for s in scenario.stages))


def test_other_sizes_keep_the_passes_over_the_pool(settings):
    ten = planned(settings, facts(), rows=10_000)
    assert ten.size.kept == pytest.approx(8000)
    assert ten.size.budget == pytest.approx(160)
    assert ten.size.distill_steps == 50
    assert planned(settings, facts(), rows=10_000, epochs=1.0).size.distill_steps == 8000 // 40
    assert planned(settings, facts(), rows=10_000, task_rows=2000).size.tasks == 5
    assert stage(ten, "train reference").seconds == stage(planned(settings, facts()), "train reference").seconds


def test_a_device_takes_what_its_operations_take(settings):
    scenario = planned(settings, facts(), fleet=fleet())
    operations = flops.step(stages.distill(settings), Architecture("tiny", 32, 4096)) * 5
    distill = stage(scenario, "distill")
    assert distill.seconds == pytest.approx(operations / (8 * 100e12 * 0.5))
    assert distill.device_hours == pytest.approx(8 * distill.seconds / 3600)
    assert distill.bound == "arithmetic"
    # Two reads for every block of 8 rows, and three checkpoints.
    requests = 2 * 5 * 40 / 8 * 0.004 / 10_000 + 3 * 0.05 / 10_000
    assert distill.money == pytest.approx(2 * distill.device_hours + requests)


def test_hosts_that_decode_too_slowly_are_the_bound(settings):
    scenario = planned(settings, facts(decode_seconds=0.1), fleet=fleet())
    assert stage(scenario, "distill").seconds == pytest.approx(5 * 40 * 0.1 / (8 * 10))
    assert stage(scenario, "embed").bound == "decoding on the hosts"
    assert scenario.capacity["host_cores"] == 80


def test_requests_to_spools_grow_with_files_times_shards(settings):
    wide = planned(settings, facts(), rows=1_000_000, task_rows=100, fleet=fleet())
    ingest = stage(wide, "ingest pool")
    # 10,000 files; each of 2 shards asks every spool twice, one after another.
    assert ingest.seconds == pytest.approx(0.01 * 1_000_000 / 4 + 10_000 * 2 * 0.01)
    assert wide.capacity["ingest_spool_requests"] == 10_000 * 2 * 2
    assert ingest.shuffled == (1_000_000 + 800_000) * 300
    assert stage(replace(wide, stages=[ingest]), "ingest pool").money > 0


def test_money_is_hours_requests_and_shuffle(settings):
    table = prices.read(None)
    ingest = stage(planned(settings, facts()), "ingest pool")
    hours = 2 * 11 / 3600 * (table.workers.vcpu_hour + 4 * table.workers.gib_hour)
    requests = (1 + 2 * 2) * table.storage.reads_per_10000 / 10_000 + (3 + 2) * table.storage.writes_per_10000 / 10_000
    assert ingest.money == pytest.approx(hours + requests + 1800 * 300 / 2**30 * table.workers.shuffle_gib)


def test_capacity_says_what_a_super_batch_is(settings):
    found = planned(settings, facts()).capacity
    vectors = 2 * 128 * 2
    assert found["embeddings_vector_bytes"] == 800 * vectors
    assert vectors < found["embeddings_bytes"] / 800 < vectors + 200
    assert found["superbatch_read_bytes"] == pytest.approx(40 * (120 + found["embeddings_bytes"] / 800))
    assert found["superbatch_reads"] == 2 * 5
    assert found["choose_seconds"] == pytest.approx(16 * 0.01 + max(40 * 0.001, 800 * 0.002))


def test_prices_are_not_checked_by_anyone_yet_and_plans_say_so(settings):
    table = prices.read(None)
    assert table.checked == ""
    options = {"epochs": None}
    said = report.assumptions(settings, facts(), None, table, "prices.toml", options)
    assert any("NOT CHECKED" in line for line in said)
    said = report.assumptions(
        settings, facts(rejected={"pool": 0.2}), None, table.model_copy(update={"checked": "2027-01-01"}), "p", options
    )
    assert any("checked 2027-01-01" in line for line in said)
    assert any("20.0% of a sample is rejected" in line for line in said)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("vcpu_hour = 0.056", "vcpu_hour = -1"), "workers.vcpu_hour is -1"),
        (("vcpu_hour = 0.056", "vcpu_hours = 1"), "workers.vcpu_hour: field required"),
        (("[workers]", "[workers"), "is not TOML"),
        (('currency = "USD"', 'currency = "USD"\nvat = 0.2'), "vat is 0.2"),
    ],
)
def test_a_broken_price_table_is_refused_with_what_is_wrong(round_file, tmp_path, capsys, change, says):
    (tmp_path / "prices.toml").write_text(prices.DEFAULT.read_text().replace(*change))
    assert cli.main(["plan", f"--config={round_file}", f"--prices={tmp_path / 'prices.toml'}"]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--config=/nowhere.toml"], "/nowhere.toml does not exist"),
        (["--device=abacus"], "device is 'abacus'; the price table has tpu-v4,"),
        (["--rows=10,many"], "'many' is no number of rows"),
        (["--mfu=40"], "mfu is 40.0; it is a share"),
        (["--steps=1"], "steps is 1; it must be at least 2"),
        (["--measured=/nowhere.json"], "/nowhere.json cannot be read"),
        (["--actual"], "makes it, before the round"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_anything_is_measured(round_file, capsys, flags, says):
    assert cli.main(["plan", f"--config={round_file}", *flags]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("superbatch plan:")]
    assert says in line


def test_a_sample_is_spread_over_the_source(tmp_path):
    write_folder(tmp_path, [(picture(0, pixels=16), f"a thing number {i}") for i in range(2500)])
    config = stages.IngestConfig(source=f"folder:{tmp_path}", name="n", output="unset")
    raw = sample.count(config)
    assert (raw.rows, raw.counted, raw.tasks) == (2500, True, 3)
    taken = sample.take(config, raw, 30)
    source, _ = taken.parse_source()
    found = [pair.text for task in source.list_tasks("") for pair in source.read(task)]
    assert found == [f"a thing number {first + i}" for first in (0, 1000, 2000) for i in range(10)]
    everything, _ = sample.take(config, raw, 5000).parse_source()
    assert sum(1 for task in everything.list_tasks("") for _ in everything.read(task)) == 2500


def test_stages_that_do_nothing_leave_no_timing_and_lost_attempts_count(tmp_path, monkeypatch):
    monkeypatch.setattr(timings, "_AT_ONCE", -1.0)
    figures = tmp_path / "figures.json"
    with pytest.raises(RuntimeError), timings.timed(str(tmp_path), "evaluate", str(figures)):
        raise RuntimeError
    with timings.timed(str(tmp_path), "evaluate", str(figures)):
        figures.write_text("{}")
    with timings.timed(str(tmp_path), "evaluate", str(figures)):
        pass
    found = timings.read(str(tmp_path))
    assert [timing.completed for timing in found] == [False, True]
    with (tmp_path / timings.FILE_NAME).open("a") as file:
        file.write('{"stage": "cut o')
    assert timings.read(str(tmp_path)) == found
    assert timings.actual(found) == {"evaluate": sum(timing.seconds for timing in found)}
    with timings.timed(str(tmp_path), "evaluate", str(figures)):
        figures.write_text("{ }")
    assert timings.actual(timings.read(str(tmp_path))) == {"evaluate": timings.read(str(tmp_path))[-1].seconds}


def test_plan_and_actual_are_compared_where_both_are_known():
    table = report.compared({"embed": 10.0, "distill": 30.0}, {"embed": 8.0})
    assert [line.split()[-1] for line in table.splitlines()] == ["actual", "1.25", "run", "1.25"]


def test_numbers_are_short():
    assert [report.size(n) for n in (12, 1.5e9, 2e18)] == ["12 B", "1.5 GB", "2e+03 PB"]
    assert [report.duration(s) for s in (0.002, 1.5, 600, 36000, 1e6)] == [
        "2 ms",
        "1.5 s",
        "10.0 min",
        "10.0 h",
        "11.6 d",
    ]
