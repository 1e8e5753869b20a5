"""From stored bytes to pixels: the one decode function of embedding, training and evaluation. No jax.

Enters: JPEG or PNG bytes of a corpus. Leaves: uint8 RGB at a square resolution. What is computed here is named by
`DECODER`, which is part of a model's preprocessing fingerprint: embeddings made by one decoder are refused by a
trainer that would use another.
"""

import hashlib
import io

import numpy as np
from PIL import Image

from schemas.identity import canonical_json

DECODER = "pillow-rgb-bilinear-antialias-squash-1"


def decode_image(image: bytes, resolution: int) -> np.ndarray:
    """Decodes an image to uint8 [resolution, resolution, 3], the aspect ratio given up (as big_vision does).

    Raises:
      OSError: the bytes are not an image, or a damaged one.
    """
    try:
        with Image.open(io.BytesIO(image)) as opened:
            pixels = opened.convert("RGB")
    except (ValueError, SyntaxError, EOFError) as error:  # what Pillow's parsers raise beside OSError
        raise OSError(f"image cannot be decoded: {error}") from None
    if pixels.size != (resolution, resolution):
        pixels = pixels.resize((resolution, resolution), Image.Resampling.BILINEAR)
    return np.asarray(pixels)


def preprocessing_fingerprint(resolution: int, text_length: int) -> str:
    """Returns the identity of everything between stored bytes and the towers' inputs, the tokenizer apart."""
    identity = {"decoder": DECODER, "resolution": resolution, "range": [-1, 1], "text_length": text_length}
    return hashlib.sha256(canonical_json(identity)).hexdigest()
