"""The worker's configuration, read from the environment once, when the worker starts."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See gpu_worker/README.md for the variables; each field is its variable in lower case."""

    horde_url: str
    """Root of the Horde's API without a trailing slash, e.g. `http://127.0.0.1:8080/api`."""
    horde_api_key: str
    worker_name: str
    model_dir: Path
    """A diffusers Stable Diffusion directory. Nothing is ever downloaded."""
    model_name: str = "stable_diffusion"
    """The Horde's name for what is in `model_dir`."""
    max_batch: int = 4
    """Images per pop and per pass; the Horde allows 1 to 20."""
    max_pixels: int = 1024 * 1024
    """Width x height of the largest image to pop."""
    shift_seconds: float = 240.0
    """A shift pops no more after this; keep it well under RunPod's execution timeout (600 s)."""
    device: str = ""
    """cuda, cpu, ...; empty: cuda if there is one."""
    torch_threads: int | None = None
    nsfw_threshold: float = 0.5
    """See `gpu_worker.safety`."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read `env`, or raise ValueError naming every variable that is missing or unreadable."""
        problems: list[str] = []

        def text(name: str, default: str | None = None) -> str:
            value = env.get(name, "").strip() or default
            if value is None:
                problems.append(f"{name} is not set")
            return value or ""

        def number(name: str, default: float, least: float) -> float:
            try:
                value = float(text(name, str(default)))
            except ValueError:
                value = float("nan")
            if not value >= least:
                problems.append(f"{name} must be a number of at least {least:g}")
                return default
            return value

        pod = text("RUNPOD_POD_ID", socket.gethostname())
        threads = int(number("TORCH_THREADS", 0, 0))
        settings = cls(
            horde_url=text("HORDE_URL").rstrip("/"),
            horde_api_key=text("HORDE_API_KEY"),
            # The Horde wants a name that nobody else uses.
            worker_name=text("WORKER_NAME", f"horde-commons-{pod}"),
            model_dir=Path(text("MODEL_DIR")),
            model_name=text("MODEL_NAME", cls.model_name),
            max_batch=min(20, int(number("MAX_BATCH", cls.max_batch, 1))),
            max_pixels=int(number("MAX_PIXELS", cls.max_pixels, 64 * 64)),
            shift_seconds=number("SHIFT_SECONDS", cls.shift_seconds, 0),
            device=text("DEVICE", cls.device),
            torch_threads=threads or None,
            nsfw_threshold=number("NSFW_THRESHOLD", cls.nsfw_threshold, 0),
        )
        if problems:
            raise ValueError("; ".join(problems))
        return settings
