"""Nearness (`depth`) and the directions of surfaces (`normal`), with a Depth Anything's weights."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from gpu_worker import model_files
from gpu_worker.annotators import trained

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    Floats = npt.NDArray[np.float64]

# It lacks type hints.
ndimage: Any = import_module("scipy.ndimage")

SIDE = 518
"""Shorter side in pixels of what Depth Anything sees, if its files say nothing."""
TOWARD = 2 * np.pi
"""Length of a normal's part toward the camera, beside Sobel's gradients, in ControlNet 1.0."""
MIDAS_SIDE, MIDAS_RANGE = 384, 1000.0
"""Shorter side in pixels at which ControlNet 1.0 has MiDaS (DPT-Hybrid) look, and about how far
apart that says the farthest and the nearest thing are. A relative depth has no unit; the steepness
of the slopes follows from these two."""
BACKGROUND = 0.1
"""Nearness below which a surface counts as facing the camera."""


class Depth:
    """How near what a picture shows is, by a Depth Anything of the operator's; white is near."""

    def __init__(self, directory: Path) -> None:
        """Load a directory of transformers; raises ModelError unless it is a relative one."""
        config = model_files.config(directory / "config.json")
        if config.get("depth_estimation_type", "relative") != "relative":
            why = "measures metres, and ControlNets were trained with nearness"
            raise trained.wrong(directory, why)
        self._network = trained.load(
            directory, "DepthAnythingForDepthEstimation", "depth_anything", "Depth Anything"
        )
        self._pictures = trained.Preprocessor(directory)
        self._patch = int(self._network.config.backbone_config.patch_size)
        self._side = self._pictures.side(SIDE, multiple=self._patch)

    def map(self, image: Image.Image) -> Image.Image:
        """Return nearness, from black to white over its whole range, as a grey image."""
        return trained.enlarged(self._nearness(image) * 255, image.size)

    def normals(self, image: Image.Image) -> Image.Image:
        """Return where surfaces face, as an RGB image of its size.

        Red is the part toward the left, green that toward the top, blue that toward the camera:
        level 127 is none, 255 is all, 0 is all of the opposite. ControlNet 1.1 (`normalbae`) names
        these colours, and the maps of ControlNet 1.0 (`annotator/midas`) and of diffusers' example
        for its `normal` model have them. ControlNet 1.0's own demo reversed the channels before its
        network; diffusers does not, and neither does this.

        The formula is ControlNet 1.0's: n = (S_x, S_y, 2 pi) / |(S_x, S_y, 2 pi)| with Sobel's 3x3
        gradients S of the nearness, and S = 0 in the background. The nearness is brought to the
        range and the resolution of MiDaS, which it was made for. Raises BadJobError.
        """
        nearness = self._nearness(image)
        steepness = MIDAS_RANGE * min(nearness.shape) / MIDAS_SIDE
        slopes = [ndimage.sobel(nearness, axis, mode="mirror") * steepness for axis in (1, 0)]
        for slope in slopes:
            slope[nearness < BACKGROUND] = 0
        normals = np.stack([*slopes, np.full_like(nearness, TOWARD)], 2)
        normals /= np.linalg.norm(normals, axis=2, keepdims=True)
        return trained.enlarged(normals * 127.5 + 127.5, image.size)

    def _nearness(self, image: Image.Image) -> Floats:
        """Return nearness from 0 to 1 over its whole range, in the size that the network sees."""
        seen = self._pictures.values(trained.in_side(image, self._side, self._patch))
        with trained.RUNNING, torch.inference_mode():
            output = self._network(pixel_values=seen)
        found = trained.finite(output.predicted_depth[0], "the depth").numpy().astype(np.float64)
        low, high = float(found.min()), float(found.max())
        return np.asarray((found - low) / max(high - low, 1e-9))
