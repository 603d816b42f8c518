"""Annotators that need no network: drawings, strokes and straight lines. No torch.

All maps are white on black, as the ControlNets of these types were trained with.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gpu_worker import control
from gpu_worker.annotators import hough

if TYPE_CHECKING:
    from collections.abc import Mapping

    Pixels = npt.NDArray[np.float64]

# It lacks type hints.
ndimage: Any = import_module("scipy.ndimage")

MIDDLE = 127
"""Level that parts strokes from paper."""
FINE, COARSE = 0.5, 5.0
"""Deviations of the two Gaussians in pixels, of an image of `SIDE`."""
SIDE = 512
STROKE = 16.0
"""Levels by which a stroke is darker than what is around it."""


def scribble(image: Image.Image) -> Image.Image:
    """Return the strokes of a drawing: what is dark on light paper, or light on dark.

    Strokes are the smaller part of a drawing. A pixel is dark if one of its colours is.
    """
    pixels = np.asarray(image)
    dark = pixels.min(2) < MIDDLE
    strokes = dark if dark.mean() <= 0.5 else pixels.max(2) > MIDDLE  # noqa: PLR2004 - half of it
    return _white(strokes)


def fakescribbles(image: Image.Image) -> Image.Image:
    """Return strokes as somebody would scribble a picture: where it is darker than around.

    They are the negative part of a difference of Gaussians, as in Winnemoeller et al. 2012,
    "XDoG: An eXtended difference-of-Gaussians compendium".
    """
    pixels: Pixels = np.asarray(image, np.float64)
    scale = max(1.0, min(image.size) / SIDE)
    near, around = (
        ndimage.gaussian_filter(pixels, (deviation, deviation, 0))
        for deviation in (FINE * scale, COARSE * scale)
    )
    return _white((around - near).max(2) > STROKE)


def _white(where: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(where.astype(np.uint8) * 255)


WITHOUT_WEIGHTS: Mapping[str, control.Annotator] = {
    "canny": control.canny,
    "scribble": scribble,
    "fakescribbles": fakescribbles,
    "hough": hough.lines,
}
"""By control type."""
