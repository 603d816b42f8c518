"""Safetensors files are read by their headers, and never believed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker.tensor_files import Tensor, TensorFileError, parameters, tensors

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"w": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}


def write(file: Path, header: Any, data: bytes = bytes(12)) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return file


def test_a_header_tells_the_tensors(tmp_path: Path) -> None:
    file = write(tmp_path / "m", {**GOOD, "__metadata__": {"format": "pt"}})
    assert tensors(file) == {"w": Tensor("F16", (2, 3))}
    assert tensors(file)["w"].count == 6


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        (b"{" + b"[" * 100_000, b"", "damaged header"),
        ([], b"", "damaged header"),
        ({"w": 7}, bytes(12), "damaged header"),
        ({"w": {**GOOD["w"], "dtype": "F7"}}, bytes(12), "damaged header"),
        ({"w": {**GOOD["w"], "shape": [2, 4]}}, bytes(12), "damaged header"),
        ({"w": {**GOOD["w"], "shape": [-2, -3]}}, bytes(12), "damaged header"),
        ({"w": {**GOOD["w"], "data_offsets": [0]}}, bytes(12), "damaged header"),
        (GOOD, bytes(11), "is cut off"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: Any, data: bytes, said: str) -> None:
    with pytest.raises(TensorFileError, match=said):
        tensors(write(tmp_path / "m", header, data))


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 8 + b"{}", b"PK\x03\x04" + bytes(99)])
def test_other_files_are_no_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(TensorFileError, match="is no safetensors file"):
        tensors(tmp_path / "m")


def test_of_two_sets_of_weights_one_counts(tmp_path: Path) -> None:
    for name in ("unet", "vae"):
        (tmp_path / name).mkdir()
    write(tmp_path / "unet" / "diffusion.safetensors", GOOD)
    write(tmp_path / "unet" / "diffusion.fp16.safetensors", GOOD)
    write(tmp_path / "vae" / "diffusion.safetensors", GOOD)
    assert parameters(tmp_path) == 12
