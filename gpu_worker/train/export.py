"""Write the trained parts as an ordinary diffusers directory in half precision."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from gpu_worker.train.data import SIZE
from gpu_worker.train.unet import scheduler
from gpu_worker.upscale import DECLARATION

SHIPPED = Path(__file__).parents[1] / "models" / "emoji"


def export(vae: Any, unet: Any, encoder: Any, tokenizer: Any, directory: Path) -> None:
    """Write the model and the licences of its data into `directory`; keeps other files there."""
    pipeline = import_module("diffusers").StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(directory, safe_serialization=True)
    (directory / DECLARATION).write_text(json.dumps({"native_size": SIZE}) + "\n")
    for notice in SHIPPED.glob("LICENSE-*"):  # the licences of the training pictures
        if not (directory / notice.name).exists():
            shutil.copy(notice, directory)
