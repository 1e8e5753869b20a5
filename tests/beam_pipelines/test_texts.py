"""Texts: what nobody sees is gone, what says nothing is rejected, and what scripts and emoji need stays."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines import texts
from beam_pipelines.texts import TextLimits, normalise_caption
from schemas.rejections import Reason, RejectedError

LIMITS = TextLimits(max_characters=1000)
ANYTHING = TextLimits(max_characters=1000, min_letters=0)


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("  e\N{COMBINING ACUTE ACCENT}\n", "é"),
        ("two\r\n\tlines\x85of\u2028text\N{NO-BREAK SPACE}here", "two lines of text here"),
        ("a\x00b\x1b[31mc", "ab[31mc"),
        ("\ufeffa \u202egnp.exe\u202c b", "a gnp.exe b"),
        ("e\N{ZERO WIDTH SPACE}\N{COMBINING ACUTE ACCENT}", "é"),
        ("soft\xadhyphen", "softhyphen"),
        ("می\N{ZERO WIDTH NON-JOINER}خواهم", "می\N{ZERO WIDTH NON-JOINER}خواهم"),
        ("👩\N{ZERO WIDTH JOINER}🚀", "👩\N{ZERO WIDTH JOINER}🚀"),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", None),
        ("seen\U000e0068\U000e0069", "seen"),
        ("a\uffffb\U0010fffec", "abc"),
        ("<script>alert(1)</script>", None),
        ("a DOG.jpg on www.example.org", None),
    ],
)
def test_what_nobody_sees_is_gone(text, stored):
    assert normalise_caption(text, LIMITS) == (text if stored is None else stored)


@given(st.text(max_size=200))
def test_a_stored_text_is_clean_and_stays_as_it_is(text):
    try:
        stored = normalise_caption(text, ANYTHING)
    except RejectedError:
        return
    assert normalise_caption(stored, ANYTHING) == stored
    assert unicodedata.is_normalized("NFC", stored)
    assert not any(unicodedata.category(c) == "Cc" for c in stored)
    assert stored.split() == stored.split(" ")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY_TEXT),
        (" \n\u200b\u202e", Reason.EMPTY_TEXT),
        ("\ud800", Reason.INVALID_TEXT),
        ("x" * 1001, Reason.TEXT_TOO_LONG),
        ("https://example.org/a/b?c=d", Reason.BOILERPLATE_TEXT),
        ("me@example.org", Reason.BOILERPLATE_TEXT),
        ("IMG_20190304_1234.JPG", Reason.BOILERPLATE_TEXT),
        ("DSC00012", Reason.BOILERPLATE_TEXT),
        ("Image 3", Reason.BOILERPLATE_TEXT),
        ("untitled", Reason.BOILERPLATE_TEXT),
        ("12 / 34 (50 %)", Reason.BOILERPLATE_TEXT),
        ("...", Reason.BOILERPLATE_TEXT),
    ],
)
def test_texts_are_rejected_with_their_reason(text, reason):
    with pytest.raises(RejectedError) as rejected:
        normalise_caption(text, LIMITS)
    assert rejected.value.reason == reason


@pytest.mark.parametrize(
    "text", ["x", "犬", "🐕", "photo of 3 dogs", "image of a dog", "7 dogs", "Σ", "picture book 2"]
)
def test_a_letter_is_enough(text):
    assert normalise_caption(text, LIMITS) == text


def test_letters_are_counted_against_the_bound():
    assert normalise_caption("7", ANYTHING) == "7"
    assert normalise_caption("cat.jpg", ANYTHING) == "cat.jpg"
    with pytest.raises(RejectedError, match="3 letters beside addresses and file names, 4 wanted"):
        normalise_caption("cat 123", TextLimits(min_letters=4))


@pytest.mark.parametrize(
    ("found", "tag"),
    [("en", "en"), ("EN_us", "en-US"), ("eng", "en"), ("zh-hans", "zh-Hans"), ("und", "und"), ("", "und"),
     ("english", "und"), ("\x00", "und"), ("x" * 500, "und")],
)  # fmt: skip
def test_languages_are_tags_or_unknown(found, tag):
    assert texts.language_tag(found) == tag


def test_a_language_is_detected_if_it_is_sure_enough():
    assert texts.detect_language("der kleine Hund läuft schnell über die grüne Wiese", 0.9) == "de"
    assert texts.detect_language("a small dog runs over the green grass of home", 0.9) == "en"
    assert texts.detect_language("ok", 1.0) == "und"


def test_capitals_do_not_make_another_text():
    assert texts.text_identity("A Dog") == texts.text_identity("a dog") != texts.text_identity("a cat")
