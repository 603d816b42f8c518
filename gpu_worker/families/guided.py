"""ControlNets beside a model of Stable Diffusion 1, 2 or XL, and diffusers' pipelines with them."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from gpu_worker.control import TYPES
from gpu_worker.families.stable_diffusion import MAX_MESSAGE
from gpu_worker.families.stable_diffusion_xl import StableDiffusionXL
from gpu_worker.model_files import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from gpu_worker.families.stable_diffusion import StableDiffusion

diffusers: Any = import_module("diffusers")

CLASSES = ("StableDiffusionControlNetPipeline", "StableDiffusionControlNetImg2ImgPipeline")
XL_CLASSES = ("StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetImg2ImgPipeline")
SAME = (
    "cross_attention_dim",
    "block_out_channels",
    "down_block_types",
    "layers_per_block",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
)
"""What the configurations of a ControlNet and of its UNet agree in."""


class Guided:
    """A model whose drawings follow maps of one type; used like the model itself."""

    def __init__(self, model: StableDiffusion, kind: str, directory: Path) -> None:
        """Load the ControlNet of a type; raises ModelError."""
        variant = _check(model, directory, kind)
        loaded = model.text2img
        try:
            self.network = diffusers.ControlNetModel.from_pretrained(
                directory,
                variant=variant,
                local_files_only=True,
                use_safetensors=True,
            ).to(loaded.unet.device, loaded.unet.dtype)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            message = f"the ControlNet {kind} cannot be loaded ({type(error).__name__}): {error}"
            raise ModelError(" ".join(message.split())[:MAX_MESSAGE]) from None
        names = XL_CLASSES if isinstance(model, StableDiffusionXL) else CLASSES
        self._text2img, self._img2img = (
            getattr(diffusers, name)(**loaded.components, controlnet=self.network, **model.options)
            for name in names
        )
        for pipeline in (self._text2img, self._img2img):
            pipeline.set_progress_bar_config(disable=True)

    def use(self, scheduler: Any) -> None:
        """Draw the next batch with a scheduler of its own."""
        for pipeline in (self._text2img, self._img2img):
            pipeline.scheduler = scheduler

    def draw(self, *, maps: list[Image.Image], **options: Any) -> Any:
        """Draw a batch from noise, each image by its map."""
        return self._text2img(image=maps, controlnet_conditioning_scale=1.0, **options)

    def redraw(self, *, maps: list[Image.Image], **options: Any) -> Any:
        """Draw a batch from pictures, each image by its map."""
        return self._img2img(control_image=maps, controlnet_conditioning_scale=1.0, **options)


def load(model: StableDiffusion, directory: Path | None) -> dict[str, Guided]:
    """Load the ControlNets of a directory, one folder for each type; raises ModelError."""
    if directory is None:
        return {}
    if model.takes_latents is False:
        message = "CONTROLNET_DIR: FLUX, Z-Image and inpainting checkpoints have no ControlNet here"
        raise ModelError(message)
    try:
        folders = sorted(one for one in directory.iterdir() if one.is_dir())
    except OSError as error:
        message = f"CONTROLNET_DIR cannot be read: {error.strerror}"
        raise ModelError(message) from None
    for folder in folders:
        if folder.name not in TYPES:
            message = f"CONTROLNET_DIR: {folder.name!r} is no control type of {', '.join(TYPES)}"
            raise ModelError(message)
    return {folder.name: Guided(model, folder.name, folder) for folder in folders}


def _check(model: StableDiffusion, directory: Path, kind: str) -> str | None:
    """Return the variant of the weights' names; raises ModelError if they do not fit the model."""

    def refuse(why: str) -> ModelError:
        return ModelError(f"the ControlNet {kind} in CONTROLNET_DIR {why}")

    try:
        found: Any = json.loads((directory / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise refuse("has no readable config.json") from None
    if not isinstance(found, dict) or found.get("_class_name") != "ControlNetModel":
        raise refuse("is no ControlNetModel of diffusers")
    unet = model.text2img.unet.config
    for name in SAME:
        if _plain(found.get(name)) != _plain(unet.get(name)):
            why = f"does not fit the model: their {name} differ"
            raise refuse(why)
    taken = found.get("in_channels", 4), found.get("conditioning_channels", 3)
    if taken != (unet.in_channels, 3):
        raise refuse("does not fit the model: it takes other channels")
    steps = found.get("conditioning_embedding_out_channels")
    if not isinstance(steps, list) or 2 ** (len(steps) - 1) != model.scale:
        raise refuse("does not fit the model: it reads maps in another scale")
    files = [one.name for one in directory.iterdir() if one.stat().st_size]
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights:
        raise refuse("has no weights as safetensors; other formats run code")
    return "fp16" if all(".fp16." in name for name in weights) else None


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
