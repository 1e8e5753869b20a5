"""Quotas: which group a row belongs to, and what there is room for."""

import re

import pytest

from beam_pipelines import quotas
from schemas.errors import ConfigError

LANGUAGES = {"en": 0.5, "en-GB": 0.1, "pt": 0.2, "*": 0.1}


@pytest.mark.parametrize(
    ("by", "value", "group"),
    [
        ("language", "en", "en"),
        ("language", "en-US", "en"),
        ("language", "en-GB", "en-GB"),
        ("language", "EN-gb-oxendict", "en-GB"),
        ("language", "enm", "*"),  # Middle English is not English
        ("language", "und", "*"),
        ("language", "pt-BR", "pt"),
        ("source", "en/0001.tar::k", "en"),
        ("source", "x/en.tar::k", "*"),
    ],
)
def test_a_row_is_of_the_longest_key_that_takes_it_in(by, value, group):
    assert quotas.group(by, LANGUAGES, value) == group


def test_a_group_is_full_at_its_share_of_the_budget_and_those_after_are_counted():
    room = quotas.Quotas({"a": 0.3, "none": 0.0}, budget=10)  # 0.3 × 10 is less than 3 in floating point
    taken = []
    for group in "aaaaabbbbbbbbbbbb":
        if room.admits(group):
            room.take(group)
            taken.append(group)
    assert taken.count("a") == 3
    assert taken.count("b") == 12  # no share, no bound
    assert room.passed == 2
    assert not room.admits("none")


@pytest.mark.parametrize(
    ("by", "shares", "words"),
    [
        ("language", {}, "quota_by is 'language' and quotas are {}: give both or none"),
        (None, {"en": 0.5}, "quota_by is None and quotas are {'en': 0.5}: give both or none"),
        ("language", {"en": 1.5}, "quotas has 1.5 for 'en'; a share of the budget lies in [0, 1]"),
        ("language", {"en": "half"}, "quotas has 'half' for 'en'"),
        ("language", {"en": True}, "quotas has True for 'en'"),
        ("language", [0.5], "quotas is [0.5]; it must map values to shares"),
    ],
)
def test_settings_that_cannot_be_are_refused(by, shares, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        quotas.check_quotas(by, shares)
