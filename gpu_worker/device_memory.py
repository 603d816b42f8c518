"""The device that draws, and its memory, as torch and the system tell them."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gpu_worker.model_files import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MIN_CUDA = "13.0"
"""The CUDA that a driver must know for the torch that is locked."""
MEMINFO, STATUS, RESET = (
    Path("/proc/meminfo"),
    Path("/proc/self/status"),
    Path("/proc/self/clear_refs"),
)
CGROUP = Path("/sys/fs/cgroup")
"""Where a container's own limit is (version 2 of control groups)."""
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
        """Return all bytes of the device, or those that a container may have."""
        if self._cuda:
            return int(torch.cuda.get_device_properties(self._device).total_memory)
        return min(_bytes(MEMINFO, "MemTotal") or UNKNOWN, _limit())

    def free(self) -> int:
        """Return the bytes that torch can still allocate, with those it keeps for itself."""
        if self._cuda:
            free, _ = torch.cuda.mem_get_info(self._device)
            kept = torch.cuda.memory_reserved(self._device)
            return int(free + kept - torch.cuda.memory_allocated(self._device))
        left = max(0, _limit() - _bytes(STATUS, "VmRSS"))
        return min(_bytes(MEMINFO, "MemAvailable") or UNKNOWN, left)

    def collect(self) -> None:
        """Free what no object holds any more: pipelines refer to themselves in circles."""
        gc.collect()
        if self._cuda:
            torch.cuda.empty_cache()

    def peak(self, call: Callable[[], object]) -> int:
        """Return the most bytes that a call took beside what was taken before; 0 if nobody tells.

        On a CPU only Linux tells, and for all threads of the process together.
        """
        if self._cuda:
            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            before = torch.cuda.memory_allocated(self._device)
            call()
            torch.cuda.synchronize(self._device)
            return int(torch.cuda.max_memory_allocated(self._device) - before)
        with suppress(OSError, AttributeError):
            # What the allocator keeps for later would hide what the call takes.
            ctypes.CDLL(None).malloc_trim(0)
        before = _bytes(STATUS, "VmRSS") if _forget_highest() else 0
        call()
        return max(0, _bytes(STATUS, "VmHWM") - before) if before else 0


def _forget_highest() -> bool:
    """Have the system count the process's highest memory anew; returns whether it does."""
    with suppress(OSError):
        RESET.write_text("5", "ascii")
        return True
    return False


def _limit() -> int:
    """Return the bytes that this container may have."""
    with suppress(OSError, ValueError):  # the file says "max" if there is no limit
        return int((CGROUP / "memory.max").read_text("ascii"))
    return UNKNOWN


def _bytes(file: Path, key: str) -> int:
    """Return a number of kilobytes of the kernel's tables in bytes, or 0."""
    with suppress(OSError):
        for line in file.read_text("ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == key:
                return int(rest.split()[0]) * 1024
    return 0


def device_of(wanted: str, env: Mapping[str, str]) -> str:
    """Return torch's device: what was asked for, else the GPU, else the CPU.

    Raises ModelError where a GPU is paid for or asked for, and torch finds none that it can use: it
    would draw on the CPU at the price of the GPU.
    """
    if torch.cuda.is_available() or (wanted and not wanted.startswith("cuda")):
        return wanted or "cuda"
    if wanted or "RUNPOD_POD_ID" in env:
        built = torch.version.cuda
        why = f"this torch is for CUDA {built}" if built else "this torch is built for CPUs alone"
        message = (
            f"no GPU can be used: {why}; ask for minCudaVersion {MIN_CUDA} at the endpoint, "
            "or set DEVICE=cpu to draw slowly"
        )
        raise ModelError(message)
    return "cpu"
