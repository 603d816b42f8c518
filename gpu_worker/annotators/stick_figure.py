"""Draws persons as OpenPose does: 18 points and 17 limbs, each of its own colour. No torch.

Cao et al. 2017, "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (OpenPose's
COCO model): its order of points and limbs. Sizes and shades are those of ControlNet 1.1's
`annotator/openpose`, which its ControlNets were trained with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Iterable

    Floats = npt.NDArray[np.float64]

FROM_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""The key point of COCO for each of OpenPose: nose, neck, the right arm and the left one from the
shoulder, the right leg and the left one from the hip, right eye, left eye, right ear, left ear."""
NECK, SHOULDERS = 1, (5, 6)
"""OpenPose's neck, and COCO's shoulders, whose mean it is."""
LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
    (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
"""The points of OpenPose that limbs connect."""
COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""Of points in RGB; limbs have the first 17."""
SHADE = 0.6
"""How bright a limb is, beside its point."""
THICK, SIDE = 4.0, 512
"""Radius in pixels of points, and half the width of limbs, in a picture with this shorter side."""
CORNERS = 36
"""Of the polygon that a limb is drawn as, an ellipse."""


def of_coco(points: Floats) -> Floats:
    """Return the 18 points (x, y) of OpenPose, of COCO's (17, 2); what is not seen is NaN."""
    found = np.full((len(FROM_COCO), 2), np.nan)
    for number, one in enumerate(FROM_COCO):
        # Of a neck with one shoulder nothing is known.
        found[number] = points[list(SHOULDERS)].mean(0) if one is None else points[one]
    return found


def drawn(persons: Iterable[Floats], size: tuple[int, int]) -> Image.Image:
    """Return persons, each of 18 points (x, y) in pixels or NaN, on black as an RGB image."""
    found = Image.new("RGB", size)
    draw = ImageDraw.Draw(found)
    thick = max(1.0, THICK * min(size) / SIDE)
    people = list(persons)
    for number, (one, other) in enumerate(LIMBS):
        dark = tuple(int(level * SHADE) for level in COLOURS[number])
        for person in people:
            start, end = person[one], person[other]
            if np.isfinite([start, end]).all():
                draw.polygon([*map(tuple, _ellipse(start, end, thick).tolist())], fill=dark)
    for person in people:
        for (x, y), colour in zip(person.tolist(), COLOURS, strict=True):
            if np.isfinite([x, y]).all():
                draw.ellipse((x - thick, y - thick, x + thick, y + thick), fill=colour)
    return found


def _ellipse(start: Floats, end: Floats, thick: float) -> Floats:
    """Return the corners (x, y) of an ellipse from one point to another."""
    half = (end - start) / 2
    length = float(np.hypot(*half))
    across = np.array([-half[1], half[0]]) * (thick / max(length, 1e-9))
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)[:, None]
    return np.asarray((start + end) / 2 + np.cos(turn) * half + np.sin(turn) * across)
