"""Writes a diffusers directory as one file, with the names that training code gives its tensors.

That is the form in which checkpoints are shared; `gpu_worker.convert` reads it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from PIL import Image

Weights = dict[str, torch.Tensor]
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
OUTER = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
    "encoder.layers": "transformer.resblocks",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
}


FLUX_OUTER = {
    "x_embedder.": "img_in.",
    "context_embedder.": "txt_in.",
    "time_text_embed.timestep_embedder.linear_1.": "time_in.in_layer.",
    "time_text_embed.timestep_embedder.linear_2.": "time_in.out_layer.",
    "time_text_embed.text_embedder.linear_1.": "vector_in.in_layer.",
    "time_text_embed.text_embedder.linear_2.": "vector_in.out_layer.",
    "time_text_embed.guidance_embedder.linear_1.": "guidance_in.in_layer.",
    "time_text_embed.guidance_embedder.linear_2.": "guidance_in.out_layer.",
    "norm_out.linear.": "final_layer.adaLN_modulation.1.",
    "proj_out.": "final_layer.linear.",
}
FLUX_DOUBLE = {
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "attn.norm_q.weight": "img_attn.norm.query_norm.scale",
    "attn.norm_k.weight": "img_attn.norm.key_norm.scale",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
FLUX_SINGLE = {
    "norm.linear": "modulation.lin",
    "attn.norm_q.weight": "norm.query_norm.scale",
    "attn.norm_k.weight": "norm.key_norm.scale",
    "proj_out": "linear2",
}
FLUX_FUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "double": {
        "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    },
    "single": {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")},
}


def weights(directory: Path, part: str) -> Weights:
    (file,) = (directory / part).glob("*.safetensors")
    return load_file(file)


def config(directory: Path, part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / part / "config.json").read_text())
    return found


def renamed(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def blocks(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a module of a diffusers UNet, and what the original calls it."""
    layers, number = settings["layers_per_block"], 1
    last = len(settings["down_block_types"]) - 1
    for block, kind in enumerate(settings["down_block_types"]):
        for layer in range(layers):
            yield f"down_blocks.{block}.resnets.{layer}", f"input_blocks.{number}.0"
            if kind.startswith("Cross"):
                yield f"down_blocks.{block}.attentions.{layer}", f"input_blocks.{number}.1"
            number += 1
        if block != last:
            yield f"down_blocks.{block}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            number += 1
    middle = ("resnets.0", "attentions.0", "resnets.1")
    for number, module in enumerate(middle):
        yield f"mid_block.{module}", f"middle_block.{number}"
    number = 0
    for block, kind in enumerate(settings["up_block_types"]):
        attends = kind.startswith("Cross")
        for layer in range(layers + 1):
            yield f"up_blocks.{block}.resnets.{layer}", f"output_blocks.{number}.0"
            if attends:
                yield f"up_blocks.{block}.attentions.{layer}", f"output_blocks.{number}.1"
            if layer == layers and block != last:
                place = f"output_blocks.{number}.{1 + attends}.conv"
                yield f"up_blocks.{block}.upsamplers.0.conv", place
            number += 1


def unet(weights: Weights, settings: Mapping[str, Any]) -> Weights:
    modules = dict(blocks(settings))
    found = {}
    for name, tensor in weights.items():
        inside = next((one for one in modules if name.startswith(f"{one}.")), None)
        if inside is None:
            found[renamed(name, OUTER)] = tensor
            continue
        rest = name.removeprefix(inside)
        found[modules[inside] + (renamed(rest, RESNET) if ".resnets." in name else rest)] = tensor
    return {f"model.diffusion_model.{name}": tensor for name, tensor in found.items()}


def flux(weights: Weights) -> Weights:
    """Return FLUX's transformer by the names of Black Forest Labs."""
    found: Weights = {}
    for name, tensor in weights.items():
        block, _, rest = name.partition("transformer_blocks.")
        if not rest:
            if name.startswith("norm_out."):
                tensor = torch.cat(tensor.chunk(2)[::-1])  # noqa: PLW2901 - scale and shift
            found[renamed(name, FLUX_OUTER)] = tensor
            continue
        kind = "single" if block else "double"
        number, _, layer = rest.partition(".")
        place = f"{kind}_blocks.{number}."
        layer, _, end = layer.rpartition(".")
        for fused, parts in FLUX_FUSED[kind].items():
            if layer == parts[0]:
                rows = [weights[name.replace(layer, one)] for one in parts]
                found[f"{place}{fused}.{end}"] = torch.cat(rows)
        if all(layer not in parts for parts in FLUX_FUSED[kind].values()):
            names = FLUX_SINGLE if block else FLUX_DOUBLE
            found[place + renamed(f"{layer}.{end}", names)] = tensor
    return {f"model.diffusion_model.{name}": tensor for name, tensor in found.items()}


def autoencoder(
    weights: Weights, settings: Mapping[str, Any], prefix: str = "first_stage_model."
) -> Weights:
    count = len(settings["block_out_channels"])
    names = {f"decoder.up_blocks.{n}.": f"decoder.up.{count - 1 - n}." for n in range(count)}
    names |= {f"encoder.down_blocks.{n}.": f"encoder.down.{n}." for n in range(count)}
    names |= {"mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2"}
    names |= {"mid_block.attentions.0": "mid.attn_1", ".resnets.": ".block."}
    names |= {"downsamplers.0": "downsample", "upsamplers.0": "upsample"}
    names |= {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}
    found = {}
    for name, tensor in weights.items():
        new = renamed(name, names)
        attention = "attn_1" in new
        new = renamed(new, ATTENTION) if attention else new
        flat = attention and tensor.dim() == 2
        found[prefix + new] = tensor[:, :, None, None] if flat else tensor
    return found


def clip(weights: Weights, prefix: str) -> Weights:
    return {
        f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in weights.items()
    }


def open_clip(weights: Weights, prefix: str) -> Weights:
    found: Weights = {}
    joined: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in weights.items():
        bare = renamed(name.removeprefix("text_model."), OPEN_CLIP)
        if bare == "text_projection.weight":
            found[f"{prefix}text_projection"] = tensor.T.contiguous()
        elif ".self_attn." in bare:
            layer, _, rest = bare.partition(".self_attn.")
            joined.setdefault(f"{layer}.attn.in_proj_{rest[7:]}", {})[rest[0]] = tensor
        else:
            found[prefix + bare] = tensor
    for name, parts in joined.items():
        found[prefix + name] = torch.cat([parts[letter] for letter in "qkv"])
    return found


def write(directory: Path, file: Path, family: str, **more: torch.Tensor) -> Path:
    """Write a diffusers directory of a family as one file; `more` replaces or adds tensors."""
    found = unet(weights(directory, "unet"), config(directory, "unet"))
    found |= autoencoder(weights(directory, "vae"), config(directory, "vae"))
    text = weights(directory, "text_encoder")
    if family == "stable_diffusion_1":
        found |= clip(text, "cond_stage_model.transformer.")
    elif family == "stable_diffusion_2":
        found |= open_clip(text, "cond_stage_model.model.")
        width = config(directory, "text_encoder")["hidden_size"]
        found["cond_stage_model.model.text_projection"] = torch.zeros(width, width)
        found["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    else:
        found |= clip(text, "conditioner.embedders.0.transformer.")
        found |= open_clip(weights(directory, "text_encoder_2"), "conditioner.embedders.1.model.")
        found["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    ids = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    if family == "stable_diffusion_1":
        found[ids] = torch.arange(77)[None]
    save_file({name: tensor.contiguous() for name, tensor in (found | more).items()}, file)
    return file


def all_of_flux(parts: Mapping[str, Weights], settings: Mapping[str, Any]) -> Weights:
    """Return FLUX's four parts, by their folders, as ComfyUI names them in one file."""
    clip_l, t5 = "text_encoders.clip_l.", "text_encoders.t5xxl."
    width = next(iter(parts["text_encoder"].values())).shape[-1]
    found = flux(parts["transformer"])
    found |= autoencoder(parts["vae"], settings, "vae.")
    found |= clip(parts["text_encoder"], f"{clip_l}transformer.")
    found |= {f"{t5}transformer.{name}": tensor for name, tensor in parts["text_encoder_2"].items()}
    found[f"{clip_l}transformer.text_projection.weight"] = torch.eye(width)
    return found | {f"{one}logit_scale": torch.tensor(4.6055) for one in (clip_l, t5)}


def write_flux(directory: Path, file: Path, **more: torch.Tensor) -> Path:
    """Write a diffusers directory of FLUX as one file; `more` replaces or adds tensors."""
    names = "transformer", "vae", "text_encoder", "text_encoder_2"
    parts = {name: weights(directory, name) for name in names}
    found = all_of_flux(parts, config(directory, "vae"))
    eighth = ("model.diffusion_model.", "text_encoders.t5xxl.transformer.")
    for name in found:  # as in the published files
        if name.startswith(eighth):
            found[name] = found[name].to(torch.float8_e4m3fn)
        elif name.startswith("text_encoders.clip_l.transformer."):
            found[name] = found[name].to(torch.float16)
    save_file({name: tensor.contiguous() for name, tensor in (found | more).items()}, file)
    return file


def drawn(directory: Path) -> Image.Image:
    """Return what a worker draws with a directory, always with the same seed."""
    from gpu_worker.horde_client import Job
    from gpu_worker.pipeline import Pipeline
    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import PAYLOAD

    common: dict[str, Any] = {"horde_url": "", "horde_api_key": "", "worker_name": ""}
    settings = Settings(**common, model_dir=directory, device="cpu", torch_threads=1)
    (image,) = Pipeline(settings).draw([Job(id="1", payload=PAYLOAD, deadline=0)])
    return image
