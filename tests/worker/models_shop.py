"""Models of two families on a disk with their LoRAs and ControlNets, and workers of them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from gpu_worker.addons.library import Library
from gpu_worker.horde_client import Job
from gpu_worker.model_table import Model
from gpu_worker.settings import Settings
from tests.worker import tiny_addons
from tests.worker.fake_horde import PAYLOAD

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.abilities import Abilities
    from gpu_worker.addons.several import ModelsLoader
    from gpu_worker.model_cache import ModelCache

WIDE = 10**9
MODELS = ("one", "two", "xl")
"""Two of Stable Diffusion 1, and one of XL."""
LORAS = {"one": "neon", "two": "neon", "xl": "large"}


class Shop:
    """A disk with models, LoRAs and ControlNets, and workers of them."""

    def __init__(self, folder: Path) -> None:
        from gpu_worker import tiny

        self.folder = folder
        self.models = {
            name: tiny.build(folder / name, seed, xl=name == "xl")
            for seed, name in enumerate(MODELS, 1)
        }
        self.loras = folder / "loras"
        tiny_addons.kohya(self.loras / "neon.safetensors")
        tiny_addons.kohya(self.loras / "large.safetensors", xl=True)
        tiny_addons.inversion(self.loras / "fog.safetensors")
        said = {"baseline": "stable_diffusion_1"}
        (self.loras / "neon.json").write_text(json.dumps(said))
        self.controls = folder / "controls"
        for name, family in (("one", "stable_diffusion_1"), ("xl", "stable_diffusion_xl")):
            tiny.build_control(self.controls / family / "canny", self.models[name])
        tiny.build_control(folder / "own" / "depth", self.models["two"], 7)

    def settings(self, **options: Any) -> Settings:
        own: dict[str, Any] = options.pop("own", {})
        models = tuple(
            Model(name=name, source=str(path), controlnets=str(own.get(name, "")))
            for name, path in self.models.items()
        )
        return Settings(
            horde_url="", horde_api_key="", worker_name="", model_dir=self.folder,
            models=models, lora_dir=self.loras, ti_dir=self.loras, controlnet_dir=self.controls,
            torch_threads=1, device="cpu", **options,
        )  # fmt: skip

    def opened(self, **options: Any) -> tuple[ModelCache, Abilities, ModelsLoader]:
        from gpu_worker.addons.several import ModelsLoader
        from gpu_worker.device import open_models

        settings = self.settings(**options)
        library = Library.of(settings, "")
        assert library
        cache, able = open_models(settings)
        return cache, able, ModelsLoader(library, cache.directories, WIDE)


def job(model: str, *loras: str, source: str | None = None, **payload: Any) -> Job:
    asked = [{"name": name} for name in loras]
    return Job(
        id="j",
        payload={**PAYLOAD, "ddim_steps": 2, "loras": asked, **payload},
        deadline=time.monotonic() + 1000,
        model=model,
        source_image=source,
    )


def pipeline(cache: ModelCache, name: str) -> Any:
    return cache._loaded[name]
