"""LoRAs as weights: read from a file, mapped to the layers of a model, and added to them.

A LoRA is a product of two small matrices for each layer that it changes (Hu et al., 2021,
arXiv:2106.09685). It is added to the model's own weights, as ComfyUI does, so that a step takes no
longer and compiled code stays valid. The originals are kept, and put back bit for bit.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from gpu_worker.addons import tensors
from gpu_worker.addons.asked import UnusableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from gpu_worker.addons.parts import LoraPart

MAX_RANK = 1024
PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}
"""The parts of a model, and how kohya's trainer, whose names most files have, begins theirs."""
_DOTTED = re.compile(r"(?:base_model\.model\.)?(unet|text_encoder_2|text_encoder|te1|te2)\.(.*)")
_ENDS = re.compile(
    r"(.+?)[._](?:lora\.|lora_linear_layer\.|lora_)(down|up|A|B)(?:\.default)?\.weight"
)
_OLD = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
"""Names of layers of text encoders in files of older versions of diffusers."""


@dataclass(frozen=True, slots=True)
class Target:
    """A layer that LoRAs may change."""

    part: str
    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What a LoRA adds to one layer: `factor` times `up` times `down`."""

    target: Target
    down: torch.Tensor
    """(rank, what a row of the weight has)."""
    up: torch.Tensor
    """(rows of the weight, rank)."""
    factor: float


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Weights:
    """A LoRA that fits the model."""

    changes: tuple[Change, ...]
    size: int
    """Bytes that it takes in memory."""

    @property
    def parts(self) -> frozenset[str]:
        """The parts of the model that it changes."""
        return frozenset(change.target.part for change in self.changes)


def targets(parts: Mapping[str, Any]) -> dict[str, Target]:
    """Return the layers of a model's parts by all names that files have for them."""
    found: dict[str, Target] = {}
    for part, module in parts.items():
        for name, layer in module.named_modules():
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                target = Target(part, name, tuple(layer.weight.shape))
                for alias in _aliases(part, name, module):
                    found[PREFIXES[part] + alias.replace(".", "_")] = target
    return found


def _aliases(part: str, name: str, module: Any) -> Iterator[str]:
    yield name.removeprefix("text_model.")
    if part == "unet":
        yield from _originals(name, int(module.config.layers_per_block))


def _originals(name: str, layers: int) -> Iterator[str]:
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


def read(path: Path, known: Mapping[str, Target]) -> Weights:
    """Return a file's LoRA; raises UnusableError unless every tensor of it fits the model."""
    header = tensors.read(path)
    pairs, alphas = _pairs(header.shapes)
    said = _alphas_of(header.metadata)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            changes = [
                _change(file, key, pairs[key], alphas.get(key), said, known) for key in pairs
            ]
    except (OSError, SafetensorError):
        _refuse("cannot be read")
    size = sum(_bytes(change.down) + _bytes(change.up) for change in changes)
    return Weights(tuple(changes), size)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _pairs(names: Iterable[str]) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return the names of a file's matrices, and of its alphas, by kohya's names of the layers."""
    pairs: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    for name in names:
        if name.endswith(".alpha"):
            alphas[_key(name.removesuffix(".alpha"))] = name
        elif match := _ENDS.fullmatch(name):
            side = {"A": "down", "B": "up"}.get(match[2], match[2])
            if side in pairs.setdefault(_key(match[1]), {}):
                _refuse("names a layer twice")
            pairs[_key(match[1])][side] = name
        else:
            _refuse("has tensors of a kind that is not read (LoHa, LoKr, DoRA and others are not)")
    if not pairs or any(len(pair) < 2 for pair in pairs.values()):  # noqa: PLR2004 - a pair
        _refuse("has a matrix without its other half, or none")
    return pairs, alphas


def _key(layer: str) -> str:
    """Return kohya's name for a layer, from any of the forms in which files name it."""
    if match := _DOTTED.fullmatch(layer):
        part = {"te1": "text_encoder", "te2": "text_encoder_2"}.get(match[1], match[1])
        name = match[2].replace(".processor", "").removesuffix(".lora").removesuffix("_lora")
        if part == "unet":
            name = re.sub(r"\.to_out$", ".to_out.0", name)
        else:
            before, dot, last = name.rpartition(".")
            name = before + dot + _OLD.get(last, last)
        layer = PREFIXES[part] + name.replace(".", "_")
    layer = re.sub(r"^lora_te_", "lora_te1_", layer)
    return re.sub(r"^(lora_te[12]_)text_model_", r"\1", layer).replace(".", "_")


def _alphas_of(metadata: Mapping[str, str]) -> Mapping[str, float]:
    """Return the alpha of each part, as newer versions of diffusers keep it in the metadata."""
    try:
        said = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        return {part: float(said[f"{part}.lora_alpha"]) for part in PREFIXES
                if f"{part}.lora_alpha" in said}  # fmt: skip
    except (TypeError, ValueError, RecursionError):
        _refuse("has unreadable metadata")


def _change(
    file: Any,
    key: str,
    pair: Mapping[str, str],
    alpha: str | None,
    said: Mapping[str, float],
    known: Mapping[str, Target],
) -> Change:
    target = known.get(key)
    if target is None:
        message = "changes a layer that this model does not have"
        raise UnusableError("baseline_mismatch", message)
    down, up = _tensor(file, pair["down"]), _tensor(file, pair["up"])
    rank, rows = len(down) if down.dim() else 0, target.shape[0]
    if not 0 < rank <= MAX_RANK:
        _refuse(f"has a rank that is not from 1 to {MAX_RANK}")
    if (
        up.numel() != rows * rank
        or len(up) != rows
        or down.numel() != rank * math.prod(target.shape[1:])
    ):
        message = "has a matrix that does not fit its layer of this model"
        raise UnusableError("baseline_mismatch", message)
    value = said.get(target.part, float(rank))
    if alpha is not None:
        one = _tensor(file, alpha)
        if one.numel() != 1:
            _refuse("has an alpha that is no number")
        value = float(one)
    if not math.isfinite(value):
        _refuse("has an alpha that is no number")
    return Change(target, down.reshape(rank, -1), up.reshape(rows, rank), value / rank)


def _tensor(file: Any, name: str) -> torch.Tensor:
    found: torch.Tensor = file.get_tensor(name)
    if not bool(torch.isfinite(found).all()):
        _refuse("has weights that are no finite numbers")
    return found


def _refuse(message: str) -> NoReturn:
    raise UnusableError("parse_failed", message)


class Merged:
    """A model's parts, and the LoRAs that are added to their weights now."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        """Take the parts by the names of `PREFIXES`; nothing is added yet."""
        self._layers = {
            (part, name): layer
            for part, module in parts.items()
            for name, layer in module.named_modules()
            if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
        }
        self._originals: dict[tuple[str, str], torch.Tensor] = {}
        self._changed: set[tuple[str, str]] = set()
        self._now: list[tuple[str, float, float]] | None = []

    @property
    def kept(self) -> int:
        """The bytes of the originals."""
        return sum(map(_bytes, self._originals.values()))

    def forget(self) -> None:
        """Let go of the originals; nothing must be added now."""
        self._originals.clear()

    @torch.no_grad()
    def use(self, loras: Sequence[LoraPart]) -> None:
        """Have the model draw with these LoRAs, and with no others.

        Raises torch.OutOfMemoryError; the next call then starts from the originals.
        """
        # Not the LoRAs themselves, whose memory others wait for.
        wanted = [(one.key, one.model, one.clip) for one in loras]
        if wanted == self._now:
            return
        self._now = None
        changes: dict[tuple[str, str], list[tuple[Change, float]]] = {}
        for lora in loras:
            for change in lora.weights.changes:
                strength = lora.model if change.target.part == "unet" else lora.clip
                if strength and change.factor:
                    where = change.target.part, change.target.name
                    changes.setdefault(where, []).append((change, strength * change.factor))
        for where in [*self._changed - changes.keys()]:
            self._layers[where].weight.copy_(self._originals[where])
            self._changed.discard(where)
        for where, added in changes.items():
            self._changed.add(where)
            self._add(where, added)
        self._now = wanted

    def _add(self, where: tuple[str, str], added: list[tuple[Change, float]]) -> None:
        weight = self._layers[where].weight
        original = self._originals.get(where)
        if original is None:
            # In the CPU's memory: a GPU's is for images.
            original = weight.detach().to("cpu", copy=True)
            self._originals[where] = original.pin_memory() if weight.is_cuda else original
        # In single precision, and rounded once.
        total = self._originals[where].to(weight.device, torch.float32)
        for change, factor in added:
            up, down = (one.to(weight.device, torch.float32) for one in (change.up, change.down))
            total = total + (up @ down).view(weight.shape) * factor
        weight.copy_(total)
