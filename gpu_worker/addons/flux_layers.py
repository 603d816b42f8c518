"""The layers of FLUX by the names of Black Forest Labs' own code, which most of its LoRAs have.

There query, key and value are one matrix, and so are those of a single block with its MLP. The
names and the order of the rows are those of diffusers' conversion of FLUX's LoRAs and checkpoints
(`diffusers.loaders.lora_conversion_utils`, Apache-2.0), with which the tests compare them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

BARE = re.compile(
    r"(?:double_blocks|single_blocks|img_in|txt_in|time_in|vector_in|guidance_in|final_layer)\."
)
"""How the names of layers begin that have no part of the model before them."""
XLABS = re.compile(
    r"((?:diffusion_model\.)?(?:double|single)_blocks\.\d+\.processor\.(?:qkv|proj))"
    r"_lora([12]?)\.(down|up)\.weight"
)
"""XLabs' names of matrices; 1 is the image's side of a double block, 2 the prompt's."""

_WHOLE = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
}
_DOUBLE = {
    "attn.to_out.0": ("img_attn.proj", "processor.proj1"),
    "attn.to_add_out": ("txt_attn.proj", "processor.proj2"),
    "ff.net.0.proj": ("img_mlp.0",),
    "ff.net.2": ("img_mlp.2",),
    "ff_context.net.0.proj": ("txt_mlp.0",),
    "ff_context.net.2": ("txt_mlp.2",),
    "norm1.linear": ("img_mod.lin",),
    "norm1_context.linear": ("txt_mod.lin",),
}
_SINGLE = {"proj_out": ("linear2", "processor.proj"), "norm.linear": ("modulation.lin",)}
_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_ADDED = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")


def originals(name: str) -> Iterator[str]:
    """Yield the names of a layer of diffusers' transformer that is one there, too."""
    if name in _WHOLE:
        yield _WHOLE[name]
    if match := re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.(.*)", name):
        single, number, rest = match.groups()
        kind, known = ("single", _SINGLE) if single else ("double", _DOUBLE)
        yield from (f"{kind}_blocks.{number}.{one}" for one in known.get(rest, ()))


def fused(names: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the names of matrices that are several layers in diffusers, and those in order."""
    for name in names:
        if match := re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.attn\.to_q", name):
            block, number = name.removesuffix(_QKV[0]), match[2]
            qkv, added = (tuple(block + one for one in some) for some in (_QKV, _ADDED))
            if match[1]:
                yield f"single_blocks.{number}.linear1", (*qkv, f"{block}proj_mlp")
                yield f"single_blocks.{number}.processor.qkv", qkv
            else:
                for alias in ("img_attn.qkv", "processor.qkv1"):
                    yield f"double_blocks.{number}.{alias}", qkv
                for alias in ("txt_attn.qkv", "processor.qkv2"):
                    yield f"double_blocks.{number}.{alias}", added


def swapped(names: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of matrices whose halves, shift and scale, diffusers has in turn."""
    if "norm_out.linear" in names:
        yield "final_layer.adaLN_modulation.1", "norm_out.linear"
