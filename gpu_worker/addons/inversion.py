"""Textual inversions: vectors that stand for tokens (Gal et al., 2022, arXiv:2208.01618)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from gpu_worker.addons import tensors
from gpu_worker.addons.asked import UnusableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_VECTORS = 75
"""Vectors of one: as many tokens as a chunk has."""
PAIR = ("clip_l", "clip_g")
"""The tensors of a file for Stable Diffusion XL, by its text encoders."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Vectors:
    """A textual inversion that fits the model."""

    each: tuple[torch.Tensor, ...]
    """(vectors, hidden size) for each text encoder, in single precision."""

    @property
    def size(self) -> int:
        """Bytes that it takes in memory."""
        return sum(one.numel() * one.element_size() for one in self.each)


def read(path: Path, widths: Sequence[int]) -> Vectors:
    """Return a file's vectors for each text encoder, whose hidden sizes are `widths`.

    A file for one encoder has one tensor, whatever its name (`emb_params`, mostly). Raises
    UnusableError unless it fits the model.
    """
    header = tensors.read(path)
    names = set(header.shapes)
    wanted = PAIR if names == set(PAIR) else tuple(names)
    if wanted != PAIR and len(wanted) != 1:
        _refuse("has other tensors than those of a textual inversion")
    shapes = [header.shapes[name] for name in wanted]
    if any(len(shape) not in (1, 2) for shape in shapes):
        _refuse("has other tensors than those of a textual inversion")
    if [shape[-1] for shape in shapes] != list(widths):
        message = "has vectors of another length than this model's"
        raise UnusableError("baseline_mismatch", message)
    counts = {shape[0] if len(shape) > 1 else 1 for shape in shapes}
    if len(counts) != 1 or not 1 <= min(counts) <= MAX_VECTORS:
        _refuse(f"has no vectors, more than {MAX_VECTORS}, or not as many for each encoder")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            found = tuple(file.get_tensor(name).reshape(-1, width).float()
                          for name, width in zip(wanted, widths, strict=True))  # fmt: skip
    except (OSError, SafetensorError):
        _refuse("cannot be read")
    if not all(bool(torch.isfinite(one).all()) for one in found):
        _refuse("has vectors that are no finite numbers")
    return Vectors(found)


def _refuse(message: str) -> NoReturn:
    raise UnusableError("parse_failed", message)
