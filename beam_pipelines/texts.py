"""From a raw text to the text that is stored, or to the reason why it is not; and what language it is in. No Beam.

A stored text is NFC, with one space between words. What nobody sees is taken out of it: control characters, marks of
writing direction (they can make a text look like another), zero-width characters and noncharacters. The joiners stay,
since some scripts and emoji need them.
"""

import functools
import hashlib
import re
import unicodedata
from dataclasses import dataclass

import langcodes

from schemas.errors import ConfigError
from schemas.identity import normalise_text
from schemas.rejections import Reason, RejectedError

UNKNOWN_LANGUAGE = "und"


@dataclass(frozen=True, kw_only=True)
class TextLimits:
    """Which texts are stored."""

    min_letters: int = 1  # beside addresses and file names
    max_characters: int = 10_000


def normalise_caption(text: str, limits: TextLimits) -> str:
    """Returns the text to store.

    Raises:
      RejectedError: too long, empty, not encodable as UTF-8 (lone surrogates), or without enough letters beside
        addresses, file names and numbers.
    """
    if len(text) > limits.max_characters:
        raise RejectedError(Reason.TEXT_TOO_LONG, f"{len(text)} characters, {limits.max_characters} allowed")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RejectedError(Reason.INVALID_TEXT, str(error)) from None
    stored = " ".join(normalise_text(_INVISIBLE.sub(r"\1", text)).split())
    if not stored:
        raise RejectedError(Reason.EMPTY_TEXT)
    if (letters := _letters(_NAMES.sub(" ", stored))) < limits.min_letters:
        detail = f"{letters} letters beside addresses and file names, {limits.min_letters} wanted: {stored}"
        raise RejectedError(Reason.BOILERPLATE_TEXT, detail)
    return stored


_INVISIBLE = re.compile(
    "(\U0001f3f4[\U000e0030-\U000e007a]+\U000e007f)|"  # the flags of England, Scotland, … are spelled in tags
    "["
    "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # control characters that are no white space
    "\xad\u180e\u200b\u2060-\u2064\ufeff"  # soft hyphen, zero-width spaces, invisible operators
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # writing direction
    "\u206a-\u206f\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # formats nobody sees
    "\ufdd0-\ufdef" + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 0x10000)) +
    "]"
)  # fmt: skip

# What says nothing of a picture: web and mail addresses, names of image files, cameras' and phones' serial names.
_NAMES = re.compile(
    r"(?:https?://|www\.)\S+"
    r"|\S+@\S+\.\w+"
    r"|\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic)\b"
    r"|\b(?:IMG|DSCN?|DSCF|DCIM|PXL|MVI|IMAG|image|img|photo|picture|untitled|screenshot)[-_ ]?\d*\b(?=[\W\d_]*$)",
    re.IGNORECASE,
)


def _letters(text: str) -> int:
    """Counts letters of any script, and pictographs (emoji are a text, too)."""
    return sum(c.isalpha() or unicodedata.category(c) == "So" for c in text)


def text_identity(text: str) -> str:
    """Returns the identity by which repeated texts are found: the same in capitals and small letters."""
    return hashlib.blake2b(text.casefold().encode(), digest_size=8).hexdigest()


def language_tag(found: str) -> str:
    """Returns a language from metadata as BCP-47: `EN_us` as `en-US`, `eng` as `en`; `und` if it is no such tag."""
    try:
        return langcodes.standardize_tag(found)
    except ValueError:  # LanguageTagError is one
        return UNKNOWN_LANGUAGE


def check_detector() -> None:
    """Raises ConfigError if languages cannot be detected here."""
    try:
        _detector()
    except ImportError:
        raise ConfigError("detect_language needs py3langid, which is not there: install superbatch[language]") from None


def detect_language(text: str, least: float) -> str:
    """Returns the language of a text, or `und` if the detector gives none a probability of `least`."""
    language, probability = _detector().classify(text)
    return language_tag(language) if probability >= least else UNKNOWN_LANGUAGE


@functools.cache
def _detector():  # type: ignore[no-untyped-def]
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
