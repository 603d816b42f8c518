"""What annotators with the operator's networks share: how one is loaded, and what it is shown.

They run on the CPU, before the GPU is taken, one at a time, at a size of their own; their map is
enlarged to that of the image.
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError

from gpu_worker import model_files
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError

if TYPE_CHECKING:
    from pathlib import Path

# It lacks type hints.
transformers: Any = import_module("transformers")

RUNNING = threading.Lock()
"""Held while a network runs, whichever it is: their memory does not add up, and each already uses
all CPUs."""
LONGEST = 2
"""Longest side of what a network sees, in shorter sides; more of a picture is squeezed."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of colours from 0 to 1."""
UNUSED = "num_batches_tracked"
"""A tensor that only training reads; older files lack it."""


class Preprocessor:
    """What `preprocessor_config.json` says of the pictures that a network was trained with."""

    def __init__(self, directory: Path) -> None:
        """Read it; what it does not say is ImageNet's. A file that cannot be read says nothing."""
        said = model_files.config(directory / "preprocessor_config.json")
        size = said.get("size")
        self._size = size if isinstance(size, dict) else {}
        self._mean = _three(said.get("image_mean"), MEAN)
        self._deviation = _three(said.get("image_std"), DEVIATION)
        self._normalizes = said.get("do_normalize", True) is not False

    def side(self, otherwise: int, *, multiple: int, most: int = 1024) -> int:
        """Return the shorter side in pixels, or another one if it says none or an absurd one."""
        side = self._size.get("height", self._size.get("shortest_edge"))
        return side if isinstance(side, int) and multiple <= side <= most else otherwise

    def values(self, image: Image.Image) -> torch.Tensor:
        """Return (1, 3, height, width), of an image in the size that its network sees."""
        pixels = tensor(image) / 255
        return (pixels - self._mean) / self._deviation if self._normalizes else pixels


def load(directory: Path, kind: str, model_type: str, named: str) -> Any:
    """Return a network of a directory of transformers, such as `UperNetForSemanticSegmentation`.

    `model_type` is that of its `config.json`, `named` what people call it. Raises ModelError unless
    the directory holds it with all weights, as safetensors.
    """
    if model_files.config(directory / "config.json").get("model_type") != model_type:
        raise wrong(directory, f"is no {named} of transformers")
    if not any(directory.glob("*.safetensors")):
        raise wrong(directory, "has no weights as safetensors; other formats run code")
    try:
        network, said_of = getattr(transformers, kind).from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    # A configuration with the wrong types, or a backbone of a package that is not installed.
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        RuntimeError,
        ImportError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        raise wrong(directory, f"cannot be loaded ({type(error).__name__})") from None
    if any(not name.endswith(UNUSED) for name in said_of["missing_keys"]):
        raise wrong(directory, "lacks some of its weights")  # transformers would draw lots for them
    check(network, directory)
    return network.eval()


def check(network: torch.nn.Module, path: Path) -> None:
    """Raise ModelError if a network has weights that are no finite numbers."""
    if not all(bool(torch.isfinite(one).all()) for one in network.state_dict().values()):
        raise wrong(path, "has weights that are no finite numbers")


def labels(network: Any) -> list[str]:
    """Return the names of what a network tells apart, in its order."""
    found = network.config.id2label
    return [str(found.get(number, "")).strip().lower() for number in range(len(found))]


def in_side(image: Image.Image, side: int, multiple: int) -> Image.Image:
    """Return an image whose shorter side is about `side`, both multiples of something."""
    scale = side / min(image.size)
    sizes = [min(length * scale, LONGEST * side) for length in image.size]
    width, height = (max(1, round(size / multiple)) * multiple for size in sizes)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def tensor(image: Image.Image) -> torch.Tensor:
    """Return (1, 3, height, width) in levels."""
    pixels = np.array(image.convert("RGB"), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def enlarged(levels: Any, size: tuple[int, int]) -> Image.Image:
    """Return levels, (height, width) or (height, width, 3), as an image of a size in pixels."""
    found = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
    return found.resize(size, Image.Resampling.BICUBIC)


def finite(found: torch.Tensor, what: str) -> torch.Tensor:
    """Return what a network said of a picture; raises BadJobError if it is no finite number."""
    if not bool(torch.isfinite(found).all()):
        message = f"{what} of its source image is no finite number"
        raise BadJobError(message)
    return found


def wrong(path: Path, why: str) -> ModelError:
    """Return the error that a file or folder of `ANNOTATOR_DIR` cannot be used."""
    return ModelError(f"ANNOTATOR_DIR: {path.name} {why}")


def _three(values: Any, otherwise: tuple[float, float, float]) -> torch.Tensor:
    good = isinstance(values, list) and len(values) == 3  # noqa: PLR2004 - colours
    numbers = values if good and all(isinstance(one, float) and one for one in values) else None
    return torch.tensor(numbers or otherwise).view(1, 3, 1, 1)
