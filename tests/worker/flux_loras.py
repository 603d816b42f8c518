"""LoRAs of a tiny FLUX, in the forms in which they are published.

The names are written out, as trainers write them, and not derived by our code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tests.worker.tiny_addons import RANK, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

WIDTH, WIDE = 32, 128
"""Of the tiny transformer, and of its MLPs."""
DOUBLE, SINGLE = "transformer_blocks.0", "single_transformer_blocks.0"
LAYERS: Mapping[str, tuple[tuple[int, int], Mapping[str, tuple[int, int]]]] = {
    # The name in Black Forest Labs' code: shape, and the layers of diffusers with their rows.
    "double_blocks.0.img_attn.qkv": (
        (3 * WIDTH, WIDTH),
        {
            f"{DOUBLE}.attn.to_q": (0, 32),
            f"{DOUBLE}.attn.to_k": (32, 64),
            f"{DOUBLE}.attn.to_v": (64, 96),
        },
    ),
    "double_blocks.0.txt_attn.qkv": (
        (3 * WIDTH, WIDTH),
        {
            f"{DOUBLE}.attn.add_q_proj": (0, 32),
            f"{DOUBLE}.attn.add_k_proj": (32, 64),
            f"{DOUBLE}.attn.add_v_proj": (64, 96),
        },
    ),
    "double_blocks.0.img_attn.proj": ((WIDTH, WIDTH), {f"{DOUBLE}.attn.to_out.0": (0, 32)}),
    "double_blocks.0.txt_attn.proj": ((WIDTH, WIDTH), {f"{DOUBLE}.attn.to_add_out": (0, 32)}),
    "double_blocks.0.img_mlp.0": ((WIDE, WIDTH), {f"{DOUBLE}.ff.net.0.proj": (0, 128)}),
    "double_blocks.0.txt_mlp.2": ((WIDTH, WIDE), {f"{DOUBLE}.ff_context.net.2": (0, 32)}),
    "double_blocks.0.img_mod.lin": ((6 * WIDTH, WIDTH), {f"{DOUBLE}.norm1.linear": (0, 192)}),
    "single_blocks.0.linear1": (
        (3 * WIDTH + WIDE, WIDTH),
        {
            f"{SINGLE}.attn.to_q": (0, 32),
            f"{SINGLE}.attn.to_k": (32, 64),
            f"{SINGLE}.attn.to_v": (64, 96),
            f"{SINGLE}.proj_mlp": (96, 224),
        },
    ),
    "single_blocks.0.linear2": ((WIDTH, WIDTH + WIDE), {f"{SINGLE}.proj_out": (0, 32)}),
    "single_blocks.0.modulation.lin": ((3 * WIDTH, WIDTH), {f"{SINGLE}.norm.linear": (0, 96)}),
}
CLIP = "text_model.encoder.layers.1.self_attn.q_proj"
T5 = "encoder.block.0.layer.0.SelfAttention.q"


def matrices(seed: int = 1, scale: float = 0.3) -> dict[str, tuple[Any, Any]]:
    """Return the two matrices of each layer, by the names of Black Forest Labs."""
    random = np.random.default_rng(seed)
    return {
        name: (
            random.normal(0, scale, (RANK, columns)).astype(np.float32),
            random.normal(0, scale, (rows, RANK)).astype(np.float32),
        )
        for name, (rows, columns) in {
            **{name: shape for name, (shape, _) in LAYERS.items()},
            CLIP: (WIDTH, WIDTH),
        }.items()
    }


def kohya(path: Path, *, alpha: float = RANK, t5: str = "", **options: Any) -> Path:
    """Write it as kohya's trainer does; `t5` begins the name of a layer of T5, if there is one."""
    tensors: dict[str, Any] = {}
    for name, (down, up) in matrices(**options).items():
        layer = ("lora_te1_" if name == CLIP else "lora_unet_") + name.replace(".", "_")
        tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        tensors[f"{layer}.alpha"] = np.array(alpha, np.float32)
    if t5:
        layer = f"{t5}_{T5.replace('.', '_')}"
        tensors[f"{layer}.lora_down.weight"] = np.full((RANK, WIDTH), 0.1, np.float32)
        tensors[f"{layer}.lora_up.weight"] = np.full((WIDTH, RANK), 0.1, np.float32)
    return write(path, tensors)


def comfy(path: Path, **options: Any) -> Path:
    """Write it as ComfyUI and ai-toolkit name the layers."""
    tensors: dict[str, Any] = {}
    for name, (down, up) in matrices(**options).items():
        layer = f"text_encoders.clip_l.transformer.{name}" if name == CLIP else ""
        layer = layer or f"diffusion_model.{name}"
        tensors |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    return write(path, tensors)


def bare(path: Path, **options: Any) -> Path:
    """Write it as peft does on Black Forest Labs' own code."""
    tensors: dict[str, Any] = {}
    for name, (down, up) in matrices(**options).items():
        layer = f"te1.{name}" if name == CLIP else f"base_model.model.{name}"
        tensors |= {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}
    return write(path, tensors)


def diffusers(path: Path, *, kohyas: bool = False, **options: Any) -> Path:
    """Write it as diffusers does, or with its layers in kohya's form."""
    tensors: dict[str, Any] = {}
    for name, (down, up) in matrices(**options).items():
        if name == CLIP:
            pieces = {f"text_encoder.{CLIP}": (0, WIDTH)}
        else:
            pieces = {f"transformer.{one}": rows for one, rows in LAYERS[name][1].items()}
        for layer, (start, stop) in pieces.items():
            named = layer
            if kohyas:
                named = "lora_" + layer.replace("text_encoder", "te1").replace(".", "_")
            ends = ("lora_down", "lora_up") if kohyas else ("lora_A", "lora_B")
            tensors[f"{named}.{ends[0]}.weight"] = down.copy()
            tensors[f"{named}.{ends[1]}.weight"] = up[start:stop].copy()
    return write(path, tensors)


def diffusers_in_kohyas_form(path: Path, **options: Any) -> Path:
    """Write it with the layers of diffusers in kohya's form."""
    return diffusers(path, kohyas=True, **options)


def xlabs(path: Path, prefix: str = "", **options: Any) -> Path:
    """Write the attention of it as XLabs' trainer does, which leaves the MLPs alone."""
    names = {
        "double_blocks.0.processor.qkv_lora1": "double_blocks.0.img_attn.qkv",
        "double_blocks.0.processor.qkv_lora2": "double_blocks.0.txt_attn.qkv",
        "double_blocks.0.processor.proj_lora1": "double_blocks.0.img_attn.proj",
        "double_blocks.0.processor.proj_lora2": "double_blocks.0.txt_attn.proj",
        "single_blocks.0.processor.qkv_lora": "single_blocks.0.linear1",
        "single_blocks.0.processor.proj_lora": "single_blocks.0.linear2",
    }
    made = matrices(**options)
    tensors: dict[str, Any] = {}
    for theirs, name in names.items():
        down, up = made[name]
        tensors[f"{prefix}{theirs}.down.weight"] = down
        # Of linear1 the query, key and value only.
        tensors[f"{prefix}{theirs}.up.weight"] = up[: 3 * WIDTH].copy()
    return write(path, tensors)


FORMS: Mapping[str, Callable[..., Path]] = {
    "kohya": kohya,
    "comfy": comfy,
    "bare": bare,
    "diffusers": diffusers,
    "diffusers in kohya's form": diffusers_in_kohyas_form,
}
"""All have the same layers."""
