"""Brings a small square drawing to the size that was asked for, with Real-ESRGAN on the CPU.

Plain ncnn runs the weights that gpu_worker/weights.py fetches. Same input, same threads or others:
same bytes.
"""

from __future__ import annotations

import json
import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from gpu_worker import weights

if TYPE_CHECKING:
    from pathlib import Path

DECLARATION = "horde.json"
"""The file beside model_index.json in which a model declares `{"native_size": 64}`."""
NATIVE_SIZES = range(32, 513)

# Factor and file of each step. The first redraws a small picture's edges, at 0.5 CPU-seconds for
# 64 pixels a side; the second keeps them when a picture grows beyond 256, at about as much.
FIRST = (4, "realesrgan-x4plus-anime")
SECOND = (2, "realesr-animevideov3-x2")

NEEDED = "this model draws at a native size, so it needs the upscaler"

Pixels = npt.NDArray[np.float32]


class UpscalerMissingError(RuntimeError):
    """The model needs the upscaler, and its package or its weights are not there."""


def native_size(model_dir: Path) -> int | None:
    """Return the one size that the model draws well; None: it draws any size itself."""
    declaration = model_dir / DECLARATION
    if not declaration.exists():
        return None
    size = json.loads(declaration.read_text(encoding="utf-8")).get("native_size")
    if type(size) is not int or size not in NATIVE_SIZES:
        message = f"{declaration}: native_size must be a whole number from 32 to 512"
        raise ValueError(message)
    return size


class Upscaler:
    """Real-ESRGAN for drawings. For one thread at a time."""

    def __init__(self, threads: int | None = None) -> None:
        """Load the weights (10 MB). Raises UpscalerMissingError."""
        if not find_spec("ncnn"):
            message = f"{NEEDED}: the package ncnn is not installed (requirements/worker.txt)"
            raise UpscalerMissingError(message)
        self._ncnn: Any = import_module("ncnn")
        self._threads = threads or _cores()
        self._nets = {name: self._load(name) for _, name in (FIRST, SECOND)}

    def _load(self, name: str) -> Any:
        net = self._ncnn.Net()
        net.opt.use_vulkan_compute = False
        net.opt.num_threads = self._threads
        for load, suffix in ((net.load_param, ".param"), (net.load_model, ".bin")):
            try:
                failed = load(str(weights.path(f"{name}{suffix}")))
            except weights.WeightsError as error:
                message = f"{NEEDED}: {error}"
                raise UpscalerMissingError(message) from None
            if failed:
                message = f"{NEEDED}: ncnn cannot read {name}{suffix}"
                raise UpscalerMissingError(message)
        return net

    def fit(self, drawing: Image.Image, width: int, height: int) -> Image.Image:
        """Return the square drawing, whole and in its proportions, on a canvas of that size.

        What is missing at the sides is continued from the drawing's edges.
        """
        side = min(width, height)
        return _extended(self._enlarged(drawing, side, side), width, height)

    def stretch(self, drawing: Image.Image, width: int, height: int) -> Image.Image:
        """Undo what a source image went through when it was made square for the model."""
        return self._enlarged(drawing, width, height)

    def _enlarged(self, drawing: Image.Image, width: int, height: int) -> Image.Image:
        for factor, name in (FIRST, SECOND):
            if max(width, height) > drawing.width:
                drawing = self._run(name, factor, drawing)
        if drawing.size == (width, height):
            return drawing
        return drawing.resize((width, height), Image.Resampling.LANCZOS)

    def _run(self, name: str, factor: int, image: Image.Image) -> Image.Image:
        planes: Pixels = np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1)
        # The border is continued, else it darkens: the network pads with black.
        margin = 4
        planes = np.pad(planes, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
        planes *= 1 / 255
        extractor = self._nets[name].create_extractor()
        # A clone, because ncnn does not keep the array alive whose memory it reads.
        extractor.input("data", self._ncnn.Mat(np.ascontiguousarray(planes)).clone())
        failed, output = extractor.extract("output")
        if failed:
            message = f"{name} failed"
            raise RuntimeError(message)
        cut = margin * factor
        enlarged = np.array(output)[:, cut:-cut, cut:-cut].transpose(1, 2, 0)
        return Image.fromarray((enlarged.clip(0, 1) * 255 + 0.5).astype(np.uint8))


def _cores() -> int:
    # macOS has no affinity.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _extended(image: Image.Image, width: int, height: int) -> Image.Image:
    """Centre the image and continue its edges to the canvas's, without streaks."""
    if image.size == (width, height):
        return image
    canvas = Image.new("RGB", (width, height))
    left, top = (width - image.width) // 2, (height - image.height) // 2
    edge = max(1, image.width // 64)
    blur = ImageFilter.GaussianBlur(max(1, image.width // 32))
    end = image.width - edge
    if left:
        strips = ((0, 0, edge, image.height), (end, 0, image.width, image.height))
        places = ((0, 0, left, height), (left + image.width, 0, width, height))
    else:
        strips = ((0, 0, image.width, edge), (0, end, image.width, image.height))
        places = ((0, 0, width, top), (0, top + image.height, width, height))
    for strip, place in zip(strips, places, strict=True):
        size = (place[2] - place[0], place[3] - place[1])
        if min(size) > 0:
            flat = image.crop(strip).resize(
                (1, image.height) if left else (image.width, 1), Image.Resampling.BOX
            )
            canvas.paste(flat.resize(size, Image.Resampling.BOX).filter(blur), place[:2])
    canvas.paste(image, (left, top))
    return canvas
