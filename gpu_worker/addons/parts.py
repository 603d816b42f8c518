"""The LoRAs and textual inversions of a job, found and read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraPart:
    """A LoRA and how strong it is. Two are equal if they change a model in the same way."""

    key: str
    """Names its file's content."""
    model: float
    """Strength in the UNet, -5 to 5."""
    clip: float
    """Strength in the text encoders, -5 to 5."""
    weights: Any = field(compare=False)
    """An `addons.lora.Weights`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionPart:
    """A textual inversion: what it stands for in each text encoder."""

    key: str
    """Names its file's content."""
    vectors: Any = field(compare=False)
    """An `addons.inversion.Vectors`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddOns:
    """What a job is drawn with beside the model."""

    loras: tuple[LoraPart, ...] = ()
    """In the order of their keys, so that equal sets are equal."""
    inversions: tuple[InversionPart, ...] = ()
    """The n-th stands in the prompt as `prompt.placeholder(n)`."""
    remarks: tuple[Mapping[str, str], ...] = ()
    """What its client is told of them in `gen_metadata`."""
