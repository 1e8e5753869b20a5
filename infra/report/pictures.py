"""Pictures and captions for the page. Both are hostile: bytes may be bombs, and texts markup.

Enters: stored or raw bytes, and texts. Leaves: small WebP pictures, encoded anew from pixels so that no byte of a
source gets onto the page, and texts without characters that act instead of being seen, no longer than a page can bear.
Escaping is the templates' business.
"""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from beam_pipelines.normalise import ImageLimits, normalise_image
from schemas import records
from schemas.rejections import RejectedError

SIDE = 96  # pixels of the longer side
_LIMITS = ImageLimits(min_side=1, max_aspect_ratio=float("inf"))
_OPTIONS = {"format": "WEBP", "quality": 72, "method": 4}
_LONGEST = 2000  # characters of a caption that the page holds
LONGEST_NAME = 200  # of any other text: a host, a language, what a library said
LONGEST_LINE = 500  # of what stands on a line of its own and holds paths: a finding, an artifact's parent
_LONGEST_ALT = 200
_CLIPPED = 60
_JOINERS = "\u200c\u200d"  # letters and emoji are written with them


@dataclass(frozen=True)
class Thumbnail:
    """A small picture as a data: URI, and its size in pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One example on the page."""

    thumbnail: Thumbnail | None
    text: str
    language: str = ""
    note: str = ""
    """what is known of it: its score, its visits"""
    truth: str = ""
    problem: str = ""
    """why there is no picture"""

    @property
    def alt(self) -> str:
        """What stands for the picture."""
        return self.text if len(self.text) <= _LONGEST_ALT else f"{self.text[:_LONGEST_ALT]}…"

    @property
    def clipped(self) -> str:
        """The caption's beginning; empty if it is short enough to be shown whole."""
        return f"{self.text[:_CLIPPED].rstrip()}…" if len(self.text) > _CLIPPED else ""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Pictures under one heading."""

    title: str
    says: str
    pictures: list[Picture]


def of_example(example: records.Example, *, note: str = "", truth: str = "") -> Picture:
    """An example of a corpus as it is shown."""
    small, problem = thumbnail(example.image)
    return Picture(
        thumbnail=small, text=caption(example.text), language=example.language, note=note, truth=truth,
        problem=problem,
    )  # fmt: skip


def thumbnail(image: bytes) -> tuple[Thumbnail | None, str]:
    """Makes a small picture; or none, and says why in words of the rejections."""
    try:
        stored = normalise_image(image, _LIMITS)
    except RejectedError as error:
        return None, error.reason.replace("_", " ")
    with Image.open(io.BytesIO(stored.image)) as opened:
        opened.draft("RGB", (2 * SIDE, 2 * SIDE))  # of a JPEG, fewer pixels are decoded
        small = opened.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    output = io.BytesIO()
    small.save(output, **_OPTIONS)
    encoded = base64.b64encode(output.getvalue()).decode()
    return Thumbnail(f"data:image/webp;base64,{encoded}", small.width, small.height), ""


def caption(text: str) -> str:
    """A caption as it is shown, and no longer than a page can bear."""
    rest = len(text) - _LONGEST
    return _seen(text[:_LONGEST]) + (f"… ({rest:,} more characters)" if rest > 0 else "")


def times(count: int, what: str) -> str:
    """A count with its noun."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def signed(value: float) -> str:
    """Two digits and a sign, with a minus that is one."""
    return f"{value:+.2f}".replace("-", "−")


def shown(text: str, most: int = LONGEST_NAME) -> str:
    """Text in which what acts and is not seen (controls, marks of direction) stands as an escape; cut where it is long.

    What was shown once stays the same if it is shown again.
    """
    seen = _seen(text[: most + 1])
    return seen if len(seen) <= most else f"{seen[: most - 1]}…"


def _seen(text: str) -> str:
    return "".join(c if c.isprintable() or c in _JOINERS else _escape(c) for c in text)


def _escape(character: str) -> str:
    return " " if character.isspace() else character.encode("unicode_escape").decode()
