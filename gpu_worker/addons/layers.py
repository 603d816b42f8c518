"""The layers that LoRAs may change, by every name that files have for them.

All names are brought to the form of kohya's trainer: a prefix for the part of the model, and the
layer's path with underscores (`lora_unet_mid_block_attentions_0_proj_in`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gpu_worker.addons import flux_layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

UNET, TRANSFORMER = "lora_unet_", "lora_transformer_"
ENCODER, ENCODER_2, T5 = "lora_te1_", "lora_te2_", "lora_te3_"
PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
"""The parts of a model that LoRAs change, as diffusers names them."""
NETWORKS = frozenset({"unet", "transformer"})
"""Those that denoise; the others encode prompts."""
_PREFIXES = {
    "unet.": UNET,
    "transformer.": TRANSFORMER,
    "diffusion_model.": UNET,
    "text_encoder.": ENCODER,
    "text_encoder_2.": ENCODER_2,
    "te1.": ENCODER,
    "te2.": ENCODER_2,
    "text_encoders.clip_l.transformer.": ENCODER,
    "text_encoders.clip_g.transformer.": ENCODER_2,
    "text_encoders.t5xxl.transformer.": T5,
}
"""How files with dots begin the name of a layer: diffusers', OneTrainer's and ComfyUI's."""
_OLD = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Names of layers of text encoders in files of older versions of diffusers."""


@dataclass(frozen=True, slots=True)
class Target:
    """A layer that LoRAs may change."""

    part: str
    name: str
    shape: tuple[int, ...]
    """Of its weight."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a file's matrix, and the rows of a layer's weight that they change."""

    target: Target
    first: int
    """The first row in the file."""
    count: int
    at: int = 0
    """The first row in the layer."""

    @property
    def whole(self) -> bool:
        """Whether they are all rows of the layer, and of the file."""
        return (self.first, self.at, self.count) == (0, 0, self.target.shape[0])


Place = tuple[Rows, ...]
"""Where a file's matrix goes, in the order of its rows: mostly to one layer."""


def shape(place: Place) -> tuple[int, ...]:
    """Return the shape of the weight that a file means."""
    return (sum(rows.count for rows in place), *place[0].target.shape[1:])


def places(parts: Mapping[str, Any]) -> dict[str, Place]:
    """Return where the matrices of files go in a model's parts, by kohya's form of the names."""
    found: dict[str, Place] = {}
    for part, module in parts.items():
        layers = {
            name: Target(part, name, tuple(layer.weight.shape))
            for name, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        }
        for name, target in layers.items():
            for alias in _aliases(part, name, module):
                found[alias.replace(".", "_")] = (Rows(target, 0, target.shape[0]),)
        if part == "transformer":
            for alias, names in flux_layers.fused(layers):
                found[UNET + alias.replace(".", "_")] = _fused([layers[one] for one in names])
            for alias, name in flux_layers.swapped(layers):
                found[UNET + alias.replace(".", "_")] = _swapped(layers[name])
    return found


def _fused(targets: Sequence[Target]) -> Place:
    """Return the place of a matrix that has the rows of several layers, one after the other."""
    found, first = [], 0
    for target in targets:
        found.append(Rows(target, first, target.shape[0]))
        first += target.shape[0]
    return tuple(found)


def _swapped(target: Target) -> Place:
    """Return the place of a matrix whose halves are the other way round in the layer."""
    half = target.shape[0] // 2
    return Rows(target, 0, half, half), Rows(target, half, half, 0)


def _aliases(part: str, name: str, module: Any) -> Iterator[str]:
    if part == "unet":
        yield UNET + name
        yield from (UNET + one for one in originals(name, int(module.config.layers_per_block)))
    elif part == "transformer":
        yield TRANSFORMER + name
        yield from (UNET + one for one in flux_layers.originals(name))
    elif part == "text_encoder":
        yield ENCODER + name.removeprefix("text_model.")
    elif "SelfAttention" in name or "DenseReluDense" in name:
        yield from (one + name for one in (T5, ENCODER_2))  # kohya's and OneTrainer's prefix
    else:
        yield ENCODER_2 + name.removeprefix("text_model.")


def originals(name: str, layers: int) -> Iterator[str]:
    """Yield the name of a UNet's layer in Stability's own code, which kohya uses for XL.

    There the blocks of all stages are counted through: those of diffusers' `down_blocks.b` with
    `layers` blocks each begin at 1 + b * (layers + 1).
    """
    if name in _WHOLE:
        yield _WHOLE[name]
    for ours, theirs in _INSIDE.items():
        if ".resnets." in name:
            name = name.replace(ours, theirs)
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, number, rest = match.groups()
        yield f"middle_block.{int(number) * 2 if kind == 'resnets' else 1}.{rest}"
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name)
    if not match:
        return
    way, block, kind, number, rest = match.groups()
    first = int(block) * (layers + 1) + (1 if way == "down" else 0)
    side = "input" if way == "down" else "output"
    if kind == "downsamplers":
        yield f"input_blocks.{first + layers}.0.op"
    elif kind == "upsamplers":
        # The third of its block beside attention, else the second; the names do not collide.
        yield from (f"output_blocks.{first + layers}.{at}.{rest}" for at in (1, 2))
    else:
        yield f"{side}_blocks.{first + int(number)}.{0 if kind == 'resnets' else 1}.{rest}"


_WHOLE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_INSIDE = {
    ".conv1": ".in_layers.2",
    ".conv2": ".out_layers.3",
    ".time_emb_proj": ".emb_layers.1",
    ".conv_shortcut": ".skip_connection",
}


def key(layer: str) -> str:
    """Return kohya's name for a layer, from any of the forms in which files name it."""
    layer = layer.removeprefix("base_model.model.")
    if flux_layers.BARE.match(layer):
        layer = f"diffusion_model.{layer}"
    prefix = next((one for one in _PREFIXES if layer.startswith(one)), "")
    if prefix:
        kohya, name = _PREFIXES[prefix], layer.removeprefix(prefix)
        if kohya in (ENCODER, ENCODER_2):
            name = name.removesuffix(".lora").removesuffix("_lora")
            before, dot, last = name.rpartition(".")
            name = before + dot + _OLD.get(last, last)
        elif prefix in ("unet.", "transformer."):
            name = name.replace(".processor", "").removesuffix(".lora").removesuffix("_lora")
            name = re.sub(r"\.to_out$", ".to_out.0", name)
        layer = kohya + name
    layer = re.sub(r"^lora_te_", ENCODER, layer.replace(".", "_"))
    return re.sub(r"^(lora_te[12]_)text_model_", r"\1", layer)


FLUX, XL, SD = "FLUX", "Stable Diffusion XL", "Stable Diffusion 1 or 2"
_ARCHITECTURES = {
    FLUX: r"lora_unet_(double|single)_blocks_|lora_transformer_single_transformer_blocks_",
    "Stable Diffusion 3": r"lora_unet_joint_blocks_",
    XL: r"lora_te2_|lora_unet_(input|middle|output)_block|lora_unet_\w+_transformer_blocks_[1-9]",
    SD: r"lora_unet_(down|up|mid)_block",
}
"""What names of layers say of the model, the surest first."""


def foreign(keys: Sequence[str], known: Mapping[str, Place]) -> str:
    """Return which other kind of model a file is made for, in brackets; empty if unknown."""
    theirs = next(
        (
            name
            for name, pattern in _ARCHITECTURES.items()
            if any(re.match(pattern, one) for one in keys)
        ),
        None,
    )
    parts = {place[0].target.part for place in known.values()}
    ours = FLUX if "transformer" in parts else XL if "text_encoder_2" in parts else SD
    return (
        f" (its layers are those of {theirs}, not of {ours})" if theirs not in (None, ours) else ""
    )
