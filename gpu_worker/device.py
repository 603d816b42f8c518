"""How models get to the device that draws."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gpu_worker.device_memory import DeviceMemory, device_of
from gpu_worker.model_cache import ModelCache
from gpu_worker.pipeline import Pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.model_table import Model
    from gpu_worker.settings import Settings


def open_cache(settings: Settings) -> ModelCache:
    """Return the models of the settings, none loaded yet; raises ModelError if none is usable."""

    def load(model: Model, directory: Path) -> Pipeline:
        try:
            return Pipeline(replace(settings, model_name=model.name, model_dir=directory))
        except torch.OutOfMemoryError:
            raise MemoryError from None

    memory = DeviceMemory(device_of(settings.device, os.environ))
    return ModelCache(settings.models, load, memory, most=settings.max_loaded)
