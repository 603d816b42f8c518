"""What files of LoRAs add to a weight: the maths of LoRA, LoHa, LoKr and DoRA.

A weight has (rows, columns): those of a convolution are its output channels, and its input channels
times the size of its kernel. All is computed in single precision.

- LoRA (Hu et al., 2021, arXiv:2106.09685): the product of two small matrices; LoCon's convolutions
  may have a core between them.
- LoHa (FedPara: Hyeon-Woo et al., 2021, arXiv:2108.06098): two such products, multiplied by
  element.
- LoKr (Yeh et al., 2023, arXiv:2309.14859, LyCORIS): the Kronecker product of two matrices, each of
  which may be such a product.
- DoRA (Liu et al., 2024, arXiv:2402.09353): with any of them, the changed weight gets vectors of
  a trained length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

EPSILON = torch.finfo(torch.float32).eps
"""Shortest vector that DoRA divides by, as in LyCORIS."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix (rows, columns), or the factors whose product it is."""

    up: torch.Tensor
    """(rows, rank), or the matrix itself."""
    down: torch.Tensor | None = None
    """(rank, columns); with a core (rank of the core's second side, input channels)."""
    core: torch.Tensor | None = None
    """(rank of `up`, rank of `down`, size of the kernel), of Tucker's decomposition."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return the rows and columns of the product, which is not made for it."""
        columns = self.up.shape[1] if self.down is None else self.down.shape[1]
        return self.up.shape[0], columns * (1 if self.core is None else self.core.shape[2])

    @property
    def rank(self) -> int:
        """Return the rank of the product; 0 if it is none."""
        return 0 if self.down is None else len(self.down)

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield what a file has of it."""
        yield from (one for one in (self.up, self.down, self.core) if one is not None)

    def rows(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """Return some of its rows."""
        up = self.up[start:stop].to(device, torch.float32)
        if self.down is None:
            return up
        down = self.down.to(device, torch.float32)
        if self.core is not None:
            core = self.core.to(device, torch.float32)
            down = torch.einsum("ijk,jc->ick", core, down).flatten(1)
        return up @ down


@dataclass(frozen=True, slots=True)
class Change:
    """What is added to a weight at strength 1 without DoRA: `factor` times a product."""

    factor: float
    """Alpha by rank."""
    first: Matrix
    second: Matrix | None = None
    kind: Literal["lora", "loha", "lokr"] = "lora"
    magnitude: torch.Tensor | None = None
    """DoRA's lengths, one for each row of the weight, or for each input channel."""
    by_input: bool = False
    """Whether it is by input channel, as LyCORIS and OneTrainer did first."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return the rows and columns of the weight that it is for."""
        rows, columns = self.first.shape
        if self.second is not None and self.kind == "lokr":
            return rows * self.second.shape[0], columns * self.second.shape[1]
        return rows, columns

    @property
    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield what a file has of it."""
        yield from self.first.tensors
        yield from self.second.tensors if self.second else ()
        yield from () if self.magnitude is None else (self.magnitude,)

    def added(self, original: torch.Tensor, start: int, strength: float) -> torch.Tensor:
        """Return what is added to some rows of a weight, from row `start` of this change on.

        `original` has those rows, (rows, columns) in single precision. DoRA is not linear: half of
        it is half of the way to the changed weight, as in ComfyUI (`weight_decompose` of its
        `comfy/weight_adapter/base.py`). The lengths that it replaces are those of the changed
        weight, as in the paper, in LyCORIS and in peft.
        """
        changed = self._product(start, start + len(original), original.device)
        if self.magnitude is None:
            return changed.mul_(self.factor * strength)
        changed.mul_(self.factor).add_(original)
        wanted = self.magnitude.to(original.device, torch.float32)
        if self.by_input:
            channels = changed.view(len(changed), len(wanted), -1)
            lengths = channels.square().sum((0, 2)).sqrt()
            channels.mul_((wanted / lengths.clamp_min(EPSILON))[None, :, None])
        else:
            lengths = changed.norm(dim=1)
            mine = wanted[start : start + len(original)]
            changed.mul_((mine / lengths.clamp_min(EPSILON))[:, None])
        return changed.sub_(original).mul_(strength)

    def _product(self, start: int, stop: int, device: torch.device) -> torch.Tensor:
        """Return some rows of the product, made anew."""
        if self.second is None:
            return self.first.rows(start, stop, device)
        if self.kind == "loha":
            return self.first.rows(start, stop, device) * self.second.rows(start, stop, device)
        # Each row of the first matrix makes as many as the second one has.
        each = self.second.shape[0]
        above, below = start // each, math.ceil(stop / each)
        whole = torch.kron(self.first.rows(above, below, device), self.second.rows(0, each, device))
        return whole[start - above * each : stop - above * each]
