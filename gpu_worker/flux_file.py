"""Brings FLUX's two large parts, its transformer and T5, from a single file into a directory.

They are 33 GB in bfloat16. So names and shapes are compared by the file's header, and then tensors
are read, brought to bfloat16 and written a shard at a time: a few GB of memory are enough.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from gpu_worker import layouts
from gpu_worker.addons import flux_layers
from gpu_worker.flux_layouts import T5, TRANSFORMER, UNUSED
from gpu_worker.layouts import LayoutError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from gpu_worker.tensor_files import Tensor

    Shapes = Mapping[str, tuple[int, ...]]

SHARD = 1_000_000_000
"""Most bytes of a file of weights, but for a single tensor that is larger."""
WORDS = ("shared.weight", "encoder.embed_tokens.weight")
"""Two names of T5's one matrix of tokens."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor of a directory is in the file."""

    name: str
    first: int = 0
    """Its first row there."""
    swapped: bool = False
    """Whether its halves are in the other order there."""


@dataclass(frozen=True, slots=True)
class Part:
    """A large part of the file."""

    what: str
    """What messages call it."""
    prefix: str
    """What its tensors' names begin with in the file."""
    folder: str
    """Of a diffusers directory."""
    stem: str
    """The names there of files with weights, without their ending: the libraries look for them."""
    shapes: Shapes
    """Of the tensors there, by name."""
    sources: Mapping[str, Source]
    """Of the same tensors; those that a library ties to others have none."""


def parts(network: Any, text: Any, file: Mapping[str, Tensor]) -> list[Part]:
    """Return the transformer and T5 of a file, by its tensors; the models need no weights."""
    of_network, of_text = (
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        for model in (network, text)
    )
    return [
        Part(
            "transformer",
            TRANSFORMER,
            "transformer",
            "diffusion_pytorch_model",
            of_network,
            transformer_sources(of_network),
        ),
        Part("T5", T5, "text_encoder_2", "model", of_text, t5_sources(of_text, file)),
    ]


def transformer_sources(shapes: Shapes) -> dict[str, Source]:
    """Return where each tensor of diffusers' transformer is, by Black Forest Labs' names."""
    layers = dict.fromkeys(name.rpartition(".")[0] for name in shapes)
    fused = dict(_fused(layers, shapes))
    swapped = {layer: original for original, layer in flux_layers.swapped(layers)}
    found = {}
    for name in shapes:
        layer, _, kind = name.rpartition(".")
        if layer in fused:
            original, first = fused[layer]
            found[name] = Source(f"{original}.{kind}", first)
        elif layer in swapped:
            found[name] = Source(f"{swapped[layer]}.{kind}", swapped=True)
        elif norm := _norm(layer):
            found[name] = Source(f"{norm}.scale")
        else:
            found[name] = Source(f"{next(flux_layers.originals(layer), layer)}.{kind}")
    return found


def _fused(layers: Collection[str], shapes: Shapes) -> Iterator[tuple[str, tuple[str, int]]]:
    """Yield layers that are rows of a matrix in the file: its name there, and the first row."""
    for original, parts in flux_layers.fused(layers):
        if ".processor." in original:  # a name in LoRAs alone
            continue
        first = 0
        for part in parts:
            yield part, (original, first)
            first += shapes[f"{part}.weight"][0]


def _norm(layer: str) -> str:
    """Return the name in the file of a norm of queries or keys; empty if the layer is none."""
    match = re.fullmatch(r"(single_)?transformer_blocks\.(\d+)\.attn\.norm_(added_)?([qk])", layer)
    if match is None:
        return ""
    single, number, added, what = match.groups()
    side = f"{'txt' if added else 'img'}_attn."
    block = f"single_blocks.{number}." if single else f"double_blocks.{number}.{side}"
    return f"{block}norm.{'query' if what == 'q' else 'key'}_norm"


def t5_sources(shapes: Shapes, file: Collection[str]) -> dict[str, Source]:
    """Return where each tensor of transformers' T5 is; its matrix of tokens has two names."""
    found = {name: Source(name) for name in shapes if name not in WORDS}
    words = next((name for name in WORDS if T5 + name in file), WORDS[0])
    return {WORDS[0]: Source(words), **found}


def compare(part: Part, file: Mapping[str, Tensor]) -> None:
    """Raise LayoutError unless a file has exactly the tensors of a part, in their shapes."""
    wanted: dict[str, tuple[int, ...]] = {}
    for name, source in part.sources.items():
        rows, *rest = part.shapes[name]
        before = wanted.get(source.name, (0,))[0]
        wanted[source.name] = (max(before, source.first + rows), *rest)
    found = {
        name.removeprefix(part.prefix): tensor.shape
        for name, tensor in file.items()
        if name.startswith(part.prefix) and name not in UNUSED
    }
    if WORDS[0] in wanted and found.get(WORDS[0]) == found.get(WORDS[1]):
        found.pop(WORDS[1], None)  # the same again, as `write` sees to
    layouts.compare(part.what, wanted, found)


def write(part: Part, file: Path, directory: Path) -> int:
    """Write a part's weights in bfloat16, in shards if they are large; returns how many there are.

    Raises LayoutError if a tensor is not finite.
    """
    folder, shards = directory / part.folder, list(_shards(part))
    places: dict[str, str] = {}
    with safe_open(file, framework="pt") as opened:
        _check_words(opened, part)
        for number, names in enumerate(shards, 1):
            mark = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
            shard = f"{part.stem}{mark}.safetensors"
            some = {name: _tensor(opened, part, name) for name in names}
            save_file(some, folder / shard, metadata={"format": "pt"})
            places |= dict.fromkeys(names, shard)
    count = sum(math.prod(part.shapes[name]) for name in part.sources)
    if len(shards) > 1:
        index = {"metadata": {"total_size": 2 * count}, "weight_map": places}
        (folder / f"{part.stem}.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return count


def _shards(part: Part) -> Iterator[list[str]]:
    """Yield the names of tensors that share a file."""
    names: list[str] = []
    size = 0
    for name in part.sources:
        more = 2 * math.prod(part.shapes[name])
        if names and size + more > SHARD:
            yield names
            names, size = [], 0
        names.append(name)
        size += more
    yield names


def _tensor(opened: Any, part: Part, name: str) -> torch.Tensor:
    source, rows = part.sources[name], part.shapes[name][0]
    whole = opened.get_slice(part.prefix + source.name)
    some = whole[source.first : source.first + rows]
    found: torch.Tensor = layouts.halved(some, torch.bfloat16, part.what, source.name)
    return torch.cat(found.chunk(2)[::-1]) if source.swapped else found


def _check_words(opened: Any, part: Part) -> None:
    here = {part.prefix + name for name in WORDS} & {*opened.keys()}
    if WORDS[0] not in part.sources or len(here) < len(WORDS):
        return
    one, other = (opened.get_tensor(part.prefix + name).to(torch.bfloat16) for name in WORDS)
    if not torch.equal(one, other):
        message = f"the file has two matrices of T5's tokens, {' and '.join(WORDS)}, which differ"
        raise LayoutError(message)
