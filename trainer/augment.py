"""Pictures seen a little differently each time: mirrored, and shifted. For a reference that learns from little data.

A model that sees the same thousand pictures for many epochs learns them by heart, and then tells matched captions from
mismatched ones worse elsewhere (docs/results.md, under what was tried). Mirroring and shifting keep what a caption says
of a picture, but for words such as "left". NumPy alone, on the host, where pictures are decoded.
"""

import numpy as np
from jaxtyping import UInt8

_SHIFT = 8  # of a side: pictures move by at most this part of it


def augment(
    images: UInt8[np.ndarray, "rows height width 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "rows height width 3"]:
    """Mirrors every other picture and shifts each by up to an eighth of its sides; edge pixels fill what comes free."""
    rows, height, width, _ = images.shape
    mirrored = rng.random(rows) < 0.5
    down = rng.integers(-(height // _SHIFT), height // _SHIFT + 1, rows)
    across = rng.integers(-(width // _SHIFT), width // _SHIFT + 1, rows)
    lines = np.clip(np.arange(height) + down[:, None], 0, height - 1)
    columns = np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width))
    columns = np.clip(columns + across[:, None], 0, width - 1)
    return images[np.arange(rows)[:, None, None], lines[:, :, None], columns[:, None, :]]
