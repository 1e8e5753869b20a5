"""The gate before publication: means over seeds, ties, and figures that are no numbers or not there."""

import json

import pytest

from infra import gate


def judge(curated: list[float], control: list[float], **more) -> gate.Verdict:
    files = {
        f"{label}-{seed}": json.dumps(
            {"figures": {"text_to_image_recall_at_1": value, "image_to_text_recall_at_1": value / 2, "images": 9}}
        ).encode()
        for label, values in (("curated", curated), ("control", control))
        for seed, value in enumerate(values)
    }
    names = [[name for name in files if name.startswith(label)] for label in ("curated", "control")]
    return gate.judge(*names, files.__getitem__, **more)


def test_the_mean_of_seeds_and_directions_decides():
    verdict = judge([0.4, 0.1], [0.2, 0.2])
    assert verdict.passed
    assert (verdict.curated, verdict.control) == pytest.approx((0.1875, 0.15))
    assert str(verdict) == (
        "the curated set beats its control by 0.0375 (recall_at_1 0.1875 and 0.1500, means of 2 seeds)"
    )


def test_a_tie_a_loss_and_no_number_publish_nothing():
    for curated, words in (
        (0.2, "no better than"),
        (0.1, "is behind its control by 0.0750"),
        (float("nan"), "numbers"),
    ):
        verdict = judge([curated], [0.2])
        assert not verdict.passed
        assert str(verdict).startswith("not published: ")
        assert words in str(verdict)


def test_one_direction_can_be_named():
    assert judge([0.4], [0.2], metric="text_to_image_recall_at_1").curated == 0.4


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="has no figure 'recall'; there are: text_to_image_recall_at_1"):
        judge([0.4], [0.2], metric="recall")
    with pytest.raises(ValueError, match="as many evaluations of each: 2 and 1"):
        judge([0.4, 0.4], [0.2])
    with pytest.raises(ValueError, match="a is no output of `superbatch evaluate`"):
        gate.judge(["a"], ["b"], lambda _: b"{}")
