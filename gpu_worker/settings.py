"""The worker's settings, read from the environment once, when the worker starts."""

from __future__ import annotations

import os
import re
import socket
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_worker import model_table
from gpu_worker.addons.civitai import FILE_HOSTS

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SHAPES = 4
"""Most shapes that are compiled: each takes up to a minute of a cold start."""
COMPILED = "horde-commons/compiled"
"""The folder of a network volume for compiled code."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings. Each field is a variable of gpu_worker/README.md in lower case."""

    horde_url: str
    """Base URL of the Horde's API without trailing slash, e.g. `http://127.0.0.1:8080/api`."""
    horde_api_key: str
    worker_name: str
    model_dir: Path
    """A diffusers Stable Diffusion directory. Nothing is ever downloaded."""
    model_name: str = "stable_diffusion"
    """The Horde's name of the model in `model_dir`."""
    models: tuple[model_table.Model, ...] = ()
    """The models of `MODELS`, which stands for the two before."""
    max_loaded: int = 0
    """Most of them in memory at a time; 0 for as many as fit."""
    max_batch: int = 4
    """Images per pop and per pass; the Horde allows 1 to 20."""
    max_pixels: int = 1024 * 1024
    """Largest width times height to pop."""
    shift_seconds: float = 240.0
    """Seconds after which a shift stops popping; well under RunPod's execution timeout (600 s)."""
    device: str = ""
    """Torch's device, such as cuda or cpu; empty means cuda if available, else cpu."""
    torch_threads: int | None = None
    compiled: tuple[tuple[int, int, int], ...] = ()
    """Widths, heights and batch sizes that are drawn by compiled code (`gpu_worker.speed`)."""
    compile_cache_dir: Path | None = None
    """Where that code is kept for later starts (`gpu_worker.compile_cache`); None: nowhere."""
    compile_cache_mb: int = 2_000
    """Code that is kept there, of all cards and models; 0: none."""
    controlnet_dir: Path | None = None
    """ControlNets of the models (`gpu_worker.control_files`)."""
    annotator_dir: Path | None = None
    """Networks that make maps for ControlNets (`gpu_worker.annotators.loading`)."""
    post_processor_dir: Path | None = None
    """Weights of post-processors that no package ships (`gpu_worker.post.processors`)."""
    detector: str = "opennsfw"
    """Scores each image: `opennsfw`, `module:function` or an https URL (`gpu_worker.safety`)."""
    nsfw_threshold: float = 0.5
    """Score from which an image is censored, 0 to 1 (`gpu_worker.safety`)."""
    lora_dir: Path | None = None
    """Folder of LoRAs (`gpu_worker.addons.folder`)."""
    ti_dir: Path | None = None
    """Folder of textual inversions."""
    civitai_url: str = ""
    """Where numbers of LoRAs and textual inversions are asked for; empty: nowhere."""
    civitai_key: str = ""
    civitai_hosts: tuple[str, ...] = FILE_HOSTS
    """Hosts that files may come from, beside that of `civitai_url`."""
    lora_max_mb: int = 400
    """Largest file that is downloaded."""
    lora_seconds: float = 120.0
    """Seconds for a download; the job's ttl may be shorter."""
    lora_cache_dir: Path = Path(tempfile.gettempdir()) / "horde-commons-loras"
    lora_cache_mb: int = 10_000
    """Downloaded files that are kept on disk."""
    lora_memory_mb: int = 4_000
    """LoRAs and textual inversions in memory, those of jobs in hand included."""

    @property
    def has_loras(self) -> bool:
        """Whether there is anything to take LoRAs and textual inversions from."""
        return bool(self.lora_dir or self.ti_dir or self.civitai_url)

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Return the settings in `env`.

        Raises ValueError, which names every missing or malformed variable.
        """
        problems: list[str] = []

        def text(name: str, default: str | None = None) -> str:
            value = env.get(name, "").strip() or default
            if value is None:
                problems.append(f"{name} is not set")
            return value or ""

        def number(name: str, default: float, minimum: float) -> float:
            try:
                value = float(text(name, str(default)))
            except ValueError:
                value = float("nan")
            if not value >= minimum:
                problems.append(f"{name} must be a number of at least {minimum:g}")
                return default
            return value

        table, models = text("MODELS", ""), list[model_table.Model]()
        try:
            models = model_table.read(table) if table else models
        except ValueError as error:
            problems.append(str(error))
        model_dir = Path(text("MODEL_DIR", "" if table else None))
        own = None if table else model_dir
        hosts = [one.strip() for one in text("CIVITAI_HOSTS", "").split(",") if one.strip()]
        pod = text("RUNPOD_POD_ID", socket.gethostname())
        threads = int(number("TORCH_THREADS", 0, 0))
        # A folder that is not the operator's volume might be anybody's, and compiled code is code.
        volume = str(model_table.VOLUME / COMPILED) if model_table.VOLUME.is_mount() else ""
        settings = cls(
            horde_url=text("HORDE_URL").rstrip("/"),
            horde_api_key=text("HORDE_API_KEY"),
            # The Horde requires a unique name.
            worker_name=text("WORKER_NAME", f"horde-commons-{pod}"),
            model_dir=model_dir,
            model_name=text("MODEL_NAME", cls.model_name),
            models=tuple(models),
            max_loaded=int(number("MAX_LOADED", cls.max_loaded, 0)),
            max_batch=min(20, int(number("MAX_BATCH", cls.max_batch, 1))),
            max_pixels=int(number("MAX_PIXELS", cls.max_pixels, 64 * 64)),
            shift_seconds=number("SHIFT_SECONDS", cls.shift_seconds, 0),
            device=text("DEVICE", cls.device),
            torch_threads=threads or None,
            compile_cache_dir=Path(kept) if (kept := text("COMPILE_CACHE_DIR", volume)) else None,
            compile_cache_mb=int(number("COMPILE_CACHE_MB", cls.compile_cache_mb, 0)),
            controlnet_dir=Path(guides) if (guides := text("CONTROLNET_DIR", "")) else None,
            annotator_dir=Path(maps) if (maps := text("ANNOTATOR_DIR", "")) else None,
            post_processor_dir=Path(posts) if (posts := text("POST_PROCESSOR_DIR", "")) else None,
            detector=text("DETECTOR", cls.detector),
            nsfw_threshold=number("NSFW_THRESHOLD", cls.nsfw_threshold, 0),
            lora_dir=_folder(text("LORA_DIR", ""), own, "loras"),
            ti_dir=_folder(text("TI_DIR", ""), own, "embeddings"),
            civitai_url=text("CIVITAI_URL", "").rstrip("/"),
            civitai_key=text("CIVITAI_KEY", ""),
            civitai_hosts=tuple(hosts) or cls.civitai_hosts,
            lora_max_mb=int(number("LORA_MAX_MB", cls.lora_max_mb, 1)),
            lora_seconds=number("LORA_SECONDS", cls.lora_seconds, 1),
            lora_cache_dir=Path(text("LORA_CACHE_DIR", str(cls.lora_cache_dir))),
            lora_cache_mb=int(number("LORA_CACHE_MB", cls.lora_cache_mb, 1)),
            lora_memory_mb=int(number("LORA_MEMORY_MB", cls.lora_memory_mb, 1)),
        )
        compiled, wrong = _compiled(text("COMPILE", ""), settings)
        settings = replace(settings, compiled=compiled)
        problems += wrong + _wrong(settings)
        if problems:
            raise ValueError("; ".join(problems))
        return settings


def _wrong(settings: Settings) -> list[str]:
    """Return what is wrong with the folders of LoRAs and of compiled code."""
    named = {"LORA_DIR": settings.lora_dir, "TI_DIR": settings.ti_dir}
    wrong = [f"{name} is no folder" for name, one in named.items() if one and not one.is_dir()]
    if settings.civitai_url and not settings.civitai_url.startswith("https://"):
        wrong.append("CIVITAI_URL must begin with https://")
    if settings.compiled and settings.compile_cache_dir:
        code, loras = settings.compile_cache_dir.resolve(), settings.lora_cache_dir.resolve()
        if code.is_relative_to(loras) or loras.is_relative_to(code):
            wrong.append("COMPILE_CACHE_DIR holds code, and must be apart from LORA_CACHE_DIR")
    return wrong


def _folder(named: str, model: Path | None, own: str) -> Path | None:
    """Return a folder that is named, or the model's own if it has one."""
    if named:
        return Path(named)
    return model / own if model and (model / own).is_dir() else None


def _compiled(
    listed: str, settings: Settings
) -> tuple[tuple[tuple[int, int, int], ...], list[str]]:
    """Return the shapes of `COMPILE`, and what is wrong with them."""
    try:
        shapes = _shapes(listed, settings.max_batch)
    except ValueError as error:
        return (), [str(error)]
    if shapes and len(settings.models) > 1:
        return (), ["COMPILE is for a worker of one model: each load would compile anew"]
    return tuple(shapes), []


def _shapes(listed: str, max_batch: int) -> list[tuple[int, int, int]]:
    """Return the shapes of a list such as `512x512x4,1024x1024x1`; raises ValueError."""
    drawn = sorted({min(max_batch, 1 << power) for power in range(max_batch.bit_length() + 1)})
    found: list[tuple[int, int, int]] = []
    for one in filter(None, (part.strip() for part in listed.split(","))):
        match = re.fullmatch(r"(\d{2,4})x(\d{2,4})x(\d{1,2})", one, re.ASCII)
        if not match:
            message = f"COMPILE: {one[:40]!r} is no WIDTHxHEIGHTxIMAGES such as 512x512x4"
            raise ValueError(message)
        width, height, count = (int(number) for number in match.groups())
        if width % 64 or height % 64 or not (width and height):
            message = f"COMPILE: the sides of {one!r} must be multiples of 64"
            raise ValueError(message)
        if count not in drawn:
            message = f"COMPILE: batches have {', '.join(map(str, drawn))} images, not {count}"
            raise ValueError(message)
        found.append((width, height, count))
    if len(found) > MAX_SHAPES:
        message = f"COMPILE names more than {MAX_SHAPES} shapes"
        raise ValueError(message)
    return found
