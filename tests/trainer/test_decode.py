"""Pixels from bytes: TensorFlow's resize for big_vision's checkpoints, JPEG's own scaling for everything else."""

import io

import numpy as np
import pytest
from PIL import Image

from trainer import decode, flexi
from trainer.decode import ANTIALIASED, BIG_VISION, decode_image, preprocessing_fingerprint


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    output = io.BytesIO()
    Image.fromarray(pixels).save(output, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return output.getvalue()


def photo(height: int, width: int) -> np.ndarray:
    """Smooth, with some noise, as photos are."""
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    smooth = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)


def test_big_visions_resize_is_tensorflows():
    """The values are those of `tf.cast(tf.image.resize(x, (4, 4), antialias=False), tf.uint8)` in TensorFlow 2.21."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = [[129, 38, 223, 156], [58, 62, 79, 153], [151, 66, 127, 87], [135, 162, 216, 110]]
    np.testing.assert_array_equal(decode_image(encoded(pixels, "PNG"), 4, BIG_VISION)[..., 0], expected)


@pytest.mark.parametrize("shape", [(5, 7), (40, 30), (33, 8), (8, 8), (1, 100)])
@pytest.mark.parametrize("resolution", [1, 8, 13, 64])
def test_big_visions_resize_is_bilinear_between_the_nearest_pixels(shape, resolution):
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    rows, columns = (flexi.bilinear(length, resolution) for length in shape)
    expected = np.einsum("ai,bj,ijc->abc", rows, columns, pixels)
    found = decode_image(encoded(pixels, "PNG"), resolution, BIG_VISION)
    assert (found <= expected + 1e-3).all()
    assert (found > expected - 1.001).all()  # cut, not rounded


def test_a_jpeg_is_scaled_while_it_is_decoded_and_looks_the_same():
    pixels = photo(300, 400)
    jpeg = encoded(pixels, "JPEG")
    whole = Image.open(io.BytesIO(jpeg)).resize((64, 64), Image.Resampling.BILINEAR)
    found = decode_image(jpeg, 64)
    difference = np.abs(found.astype(int) - np.asarray(whole))
    assert 0 < difference.mean() < 2  # levels of 255: not the same arithmetic, but the same picture
    # Where JPEG cannot be scaled to no less than is wanted, it is decoded whole.
    np.testing.assert_array_equal(
        decode_image(jpeg, 280), np.asarray(Image.open(io.BytesIO(jpeg)).resize((280, 280), Image.Resampling.BILINEAR))
    )


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 5}])
@pytest.mark.parametrize("decoder", [ANTIALIASED, BIG_VISION])
def test_a_jpegs_pixels_are_pillows(monkeypatch, decoder, options, mode):
    for height, width in ((15, 15), (16, 16), (17, 63), (64, 65), (100, 257), (301, 128)):
        output = io.BytesIO()
        Image.fromarray(photo(height, width)).convert(mode).save(output, "JPEG", **({"quality": 90} | options))
        for resolution in (8, 13, 32, 64):
            found = decode_image(output.getvalue(), resolution, decoder)
            with monkeypatch.context() as patched:
                patched.setattr(decode, "_plain_jpeg", lambda *_: None)
                np.testing.assert_array_equal(found, decode_image(output.getvalue(), resolution, decoder))


def test_jpegs_that_are_not_plain_are_pillows():
    whole = encoded(photo(64, 64), "JPEG")
    cmyk = io.BytesIO()
    Image.fromarray(photo(64, 64)).convert("CMYK").save(cmyk, "JPEG")
    for image in (whole[:-300], cmyk.getvalue(), encoded(photo(64, 64), "PNG"), b"\xff\xd8\xff"):
        assert decode._plain_jpeg(image, 32) is None
    assert decode._plain_jpeg(whole, 32) is not None
    decode_image(cmyk.getvalue(), 32)
    for damaged in (whole[:-300], b"\xff\xd8\xff"):
        with pytest.raises(OSError, match="image"):
            decode_image(damaged, 32)


def test_a_png_is_antialiased_and_big_vision_is_not():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    png = encoded(stripes, "PNG")
    assert np.ptp(decode_image(png, 16)[:, 2:-2]) <= 1  # even grey
    assert decode_image(png, 16, BIG_VISION).mean() == pytest.approx(127, abs=1)
    shifted = encoded(np.repeat(stripes[:, :1], 64, 1), "PNG")
    assert decode_image(shifted, 16, BIG_VISION).min() == 255


def test_what_is_already_of_the_right_size_is_left_alone():
    pixels = photo(32, 32)
    for decoder in (ANTIALIASED, BIG_VISION):
        np.testing.assert_array_equal(decode_image(encoded(pixels, "PNG"), 32, decoder), pixels)


def test_decoders_are_part_of_the_preprocessings_identity():
    assert preprocessing_fingerprint(ANTIALIASED, 32, 16) != preprocessing_fingerprint(BIG_VISION, 32, 16)


@pytest.mark.parametrize("decoder", [ANTIALIASED, BIG_VISION])
def test_damaged_bytes_are_an_os_error(decoder):
    with pytest.raises(OSError, match=r"."):
        decode_image(encoded(photo(64, 64), "JPEG")[:200], 16, decoder)
