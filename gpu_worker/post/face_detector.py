"""Finds faces, with five points of each: MTCNN (Zhang et al. 2016, arXiv 1604.02878).

Three small networks look at a picture in turn: the first at all places and sizes, the second and
third at what the one before found. Their weights are facenet-pytorch's (MIT), so pictures are cut
and scaled as there: by areas, at whole pixels, with levels from -1 to 1.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional

from gpu_worker import face_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    Floats = npt.NDArray[np.float64]
    Weights = dict[str, torch.Tensor]

LONGEST = 640
"""Pixels of the longer side of what is searched; a larger picture is made smaller."""
SMALLEST = 20
"""Pixels of the smallest face that is found, in what is searched."""
SHRINK = 0.709
"""Between two sizes at which the first network looks: the square root of a half, as published."""
SURE = (0.6, 0.7, 0.9)
"""Least scores of the three networks. The last is stricter than the paper's 0.7: what is no face
must not be painted over."""
SEEN = 12
"""Pixels a side that the first network sees at each place; it looks at every second one."""
MAX_CANDIDATES = 500
"""Most places that a network passes on, the surest first; it bounds the time of any picture."""


@dataclass(frozen=True)
class Face:
    """A face in pixels of its picture."""

    box: Floats
    """Left, top, right, bottom."""
    points: Floats
    """(5, 2): both eyes, nose, both corners of the mouth; what is left in the picture is first."""
    score: float

    @property
    def area(self) -> float:
        """Its size in pixels."""
        left, top, right, bottom = self.box
        return float((right - left) * (bottom - top))


class Detector:
    """The three networks, on the CPU. Threads may share it."""

    def __init__(self) -> None:
        """Load the weights (2 MB). Raises face_weights.FaceWeightsError, OSError."""
        self._first, self._second, self._third = (
            torch.load(io.BytesIO(face_weights.read(name)), map_location="cpu", weights_only=True)
            for name in face_weights.FILES
        )

    def __call__(self, image: Image.Image) -> list[Face]:
        """Return the faces of a picture, the largest first."""
        image = image.convert("RGB")
        factor = min(1.0, LONGEST / max(image.size))
        if factor < 1:
            size = [max(1, round(side * factor)) for side in image.size]
            image = image.resize((size[0], size[1]), Image.Resampling.BOX)
        with torch.inference_mode():
            pixels = torch.from_numpy(np.array(image, np.float32))
            found = self._found(((pixels - 127.5) / 128).permute(2, 0, 1)[None])
        faces = [Face(one.box / factor, one.points / factor, one.score) for one in found]
        return sorted(faces, key=lambda face: -face.area)

    def _found(self, picture: torch.Tensor) -> list[Face]:
        boxes = _squares(self._proposed(picture))
        if not len(boxes):
            return []
        moved, scores = _second(self._second, _cuts(picture, boxes, 24))
        boxes, moved, scores = _sure(SURE[1], scores, boxes, moved)
        kept = _apart(boxes, scores, 0.7)
        boxes = _squares(_moved(boxes[kept], moved[kept]))
        if not len(boxes):
            return []
        moved, scores, points = _third(self._third, _cuts(picture, boxes, 48))
        boxes, moved, points, scores = _sure(SURE[2], scores, boxes, moved, points)
        sizes = boxes[:, 2:] - boxes[:, :2] + 1
        # The network gives five x, then five y, as parts of the box.
        points = (
            points.reshape(-1, 2, 5).transpose(0, 2, 1) * sizes[:, None] + boxes[:, None, :2] - 1
        )
        boxes = _moved(boxes, moved)
        kept = _apart(boxes, scores, 0.7, of_smaller=True)
        return [Face(boxes[one], points[one], float(scores[one])) for one in kept]

    def _proposed(self, picture: torch.Tensor) -> Floats:
        """Return the boxes of the first network."""
        height, width = picture.shape[2:]
        scale = SEEN / SMALLEST
        parts = [(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0))]
        while min(height, width) * scale >= SEEN:
            size = int(height * scale + 1), int(width * scale + 1)
            moved, sure = _first(self._first, functional.interpolate(picture, size, mode="area"))
            rows, columns = np.nonzero(sure >= SURE[0])
            corner = np.stack([columns, rows], 1) * 2
            box = np.floor(np.concatenate([corner + 1, corner + SEEN], 1) / scale)
            kept = _apart(box, sure[rows, columns], 0.5)
            rows, columns = rows[kept], columns[kept]
            parts.append((box[kept], moved[:, rows, columns].T, sure[rows, columns]))
            scale *= SHRINK
        joined: list[Floats] = [np.concatenate(part) for part in zip(*parts, strict=True)]
        boxes, moves, scores = joined
        kept = _apart(boxes, scores, 0.7)
        # Not `_moved`: here the width has no pixel more than the difference.
        return boxes[kept] + moves[kept] * np.tile(boxes[kept, 2:] - boxes[kept, :2], 2)


# --- the networks --------------------------------------------------------------------------------


def _features(weights: Weights, x: torch.Tensor, pools: Sequence[int]) -> torch.Tensor:
    """Return what convolutions make of a batch; `pools` has the sides of what is pooled after."""
    for number, pool in enumerate(pools, 1):
        x = functional.conv2d(x, weights[f"conv{number}.weight"], weights[f"conv{number}.bias"])
        x = functional.prelu(x, weights[f"prelu{number}.weight"])
        if pool:
            x = functional.max_pool2d(x, pool, 2, ceil_mode=True)
    return x


def _dense(weights: Weights, x: torch.Tensor, name: str) -> torch.Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _flat(weights: Weights, x: torch.Tensor, number: int) -> torch.Tensor:
    """Return the last features of a batch; the weights count columns before rows."""
    x = _dense(weights, x.permute(0, 3, 2, 1).flatten(1), f"dense{number}")
    return functional.prelu(x, weights[f"prelu{number}.weight"])


def _sureness(two: torch.Tensor) -> Floats:
    """Return how sure a network is of a face, where it says no and yes."""
    return _floats(two.softmax(1)[:, 1])


def _floats(tensor: torch.Tensor) -> Floats:
    return tensor.double().numpy()


def _first(weights: Weights, x: torch.Tensor) -> tuple[Floats, Floats]:
    """Return by place how to move the edges of its box, and how sure it is."""
    x = _features(weights, x, (2, 0, 0))
    two, moved = (
        functional.conv2d(x, weights[f"conv4_{head}.weight"], weights[f"conv4_{head}.bias"])
        for head in (1, 2)
    )
    return _floats(moved)[0], _sureness(two)[0]


def _second(weights: Weights, x: torch.Tensor) -> tuple[Floats, Floats]:
    """Return for each cut how to move the edges of its box, and how sure it is."""
    x = _flat(weights, _features(weights, x, (3, 3, 0)), 4)
    return _floats(_dense(weights, x, "dense5_2")), _sureness(_dense(weights, x, "dense5_1"))


def _third(weights: Weights, x: torch.Tensor) -> tuple[Floats, Floats, Floats]:
    """Return the same, and the points."""
    x = _flat(weights, _features(weights, x, (3, 3, 2, 0)), 5)
    sure = _sureness(_dense(weights, x, "dense6_1"))
    return _floats(_dense(weights, x, "dense6_2")), sure, _floats(_dense(weights, x, "dense6_3"))


# --- boxes ---------------------------------------------------------------------------------------


def _sure(least: float, scores: Floats, *parts: Floats) -> list[Floats]:
    """Return the parts, and then the scores, where the score is high enough."""
    kept = scores > least
    return [part[kept] for part in (*parts, scores)]


def _moved(boxes: Floats, moved: Floats) -> Floats:
    """Return boxes whose edges are moved by parts of their sizes."""
    return boxes + moved * np.tile(boxes[:, 2:] - boxes[:, :2] + 1, 2)


def _squares(boxes: Floats) -> Floats:
    """Return the squares around the centres of boxes, as wide as the longer side."""
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).max(1) / 2
    return np.concatenate([middle - side[:, None], middle + side[:, None]], 1)


def _cuts(picture: torch.Tensor, boxes: Floats, side: int) -> torch.Tensor:
    """Return the boxes' parts of a picture, each scaled to a square of `side` pixels.

    What is outside of the picture is left out. The corners count from 1.
    """
    height, width = picture.shape[2:]
    found = []
    for left, top, right, bottom in np.trunc(boxes).astype(int).tolist():
        across = slice(min(max(left, 1), width) - 1, max(min(right, width), 1))
        down = slice(min(max(top, 1), height) - 1, max(min(bottom, height), 1))
        found.append(functional.interpolate(picture[..., down, across], (side, side), mode="area"))
    return torch.cat(found)


def _apart(
    boxes: Floats, scores: Floats, most: float, *, of_smaller: bool = False
) -> npt.NDArray[np.int64]:
    """Return which boxes stay, the surest first, if no two may overlap by more than `most`.

    An overlap is a part of both boxes' area together or, with `of_smaller`, of the smaller one's.
    """
    left = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    kept = []
    while len(left):
        one, left = left[0], left[1:]
        kept.append(one)
        low = np.maximum(boxes[one, :2], boxes[left, :2])
        high = np.minimum(boxes[one, 2:], boxes[left, 2:])
        shared = np.prod(np.maximum(high - low, 0), 1)
        if of_smaller:
            whole = np.minimum(areas[one], areas[left])
        else:
            whole = areas[one] + areas[left] - shared
        left = left[shared <= most * whole]
    return np.array(kept, np.int64)
