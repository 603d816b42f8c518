"""A model's layers without their weights: names and shapes, by which files of LoRAs are checked.

Built on torch's meta device, which has no memory, from the configurations alone.
"""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch

from gpu_worker.pipeline import FAMILIES

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.families.stable_diffusion import StableDiffusion
    from gpu_worker.model_files import ModelFiles

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""The parts of a model that LoRAs or textual inversions may change."""


def family(files: ModelFiles) -> type[StableDiffusion]:
    """Return the family of a model."""
    return FAMILIES[files.kind]


def shape(directory: Path, files: ModelFiles) -> str:
    """Return a text that is equal for models with the same layers; raises OSError, ValueError."""
    configs = {part: _config(directory, part) for part in _parts(directory)}
    told = json.dumps([files.kind, configs], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def build(directory: Path, files: ModelFiles) -> StableDiffusion:
    """Return a model that cannot draw; what it says of its layers is that of the loaded one."""
    components: dict[str, Any] = dict.fromkeys(("tokenizer", "tokenizer_2"))
    with torch.device("meta"):
        for part, (library, name) in _parts(directory).items():
            made: Any = getattr(import_module(library), name)
            if library == "diffusers":
                components[part] = made.from_config(_config(directory, part))
            else:
                config = made.config_class.from_pretrained(directory / part, local_files_only=True)
                components[part] = made(config)
    found: Any = SimpleNamespace(
        text2img=SimpleNamespace(**components, components=components),
        takes_add_ons=family(files).takes_add_ons,
    )
    found.encoders = family(files).made_encoders(found)
    return cast("StableDiffusion", found)


def _parts(directory: Path) -> dict[str, tuple[str, str]]:
    """Return the library and class of each part, in `PARTS`' order."""
    index = json.loads((directory / "model_index.json").read_text("utf-8"))
    found = {part: index[part] for part in PARTS if index.get(part)}
    return {
        part: (str(library), str(name))
        for part, (library, name) in found.items()
        if library in ("diffusers", "transformers")
    }


def _config(directory: Path, part: str) -> dict[str, Any]:
    """Return a part's configuration without what says nothing of its layers."""
    found = json.loads((directory / part / "config.json").read_text("utf-8"))
    return {key: value for key, value in found.items() if not key.startswith("_")}
