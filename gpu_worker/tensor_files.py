"""What safetensors files hold, read from their headers alone: names, types and shapes of tensors.

The format: eight bytes, the little-endian length of a JSON object that follows, then the data.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MAX_HEADER = 100_000_000
"""Longest header that safetensors itself reads, in bytes."""
METADATA = "__metadata__"
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of a number, by the name of its type."""


class TensorFileError(ValueError):
    """The file is no safetensors file, or a damaged one; says why in one sentence."""


class LongHeaderError(TensorFileError):
    """The header is longer than the caller reads."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a file."""

    kind: str
    """Its type, such as F16."""
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def header(file: Path, most: int = MAX_HEADER) -> tuple[Any, int]:
    """Return the JSON of a file's header, None if it is none, and the bytes that follow it.

    Raises TensorFileError, OSError.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        head = opened.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0  # noqa: PLR2004
        message = f"{file.name} is no safetensors file"
        if not 2 <= length <= size - 8:  # noqa: PLR2004 - the shortest JSON object
            raise TensorFileError(message)
        if length > most:
            raise LongHeaderError(message)
        raw = opened.read(length)
    try:
        return json.loads(raw), size - 8 - length
    except (ValueError, RecursionError):
        return None, size - 8 - length


def tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; raises TensorFileError, OSError."""
    found, size = header(file)
    try:
        read = {
            str(name): (str(entry["dtype"]), tuple(entry["shape"]), entry["data_offsets"])
            for name, entry in found.items()
            if name != METADATA
        }
        for kind, shape, (start, end) in read.values():
            good = all(isinstance(side, int) and side >= 0 for side in (*shape, start))
            if not good or end - start != math.prod(shape) * SIZES[kind]:
                raise ValueError(kind)  # noqa: TRY301 - all is said below
    except (ValueError, KeyError, TypeError, AttributeError):
        message = f"{file.name} has a damaged header"
        raise TensorFileError(message) from None
    if any(end > size for _, _, (_, end) in read.values()):
        message = f"{file.name} is cut off: its tensors need more bytes than it has"
        raise TensorFileError(message)
    return {name: Tensor(kind, shape) for name, (kind, shape, _) in read.items()}


def parameters(directory: Path) -> int:
    """Return the numbers of a model's weights, of two sets of a part those in half precision.

    A file that cannot be read counts as if it were in half precision: loading it says why.
    """
    return sum(parameters_of(part) for part in directory.iterdir() if part.is_dir())


def parameters_of(part: Path) -> int:
    """Return the numbers of the weights in one folder, in the same way."""
    total = 0
    files = list(part.glob("*.safetensors"))
    half = [file for file in files if ".fp16." in file.name]
    for file in half or files:
        try:
            total += sum(tensor.count for tensor in tensors(file).values())
        except TensorFileError:
            total += file.stat().st_size // 2
    return total
