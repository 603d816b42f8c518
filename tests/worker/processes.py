"""Which processes a local RunPod's endpoint has on this machine."""

from __future__ import annotations

import time
from pathlib import Path

from tests.support.numbers import HANG_S


def processes_of(endpoint_id: str) -> list[int]:
    """Ids of the living processes that were started for the endpoint, by their environment."""
    mark = f"RUNPOD_ENDPOINT_ID={endpoint_id}\0".encode()
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                if mark in (directory / "environ").read_bytes() + b"\0":
                    found.append(int(directory.name))
            except OSError:
                continue  # gone meanwhile, a zombie, or someone else's
    return found


def wait_until_gone(endpoint_id: str, seconds: float = HANG_S) -> list[int]:
    """Wait for the endpoint's processes to end; return those that did not."""
    end = time.monotonic() + seconds
    while (left := processes_of(endpoint_id)) and time.monotonic() < end:
        time.sleep(0.05)
    return left
