"""Enlarges a picture tile by tile, so that its size does not decide how much memory that takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable

    Bytes = npt.NDArray[np.uint8]
    Enlarge = Callable[[Bytes], Bytes]
    """Takes and returns (height, width, 3); the result is larger by a factor."""

MARGIN = 32
"""Pixels around a tile that the network sees and whose result is cut off. What is further away
changes a pixel by 15 levels at most, and one in a thousand by more than 4: no seam is seen."""


def enlarged(
    image: Image.Image, enlarge: Enlarge, factor: int, side: int, check: Callable[[], None]
) -> Image.Image:
    """Return an image enlarged by a factor, in tiles of at most `side` pixels a side.

    `check` is called before each tile, and what it raises is raised. All tiles of an image have the
    same size, so that a network is prepared for one shape.
    """
    pixels = np.asarray(image.convert("RGB"))
    # Continued at the borders, else they darken: the network pads with black.
    pixels = np.pad(pixels, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
    tall, wide = min(side, image.height), min(side, image.width)
    found = np.empty((image.height * factor, image.width * factor, 3), np.uint8)
    cut = MARGIN * factor
    for top in _starts(image.height, tall):
        for left in _starts(image.width, wide):
            check()
            tile = enlarge(pixels[top : top + tall + 2 * MARGIN, left : left + wide + 2 * MARGIN])
            y, x = top * factor, left * factor
            found[y : y + tall * factor, x : x + wide * factor] = tile[cut:-cut, cut:-cut]
    return Image.fromarray(found)


def _starts(length: int, tile: int) -> list[int]:
    """Return where tiles start; the last one ends where the picture does."""
    return [*range(0, length - tile, tile), length - tile]


def area(width: int, height: int, side: int) -> int:
    """Return the pixels that the network sees of a picture, margins included."""
    tall, wide = min(side, height), min(side, width)
    tiles = len(_starts(height, tall)) * len(_starts(width, wide))
    return tiles * (tall + 2 * MARGIN) * (wide + 2 * MARGIN)
