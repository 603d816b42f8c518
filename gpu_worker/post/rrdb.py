"""The network of ESRGAN and Real-ESRGAN, RRDBNet: Wang et al. 2018 (arXiv 1809.00219), section 3.

It is dense blocks of convolutions without any normalization, and two enlargements at the end. It is
read from ncnn's files, which a package ships. Other files are read by spandrel (`networks`), whose
import takes a third of a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from gpu_worker.post.networks import NetworkError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    Tensors = Mapping[str, torch.Tensor]

RESIDUAL = 0.2
"""By which the residual of each block is scaled (the paper's beta)."""
SLOPE = 0.2
"""Of the leaky ReLUs."""
ENLARGED = 4
"""The factor between what the first convolution sees and the last."""
MAX_BLOCKS = 64
FP16 = 0x01306B47
"""What ncnn writes before weights in half precision; 0 before single precision."""


class _Dense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for number in range(5):
            last = number == 4  # noqa: PLR2004
            conv = _conv(width + number * growth, width if last else growth)
            self.add_module(f"conv{number + 1}", conv)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x
        *inner, last = self.children()
        for conv in inner:
            seen = torch.cat((seen, functional.leaky_relu(conv(seen), SLOPE, inplace=True)), 1)
        return cast("torch.Tensor", last(seen)) * RESIDUAL + x


class _Block(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for number in range(3):
            self.add_module(f"rdb{number + 1}", _Dense(width, growth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = x
        for dense in self.children():
            found = dense(found)
        return found * RESIDUAL + x


class RRDBNet(nn.Module):
    """Enlarges a batch of pictures, (n, 3, height, width) with values from 0 to 1, by `factor`."""

    def __init__(self, *, blocks: int, width: int = 64, growth: int = 32, factor: int = 4) -> None:
        """Create it without weights. `factor` is 1, 2 or 4; 1 and 2 fold pixels into channels."""
        super().__init__()
        self.factor, self._fold = factor, ENLARGED // factor
        self.conv_first = _conv(3 * self._fold**2, width)
        self.body = nn.Sequential(*(_Block(width, growth) for _ in range(blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (
            _conv(width, width) for _ in range(4)
        )
        self.conv_last = _conv(width, 3)

    @property
    def work(self) -> float:
        """How many multiplications it makes for a pixel that it is given."""

        def of(*parts: nn.Module) -> int:
            return sum(one.numel() for part in parts for one in part.parameters() if one.ndim > 1)

        found = of(self.conv_first, self.body, self.conv_body) + 4 * of(self.conv_up1)
        found += 16 * of(self.conv_up2, self.conv_hr, self.conv_last)
        return found / self._fold**2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the enlarged pictures; their sides must be multiples of what is folded."""
        first = self.conv_first(functional.pixel_unshuffle(x, self._fold))
        found = first + self.conv_body(self.body(first))
        for conv in (self.conv_up1, self.conv_up2):
            found = functional.interpolate(found, scale_factor=2)
            found = functional.leaky_relu(conv(found), SLOPE, inplace=True)
        found = functional.leaky_relu(self.conv_hr(found), SLOPE, inplace=True)
        return cast("torch.Tensor", self.conv_last(found))


def _conv(taken: int, given: int) -> nn.Conv2d:
    return nn.Conv2d(taken, given, 3, padding=1)


def of_ncnn(param: Path, weights: Path) -> RRDBNet:
    """Return the network of two files in ncnn's format, whose convolutions are in RRDBNet's order.

    Raises NetworkError. The format: ncnn's wiki, "param and model file structure".
    """
    convolutions = [
        dict(field.split("=", 1) for field in line.split()[6:])
        for line in param.read_text("ascii").splitlines()
        if line.startswith("Convolution ")
    ]
    data, at = weights.read_bytes(), 0

    def taken(count: int, kind: str) -> torch.Tensor:
        nonlocal at
        found = np.frombuffer(data, kind, count, at)
        at += -(-found.nbytes // 4) * 4  # padded to four bytes
        return torch.from_numpy(found.astype(np.float32))

    arrays: list[torch.Tensor] = []
    try:
        for fields in convolutions:
            given, size = int(fields["0"]), int(fields["6"])
            half = np.frombuffer(data, "<u4", 1, at)[0] == FP16
            at += 4
            arrays += (
                taken(size, "<f2" if half else "<f4").view(given, -1, 3, 3),
                taken(given, "<f4"),
            )
    except (KeyError, ValueError, RuntimeError):
        message = f"{weights.name} is not what {param.name} says"
        raise NetworkError(message) from None
    blocks, rest = divmod(len(convolutions) - 6, 15)
    if rest or not 0 < blocks <= MAX_BLOCKS:
        message = f"{param.name} is no RRDBNet"
        raise NetworkError(message)
    net = RRDBNet(blocks=blocks, width=arrays[0].shape[0], growth=arrays[2].shape[0])
    return _filled(net, dict(zip(net.state_dict(), arrays, strict=True)), weights.name)


def _filled(net: RRDBNet, tensors: Tensors, file: str) -> RRDBNet:
    try:
        net.load_state_dict({name: one.float() for name, one in tensors.items()}, assign=True)
    except RuntimeError:
        message = f"{file} is no RRDBNet: its tensors have other names or shapes"
        raise NetworkError(message) from None
    if not all(bool(one.isfinite().all()) for one in net.parameters()):
        message = f"{file} has weights that are no numbers"
        raise NetworkError(message)
    return net.eval().requires_grad_(requires_grad=False)
