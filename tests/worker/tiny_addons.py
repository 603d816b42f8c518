"""LoRAs and textual inversions of the tiny models, in the formats in which they are published.

The names of the layers are written out, as the trainers write them, and not derived by our code.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RANK = 4
WIDTH = 32
"""Of the tiny models' text encoders; the UNet's first stage has as many channels."""
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
LAYERS: Mapping[str, tuple[tuple[int, ...], str, str]] = {
    # Our name: shape, kohya's name for Stable Diffusion 1, and for XL (Stability's own names).
    f"unet.{ATTENTION}.to_q": (
        (32, 32),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_q",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_q",
    ),
    f"unet.{ATTENTION}.to_out.0": (
        (32, 32),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0",
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_out_0",
    ),
    "unet.mid_block.resnets.1.conv1": (
        (64, 64, 3, 3),
        "lora_unet_mid_block_resnets_1_conv1",
        "lora_unet_middle_block_2_in_layers_2",
    ),
    "unet.down_blocks.0.downsamplers.0.conv": (
        (32, 32, 3, 3),
        "lora_unet_down_blocks_0_downsamplers_0_conv",
        "lora_unet_input_blocks_2_0_op",
    ),
    "text_encoder.text_model.encoder.layers.1.self_attn.q_proj": (
        (32, 32),
        "lora_te_text_model_encoder_layers_1_self_attn_q_proj",
        "lora_te1_text_model_encoder_layers_1_self_attn_q_proj",
    ),
    "text_encoder.text_model.encoder.layers.0.mlp.fc1": (
        (64, 32),
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    ),
}
SECOND = (
    "text_encoder_2.text_model.encoder.layers.0.self_attn.v_proj",
    "lora_te2_text_model_encoder_layers_0_self_attn_v_proj",
)
"""A layer of the second text encoder of XL."""


def matrices(*, xl: bool, seed: int = 1, scale: float = 0.3) -> dict[str, tuple[Any, Any]]:
    """Return the two matrices of each layer, by our names."""
    random = np.random.default_rng(seed)
    shapes = {name: entry[0] for name, entry in LAYERS.items()}
    if xl:
        shapes[SECOND[0]] = (WIDTH, WIDTH)
    found = {}
    for name, (rows, *rest) in shapes.items():
        down = random.normal(0, scale, (RANK, *rest)).astype(np.float32)
        up = random.normal(0, scale, (rows, RANK, *(1 for _ in rest[1:]))).astype(np.float32)
        found[name] = down, up
    return found


def kohya(path: Path, *, xl: bool = False, alpha: float = RANK, **options: Any) -> Path:
    """Write a LoRA as kohya's trainer does."""
    tensors = {}
    for name, (down, up) in matrices(xl=xl, **options).items():
        theirs = SECOND[1] if name == SECOND[0] else LAYERS[name][2 if xl else 1]
        tensors[f"{theirs}.lora_down.weight"] = down
        tensors[f"{theirs}.lora_up.weight"] = up
        tensors[f"{theirs}.alpha"] = np.array(alpha, np.float32)
    return write(path, tensors)


def peft(path: Path, *, xl: bool = False, alpha: float | None = None, **options: Any) -> Path:
    """Write a LoRA as diffusers does, with the alpha in the metadata."""
    tensors = {}
    for name, (down, up) in matrices(xl=xl, **options).items():
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = down, up
    said = {f"{part}.lora_alpha": alpha for part in ("unet", "text_encoder", "text_encoder_2")}
    return write(path, tensors, {"lora_adapter_metadata": json.dumps(said)} if alpha else None)


def older(path: Path, **options: Any) -> Path:
    """Write a LoRA as older versions of diffusers did."""
    tensors = {}
    for name, (down, up) in matrices(xl=False, **options).items():
        layer = name
        if ".attn2." in name:
            layer = name.replace(".attn2.", ".attn2.processor.").removesuffix(".0") + "_lora"
        elif name.startswith("unet."):
            layer += ".lora"
        elif name.endswith("q_proj"):
            layer = name.removesuffix("q_proj") + "to_q_lora"
        else:
            layer += ".lora_linear_layer"
        tensors[f"{layer}.down.weight"], tensors[f"{layer}.up.weight"] = down, up
    return write(path, tensors)


def inversion(path: Path, *, xl: bool = False, vectors: int = 3, seed: int = 1) -> Path:
    """Write a textual inversion of some vectors."""
    random = np.random.default_rng(seed)
    names = ("clip_l", "clip_g") if xl else ("emb_params",)
    return write(
        path,
        {name: random.normal(0, 1, (vectors, WIDTH)).astype(np.float32) for name in names},
    )


def write(path: Path, tensors: Mapping[str, Any], metadata: Any = None) -> Path:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), path, metadata=metadata)
    return path
