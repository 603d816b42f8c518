"""The device that draws: its memory, as torch and the system tell it, and how models get there."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gpu_worker.model_cache import ModelCache
from gpu_worker.pipeline import Pipeline, device_of

if TYPE_CHECKING:
    from gpu_worker.model_table import Model
    from gpu_worker.settings import Settings

MEMINFO = Path("/proc/meminfo")
UNKNOWN = 1 << 62
"""What is answered where nobody tells, such as on macOS: loading decides."""


class DeviceMemory:
    """The memory of torch's device; see `model_cache.Memory`."""

    def __init__(self, device: str) -> None:
        """Create the view of a device such as cuda, cuda:1 or cpu."""
        self._device = device
        self._cuda = device.startswith("cuda")
        self.parameter = 2 if self._cuda else 4
        """Bytes of a number of the weights: half precision on a GPU, single on a CPU."""

    def total(self) -> int:
        """Return all bytes of the device."""
        if self._cuda:
            return int(torch.cuda.get_device_properties(self._device).total_memory)
        return _meminfo("MemTotal")

    def free(self) -> int:
        """Return the bytes that torch can still allocate, with those it keeps for itself."""
        if self._cuda:
            free, _ = torch.cuda.mem_get_info(self._device)
            kept = torch.cuda.memory_reserved(self._device)
            return int(free + kept - torch.cuda.memory_allocated(self._device))
        return _meminfo("MemAvailable")

    def collect(self) -> None:
        """Free what no object holds any more: pipelines refer to themselves in circles."""
        gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()


def _meminfo(key: str) -> int:
    if not MEMINFO.exists():
        return UNKNOWN
    for line in MEMINFO.read_text("ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return UNKNOWN


def open_cache(settings: Settings) -> ModelCache:
    """Return the models of the settings, none loaded yet; raises ModelError if none is usable."""

    def load(model: Model, directory: Path) -> Pipeline:
        try:
            return Pipeline(replace(settings, model_name=model.name, model_dir=directory))
        except torch.OutOfMemoryError:
            raise MemoryError from None

    memory = DeviceMemory(device_of(settings.device, os.environ))
    return ModelCache(settings.models, load, memory, most=settings.max_loaded)
