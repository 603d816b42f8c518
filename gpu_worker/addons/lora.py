"""LoRAs as weights: read from a file, and added to the layers of a model.

They are added to the model's own weights, as ComfyUI does, so that a step takes no longer and
compiled code stays valid. The originals are kept, and put back bit for bit. `forms` has the maths.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from gpu_worker.addons import flux_layers, layers, tensors
from gpu_worker.addons.alphas import Alphas
from gpu_worker.addons.asked import UnusableError
from gpu_worker.addons.forms import Change, Matrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from gpu_worker.addons.layers import Place, Rows
    from gpu_worker.addons.parts import LoraPart

MAX_RANK = 1024
_ENDS = re.compile(
    r"(.+?)[._](?:lora\.|lora_linear_layer\.|lora_)(down|up|mid|A|B)(?:\.default)?\.weight"
)
_OTHERS = re.compile(
    r"(.+)\.(?:(alpha)|(hada_w[12]_[ab]|hada_t[12]|lokr_w[12](?:_[ab])?|lokr_t2)"
    r"|(dora_scale|lora_magnitude_vector(?:\.default)?(?:\.weight)?))"
)
_ROLES = {"A": "down", "B": "up"}
_SCALE, _BY_ROW = "dora_scale", "lora_magnitude_vector"
"""DoRA's lengths as LyCORIS names them, and as peft does, where they are always those of rows."""
_BESIDE = frozenset({"alpha", _SCALE, _BY_ROW})
"""What a layer may have beside its matrices."""
_LORA = frozenset({"down", "up"})
_LOHA = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})

Names = dict[str, dict[str, str]]
"""The names of a file's tensors, by kohya's names of the layers and by what they are there."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Weights:
    """A LoRA that fits the model."""

    changes: tuple[tuple[Place, Change], ...]
    size: int
    """Bytes that it takes in memory."""

    @property
    def parts(self) -> frozenset[str]:
        """The parts of the model that it changes."""
        return frozenset(place[0].target.part for place, _ in self.changes)


def read(path: Path, known: Mapping[str, Place]) -> Weights:
    """Return a file's LoRA; raises UnusableError unless every tensor of it fits the model."""
    header = tensors.read(path)
    names = _sorted(header.shapes)
    alphas = Alphas.of(header.metadata)
    _check_layers([*names], known)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            reader = _Reader(file, alphas)
            changes = [(known[key], reader.change(known[key], names[key])) for key in names]
    except (OSError, SafetensorError):
        _refuse("cannot be read")
    size = sum(_bytes(one) for _, change in changes for one in change.tensors)
    return Weights(tuple(changes), size)


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _sorted(names: Iterable[str]) -> Names:
    """Return the names of a file's tensors by layer; each has its place, or the file is refused."""
    found: Names = {}
    for name in names:
        if match := flux_layers.XLABS.fullmatch(name):
            layer, role = match[1] + match[2], match[3]
        elif match := _ENDS.fullmatch(name):
            layer, role = match[1], _ROLES.get(match[2], match[2])
        elif match := _OTHERS.fullmatch(name):
            layer, role = match[1], match[2] or match[3] or match[4].partition(".")[0]
        else:
            _refuse(
                "has tensors of a kind that is not read (LoRA, LoHa, LoKr and DoRA are; trained "
                "biases, norms and embeddings, IA3, GLoRA, OFT and others are not)"
            )
        roles = found.setdefault(layers.key(layer), {})
        if role in roles:
            _refuse("names a layer twice")
        roles[role] = name
    return found


def _check_layers(keys: Sequence[str], known: Mapping[str, Place]) -> None:
    """Refuse layers that the model does not have, and rows of a layer that are changed twice."""
    if any(key not in known for key in keys):
        message = "changes a layer that this model does not have" + layers.foreign(keys, known)
        raise UnusableError("baseline_mismatch", message)
    changed = [(rows.target, rows.at) for key in keys for rows in known[key]]
    if len(set(changed)) < len(changed):
        _refuse("names a layer twice")


class _Reader:
    """Makes the changes of a file from its tensors. Raises UnusableError."""

    def __init__(self, file: Any, alphas: Alphas) -> None:
        self._file, self._alphas = file, alphas

    def change(self, place: Place, names: Mapping[str, str]) -> Change:
        """Return what a layer's tensors do to its weight; no product is made for that."""
        roles = frozenset(names) - _BESIDE
        if roles in (_LORA, _LORA | {"mid"}):
            change = Change(1.0, self._product(names, "up", "down", "mid"))
        elif roles in (_LOHA, _LOHA | {"hada_t1", "hada_t2"}):
            first, second = (
                self._product(names, f"hada_w{n}_a", f"hada_w{n}_b", f"hada_t{n}") for n in (1, 2)
            )
            change = Change(1.0, first, second, "loha")
            if first.shape != second.shape:
                _misfit()
        elif roles and all(role.startswith("lokr") for role in roles):
            change = Change(1.0, self._half(names, 1), self._half(names, 2), "lokr")
        else:
            _refuse("has a matrix without its other half, or none")
        shape = layers.shape(place)
        if change.shape != (shape[0], math.prod(shape[1:])):
            _misfit()
        # As in ComfyUI: of LoKr's ranks the second one's counts; without any, alpha is not used.
        rank = (change.second and change.second.rank) or change.first.rank
        factor = self._factor(place, names, rank) if rank else 1.0
        magnitude, by_input = self._magnitude(place, names)
        return replace(change, factor=factor, magnitude=magnitude, by_input=by_input)

    def _half(self, names: Mapping[str, str], number: int) -> Matrix:
        """Return one of LoKr's two matrices."""
        whole, core = f"lokr_w{number}", f"lokr_t{number}"
        mine = {role for role in names if role.startswith((whole, core))}
        if mine == {whole}:
            found = self._tensor(names[whole])
            if found.dim() < 2:  # noqa: PLR2004 - a matrix
                _misfit()
            return Matrix(found.flatten(1))
        if mine - {core} != {f"{whole}_a", f"{whole}_b"}:
            _refuse("has a matrix without its other half, or none")
        return self._product(names, f"{whole}_a", f"{whole}_b", core)

    def _product(self, names: Mapping[str, str], up: str, down: str, core: str) -> Matrix:
        """Return a matrix as its factors; raises UnusableError unless they can be multiplied."""
        factors = [self._tensor(names[name]) for name in (up, down)]
        if any(one.dim() < 2 for one in factors):  # noqa: PLR2004 - a matrix
            _misfit()
        left, right = (one.flatten(1) for one in factors)
        middle = self._tensor(names[core]) if core in names else None
        if middle is not None and core != "mid":
            left = left.T  # LyCORIS has it so beside a core
        ranks = left.shape[1], len(right)
        if not 0 < min(ranks) <= max(ranks) <= MAX_RANK:
            _refuse(f"has a rank that is not from 1 to {MAX_RANK}")
        if middle is None:
            if ranks[0] != ranks[1]:
                _misfit()
            return Matrix(left, right)
        if middle.dim() < 3 or middle.shape[:2] != ranks:  # noqa: PLR2004 - two, and a kernel
            _misfit()
        return Matrix(left, right, middle.flatten(2))

    def _factor(self, place: Place, names: Mapping[str, str], rank: int) -> float:
        """Return alpha by rank: the layer's own alpha, or that of the metadata, or the rank."""
        if "alpha" in names:
            alpha = self._tensor(names["alpha"])
            if alpha.numel() != 1:
                _refuse("has an alpha that is no number")
            found = float(alpha) / rank
        else:
            found = self._alphas.factor(place[0].target, rank)
        if not math.isfinite(found):
            _refuse("has an alpha that is no number")
        return found

    def _magnitude(
        self, place: Place, names: Mapping[str, str]
    ) -> tuple[torch.Tensor | None, bool]:
        """Return DoRA's lengths if there are any, and whether they are by input channel."""
        name = names.get(_SCALE) or names.get(_BY_ROW)
        if name is None:
            return None, False
        if _SCALE in names and _BY_ROW in names:
            _refuse("names a layer twice")
        found, (rows, channels, *_) = self._tensor(name), layers.shape(place)
        # A square layer has as many of both, so the side counts on which they are.
        if found.numel() == rows and (_BY_ROW in names or (found.dim() and len(found) == rows)):
            return found.flatten(), False
        if _BY_ROW in names or found.dim() < 2 or found.numel() != channels:  # noqa: PLR2004
            _misfit()
        if found.shape[1] != channels:
            _misfit()
        if len(place) > 1:
            _refuse("is a DoRA by input channel of layers that this model has apart")
        return found.flatten(), True

    def _tensor(self, name: str) -> torch.Tensor:
        found: torch.Tensor = self._file.get_tensor(name)
        if not bool(torch.isfinite(found).all()):
            _refuse("has weights that are no finite numbers")
        return found


def _misfit() -> NoReturn:
    message = "has a matrix that does not fit its layer of this model"
    raise UnusableError("baseline_mismatch", message)


def _refuse(message: str) -> NoReturn:
    raise UnusableError("parse_failed", message)


class Merged:
    """A model's parts, and the LoRAs that are added to their weights now."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        """Take the parts by the names of `layers.PARTS`; nothing is added yet."""
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
        changes: dict[tuple[str, str], list[tuple[Rows, Change, float]]] = {}
        for lora in loras:
            for place, change in lora.weights.changes:
                strength = lora.model if place[0].target.part in layers.NETWORKS else lora.clip
                if strength and (change.factor or change.magnitude is not None):
                    for rows in place:
                        where = rows.target.part, rows.target.name
                        changes.setdefault(where, []).append((rows, change, strength))
        for where in [*self._changed - changes.keys()]:
            self._layers[where].weight.copy_(self._originals[where])
            self._changed.discard(where)
        for where, added in changes.items():
            self._changed.add(where)
            self._add(where, added)
        self._now = wanted

    def _add(self, where: tuple[str, str], added: list[tuple[Rows, Change, float]]) -> None:
        weight = self._layers[where].weight
        original = self._originals.get(where)
        if original is None:
            # In the CPU's memory: a GPU's is for images.
            original = weight.detach().to("cpu", copy=True)
            self._originals[where] = original.pin_memory() if weight.is_cuda else original
        # In single precision, and rounded once. Each starts from the original, so their order is
        # none, with DoRA too.
        before = self._originals[where].to(weight.device, torch.float32).flatten(1)
        total = before.clone()
        for rows, change, strength in added:
            mine = slice(rows.at, rows.at + rows.count)
            total[mine] += change.added(before[mine], rows.first, strength)
        weight.copy_(total.view_as(weight))
