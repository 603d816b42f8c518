"""Straight lines of a picture, by the Hough transform of its edges. No torch.

Duda and Hart 1972, "Use of the Hough Transformation to Detect Lines and Curves in Pictures". An
edge votes only for lines across its own gradient, which makes the transform fast and its peaks
sharp (O'Gorman and Clowes 1976). Runs of edges along a peak's line become segments; edges that a
segment has taken count for no other one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from gpu_worker import control

if TYPE_CHECKING:
    Numbers = npt.NDArray[np.float64]
    Indices = npt.NDArray[np.intp]
    Flags = npt.NDArray[np.bool_]
    Segment = tuple[tuple[float, float], tuple[float, float]]

# It lacks type hints.
ndimage: Any = import_module("scipy.ndimage")

ANGLES = 180
"""Directions of lines, one for each degree."""
SPREAD = 8
"""Degrees by which a line may differ from what an edge's gradient says."""
SMOOTH = 2.0
"""Deviation in pixels of the Gaussian before gradients, so that noise does not turn them."""
REACH = 1.5
"""Pixels between an edge and the line that it belongs to."""
GAP = 4.0
"""Longest break within a segment, in pixels."""
SHORTEST = 1 / 24
"""Length of the shortest segment, as a share of the picture's shorter side."""
MOST_SEGMENTS = 500
"""Segments of a picture, the strongest lines first."""
MOST_MISSED = 60
"""Lines in a row without a segment after which no more are looked at: there are no others."""
LARGEST = 1024
"""Longest side in pixels at which lines are looked for."""


def lines(image: Image.Image) -> Image.Image:
    """Return the straight lines of an RGB image, white on black, as a grey image of its size."""
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST), Image.Resampling.BILINEAR)
    x, y = image.width / small.width, image.height / small.height
    found = Image.new("L", image.size)
    draw = ImageDraw.Draw(found)
    width = max(1, round(min(image.size) / 512))
    for start, end in segments(small):
        draw.line((start[0] * x, start[1] * y, end[0] * x, end[1] * y), fill=255, width=width)
    return found


def segments(image: Image.Image) -> list[Segment]:
    """Return the ends (x, y) of the straight segments of an RGB image, in pixels."""
    y, x = np.nonzero(np.asarray(control.canny(image)))
    shortest = max(12.0, min(image.size) * SHORTEST)
    edges = _Edges(x, y, _directions(image)[y, x])
    votes = edges.votes(np.arange(len(x)), size := int(np.ceil(np.hypot(*image.size))))
    found: list[Segment] = []
    missed = 0
    while missed < MOST_MISSED and len(found) < MOST_SEGMENTS:
        at = int(votes.argmax())
        if votes.flat[at] < shortest / 2:
            break
        distance, angle = divmod(at, ANGLES)
        runs = edges.runs(float(distance - size), angle, shortest)
        votes[distance, angle] = 0
        missed = 0 if runs else missed + 1
        for run in runs:
            edges.left[run] = False
            votes -= edges.votes(run, size)
            ends = run[[0, -1]]
            (x0, x1), (y0, y1) = x[ends].tolist(), y[ends].tolist()
            found.append(((float(x0), float(y0)), (float(x1), float(y1))))
    return found


class _Edges:
    """The edges of a picture: where they are, and the direction of each one's gradient."""

    def __init__(self, x: Indices, y: Indices, toward: Indices) -> None:
        self.x, self.y, self.toward = x, y, toward
        self.left = np.ones(len(x), bool)
        """Those that belong to no segment yet."""

    def votes(self, which: Indices, size: int) -> npt.NDArray[np.int64]:
        """Return how many of some edges vote for each line: (2 * size + 1 distances, `ANGLES`)."""
        angles = (self.toward[which][:, None] + np.arange(-SPREAD, SPREAD + 1)) % ANGLES
        turn = np.deg2rad(angles)
        exact = self.x[which][:, None] * np.cos(turn) + self.y[which][:, None] * np.sin(turn)
        where = (np.rint(exact).astype(np.intp) + size) * ANGLES + angles
        count = np.bincount(where.ravel(), minlength=(2 * size + 1) * ANGLES)
        return np.asarray(count).reshape(-1, ANGLES)

    def runs(self, distance: float, angle: int, shortest: float) -> list[Indices]:
        """Return the edges of the segments along a line, each in order.

        The line is known to a degree and a pixel; its longest run of edges says where it is.
        """
        turned = np.abs((self.toward - angle + ANGLES // 2) % ANGLES - ANGLES // 2)
        across = self.left & (turned <= SPREAD + 1)
        turn = np.deg2rad(angle)
        first = self._runs(across, np.cos(turn), np.sin(turn), distance, 2 * REACH, shortest)
        if not first:
            return []
        longest = max(first, key=len)
        points = np.stack([self.x[longest], self.y[longest]], 1).astype(float)
        centre = points.mean(0)
        *_, (c, s) = np.linalg.svd(points - centre, full_matrices=False)[2]
        at = float(centre @ (c, s))
        return self._runs(across, float(c), float(s), at, REACH, shortest)

    def _runs(
        self, among: Flags, c: float, s: float, distance: float, reach: float, shortest: float
    ) -> list[Indices]:
        """Return the runs of edges on a line that are long enough and have no long breaks."""
        near = among & (np.abs(self.x * c + self.y * s - distance) <= reach)
        members = np.flatnonzero(near)
        along = self.y[members] * c - self.x[members] * s
        order = np.argsort(along)
        breaks = np.flatnonzero(np.diff(along[order]) > GAP) + 1
        return [
            members[run]
            for run in np.split(order, breaks)
            if len(run) and along[run[-1]] - along[run[0]] >= shortest
        ]


def _directions(image: Image.Image) -> Indices:
    """Return the direction of each pixel's gradient in degrees, 0 to 179, of the grey image."""
    grey: Numbers = ndimage.gaussian_filter(np.asarray(image.convert("L"), np.float64), SMOOTH)
    across, down = ndimage.sobel(grey, 1), ndimage.sobel(grey, 0)
    return np.asarray(np.rint(np.rad2deg(np.arctan2(down, across))).astype(np.intp) % ANGLES)
