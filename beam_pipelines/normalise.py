"""From a raw image to the image that is stored, or to the reason why it is not. Pure; no Beam.

Images keep their bytes where every reader sees the same picture in them: 8-bit RGB or grey JPEG or PNG, upright
(TFDS ignores the EXIF orientation), opaque, one frame. All others are decoded and written anew: rotated upright,
composited on white, CMYK brought to sRGB by its profile, reduced to 8 bits, first frame; lossy formats as JPEG (quality
95, 4:4:4), the rest as PNG. Everything is decoded whole, so that a stored image is known to open.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageCms, ImageOps

from schemas.rejections import Reason, RejectedError

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # a JPEG of several frames opens as MPO
_LOSSY = ("JPEG", "MPO", "WEBP")
_EXIF_ORIENTATION = 0x0112
_JPEG_OPTIONS: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """Which images are stored."""

    max_pixels: int = 2**26  # width × height
    min_side: int = 16  # pixels of the shorter side
    max_aspect_ratio: float = 20.0  # longer over shorter side


@dataclass(frozen=True)
class StoredImage:
    """The bytes to store, and their size in pixels."""

    image: bytes
    width: int
    height: int


def normalise_image(image: bytes, limits: ImageLimits) -> StoredImage:
    """Returns the image to store.

    Raises:
      RejectedError: not an image of a known format, truncated, undecodable, or beyond the limits.
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
            _check_size(opened.width, opened.height, limits)
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


def _check_size(width: int, height: int, limits: ImageLimits) -> None:
    shorter, longer = sorted((width, height))
    if shorter * longer > limits.max_pixels:
        raise RejectedError(Reason.TOO_MANY_PIXELS, f"{width}×{height} pixels, {limits.max_pixels} allowed")
    if shorter < max(limits.min_side, 1):
        raise RejectedError(Reason.IMAGE_TOO_SMALL, f"{width}×{height} pixels, a side of {limits.min_side} wanted")
    if longer > shorter * limits.max_aspect_ratio:
        raise RejectedError(Reason.EXTREME_ASPECT_RATIO, f"{width}×{height}, {limits.max_aspect_ratio:g} to 1 allowed")


def _store(opened: Image.Image, image: bytes) -> StoredImage:
    container = opened.format
    # `n_frames` would walk through every frame of a GIF to count them.
    animated = getattr(opened, "is_animated", False)
    orientation = opened.getexif().get(_EXIF_ORIENTATION, 1)
    transparent = "transparency" in opened.info
    plain = opened.mode in ("RGB", "L") and not animated and orientation in (0, 1) and not transparent
    if plain and container == "JPEG" and _decodes(image):
        return StoredImage(image, opened.width, opened.height)
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


def _decodes(jpeg: bytes) -> bool:
    """Says whether a JPEG decodes without a complaint. If not, Pillow, which is slower, says what is wrong with it."""
    try:
        simplejpeg.decode_jpeg(jpeg, "GRAY", strict=True)
    except ValueError:
        return False
    return True


def _to_8_bit_rgb(opened: Image.Image) -> Image.Image:
    exif = opened.getexif()
    if opened.mode == "F":
        plain = _grey(_float_range(np.asarray(opened, np.float64)))
    elif opened.mode == "I" or opened.mode.startswith("I;16"):
        plain = _grey(np.asarray(opened, np.float64) / 257)
    elif opened.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in opened.info:
        layer = opened.convert("RGBA")
        plain = Image.new("RGBA", layer.size, "white")
        plain.alpha_composite(layer)
        plain = plain.convert("RGB")
    else:
        plain = _by_profile(opened) or opened.convert("RGB")
    # `convert` drops the metadata that says how to turn the picture; a profile no longer holds.
    plain.info.pop("exif", None)
    plain.info.pop("icc_profile", None)
    if exif.get(_EXIF_ORIENTATION, 1) != 1:
        plain.getexif()[_EXIF_ORIENTATION] = exif[_EXIF_ORIENTATION]
    return plain


def _grey(levels: np.ndarray) -> Image.Image:
    return Image.fromarray((levels.clip(0, 255) + 0.5).astype(np.uint8)).convert("RGB")


def _float_range(samples: np.ndarray) -> np.ndarray:
    """Levels of 255 from samples of an unknown scale: of 1, of 255 or of 65,535, whichever holds them."""
    samples = np.nan_to_num(samples, nan=0.0)
    highest = samples.max(initial=0)
    return samples * (255 if highest <= 1 else 1 if highest <= 255 else 1 / 257)


def _by_profile(opened: Image.Image) -> Image.Image | None:
    """Converts to sRGB by the colour profile in the file (CMYK has no other meaning); None if it has no usable one."""
    profile = opened.info.get("icc_profile")
    if not profile or opened.mode not in ("CMYK", "RGB", "L"):
        return None
    try:
        theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.profileToProfile(opened, theirs, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _png_depth(image: bytes) -> int:
    return image[24]  # in IHDR, which the format puts first
