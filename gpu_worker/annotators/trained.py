"""Annotators with the operator's weights: soft edges (`hed`) and `depth`. On the CPU.

They run before the GPU is taken, one at a time, at a size of their own; their map is enlarged to
that of the image.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpu_worker import model_files
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# They lack type hints.
ndimage: Any = import_module("scipy.ndimage")
transformers: Any = import_module("transformers")

SIDE = 512
"""Shorter side in pixels at which edges are looked for, as the usual preprocessor does."""
LONGEST = 2
"""Longest side of what a network sees, in shorter sides; more of a picture is squeezed."""
STAGES = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Channels that go in and out of a stage of HED, and its convolutions: VGG-16's."""
RIDGE, BLUR, FAINT = 127, 3.0, 4
"""Level of a ridge, deviation of both blurs in pixels, and level from which a stroke is white."""
DEPTH_SIDE = 518
"""Shorter side of what Depth Anything sees, if its files say nothing."""


class Stage(torch.nn.Module):
    """Convolutions of one scale, and what they say of edges."""

    def __init__(self, taken: int, given: int, count: int) -> None:
        """Create the layers, without weights worth having."""
        super().__init__()
        sides = [(taken, given), *[(given, given)] * (count - 1)]
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(a, b, 3, padding=1) for a, b in sides)
        self.projection = torch.nn.Conv2d(given, 1, 1)


class HedNetwork(torch.nn.Module):
    """Xie and Tu 2015, "Holistically-Nested Edge Detection", under ControlNet's names of layers."""

    def __init__(self) -> None:
        """Create the layers, without weights worth having."""
        super().__init__()
        self.norm = torch.nn.Parameter(torch.zeros(1, 3, 1, 1))
        for number, sizes in enumerate(STAGES, 1):
            self.add_module(f"block{number}", Stage(*sizes))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return how likely each pixel is an edge, of (1, 3, height, width) in levels."""
        hidden, said = pixels - self.norm, []
        for number, stage in enumerate(cast("Iterator[Stage]", self.children())):
            if number:
                hidden = torch.nn.functional.max_pool2d(hidden, 2)
            for conv in stage.convs:
                hidden = torch.relu(conv(hidden))
            said.append(
                torch.nn.functional.interpolate(
                    stage.projection(hidden), size=pixels.shape[2:], mode="bilinear"
                )
            )
        return torch.sigmoid(torch.stack(said).mean(0))


class Hed:
    """Soft edges, and the scribbles that are made of them."""

    def __init__(self, file: Path) -> None:
        """Load ControlNet's HED network; raises ModelError unless the file holds that."""
        self._lock = threading.Lock()
        self._network = HedNetwork().eval()
        try:
            self._network.load_state_dict(load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            why = "cannot be read" if not isinstance(error, RuntimeError) else "is no HED network"
            raise _wrong(file, f"{why} ({type(error).__name__})") from None
        if not all(bool(torch.isfinite(one).all()) for one in self._network.parameters()):
            raise _wrong(file, "has weights that are no finite numbers")

    def edges(self, image: Image.Image) -> Image.Image:
        """Return soft edges, white on black, as a grey image of its size."""
        seen = _in_side(image, SIDE, 16)
        with self._lock, torch.inference_mode():
            found = self._network(_tensor(seen))[0, 0]
        return _grey(found.numpy() * 255, image.size)

    def scribbles(self, image: Image.Image) -> Image.Image:
        """Return thick strokes along the edges' ridges, as ControlNet's were trained with."""
        soft = np.asarray(self.edges(_in_side(image, SIDE, 16)), np.float64)
        soft = ndimage.gaussian_filter(soft, BLUR)
        ridges = np.zeros(soft.shape, bool)
        for line in (
            [[0, 0, 0], [1, 1, 1], [0, 0, 0]],
            [[0, 1, 0], [0, 1, 0], [0, 1, 0]],
            [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[0, 0, 1], [0, 1, 0], [1, 0, 0]],
        ):
            ridges |= ndimage.grey_dilation(soft, footprint=line) == soft
        ridges &= soft > RIDGE
        strokes = ndimage.gaussian_filter(ridges * 255.0, BLUR) > FAINT
        return _grey(strokes * 255.0, image.size).point(lambda level: 255 if level > RIDGE else 0)


class Depth:
    """How near what a picture shows is, by a Depth Anything of the operator's; white is near."""

    def __init__(self, directory: Path) -> None:
        """Load a directory of transformers; raises ModelError unless it is a relative one."""
        self._lock = threading.Lock()
        config = model_files.config(directory / "config.json")
        if config.get("model_type") != "depth_anything":
            raise _wrong(directory, "is no Depth Anything of transformers")
        if config.get("depth_estimation_type", "relative") != "relative":
            raise _wrong(directory, "measures metres, and ControlNets were trained with nearness")
        if not any(directory.glob("*.safetensors")):
            raise _wrong(directory, "has no weights as safetensors; other formats run code")
        try:
            network, said_of = transformers.DepthAnythingForDepthEstimation.from_pretrained(
                directory,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise _wrong(directory, f"cannot be loaded ({type(error).__name__})") from None
        if said_of["missing_keys"]:  # transformers would draw lots for them
            raise _wrong(directory, "lacks some of its weights")
        self._network = network.eval()
        said = model_files.config(directory / "preprocessor_config.json")
        size = said.get("size")
        side = size.get("height") if isinstance(size, dict) else None
        self._patch = int(self._network.config.backbone_config.patch_size)
        self._side = side if isinstance(side, int) and self._patch <= side <= 1024 else DEPTH_SIDE  # noqa: PLR2004
        # ImageNet's, unless the files say others.
        self._mean = _three(said.get("image_mean"), (0.485, 0.456, 0.406))
        self._deviation = _three(said.get("image_std"), (0.229, 0.224, 0.225))

    def map(self, image: Image.Image) -> Image.Image:
        """Return nearness, from black to white over its whole range, as a grey image."""
        seen = _tensor(_in_side(image, self._side, self._patch)) / 255
        with self._lock, torch.inference_mode():
            output = self._network(pixel_values=(seen - self._mean) / self._deviation)
        found = output.predicted_depth[0].numpy()
        if not np.isfinite(found).all():
            message = "the depth of its source image is no finite number"
            raise BadJobError(message)
        low, high = float(found.min()), float(found.max())
        return _grey((found - low) / max(high - low, 1e-9) * 255, image.size)


def _in_side(image: Image.Image, side: int, multiple: int) -> Image.Image:
    """Return an image whose shorter side is `side`, both multiples of something."""
    scale = side / min(image.size)
    sizes = [min(length * scale, LONGEST * side) for length in image.size]
    width, height = (max(1, round(size / multiple)) * multiple for size in sizes)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _tensor(image: Image.Image) -> torch.Tensor:
    """Return (1, 3, height, width) in levels."""
    pixels = np.array(image.convert("RGB"), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _grey(levels: Any, size: tuple[int, int]) -> Image.Image:
    found = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return found.resize(size, Image.Resampling.BICUBIC)


def _three(values: Any, otherwise: tuple[float, float, float]) -> torch.Tensor:
    good = isinstance(values, list) and len(values) == 3  # noqa: PLR2004 - colours
    numbers = values if good and all(isinstance(one, float) and one for one in values) else None
    return torch.tensor(numbers or otherwise).view(1, 3, 1, 1)


def _wrong(path: Path, why: str) -> ModelError:
    return ModelError(f"ANNOTATOR_DIR: {path.name} {why}")
