"""Reads networks of upscalers and face fixers from safetensors, with the package spandrel.

spandrel knows their architectures and finds their sizes in the weights. It is imported late: only
an operator's own files need it.
"""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from torch import nn

UPSCALING = ("ESRGAN", "SPAN", "PLKSR", "DAT")
"""The architectures of upscalers, by spandrel's names."""
FACES = ("GFPGAN", "RestoreFormer")
"""The same for face fixers. CodeFormer is not among them: its licence, S-Lab 1.0, forbids
commercial use of code and weights."""
MAX_FILE_BYTES = 500_000_000
"""Largest weights that are read: GFPGAN in single precision has 349 MB."""
MAX_NUMBER = 999
"""Largest number in a tensor's name. The numbers are how many layers are built."""


SHORT = 0.5
"""Seconds of a measurement that is made again."""


class NetworkError(ValueError):
    """The file holds no network that can be used; says why in one sentence."""


@dataclass(frozen=True)
class Network:
    """A network that makes pictures of pictures, (n, 3, height, width) with levels from 0 to 1."""

    module: nn.Module
    factor: int = 1
    """By which it enlarges."""
    multiple: int = 1
    """Sides of its pictures are multiples of this many pixels."""
    smallest: int = 1
    """Least side of its pictures in pixels."""
    half: bool = True
    """Whether half precision may be enough for it."""
    channels_last: bool = False
    """Whether it is as right, and faster, with colours stored together."""
    work: float = 0
    """Multiplications for a pixel that it is given; 0: unknown."""


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the CPU-seconds of a call. A short one is made twice, since the first prepares things.

    Of CPUs that others use too, seconds of the clock would say little.
    """
    found = float("inf")
    for _ in range(2):
        begun = time.process_time()
        run()
        found = min(found, time.process_time() - begun)
        if found > SHORT:
            break
    return found


def tensors_of(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file, floats in single precision.

    Raises NetworkError, OSError.
    """
    if file.stat().st_size > MAX_FILE_BYTES:
        message = f"{file.name} is larger than {MAX_FILE_BYTES} bytes"
        raise NetworkError(message)
    try:
        found = load_file(file)
    except (SafetensorError, RuntimeError, ValueError):
        message = f"{file.name} is no safetensors file"
        raise NetworkError(message) from None
    if any(int(number) > MAX_NUMBER for name in found for number in re.findall(r"\d+", name)):
        message = f"{file.name} has names of tensors with numbers above {MAX_NUMBER}"
        raise NetworkError(message)
    if not all(bool(one.isfinite().all()) for one in found.values() if one.is_floating_point()):
        message = f"{file.name} has weights that are no numbers"
        raise NetworkError(message)
    return {name: one.float() if one.is_floating_point() else one for name, one in found.items()}


def upscaler(file: Path) -> Network:
    """Return the upscaler of a safetensors file; raises NetworkError, OSError."""
    return _network(file, UPSCALING)


def face_fixer(file: Path) -> Network:
    """Return the face fixer of a safetensors file; raises NetworkError, OSError.

    It takes and gives levels from -1 to 1, as it was trained.
    """
    return _network(file, FACES)


def any_of(file: Path) -> Network:
    """Return what a safetensors file holds; raises NetworkError, OSError."""
    return _network(file, UPSCALING + FACES)


def _network(file: Path, known: tuple[str, ...]) -> Network:
    tensors, spandrel = tensors_of(file), _spandrel()
    registry: Any = spandrel.ArchRegistry()
    registry.add(*(spandrel.MAIN_REGISTRY[name] for name in known))
    try:
        found: Any = registry.load(dict(tensors))
        whole = len(found.model.state_dict()) == len(tensors)
    except spandrel.UnsupportedModelError:
        message = f"{file.name} is none of the architectures {', '.join(known)}"
        raise NetworkError(message) from None
    except Exception as error:  # noqa: BLE001 - whatever a file makes of it
        message = f"{file.name} is damaged, or no network of its kind ({type(error).__name__})"
        raise NetworkError(message) from None
    if not whole:
        message = f"{file.name} has tensors that its network does not"
        raise NetworkError(message)
    if (found.input_channels, found.output_channels) != (3, 3):
        message = f"{file.name} is not for pictures of three colours"
        raise NetworkError(message)
    needs = found.size_requirements
    return Network(
        found.model.eval().requires_grad_(requires_grad=False),
        factor=found.scale,
        multiple=needs.multiple_of,
        smallest=max(1, needs.minimum),
        half=found.supports_half,
        channels_last=found.architecture.id == "ESRGAN",
    )


# --- the package ---------------------------------------------------------------------------------

ABSENT = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


class _Absent(ModuleType):
    """In the place of torchvision while spandrel is imported; what it has must not be called."""

    __path__: list[str] = []  # noqa: RUF012 - that of a package without files

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _unusable


def _unusable(*_: object, **__: object) -> None:
    message = "torchvision is not installed"
    raise RuntimeError(message)


def _spandrel() -> Any:
    """Import spandrel, without torchvision where there is none. Raises NetworkError.

    It imports all its architectures, and two of them name three functions of torchvision: LaMa,
    which is not loaded here, and RestoreFormer, for a function that is not called here. PyPI's
    torchvision does not import beside a CPU build of torch.
    """
    if "spandrel" in sys.modules:
        return sys.modules["spandrel"]
    if not find_spec("spandrel"):
        message = "the package spandrel is not installed (requirements/worker.txt)"
        raise NetworkError(message)
    missing = () if find_spec("torchvision") else ABSENT
    sys.modules.update({name: _Absent(name) for name in missing})
    try:
        return import_module("spandrel")
    finally:
        for name in missing:
            del sys.modules[name]
