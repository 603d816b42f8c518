"""Soft edges (`hed`) and the scribbles that are made of them, with ControlNet's HED network."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpu_worker.annotators import trained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

# It lacks type hints.
ndimage: Any = import_module("scipy.ndimage")

SIDE = 512
"""Shorter side in pixels at which edges are looked for, as the usual preprocessor does."""
STAGES = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Channels that go in and out of a stage of HED, and its convolutions: VGG-16's."""
RIDGE, BLUR, FAINT = 127, 3.0, 4
"""Level of a ridge, deviation of both blurs in pixels, and level from which a stroke is white."""


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
        self._network = HedNetwork().eval()
        try:
            self._network.load_state_dict(load_file(file))
        except (OSError, SafetensorError, RuntimeError) as error:
            why = "cannot be read" if not isinstance(error, RuntimeError) else "is no HED network"
            raise trained.wrong(file, f"{why} ({type(error).__name__})") from None
        trained.check(self._network, file)

    def edges(self, image: Image.Image) -> Image.Image:
        """Return soft edges, white on black, as a grey image of its size."""
        seen = trained.in_side(image, SIDE, 16)
        with trained.RUNNING, torch.inference_mode():
            found = self._network(trained.tensor(seen))[0, 0]
        return trained.enlarged(found.numpy() * 255, image.size)

    def scribbles(self, image: Image.Image) -> Image.Image:
        """Return thick strokes along the edges' ridges, as ControlNet's were trained with."""
        soft = np.asarray(self.edges(trained.in_side(image, SIDE, 16)), np.float64)
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
        return trained.enlarged(strokes * 255.0, image.size).point(
            lambda level: 255 if level > RIDGE else 0
        )
