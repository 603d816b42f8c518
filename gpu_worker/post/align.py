"""Cuts a face out of a picture, upright and in one size, and puts it back without a seam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

SIDE = 512
"""Pixels a side of a cut, as the face fixers' networks expect."""
PLACES = (
    192.98138 + 239.94708j,
    318.90277 + 240.1936j,
    256.63416 + 314.01935j,
    201.26117 + 371.41043j,
    313.08905 + 371.15118j,
)
"""Where the five points of a face are in a cut, x + y j: in the mean of FFHQ, whose faces the
networks were trained with. The numbers are those of facexlib (MIT), `FaceRestoreHelper`."""
OUTSIDE = (135, 133, 132)
"""What is seen where a cut reaches out of its picture: facexlib's grey, which training had too."""
SOFT = 64
"""Pixels over which a cut fades out at its edges."""
TURN = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Place:
    """A turn, scale and shift: the point z = x + y j of a picture is in a cut at scale * z + shift.

    Complex numbers have no mirror image, which a face must not become.
    """

    scale: complex
    shift: complex

    @staticmethod
    def of(points: npt.NDArray[np.float64]) -> Place:
        """Return the place that brings five points, (5, 2), nearest to `PLACES` (least squares).

        Raises ValueError where they are one point, or no numbers.
        """
        given, wanted = points[:, 0] + 1j * points[:, 1], np.array(PLACES)
        apart = given - given.mean()
        spread = float((abs(apart) ** 2).sum())
        if not 0 < spread < float("inf"):
            message = "the points of a face are no face"
            raise ValueError(message)
        scale = complex((apart.conj() * (wanted - wanted.mean())).sum()) / spread
        if not abs(scale):
            message = "the points of a face have no direction"
            raise ValueError(message)
        return Place(scale, complex(wanted.mean()) - scale * complex(given.mean()))

    def cut(self, picture: Image.Image) -> Image.Image:
        """Return the face of a picture."""
        small, by = _reduced(picture, 1 / abs(self.scale))
        # What a pixel of the cut shows is at (w - shift) / scale in the picture.
        turn = _turn(1 / self.scale / by, -self.shift / self.scale / by)
        return small.transform(
            (SIDE, SIDE), Image.Transform.AFFINE, turn, Image.Resampling.BICUBIC, fillcolor=OUTSIDE
        )

    def corners(self) -> list[complex]:
        """Return where the corners of the cut are in the picture."""
        edges = (0, SIDE, SIDE * 1j, SIDE + SIDE * 1j)
        return [(corner - self.shift) / self.scale for corner in edges]

    def put(self, picture: Image.Image, face: Image.Image, strength: float) -> None:
        """Paint a face into its picture, as far as `strength` from 0 to 1 says."""
        corners = self.corners()
        left, right = min(z.real for z in corners), max(z.real for z in corners)
        top, bottom = min(z.imag for z in corners), max(z.imag for z in corners)
        box = (
            max(0, int(left)),
            max(0, int(top)),
            min(picture.width, int(right) + 1),
            min(picture.height, int(bottom) + 1),
        )
        size = box[2] - box[0], box[3] - box[1]
        if min(size) <= 0:
            return
        mask = _mask().point([round(level * strength) for level in range(256)])
        origin = complex(box[0], box[1])
        parts = []
        for part in (face, mask):
            small, by = _reduced(part, abs(self.scale))
            turn = _turn(self.scale / by, (self.scale * origin + self.shift) / by)
            parts.append(
                small.transform(size, Image.Transform.AFFINE, turn, Image.Resampling.BICUBIC)
            )
        picture.paste(parts[0], box[:2], parts[1])


def _turn(scale: complex, shift: complex) -> TURN:
    """Return what Pillow takes: where each pixel of the result comes from."""
    return (scale.real, -scale.imag, shift.real, scale.imag, scale.real, shift.imag)


def _reduced(picture: Image.Image, by: float) -> tuple[Image.Image, int]:
    """Return a picture made smaller by whole numbers of pixels, and by how much.

    `by` is how much smaller it is drawn. Pillow's affine transform looks at 16 pixels for each one,
    so that fine patterns would break up without this.
    """
    whole = max(1, min(int(by), *picture.size))
    return (picture.reduce(whole), whole) if whole > 1 else (picture, 1)


def _mask() -> Image.Image:
    """Return how much of a cut is painted: nothing at its edges, all from `SOFT` pixels inwards."""
    near = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1]) / SOFT
    part = np.clip(near, 0, 1)
    smooth = part * part * (3 - 2 * part)
    return Image.fromarray(np.round(255 * np.outer(smooth, smooth)).astype(np.uint8))
