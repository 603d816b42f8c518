"""What checkpoints in a single file look like, family by family, and the configurations they lack.

A single file has weights alone. The numbers below are those of the published models' papers and
configurations; `tests/worker/test_layouts.py` holds them against the models' known sizes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpu_worker import vocabulary

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from gpu_worker.tensor_files import Tensor

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."
FIRST = f"{UNET_PREFIX}input_blocks.0.0.weight"
"""The first convolution of a UNet; its second side is the number of channels that it takes."""
PLAIN, REPAINTING = 4, 9
SD1, SD2, SDXL = "stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_xl"
LARGE = f"{SD2}_768"
"""The baseline of Stable Diffusion 2 at 768 pixels, which predicts the velocity."""
SHOWN = 3
"""Names of tensors that a message lists."""


class LayoutError(ValueError):
    """The file is no checkpoint of a family that the worker draws; says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A text encoder of a family."""

    part: str
    """Its folder in a diffusers directory."""
    prefix: str
    """What its tensors' names begin with in a single file."""
    open_clip: bool = False
    """Whether they are named as open_clip names them."""


ENCODERS = {
    SD1: (Encoder("text_encoder", "cond_stage_model.transformer."),),
    SD2: (Encoder("text_encoder", "cond_stage_model.model.", open_clip=True),),
    SDXL: (
        Encoder("text_encoder", "conditioner.embedders.0.transformer."),
        Encoder("text_encoder_2", "conditioner.embedders.1.model.", open_clip=True),
    ),
}
OTHERS = {
    "cap_pad_token": "a Z-Image model",
    "joint_blocks.": "a Stable Diffusion 3 model",
    "clip_txt_mapper": "a Stable Cascade model",
    "lora_": "a LoRA, not a model",
    "control_model.": "a ControlNet, not a model",
    "conditioner.embedders.0.model.": "the refiner of Stable Diffusion XL",
}
"""What parts of tensors' names tell of files that are not converted."""


def family_of(tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the family of a single file and the channels its UNet takes; raises LayoutError.

    FLUX's is known by `flux_layouts`.
    """
    families = [
        family
        for family, encoders in ENCODERS.items()
        if all(any(name.startswith(one.prefix) for name in tensors) for one in encoders)
    ]
    first = tensors.get(FIRST)
    if first is None or len(families) != 1:
        _refuse_kind(tensors, has_unet=first is not None)
    if not any(name.startswith(VAE_PREFIX) for name in tensors):
        refuse("the file has no autoencoder (first_stage_model): take a checkpoint that has one")
    channels = first.shape[1] if len(first.shape) == 4 else 0  # type: ignore[union-attr]  # noqa: PLR2004
    if channels not in (PLAIN, REPAINTING):
        refuse(f"its UNet takes {channels} channels; {PLAIN} and {REPAINTING} can be drawn")
    return families[0], channels


def _refuse_kind(tensors: Mapping[str, Tensor], *, has_unet: bool) -> None:
    for part, what in OTHERS.items():
        if any(part in name for name in tensors):
            refuse(f"the file is {what}; Stable Diffusion 1, 2, XL and FLUX.1 can be converted")
    if has_unet:
        refuse("the file has a UNet and no text encoder: take a checkpoint that has both")
    refuse("the file is no checkpoint of Stable Diffusion 1, 2, XL or FLUX.1")


def refuse(message: str) -> None:
    """Raise LayoutError."""
    raise LayoutError(message)


def compare(
    what: str, wanted: Mapping[str, Collection[int]], found: Mapping[str, Collection[int]]
) -> None:
    """Raise LayoutError unless a part has exactly the wanted tensors: shapes by their names."""
    for problem, names in (
        ("lacks", wanted.keys() - found.keys()),
        ("has more than its family:", found.keys() - wanted.keys()),
        (
            "has other shapes than its family:",
            {name for name in wanted if name in found and [*found[name]] != [*wanted[name]]},
        ),
    ):
        if names:
            shown = ", ".join(sorted(names)[:SHOWN])
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            refuse(f"the {what} {problem} {shown}{more}")


def halved(tensor: Any, dtype: Any, what: str, name: str) -> Any:
    """Return a tensor of a part in one of torch's types; raises LayoutError if it is not finite."""
    found = tensor.to(dtype).contiguous()
    if not found.isfinite().all():
        refuse(f"the {what} is damaged: {name} is not finite in half precision")
    return found


def write(folder: Path, baseline: str, *, channels: int = PLAIN, velocity: bool = False) -> None:
    """Write a family's configuration to a folder, with its tokenizers.

    `baseline` is the Horde's name of the family. `velocity` says that the model predicts that.
    Raises VocabularyError.
    """
    family = SD2 if baseline.startswith(SD2) else baseline
    large = baseline in (SD2, LARGE)
    xl, inpainting = family == SDXL, "Inpaint" if channels == REPAINTING else ""
    unet = {**UNETS[family], "in_channels": channels}
    unet |= {"sample_size": 96} if family == SD2 and large else {}
    schedule: dict[str, Any] = dict(SCHEDULES[family])
    if velocity or (family == SD2 and large):
        schedule["prediction_type"] = "v_prediction"
    parts: dict[str, tuple[str, str, Mapping[str, Any]]] = {
        "unet": ("diffusers", "UNet2DConditionModel", unet),
        "vae": ("diffusers", "AutoencoderKL", VAES[xl]),
        "text_encoder": ("transformers", "CLIPTextModel", TEXTS["open" if family == SD2 else ""]),
        "scheduler": ("diffusers", str(schedule["_class_name"]), schedule),
    }
    if xl:
        second = ("transformers", "CLIPTextModelWithProjection", TEXTS["large"])
        parts["text_encoder_2"] = second
    index: dict[str, Any] = {"_class_name": f"StableDiffusion{'XL' * xl}{inpainting}Pipeline"}
    for part, (library, kind, config) in parts.items():
        index[part] = [library, kind]
        file = "scheduler_config.json" if part == "scheduler" else "config.json"
        write_json(folder / part / file, config)
    pads = {
        "tokenizer": "!" if family == SD2 else vocabulary.END,
        **({"tokenizer_2": "!"} if xl else {}),
    }
    for part, pad in pads.items():
        index[part] = ["transformers", "CLIPTokenizer"]
        vocabulary.tokenizer(pad).save_pretrained(folder / part)
    if not xl:
        index |= {key: [None, None] for key in ("safety_checker", "feature_extractor")}
        index["requires_safety_checker"] = False
    write_json(folder / "model_index.json", index)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a configuration, in a folder that is made for it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n")


_SMALL: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
UNETS: dict[str, dict[str, Any]] = {
    SD1: {**_SMALL, "attention_head_dim": 8, "cross_attention_dim": 768},
    SD2: {
        **_SMALL,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    SDXL: {
        **_SMALL,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
        "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        # The vector of the prompt (1280), and six numbers: sizes and crop.
        "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    },
}
_VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}
VAES: dict[bool, dict[str, Any]] = {
    False: {**_VAE, "sample_size": 512, "scaling_factor": 0.18215},
    True: {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
}
"""By whether the family is XL."""
_TEXT: dict[str, Any] = {
    "model_type": "clip_text_model",
    "vocab_size": 49_408,
    "max_position_embeddings": vocabulary.MAX_TOKENS,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 49_406,
    "eos_token_id": 49_407,
}
TEXTS: dict[str, dict[str, Any]] = {
    "": {
        **_TEXT, "architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu",
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "projection_dim": 768, "pad_token_id": 49_407,
    },
    # Its last layer but one is the last one here, as Stable Diffusion 2 reads it.
    "open": {
        **_TEXT, "architectures": ["CLIPTextModel"], "hidden_act": "gelu",
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
        "num_attention_heads": 16, "projection_dim": 512, "pad_token_id": 0,
    },
    "large": {
        **_TEXT, "architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu",
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
        "num_attention_heads": 20, "projection_dim": 1280, "pad_token_id": 0,
    },
}  # fmt: skip
_BETAS: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
_PNDM = {
    **_BETAS,
    "_class_name": "PNDMScheduler",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
SCHEDULES: dict[str, dict[str, Any]] = {
    SD1: _PNDM,
    SD2: _PNDM,
    SDXL: {
        **_BETAS,
        "_class_name": "EulerDiscreteScheduler",
        "interpolation_type": "linear",
        "timestep_spacing": "leading",
    },
}
