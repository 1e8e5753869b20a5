"""What is stored as read, what is written anew, and what is rejected with which reason."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from beam_pipelines import normalise
from beam_pipelines.normalise import ImageLimits, normalise_image
from schemas.rejections import Reason, RejectedError
from tests.conftest import picture

LIMIT = ImageLimits(max_pixels=2**20, min_side=4)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def opened(stored) -> Image.Image:
    image = Image.open(io.BytesIO(stored.image))
    image.load()
    return image


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_images_keep_their_bytes(kind, mode):
    image = picture(3, kind=kind, mode=mode)
    stored = normalise_image(image, LIMIT)
    assert stored.image == image
    assert (stored.width, stored.height) == (32, 32)


def test_orientation_is_applied_and_gone():
    source = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90°
    stored = normalise_image(saved(source, "JPEG", exif=exif), LIMIT)
    assert (stored.width, stored.height) == (20, 40)
    assert opened(stored).size == (20, 40)
    assert opened(stored).getexif().get(0x0112, 1) == 1


def test_an_upright_orientation_changes_nothing():
    exif = Image.Exif()
    exif[0x0112] = 1
    image = saved(Image.new("RGB", (8, 8)), "JPEG", exif=exif)
    assert normalise_image(image, LIMIT).image == image


def test_cmyk_becomes_rgb():
    stored = normalise_image(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), LIMIT)
    image = opened(stored)
    assert image.mode == "RGB"
    assert image.getpixel((4, 4))[0] > 200


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(mode):
    transparent = Image.new(mode, (8, 8))
    stored = normalise_image(saved(transparent, "PNG"), LIMIT)
    assert opened(stored).mode == "RGB"
    assert opened(stored).getpixel((0, 0)) == (255, 255, 255)


def test_palette_with_transparency_is_composited():
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30])
    stored = normalise_image(saved(palette, "PNG", transparency=0), LIMIT)
    assert opened(stored).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bit_grey_keeps_its_brightness():
    samples = np.full((8, 8), 0x8080, np.uint16)
    stored = normalise_image(saved(Image.fromarray(samples), "PNG"), LIMIT)
    assert opened(stored).getpixel((0, 0)) == (128, 128, 128)


def test_sixteen_bit_rgb_is_written_anew_with_eight():
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + b"\x80\x00" * 12 for _ in range(4))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    stored = normalise_image(png, LIMIT)
    assert stored.image != png
    assert stored.image[24] == 8
    assert opened(stored).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    stored = normalise_image(saved(frames[0], kind, save_all=True, append_images=frames[1:]), LIMIT)
    image = opened(stored)
    assert getattr(image, "n_frames", 1) == 1
    assert image.convert("RGB").getpixel((4, 4))[0] > 200


@pytest.mark.parametrize(("kind", "container"), [("WEBP", "JPEG"), ("BMP", "PNG"), ("TIFF", "PNG"), ("GIF", "PNG")])
def test_other_formats_become_jpeg_or_png(kind, container):
    assert opened(normalise_image(picture(0, kind=kind), LIMIT)).format == container


def test_what_was_written_anew_is_stored_as_is_the_second_time():
    for image in (picture(0, kind="WEBP"), picture(0, kind="GIF"), picture(0, mode="RGBA")):
        stored = normalise_image(image, LIMIT)
        assert normalise_image(stored.image, LIMIT) == stored


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", Reason.NOT_AN_IMAGE),
        (b"<html>404</html>", Reason.NOT_AN_IMAGE),
        (picture(0)[:60], Reason.TRUNCATED_IMAGE),
        (picture(0, kind="JPEG", pixels=64)[:-20], Reason.TRUNCATED_IMAGE),
        (picture(0, pixels=1100, kind="JPEG"), Reason.TOO_MANY_PIXELS),
    ],
)
def test_rejections_name_their_reason(image, reason):
    with pytest.raises(RejectedError) as rejected:
        normalise_image(image, LIMIT)
    assert rejected.value.reason == reason


def test_a_bomb_is_rejected_by_its_header():
    """A PNG of a few bytes that promises 10¹⁰ pixels."""
    png = bytearray(picture(0))
    png[16:24] = struct.pack(">II", 100_000, 100_000)
    png[29:33] = struct.pack(">I", zlib.crc32(bytes(png[12:29])))
    with pytest.raises(RejectedError) as rejected:
        normalise_image(bytes(png), LIMIT)
    assert rejected.value.reason == Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize(
    ("size", "reason"),
    [((3, 30), Reason.IMAGE_TOO_SMALL), ((900, 10), Reason.EXTREME_ASPECT_RATIO), ((4, 4), None), ((160, 8), None)],
)
def test_sides_and_their_ratio_have_limits(size, reason):
    image = saved(Image.new("RGB", size), "PNG")
    if reason is None:
        assert normalise_image(image, LIMIT).image == image
        return
    with pytest.raises(RejectedError) as rejected:
        normalise_image(image, LIMIT)
    assert rejected.value.reason == reason
    assert f"{size[0]}×{size[1]}" in rejected.value.detail


@pytest.mark.parametrize(
    ("scale", "kind"), [(1.0, np.float32), (255, np.float32), (65535, np.float32), (65535, np.int32)]
)
def test_samples_of_any_scale_keep_their_brightness(scale, kind):
    samples = np.linspace(0, scale, 64).reshape(8, 8).astype(kind)
    levels = np.asarray(opened(normalise_image(saved(Image.fromarray(samples), "TIFF"), LIMIT)))[..., 0]
    np.testing.assert_allclose(levels.flatten(), np.linspace(0, 255, 64), atol=1)


def test_what_is_written_anew_takes_its_colours_from_its_profile():
    """An sRGB profile whose red and blue have changed places; and one that is none."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = profile.replace(b"rXYZ", b"tmp1", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"tmp1", b"bXYZ", 1)
    red = Image.new("RGB", (8, 8), (250, 0, 0))
    for found, colour in ((swapped, (0, 0, 250)), (b"no profile", (250, 0, 0))):
        stored = opened(normalise_image(saved(red, "PNG", icc_profile=found), LIMIT))
        assert stored.getpixel((4, 4)) == (250, 0, 0)  # plain: the bytes stay as they are
        stored = opened(normalise_image(saved(red, "TIFF", icc_profile=found), LIMIT))
        np.testing.assert_allclose(stored.getpixel((4, 4)), colour, atol=3)
        assert "icc_profile" not in stored.info


def test_a_jpeg_that_is_not_quite_in_order_gets_pillows_verdict():
    """Some wrong bits draw a complaint from libjpeg, and still give a whole picture: they are no reason to drop it."""
    jpeg = picture(0, kind="JPEG", pixels=64)
    assert normalise._decodes(jpeg)
    damaged = (jpeg[:-at] + bytes([jpeg[-at] ^ bit]) + jpeg[1 - at :] for at in range(3, 60) for bit in (1, 16, 128))
    untidy = next(image for image in damaged if not normalise._decodes(image) and Image.open(io.BytesIO(image)).load())
    assert normalise_image(untidy, LIMIT).image == untidy
