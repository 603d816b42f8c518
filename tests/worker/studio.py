"""The real pipeline on a tiny random model, with LoRAs and textual inversions that fit it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker import tiny
from gpu_worker.addons.asked import AddOnError
from gpu_worker.addons.folder import Folder
from gpu_worker.addons.library import Library
from gpu_worker.addons.loader import Loader
from gpu_worker.horde_client import Job
from gpu_worker.settings import Settings
from tests.worker import tiny_addons
from tests.worker.fake_horde import PAYLOAD
from tests.worker.test_pipeline import pixels

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from gpu_worker.pipeline import Pipeline

WIDE = 10**9


class Studio:
    """A pipeline, and a folder of its LoRAs and textual inversions."""

    def __init__(
        self, pipeline: Pipeline, folder: Path, *, xl: bool = False, baseline: str = ""
    ) -> None:
        self.pipeline, self.folder, self.xl = pipeline, folder, xl
        baseline = baseline or ("stable_diffusion_xl" if xl else "stable_diffusion_1")
        self.library = Library({"lora": Folder(folder), "ti": Folder(folder)}, baseline)
        self.loader = Loader(self.library, pipeline.adapters, WIDE)

    def job(self, *loras: Any, **payload: Any) -> Job:
        asked = [one if isinstance(one, dict) else {"name": one} for one in loras]
        self.library._folders["lora"]._listed = -math.inf  # files of this very moment
        self.library._folders["ti"]._listed = -math.inf
        return self.loader(
            Job(id="j", payload={**PAYLOAD, "loras": asked, **payload},
                deadline=time.monotonic() + 1000)
        )  # fmt: skip

    def drawn(self, *loras: Any, **payload: Any) -> Any:
        return pixels(self.one(*loras, **payload))

    def one(self, *loras: Any, **payload: Any) -> Image.Image:
        return self.pipeline.draw([self.job(*loras, **payload)])[0]

    def fault(self, name: str, kind: str = "loras") -> str:
        with pytest.raises(AddOnError) as caught:
            self.job(**{kind: [{"name": name}]})
        return f"{caught.value.remark['value']}: {caught.value}"


def build(folder: Path, *, xl: bool) -> Studio:
    from gpu_worker.pipeline import Pipeline

    common: dict[str, Any] = {"horde_url": "", "horde_api_key": "", "worker_name": ""}
    model = tiny.build(folder / "model", xl=xl)
    settings = Settings(**common, model_dir=model, torch_threads=1, device="cpu")
    files = folder / "loras"
    tiny_addons.kohya(files / "kohya.safetensors", xl=xl)
    tiny_addons.peft(files / "peft.safetensors", xl=xl)
    tiny_addons.kohya(files / "other.safetensors", xl=xl, seed=2)
    tiny_addons.inversion(files / "fog.safetensors", xl=xl)
    tiny_addons.inversion(files / "mist.safetensors", xl=xl, seed=2)
    return Studio(Pipeline(settings), files, xl=xl)
