"""Checkpoints that were trained to repaint: their UNet also takes the mask and what is kept.

Such a model has one pipeline for all: from noise, and from a whole picture, everything is masked.
"""

from __future__ import annotations

from typing import Any

from PIL import Image

from gpu_worker.families.stable_diffusion import StableDiffusion
from gpu_worker.families.stable_diffusion_xl import StableDiffusionXL


class _Repainting(StableDiffusion):
    """What both kinds have in common."""

    takes_latents = False

    def draw(self, **options: Any) -> Any:
        """Draw a batch from noise, on an empty canvas."""
        size = options["width"], options["height"]
        canvas = [Image.new("RGB", size, (127, 127, 127))] * len(options["generator"])
        return self.redraw(image=canvas, strength=1.0, **options)

    def redraw(self, **options: Any) -> Any:
        """Draw a batch from pictures, all of each unless there are masks."""
        width, height = options["image"][0].size
        everything = [Image.new("L", (width, height), 255)] * len(options["image"])
        return self.inpaint(
            **{"mask_image": everything, "width": width, "height": height, **options}
        )


class StableDiffusionInpainting(_Repainting):
    """A checkpoint of Stable Diffusion 1 or 2."""

    classes = ("StableDiffusionInpaintPipeline",) * 3


class StableDiffusionXLInpainting(_Repainting, StableDiffusionXL):
    """A checkpoint of Stable Diffusion XL."""

    classes = ("StableDiffusionXLInpaintPipeline",) * 3
