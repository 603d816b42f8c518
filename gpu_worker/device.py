"""How models get to the device that draws, and what the worker does with each."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gpu_worker import control_files, tensor_files
from gpu_worker.abilities import Abilities, Ability
from gpu_worker.annotators.without_weights import WITHOUT_WEIGHTS
from gpu_worker.capacity import Learnt
from gpu_worker.device_memory import DeviceMemory, device_of
from gpu_worker.model_cache import DRAWING_GB, ModelCache
from gpu_worker.pipeline import FAMILIES, Pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gpu_worker.control import Annotator
    from gpu_worker.model_cache import Memory
    from gpu_worker.model_table import Model
    from gpu_worker.settings import Settings

log = logging.getLogger(__name__)


def open_models(
    settings: Settings, annotators: Mapping[str, Annotator] = WITHOUT_WEIGHTS
) -> tuple[ModelCache, Abilities]:
    """Return the models of the settings, none loaded yet, and what the worker does with each.

    Raises ModelError if none is usable, or for folders of `CONTROLNET_DIR` that mean nothing.
    """
    controls: dict[str, dict[str, Path]] = {}
    learnt: dict[str, Learnt] = {}

    def load(model: Model, directory: Path) -> Pipeline:
        ours = replace(settings, model_name=model.name, model_dir=directory)
        try:
            pipeline = Pipeline(ours, controls.get(model.name, {}))
        except torch.OutOfMemoryError:
            raise MemoryError from None
        pipeline.learnt = learnt.setdefault(model.name, Learnt())
        pipeline.controls.lost = lambda kind: lost(model.name, kind)
        return pipeline

    def lost(name: str, kind: str) -> None:
        controls[name].pop(kind, None)
        abilities.lose(name, kind)

    memory = DeviceMemory(device_of(settings.device, os.environ))
    cache = ModelCache(
        settings.models,
        load,
        memory,
        most=settings.max_loaded,
        most_originals=settings.lora_memory_mb * 1024 * 1024,
    )
    controls.update(found_controls(settings, cache, memory))
    abilities = Abilities(
        {
            name: Ability(
                lora=settings.has_loras and FAMILIES[one.kind].takes_add_ons,
                controls=tuple(sorted(controls[name])),
                xl=one.is_xl,
            )
            for name, one in cache.files.items()
        },
        annotators,
    )
    # The setting bounds all; models with their own bounds are offered apart.
    cache.measured = lambda name, pixels: (
        abilities.limit(name, pixels) if pixels < settings.max_pixels else None
    )
    return cache, abilities


def found_controls(
    settings: Settings, cache: ModelCache, memory: Memory
) -> dict[str, dict[str, Path]]:
    """Return where the ControlNets are of each model, by type; none where they cannot be used.

    What is wrong with some is logged, and the model is drawn without them. Raises ModelError for a
    `CONTROLNET_DIR` that has folders which are no family's.
    """
    found: dict[str, dict[str, Path]] = {}
    for model in settings.models:
        directory = cache.directories.get(model.name)
        if directory is None:
            continue
        files = cache.files[model.name]
        own = model.own_controlnets()
        family = control_files.folder(settings.controlnet_dir, files.baseline, alone=False)
        folder = own or (family if control_files.is_drawn(files.kind) else None)
        found[model.name] = {}
        if folder is None:
            continue
        needs = tensor_files.parameters(directory) * memory.parameter + DRAWING_GB * 1e9
        left = memory.total() - max(needs, model.memory_gb * 1e9)
        found[model.name], problems = control_files.usable(
            directory, folder, left, memory.parameter
        )
        for problem in problems:
            where = problem.replace("CONTROLNET_DIR", str(folder))
            log.error("%r is drawn without: %s", model.name, where)
    return found
