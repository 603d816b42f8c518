"""Skeletons of persons (`openpose`), with the weights of an RT-DETR and a ViTPose.

RT-DETR says where persons are (Zhao et al. 2023, arXiv 2304.08069), ViTPose where the joints of
each are (Xu et al. 2022, arXiv 2204.12484). Cutting and reading back are at the positions of
unbiased data processing (Huang et al. 2020, arXiv 1911.07524), as ViTPose was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gpu_worker.annotators import stick_figure, trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Floats = npt.NDArray[np.float64]

PERSONS, POSE = "persons", "pose"
"""The folders of both networks."""
SIDE, MULTIPLE = 640, 32
"""Side in pixels of the square that RT-DETR sees, and what it is a multiple of."""
SURE = 0.3
"""Least score of a person, and of a joint, as in transformers' example of both networks."""
MOST_PERSONS = 20
"""Persons of a picture whose joints are looked for, the surest first; it bounds the time."""
TOGETHER = 4
"""Persons that ViTPose sees at once; it bounds the memory."""
ROUND = 1.25
"""Sides of what ViTPose sees of a person, in those of the box around it."""
JOINTS = 17
"""Key points of COCO."""
FAINTEST = 1e-3
"""Least level of a heatmap whose logarithm is taken."""


@dataclass(frozen=True)
class Cut:
    """A part of a picture, in the shape that ViTPose sees."""

    left: float
    """Position of its first pixels in the picture, in pixels; it may lie outside."""
    top: float
    width: float
    """From its first pixels to its last, in pixels of the picture."""
    height: float

    def of(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        """Return it in a size in pixels; what is outside of the picture is black."""
        steps = self.width / (size[0] - 1), self.height / (size[1] - 1)
        # Else a large person would be made of every tenth pixel.
        shrink = max(1, int(min(steps)))
        if shrink > 1:
            image = image.reduce(shrink)
        # Pillow counts from the corner of a pixel, not from its middle.
        (a, c), (e, f) = (
            (step / shrink, (first + 0.5 - step / 2) / shrink)
            for step, first in zip(steps, (self.left, self.top), strict=True)
        )
        return image.transform(
            size, Image.Transform.AFFINE, (a, 0, c, 0, e, f), Image.Resampling.BILINEAR
        )


class OpenPose:
    """The skeletons of the persons in a picture."""

    def __init__(self, directory: Path) -> None:
        """Load both networks; raises ModelError unless the folder holds them and nothing else."""
        try:
            names = {one.name for one in directory.iterdir()}
        except OSError:
            names = set()
        if names != {PERSONS, POSE}:
            raise trained.wrong(directory, f"must hold {PERSONS}/ and {POSE}/, and nothing else")
        finder = directory / PERSONS
        self._finder = trained.load(finder, "RTDetrForObjectDetection", "rt_detr", "RT-DETR")
        things = trained.labels(self._finder)
        if "person" not in things:
            raise trained.wrong(finder, "finds no persons")
        self._person = things.index("person")
        self._pictures = trained.Preprocessor(finder)
        side = self._pictures.side(SIDE, multiple=MULTIPLE)
        self._side = side - side % MULTIPLE
        pose = directory / POSE
        self._pose = trained.load(pose, "VitPoseForPoseEstimation", "vitpose", "ViTPose")
        if self._pose.config.num_labels != JOINTS:
            raise trained.wrong(pose, f"does not find COCO's {JOINTS} key points")
        self._cuts = trained.Preprocessor(pose)
        backbone = self._pose.config.backbone_config
        height, width = backbone.image_size
        self._seen = int(width), int(height)
        self._experts = int(backbone.num_experts)

    def map(self, image: Image.Image) -> Image.Image:
        """Return the skeletons, on black, as an RGB image of its size; raises BadJobError.

        A picture without persons has a black map. Of many the surest `MOST_PERSONS` are drawn.
        """
        image = image.convert("RGB")
        cuts = [self._cut(box) for box in self._boxes(image)]
        persons = [stick_figure.of_coco(points) for points in self._joints(image, cuts)]
        return stick_figure.drawn(persons, image.size)

    def _boxes(self, image: Image.Image) -> list[list[float]]:
        """Return the left, top, right and bottom of persons in pixels, the surest first."""
        square = image.resize((self._side, self._side), Image.Resampling.BILINEAR)
        with trained.RUNNING, torch.inference_mode():
            said = self._finder(pixel_values=self._pictures.values(square))
        scores = trained.finite(said.logits[0], "the search for persons").sigmoid()[:, self._person]
        middles = trained.finite(said.pred_boxes[0], "the search for persons")
        found = scores.sort(descending=True, stable=True).indices[:MOST_PERSONS]
        size = torch.tensor([*image.size, *image.size])
        corners = torch.cat(
            [middles[:, :2] - middles[:, 2:] / 2, middles[:, :2] + middles[:, 2:] / 2], 1
        )
        boxes = (corners * size)[found[scores[found] >= SURE]].tolist()
        return [box for box in boxes if box[2] - box[0] >= 1 and box[3] - box[1] >= 1]

    def _cut(self, box: list[float]) -> Cut:
        """Return what ViTPose should see of a person: the box and some more, in its own shape."""
        left, top, right, bottom = box
        shape = self._seen[0] / self._seen[1]
        height = max(bottom - top, (right - left) / shape) * ROUND
        width = height * shape
        return Cut((left + right - width) / 2, (top + bottom - height) / 2, width, height)

    def _joints(self, image: Image.Image, cuts: list[Cut]) -> Iterator[Floats]:
        """Yield COCO's key points of each person: (17, 2) in pixels, NaN where none is seen."""
        for start in range(0, len(cuts), TOGETHER):
            some = cuts[start : start + TOGETHER]
            seen = torch.cat([self._cuts.values(cut.of(image, self._seen)) for cut in some])
            # Of a ViTPose+, the first expert is COCO's.
            more = {"dataset_index": torch.zeros(len(some), dtype=torch.int64)}
            with trained.RUNNING, torch.inference_mode():
                said = self._pose(pixel_values=seen, **(more if self._experts > 1 else {})).heatmaps
            heatmaps = trained.finite(said, "the pose").numpy().astype(np.float64)
            for cut, maps in zip(some, heatmaps, strict=True):
                last = np.array(maps.shape[:0:-1]) - 1
                places, scores = peaks(maps)
                points = places / last * (cut.width, cut.height) + (cut.left, cut.top)
                points[scores < SURE] = np.nan
                yield points


def peaks(heatmaps: Floats) -> tuple[Floats, Floats]:
    """Return where each of (count, height, width) is highest, (count, 2) of x and y, and how high.

    Between pixels it is where the parabola through the logarithms has its top, along each axis: the
    top of a Gaussian, as in Zhang et al. 2020, "Distribution-Aware Coordinate Representation for
    Human Pose Estimation", with the mixed derivative left out.
    """
    count, _, width = heatmaps.shape
    flat = heatmaps.reshape(count, -1)
    best = flat.argmax(1)
    y, x = np.divmod(best, width)
    logs = np.pad(np.log(np.maximum(heatmaps, FAINTEST)), ((0, 0), (1, 1), (1, 1)), mode="edge")
    each = np.arange(count)

    def shift(across: int, down: int) -> Floats:
        before, here, after = (
            logs[each, y + 1 + step * down, x + 1 + step * across] for step in (-1, 0, 1)
        )
        bend = before - 2 * here + after
        # The middle is highest, so the top is at most half a pixel away. A plain has none.
        return np.where(bend < 0, (before - after) / 2 / np.minimum(bend, -1e-12), 0.0)

    return np.stack([x + shift(1, 0), y + shift(0, 1)], 1), flat.max(1)
