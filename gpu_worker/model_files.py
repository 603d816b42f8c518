"""What a model directory holds, read from its JSON files before any weight is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

HALF = "fp16"
LATENTS = 4
"""Channels of the latents of Stable Diffusion."""
REPAINTING = 9
"""Those that an inpainting checkpoint takes: latents, the mask, and latents of what is kept."""
SIZE_STEP = 64
"""Sides of the Horde's images are multiples of this many pixels."""
WIDTH_2 = 1024
"""Numbers of a token's vector in Stable Diffusion 2; the other one has 768."""
DRAWN = {
    "StableDiffusionPipeline": ("text_encoder",),
    "StableDiffusionImg2ImgPipeline": ("text_encoder",),
    "StableDiffusionInpaintPipeline": ("text_encoder",),
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2"),
    "StableDiffusionXLImg2ImgPipeline": ("text_encoder", "text_encoder_2"),
    "StableDiffusionXLInpaintPipeline": ("text_encoder", "text_encoder_2"),
    "FluxPipeline": ("text_encoder", "text_encoder_2"),
    "ZImagePipeline": ("text_encoder",),
}
"""The classes that the worker draws, as `model_index.json` names them, and their text encoders."""
FLOW = {"FluxPipeline": "flux_1", "ZImagePipeline": "z_image_turbo"}
"""Those of flow matching, and the Horde's names of their families."""
KNOWN = {
    "StableCascadeCombinedPipeline": "a Stable Cascade model",
    "StableDiffusion3Pipeline": "a Stable Diffusion 3 model",
}


class ModelError(RuntimeError):
    """The directory has no model that this worker draws; says why in one sentence."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the configuration of a model says."""

    kind: str
    """The class of its pipeline."""
    prediction: str
    """What the model predicts: epsilon or v_prediction."""
    variant: str | None
    """Of the weights' names: `fp16` if there are no others, as many models are published."""
    baseline: str
    """The Horde's name of its family, by which LoRAs are chosen."""

    @property
    def is_xl(self) -> bool:
        """Whether it is of Stable Diffusion XL, whose ControlNets the Horde tells apart."""
        return "XL" in self.kind


def read(directory: Path) -> ModelFiles:
    """Return what a directory holds; raises ModelError unless the worker draws it."""
    index = _json(directory, "model_index.json")
    kind = str(index.get("_class_name"))
    if kind not in DRAWN:
        what = KNOWN.get(kind, f"made for {kind}")
        _refuse(
            f"MODEL_DIR holds {what}; this worker draws Stable Diffusion 1, 2 and XL, FLUX and "
            "Z-Image"
        )
    if kind in FLOW:
        return _flow(directory, kind)
    unet, vae = _json(directory, "unet/config.json"), _json(directory, "vae/config.json")
    texts = [_json(directory, f"{encoder}/config.json") for encoder in DRAWN[kind]]
    taken, given = unet.get("in_channels"), unet.get("out_channels", LATENTS)
    wanted = REPAINTING if "Inpaint" in kind else LATENTS
    if taken != wanted:
        hint = ""
        if taken == REPAINTING:
            hint = ": model_index.json must name an inpainting pipeline"
        _refuse(f"the UNet in MODEL_DIR takes {taken} channels, not {wanted}{hint}")
    if given != LATENTS or vae.get("latent_channels", LATENTS) != LATENTS:
        _refuse("the UNet and the autoencoder in MODEL_DIR do not fit each other")
    if unet.get("cross_attention_dim") != sum(text.get("hidden_size", 0) for text in texts):
        _refuse("the UNet and the text encoder in MODEL_DIR do not fit each other")
    for part in ("unet", "vae", *DRAWN[kind]):
        _check_weights(directory, part)
    schedule = _json(directory, "scheduler/scheduler_config.json")
    return ModelFiles(
        kind,
        str(schedule.get("prediction_type", "epsilon")),
        _variant(directory / "unet"),
        _baseline(kind, unet.get("cross_attention_dim")),
    )


def _flow(directory: Path, kind: str) -> ModelFiles:
    """Check that the parts of a model of flow matching fit each other."""
    network = _json(directory, "transformer/config.json")
    vae = _json(directory, "vae/config.json")
    texts = [_json(directory, f"{encoder}/config.json") for encoder in DRAWN[kind]]
    if kind == "FluxPipeline":
        packed = 4  # two by two latents are one
        read = [network.get("pooled_projection_dim"), network.get("joint_attention_dim")]
        given = [texts[0].get("hidden_size"), texts[1].get("d_model")]
    else:
        packed = 1
        read, given = [network.get("cap_feat_dim")], [texts[0].get("hidden_size")]
        _check_z_image(directory, network, vae)
    if network.get("in_channels") != packed * vae.get("latent_channels", 0):
        _refuse("the transformer and the autoencoder in MODEL_DIR do not fit each other")
    if read != given:
        _refuse("the transformer and the text encoders in MODEL_DIR do not fit each other")
    for part in ("transformer", "vae", *DRAWN[kind]):
        _check_weights(directory, part)
    _json(directory, "scheduler/scheduler_config.json")
    return ModelFiles(kind, "flow", _variant(directory / "transformer"), FLOW[kind])


def _check_z_image(directory: Path, network: dict[str, Any], vae: dict[str, Any]) -> None:
    """Refuse what diffusers asserts, divides by or calls only while it loads or draws."""
    width: Any = network.get("dim")
    heads: Any = network.get("n_heads")
    axes: Any = network.get("axes_dims")
    numbers = [width, heads, *axes] if isinstance(axes, list) else [None]
    whole = all(isinstance(one, int) for one in numbers)
    if not whole or heads < 1 or width != heads * sum(axes):
        _refuse("the transformer in MODEL_DIR has axes_dims that do not fit its heads")
    if [network.get(f"all_{one}") for one in ("patch_size", "f_patch_size")] != [[2], [1]]:
        _refuse("the transformer in MODEL_DIR does not read patches of 2 x 2")
    if not all(isinstance(vae.get(f"{one}_factor"), int | float) for one in ("shift", "scaling")):
        _refuse("the autoencoder in MODEL_DIR has no shift_factor or scaling_factor")
    blocks = vae.get("block_out_channels")
    # A patch has two latents a side, so its side is twice what the autoencoder shrinks by.
    if not isinstance(blocks, list) or len(blocks) > SIZE_STEP or SIZE_STEP % 2 ** len(blocks):
        _refuse(f"the autoencoder in MODEL_DIR draws no sizes in steps of {SIZE_STEP} pixels")
    template = directory / "tokenizer" / "chat_template.jinja"
    settings = _json(directory, "tokenizer/tokenizer_config.json")
    if not settings.get("chat_template") and not template.is_file():
        _refuse("the tokenizer in MODEL_DIR has no chat template, into which prompts are put")


def config(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one if there is none to be read."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _baseline(kind: str, width: Any) -> str:
    if "XL" in kind:
        return "stable_diffusion_xl"
    return "stable_diffusion_2" if width == WIDTH_2 else "stable_diffusion_1"


def _variant(part: Path) -> str | None:
    names = [one.name for one in part.glob("*.safetensors")]
    return HALF if all(f".{HALF}." in name for name in names) else None


def _check_weights(directory: Path, part: str) -> None:
    """Refuse a part whose weights are missing, empty, or in a format that runs code."""
    files = [one for one in (directory / part).iterdir() if one.stat().st_size]
    if any(one.suffix == ".safetensors" for one in files):
        return
    if any(one.suffix in {".bin", ".ckpt", ".pt"} for one in files):
        _refuse(f"{part} in MODEL_DIR has weights that are no safetensors: loading them runs code")
    _refuse(f"{part} in MODEL_DIR has no weights")


def _json(directory: Path, name: str) -> dict[str, Any]:
    try:
        found: Any = json.loads((directory / name).read_text("utf-8"))
    except FileNotFoundError:
        _refuse(f"MODEL_DIR holds no diffusers model (no {name})")
    except (OSError, ValueError):
        _refuse(f"{name} in MODEL_DIR is unreadable")
    if not isinstance(found, dict):
        _refuse(f"{name} in MODEL_DIR is no object")
    return found  # type: ignore[no-any-return]


def _refuse(message: str) -> None:
    raise ModelError(message)
