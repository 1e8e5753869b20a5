"""Image bytes that are unusual, damaged, lying or no image at all. A pure function of a random generator."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_MODES = {
    "JPEG": ("RGB", "L", "CMYK"),
    "PNG": ("RGB", "L", "RGBA", "LA", "P", "1", "I;16"),
    "GIF": ("P", "L", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("RGB", "L", "P", "1"),
    "TIFF": ("RGB", "L", "CMYK", "RGBA", "1", "I;16", "F", "LAB", "YCbCr"),
    "ICO": ("RGBA",),
    "PPM": ("RGB",),
    "TGA": ("RGB",),
}
_NO_IMAGES = (
    b"", b"\0", b"<html><title>404 Not Found</title></html>", b'{"error": "not found"}', b"PK\3\4" + bytes(60),
    b"MZ" + bytes(100), b"%PDF-1.7\n", b"\x7fELF" + bytes(50), b"#!/bin/sh\nrm -rf /\n", b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\xff\xff\xffWEBPVP8 ", b"II*\0\x08\0\0\0\xff\xff", b"BM" + b"\xff" * 60,
    b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    b"push graphic-context\nviewbox 0 0 1 1\n",
)  # fmt: skip


def image(rng: random.Random) -> bytes:
    """Returns a sound image of an unusual kind, a crafted one, a damaged one or something else altogether."""
    chance = rng.random()
    if chance < 0.4:
        return sound(rng)
    if chance < 0.5:
        return rng.choice(_CRAFTED)(rng)
    if chance < 0.57:
        return rng.choice(_NO_IMAGES)
    return damaged(rng, sound(rng))


def whole() -> bytes:
    """A plain picture that nothing is wrong with."""
    output = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(output, "PNG")
    return output.getvalue()


def srgb_profile() -> bytes:
    """An ICC profile that does not say when it was made: bytes 24 to 35 of its header (ICC.1:2022, 7.2.10)."""
    made = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    made[24:36] = bytes(12)
    return bytes(made)


def sound(rng: random.Random) -> bytes:
    """An image that its format allows: any mode, size, orientation, number of frames, profile."""
    kind = rng.choice(list(_MODES))
    width, height = rng.choice([(16, 16), (17, 33), (64, 48), (20, 300), (100, 100), (1, 1), (2, 900), (300, 16)])
    canvas = _canvas(rng, width, height, rng.choice(_MODES[kind]))
    options: dict[str, Any] = {}
    if kind == "JPEG":
        options = {
            "quality": rng.choice([1, 50, 95]),
            "progressive": rng.random() < 0.3,
            "optimize": rng.random() < 0.3,
        }
        if canvas.mode == "RGB":
            options["subsampling"] = rng.choice([0, 1, 2])
    if kind in ("JPEG", "WEBP", "PNG", "TIFF") and rng.random() < 0.3:
        exif = Image.Exif()
        exif[0x0112] = rng.choice([0, 1, 3, 6, 8, 9, 60000])
        exif[0x010E] = "x" * rng.choice([0, 1000, 30000])
        options["exif"] = exif
    if rng.random() < 0.2:
        options["icc_profile"] = rng.choice([b"", b"no profile", srgb_profile()])
    if kind in ("GIF", "WEBP", "PNG", "TIFF") and canvas.mode in ("RGB", "L", "P") and rng.random() < 0.3:
        more = [_canvas(rng, width, height, canvas.mode) for _ in range(rng.randrange(1, 4))]
        options |= {"save_all": True, "append_images": more}
    if kind == "TIFF" and canvas.mode in ("RGB", "L") and rng.random() < 0.5:
        options["compression"] = rng.choice(["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"])
    if kind == "PNG" and canvas.mode == "P" and rng.random() < 0.5:
        options["transparency"] = rng.randrange(256)
    output = io.BytesIO()
    try:
        canvas.save(output, kind, **options)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError):  # not every writer takes every option
        output = io.BytesIO()
        canvas.convert("RGB").save(output, "PNG")
    return output.getvalue()


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Flips, cuts, overwrites, repeats or inserts: one to four times."""
    data = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        if not data:
            break
        at, length = rng.randrange(len(data)), rng.randrange(1, 64)
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at : at + length] = bytes(len(data[at : at + length]))
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at:at] = rng.randbytes(length)
            case 5:
                data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
    return bytes(data)


def _canvas(rng: random.Random, width: int, height: int, mode: str) -> Image.Image:
    samples = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rgb = Image.fromarray(samples)
    if mode == "I;16":
        return Image.fromarray(samples[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray((samples[..., 0] * rng.choice([1 / 255, 1.0, 257.0, np.nan])).astype(np.float32))
    if mode == "LAB":
        return ImageCms.profileToProfile(
            rgb, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )  # type: ignore[return-value]
    return rgb.convert("RGBA").convert(mode) if mode in ("LA",) else rgb.convert(mode)


def _png(rng: random.Random, width: int, height: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, rng.choice([0, 0, 1, 9]))
    parts = [(b"IHDR", header), *chunks, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def _gigapixels(rng: random.Random) -> bytes:
    """A few bytes that promise more than fits any memory."""
    size = rng.choice([100_000, 65_535, 2**31 - 1, 0])
    pixels = (b"IDAT", zlib.compress(bytes(100)))
    return _png(rng, size, size, 8, 2, pixels)


def _text_bomb(rng: random.Random) -> bytes:
    """A comment of a hundred megabytes in a hundred kilobytes."""
    bomb = zlib.compress(bytes(100_000_000), 9) if rng.random() < 0.1 else zlib.compress(bytes(3_000_000), 9)
    name = rng.choice([b"zTXt", b"iCCP", b"iTXt"])
    prefix = b"Comment\0\1\0\0\0" if name == b"iTXt" else b"Comment\0\0"
    return _png(rng, 16, 16, 8, 0, (name, prefix + bomb), (b"IDAT", zlib.compress(bytes(17 * 16))))


def _pixel_bomb(rng: random.Random) -> bytes:
    """Sixteen million equal pixels: within the limits, or with more data than the header says."""
    side = rng.choice([16, 4096])
    return _png(rng, side, side, 8, 0, (b"IDAT", zlib.compress(bytes(4097 * 4096), 9)))


def _odd_depths(rng: random.Random) -> bytes:
    depth, colour = rng.choice([1, 2, 4, 8, 16, 3, 32]), rng.choice([0, 2, 3, 4, 6, 1, 7])
    palette = (b"PLTE", rng.randbytes(rng.choice([3, 6, 768, 5])))
    return _png(rng, 32, 32, depth, colour, palette, (b"IDAT", zlib.compress(bytes(32 * (1 + 32 * 8)))))


def _two_in_one(rng: random.Random) -> bytes:
    return sound(rng) + rng.choice([b"", b"\0" * 100]) + sound(rng)


_CRAFTED = (_gigapixels, _text_bomb, _pixel_bomb, _odd_depths, _two_in_one)
