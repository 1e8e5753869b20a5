"""What a step is said to cost: the forms' settings and the two counts of their operations."""

import pytest

from benchmarks import step
from trainer.config import DistillConfig, Scoring


@pytest.fixture(scope="module")
def tiny():
    account = step.accounts("tiny", 64, 64)
    return {row["form"]: row for row in account["rows"]}


def test_a_jest_step_costs_the_papers_267_percent_and_an_online_reference_as_much_as_scoring_again(tiny):
    assert tiny["uniform"]["counted_ratio"] == 1
    assert tiny["jest"]["counted_ratio"] == pytest.approx(8 / 3)
    assert tiny["jest, online"]["counted_ratio"] == pytest.approx(13 / 3)
    assert 1 < tiny["flexi-jest"]["counted_ratio"] < tiny["jest"]["counted_ratio"]


def test_xla_counts_what_we_count_within_a_tenth(tiny):
    for row in tiny.values():
        assert row["measured_over_counted"] == pytest.approx(1, abs=0.1)


def test_only_flexi_jest_scores_in_coarse_patches():
    configs = {form: step.config_of(form, "tiny", 64, 64) for form in step.FORMS}
    assert not isinstance(configs.pop("uniform"), DistillConfig)
    architecture = step.architecture_of("tiny", 64)
    scoring = {form: step.program_of(config, architecture).scoring for form, config in configs.items()}
    assert scoring["jest"] == scoring["jest, online"] == Scoring()
    assert scoring["flexi-jest"] == Scoring(patch=32, coarse_patch=32)


def test_ratios_are_medians_over_turns():
    assert step.median_ratio([2, 9, 4], [1, 1, 2]) == 2
