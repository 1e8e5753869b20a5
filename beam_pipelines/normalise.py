"""From a raw pair to the pair that is stored, or to the reason why it is not. Pure; no Beam.

Images keep their bytes where every reader sees the same picture in them: 8-bit RGB or grey JPEG or PNG, upright
(TFDS ignores the EXIF orientation), opaque, one frame. All others are decoded and written anew: rotated upright,
composited on white, reduced to 8 bits, first frame; lossy formats as JPEG (quality 95, 4:4:4), the rest as PNG.
Everything is decoded whole, so that a stored image is known to open.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from schemas.identity import normalise_text
from schemas.rejections import Reason

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # a JPEG of several frames opens as MPO
_LOSSY = ("JPEG", "MPO", "WEBP")
_EXIF_ORIENTATION = 0x0112
_JPEG_OPTIONS: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}


class RejectedError(Exception):
    """The pair is not stored; carries the reason and what the decoder said."""

    def __init__(self, reason: Reason, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class StoredImage:
    """The bytes to store, and their size in pixels."""

    image: bytes
    width: int
    height: int


def normalise_caption(text: str, max_characters: int) -> str:
    """Returns the text to store: NFC, without surrounding space.

    Raises:
      RejectedError: empty, too long, or not encodable as UTF-8 (lone surrogates).
    """
    if len(text) > max_characters:
        raise RejectedError(Reason.TEXT_TOO_LONG, f"{len(text)} characters, {max_characters} allowed")
    try:
        stored = normalise_text(text).strip()
        stored.encode()
    except UnicodeEncodeError as error:
        raise RejectedError(Reason.INVALID_TEXT, str(error)) from None
    if not stored:
        raise RejectedError(Reason.EMPTY_TEXT)
    return stored


def normalise_image(image: bytes, max_pixels: int) -> StoredImage:
    """Returns the image to store.

    Raises:
      RejectedError: not an image of a known format, truncated, undecodable, or of more than `max_pixels`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata that does not matter here
        try:
            opened = Image.open(io.BytesIO(image), formats=_FORMATS)
        except Image.UnidentifiedImageError:
            raise RejectedError(Reason.NOT_AN_IMAGE, f"{len(image)} bytes, first {image[:8].hex()}") from None
        except Image.DecompressionBombError as error:
            raise RejectedError(Reason.TOO_MANY_PIXELS, str(error)) from None
        except _DECODER_ERRORS as error:
            raise RejectedError(Reason.UNDECODABLE_IMAGE, f"{type(error).__name__}: {error}") from None
        with opened:
            # From the header, before anything is decoded: a few bytes can promise gigapixels.
            if opened.width * opened.height > max_pixels:
                detail = f"{opened.width}×{opened.height} pixels, {max_pixels} allowed"
                raise RejectedError(Reason.TOO_MANY_PIXELS, detail)
            try:
                return _store(opened, image)
            except _DECODER_ERRORS as error:
                truncated = "truncated" in str(error).lower() or isinstance(error, EOFError)
                reason = Reason.TRUNCATED_IMAGE if truncated else Reason.UNDECODABLE_IMAGE
                raise RejectedError(reason, f"{type(error).__name__}: {error}") from None


# What Pillow's parsers are known to raise on damaged files.
_DECODER_ERRORS = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, KeyError, IndexError, AttributeError, OverflowError,
    MemoryError, ZeroDivisionError, NotImplementedError, AssertionError, RuntimeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


def _store(opened: Image.Image, image: bytes) -> StoredImage:
    container = opened.format
    frames = getattr(opened, "n_frames", 1)
    orientation = opened.getexif().get(_EXIF_ORIENTATION, 1)
    transparent = "transparency" in opened.info
    plain = opened.mode in ("RGB", "L") and frames == 1 and orientation in (0, 1) and not transparent
    opened.seek(0)
    opened.load()
    if plain and (container == "JPEG" or (container == "PNG" and _png_depth(image) == 8)):
        return StoredImage(image, opened.width, opened.height)
    upright = ImageOps.exif_transpose(_to_8_bit_rgb(opened))
    output = io.BytesIO()
    if container in _LOSSY:
        upright.save(output, **_JPEG_OPTIONS)
    else:
        upright.save(output, format="PNG")
    return StoredImage(output.getvalue(), upright.width, upright.height)


def _to_8_bit_rgb(opened: Image.Image) -> Image.Image:
    exif = opened.getexif()
    if opened.mode in ("I", "F") or opened.mode.startswith("I;16"):
        samples = np.clip(np.asarray(opened, np.float64), 0, 65535)
        plain = Image.fromarray((samples / 257 + 0.5).astype(np.uint8)).convert("RGB")
    elif opened.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in opened.info:
        layer = opened.convert("RGBA")
        plain = Image.new("RGBA", layer.size, "white")
        plain.alpha_composite(layer)
        plain = plain.convert("RGB")
    else:
        plain = opened.convert("RGB")
    # `convert` drops the metadata that says how to turn the picture.
    plain.info.pop("exif", None)
    if exif.get(_EXIF_ORIENTATION, 1) != 1:
        plain.getexif()[_EXIF_ORIENTATION] = exif[_EXIF_ORIENTATION]
    return plain


def _png_depth(image: bytes) -> int:
    return image[24]  # in IHDR, which the format puts first
