"""What the tests of LoRAs and textual inversions share; nothing here needs torch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker.addons import tensors
from gpu_worker.addons.asked import UnusableError
from gpu_worker.addons.cache import DiskCache
from gpu_worker.addons.civitai import Civitai
from gpu_worker.addons.folder import Folder
from gpu_worker.addons.library import Library
from gpu_worker.horde_client import Job
from tests.worker.fake_civitai import KEY, FakeCivitai

if TYPE_CHECKING:
    from pathlib import Path

SD1, XL = "stable_diffusion_1", "stable_diffusion_xl"
MOST = 200_000
SOON_S = 20.0
"""Seconds that a job has; nothing that goes well waits for them."""


class Content:
    """What a stand-in for the model reads: the bytes."""

    def __init__(self, path: Path) -> None:
        tensors.read(path)
        self.data = path.read_bytes()
        self.size = len(self.data)


class Reader:
    def __init__(self) -> None:
        self.reads = 0

    def lora(self, path: Path) -> Content:
        self.reads += 1
        return Content(path)

    inversion = lora


def a_library(host: FakeCivitai, tmp_path: Path, **options: Any) -> Library:
    mine: dict[str, Any] = {"schemes": ("http",), "most_bytes": MOST, "backoff": 0.001, "hosts": ()}
    mine |= {name: options.pop(name) for name in [*options] if name in mine}
    client = Civitai(host.url, KEY, mine.pop("hosts"), **mine)
    cache = DiskCache(tmp_path / "cache", options.pop("cache_bytes", 10 * MOST))
    folders: Any = {kind: Folder(tmp_path / kind) for kind in ("lora", "ti")}
    return Library(folders, SD1, client, cache, **options)


def fetched(library: Library, name: str, *, kind: Any = "lora", version: bool = True) -> bytes:
    deadline = time.monotonic() + SOON_S
    with library.using(kind, name, is_version=version, deadline=deadline) as found:
        return found.path.read_bytes()


def fault(library: Library, name: str = "7", **options: Any) -> str:
    """What is wrong with a version, in the Horde's word and ours."""
    with pytest.raises(UnusableError) as caught:
        fetched(library, name, **options)
    return f"{caught.value.fault}: {caught.value}"


def cached(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").iterdir()}


def a_job(seconds: float = SOON_S, **payload: Any) -> Job:
    text = payload.pop("prompt", "a fox")
    deadline = time.monotonic() + seconds
    return Job(id="j", payload={"prompt": text, **payload}, deadline=deadline)
