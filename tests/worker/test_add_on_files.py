"""Files of LoRAs: the operator's folder, and what a file must be."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker.addons import tensors
from gpu_worker.addons.asked import UnusableError
from gpu_worker.addons.folder import Folder
from tests.worker import tiny_addons
from tests.worker.add_on_helpers import (
    XL,
    fault,
    fetched,
)

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.addons.library import Library
    from tests.worker.fake_civitai import FakeCivitai


# The folder


def test_a_file_is_found_by_its_name_whatever_its_letters_and_by_its_numbers(
    tmp_path: Path, lora: bytes
) -> None:
    (tmp_path / "Neon Sign.safetensors").write_bytes(lora)
    about = {"name": "Neon", "model_id": 12, "version_id": 34, "triggers": ["neon sign of"]}
    (tmp_path / "Neon Sign.json").write_text(json.dumps(about))
    folder = Folder(tmp_path)
    for name in ("neon sign", "NEON", "Neon Sign.safetensors", "12"):
        found = folder.find(name)
        assert found
        assert found.triggers == ("neon sign of",)
    assert folder.find("34", is_version=True)
    assert not folder.find("12", is_version=True)
    assert not folder.find("34")
    assert not folder.find("")


def test_a_file_that_is_not_the_one_of_its_description_is_refused(
    host: FakeCivitai, library: Library, lora: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "lora"
    folder.mkdir()
    for name, content in (("good", lora), ("bad", lora + b" ")):
        (folder / f"{name}.safetensors").write_bytes(content)
        about = {"sha256": hashlib.sha256(lora).hexdigest().upper()}
        (folder / f"{name}.json").write_text(json.dumps(about))
    assert fetched(library, "good", version=False) == lora
    assert "another SHA-256" in fault(library, "bad", version=False)
    assert not host.calls


def test_a_file_for_another_family_is_refused(
    library: Library, lora: bytes, tmp_path: Path
) -> None:
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "a.safetensors").write_bytes(lora)
    (tmp_path / "lora" / "a.json").write_text(json.dumps({"baseline": XL}))
    assert fault(library, "a", version=False).startswith("baseline_mismatch")


@pytest.mark.parametrize("about", ["[]", "{", '{"triggers": 7, "model_id": "x"}', "[" * 5000])
def test_a_description_that_is_none_leaves_the_file_its_name(
    tmp_path: Path, lora: bytes, about: str
) -> None:
    (tmp_path / "a.safetensors").write_bytes(lora)
    (tmp_path / "a.json").write_text(about)
    found = Folder(tmp_path).find("a")
    assert found
    assert found.triggers == ()


# The file


def made(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
DAMAGED = {
    "empty": b"",
    "a pickle": b"\x80\x04\x95" + bytes(100),
    "a zip": b"PK\x03\x04" + bytes(100),
    "header of 100 MB": made({"a": ONE}, bytes(4), length=100 * 2**20),
    "header past the end": made({"a": ONE}, length=2**63),
    "header too long": made(json.dumps({"a": ONE}).encode() + b" " * tensors.MAX_HEADER, bytes(4)),
    "no JSON": made(b"nothing", bytes(4)),
    "deep JSON": made(b"[" * 100_000, bytes(4)),
    "no object": made([ONE], bytes(4)),
    "no tensor": made({"__metadata__": {}}),
    "metadata is a list": made({"__metadata__": [], "a": ONE}, bytes(4)),
    "too many tensors": made({str(n): ONE for n in range(tensors.MAX_TENSORS + 1)}, bytes(4)),
    "cut off": made({"a": ONE}, bytes(3)),
    "more than its tensors": made({"a": ONE}, bytes(5)),
    "overlap": made({"a": ONE, "b": ONE}, bytes(4)),
    "gap": made({"a": {**ONE, "data_offsets": [4, 8]}}, bytes(8)),
    "integers": made({"a": {**ONE, "dtype": "I32"}}, bytes(4)),
    "unknown type": made({"a": {**ONE, "dtype": ["F32"]}}, bytes(4)),
    "shape is a lie": made({"a": {**ONE, "shape": [2]}}, bytes(4)),
    "negative side": made({"a": {**ONE, "shape": [-1]}}, bytes(4)),
    "fraction": made({"a": {**ONE, "shape": [1.0]}}, bytes(4)),
    "truth": made({"a": {**ONE, "shape": [True]}}, bytes(4)),
    "five sides": made({"a": {**ONE, "shape": [1] * 5}}, bytes(4)),
    "huge side": made({"a": {**ONE, "shape": [2**40, 0], "data_offsets": [0, 0]}}),
    "offsets are none": made({"a": {**ONE, "data_offsets": None}}, bytes(4)),
    "entry is none": made({"a": None}, bytes(4)),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_is_no_whole_safetensors_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(UnusableError) as caught:
        tensors.read(path)
    assert caught.value.fault == "parse_failed"


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tiny_addons.peft(tmp_path / "a.safetensors", alpha=8.0)
    header = tensors.read(path)
    assert header.shapes[f"unet.{tiny_addons.ATTENTION}.to_q.lora_A.weight"] == (4, 32)
    assert json.loads(header.metadata["lora_adapter_metadata"])["unet.lora_alpha"] == 8
