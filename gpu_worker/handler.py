"""`python -m gpu_worker.handler`: the RunPod worker, made of its settings. It takes tickets.

This module imports neither torch nor runpod; only `main` does. The worker never logs a prompt, a
key or a presigned URL.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpu_worker import model_files, safety
from gpu_worker.abilities import Abilities, Ability
from gpu_worker.addons.library import Library
from gpu_worker.addons.loader import Loader
from gpu_worker.annotators.loading import load as load_annotators
from gpu_worker.horde_client import Horde
from gpu_worker.model_files import ModelError
from gpu_worker.post import processors
from gpu_worker.settings import Settings
from gpu_worker.shifts import CONCURRENCY, Worker
from gpu_worker.upscale import UpscalerMissingError

if TYPE_CHECKING:
    from collections.abc import Callable


@cache
def _chain_sigterm(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM before the SDK's own handler, which waits for the shifts to end."""
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        stop()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)


def _with_one(settings: Settings, detector: safety.Detector) -> Worker:
    """Return a worker with the one model of its settings; raises ModelError, UpscalerMissingError.

    It is loaded before the first ticket, since the ttl of a job starts with its pop.
    """
    from gpu_worker.pipeline import Pipeline  # noqa: PLC0415

    annotators = load_annotators(settings.annotator_dir)
    pipeline = Pipeline(settings)
    post = processors.load(settings)  # before the free memory is measured
    pipeline.warm_up()
    library = _library(settings, pipeline.files.baseline)
    kept = settings.lora_memory_mb * 1024 * 1024
    add_ons = (
        Loader(library, pipeline.adapters, kept) if library and pipeline.takes_add_ons else None
    )
    one = Ability(
        lora=add_ons is not None,
        controls=tuple(sorted(pipeline.controls)),
        xl=pipeline.files.is_xl,
    )
    able = Abilities({settings.model_name: one}, annotators)
    fits = pipeline.learnt.max_pixels
    if fits is not None and fits < settings.max_pixels:
        able.limit(settings.model_name, fits)
    return Worker(settings, Horde(settings), pipeline.draw, detector, None, post, add_ons, able)


def _with_models(settings: Settings, detector: safety.Detector) -> Worker:
    """Return a worker with the models of `MODELS`; raises ModelError if none can be used.

    The first ticket decides which of several is loaded first.
    """
    from gpu_worker.addons.several import ModelsLoader  # noqa: PLC0415
    from gpu_worker.device import open_models  # noqa: PLC0415

    cache, able = open_models(settings, load_annotators(settings.annotator_dir))
    post = processors.load(settings)  # before the free memory is measured
    library = _library(settings, "")
    kept = settings.lora_memory_mb * 1024 * 1024
    add_ons = ModelsLoader(library, cache.directories, kept) if library else None
    if len(settings.models) == 1:
        cache.prefer(settings.models[0].name)
    return Worker(settings, Horde(settings), cache.draw, detector, cache, post, add_ons, able)


def _library(settings: Settings, baseline: str) -> Library | None:
    """Return where LoRAs come from, if from anywhere; raises ModelError."""
    try:
        return Library.of(settings, baseline)
    except OSError as error:
        message = f"LORA_CACHE_DIR cannot be written ({type(error).__name__})"
        raise ModelError(message) from None


def main() -> None:
    """Load the model, then take tickets."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)-7s| %(name)s: %(message)s")
    try:
        settings = Settings.from_env()
    except ValueError as error:
        sys.exit(f"gpu_worker: {error}")
    try:
        if not settings.models:
            model_files.read(settings.model_dir)
    except ModelError as error:
        sys.exit(f"gpu_worker: {error}")
    # At the SDK's default level it logs every poll.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")

    try:
        detector = safety.load(settings.detector)
        worker = (
            _with_models(settings, detector) if settings.models else _with_one(settings, detector)
        )
    except (safety.DetectorError, UpscalerMissingError, ModelError) as error:
        sys.exit(f"gpu_worker: {error}")

    async def handler(ticket: dict[str, Any]) -> dict[str, Any]:
        # Not earlier, since the SDK sets its own signal handler when it starts.
        _chain_sigterm(worker.stop)
        return await worker.work(ticket)

    runpod: Any = import_module("runpod")
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: CONCURRENCY})


if __name__ == "__main__":
    main()
