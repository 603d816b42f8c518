"""The header of an add-on's safetensors file, checked before anything reads the file.

Others make and choose these files, so more is asked of them than `tensor_files` asks of a model's.
Standard library.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from gpu_worker import tensor_files
from gpu_worker.addons.asked import UnusableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_HEADER = 8 * 1024 * 1024
"""Bytes of the JSON; that of a LoRA of Stable Diffusion XL has half a megabyte."""
MAX_TENSORS = 20_000
MAX_SIDES = 4
"""Dimensions of a tensor."""
MAX_SIDE = 1 << 20
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""The types of weights that are read, and the bytes of a number."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says that it holds; its tensors fill it without gap or overlap."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    """What the maker says, unchecked."""


def read(path: Path) -> Header:
    """Return a file's header; raises UnusableError if it is not a whole safetensors file."""
    try:
        found, size = tensor_files.header(path, MAX_HEADER)
    except tensor_files.LongHeaderError:
        _refuse(f"has a header of more than {MAX_HEADER} bytes")
    except tensor_files.TensorFileError:
        _refuse("is no safetensors file")
    if not isinstance(found, dict):
        _refuse("is no safetensors file")
    metadata = found.pop(tensor_files.METADATA, {})
    if not isinstance(metadata, dict):
        _refuse("has unreadable metadata")
    if not 0 < len(found) <= MAX_TENSORS:
        _refuse(f"has no tensors, or more than {MAX_TENSORS}")
    places = [_place(entry) for entry in found.values()]
    end = 0
    for begin, after, _ in sorted(places):
        if begin != end:
            _refuse("has tensors that overlap, or gaps between them")
        end = after
    if end != size:
        _refuse("is cut off, or has more than its tensors")
    shapes = {name: place[2] for name, place in zip(found, places, strict=True)}
    return Header(shapes, {key: one for key, one in metadata.items() if isinstance(one, str)})


def _place(entry: Any) -> tuple[int, int, tuple[int, ...]]:
    """Return where a tensor begins and ends, and its shape."""
    try:
        width, shape, (begin, end) = BYTES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        _refuse("has a tensor of a type that is not read, or is damaged")
    numbers = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not all(type(one) is int and one >= 0 for one in numbers):
        _refuse("has a tensor of an impossible shape")
    if len(shape) > MAX_SIDES or any(side > MAX_SIDE for side in shape):
        _refuse("has a tensor that is too large")
    if end - begin != math.prod(shape) * width:
        _refuse("has a tensor whose length is not that of its shape")
    return begin, end, tuple(shape)


def _refuse(message: str) -> NoReturn:
    raise UnusableError("parse_failed", message)
