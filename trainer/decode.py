"""From stored bytes to pixels: the decode functions of embedding, training and evaluation. No jax.

Enters: JPEG or PNG bytes of a corpus. Leaves: uint8 RGB at a square resolution. Each way of decoding has a name, which
is part of a model's preprocessing fingerprint: embeddings say by which their reference saw the images, and a learner
that reads them decodes in the same way.
"""

import hashlib
import io
import math

import numpy as np
import simplejpeg
from PIL import Image

from schemas.errors import ConfigError
from schemas.identity import canonical_json

# What is trained here sees images so: JPEG's own scaling (a half, a quarter or an eighth, to no less than is wanted),
# then a bilinear filter as wide as what it shrinks. The aspect ratio is given up, as big_vision does.
ANTIALIASED = "pillow-rgb-dct-bilinear-antialias-squash-2"
# SigLIP's checkpoints saw them so: big_vision's `resize`, which is TensorFlow's without antialiasing, cut to integers.
BIG_VISION = "pillow-rgb-bilinear-squash-1"
DECODERS = {"antialiased": ANTIALIASED, "big_vision": BIG_VISION}  # by the names that flags use


def check_decoder(name: str) -> None:
    """Raises ConfigError unless this release decodes in the way of this name (not the flag's)."""
    if name not in DECODERS.values():
        raise ConfigError(f"decoder is {name!r}; this release has {', '.join(DECODERS.values())}")


def decode_image(image: bytes, resolution: int, decoder: str = ANTIALIASED) -> np.ndarray:
    """Decodes an image to uint8 [resolution, resolution, 3].

    Raises:
      OSError: the bytes are not an image, or a damaged one.
    """
    size = (resolution, resolution)
    pixels = _plain_jpeg(image, resolution if decoder == ANTIALIASED else None)
    if pixels is None:
        try:
            with Image.open(io.BytesIO(image)) as opened:
                if decoder == ANTIALIASED:
                    opened.draft(None, size)  # of any format but JPEG, nothing
                pixels = np.asarray(opened.convert("RGB"))
        except (ValueError, SyntaxError, EOFError) as error:  # what Pillow's parsers raise beside OSError
            raise OSError(f"image cannot be decoded: {error}") from None
    if decoder == BIG_VISION:
        return _bilinear(pixels, resolution)
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def _plain_jpeg(image: bytes, resolution: int | None) -> np.ndarray | None:
    """Decodes an undamaged JPEG in the usual colours, to the very pixels that Pillow gives but quicker; else None.

    Args:
      image: any bytes.
      resolution: the JPEG is scaled by a half, a quarter or an eighth, to no less than this a side, as Pillow's `draft`
        does; None for whole.
    """
    if not image.startswith(_JPEG):
        return None
    try:
        lines, columns, colours, _ = simplejpeg.decode_jpeg_header(image)
        height, width = int(lines), int(columns)
        if colours not in ("YCbCr", "Gray") or min(height, width) < _SMALLEST:
            return None
        factor = next(k for k in (8, 4, 2, 1) if k == 1 or min(height, width) >= k * (resolution or math.inf))
        return simplejpeg.decode_jpeg(image, min_height=-(-height // factor), min_width=-(-width // factor))
    except ValueError:  # damaged, or not quite in order: Pillow decides
        return None


_JPEG = b"\xff\xd8\xff"
_SMALLEST = 16  # pixels a side; the sizes to which a smaller JPEG can be scaled are not all different


def _bilinear(pixels: np.ndarray, resolution: int) -> np.ndarray:
    """Between the four nearest pixels, half-pixel centres; rounded down."""
    if pixels.shape[:2] == (resolution, resolution):
        return pixels
    (top, bottom, down), (left, right, across) = (_neighbours(length, resolution) for length in pixels.shape[:2])
    across, down = across[None, :, None], down[:, None, None]
    upper, lower = (
        (rows := pixels[line].astype(np.float32))[:, left] + (rows[:, right] - rows[:, left]) * across
        for line in (top, bottom)
    )
    return (upper + (lower - upper) * down).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every new pixel: the old ones on both sides, and how far it lies between them."""
    place = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new) - np.float32(0.5)
    below = np.floor(place)
    return np.maximum(below, 0).astype(int), np.minimum(np.ceil(place), old - 1).astype(int), place - below


def preprocessing_fingerprint(decoder: str, resolution: int, text_length: int) -> str:
    """Returns the identity of everything between stored bytes and the towers' inputs, the tokenizer apart."""
    identity = {"decoder": decoder, "resolution": resolution, "range": [-1, 1], "text_length": text_length}
    return hashlib.sha256(canonical_json(identity)).hexdigest()
