"""The alphas of LoRAs that newer versions of diffusers keep in a file's metadata."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpu_worker.addons.asked import UnusableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpu_worker.addons.layers import Target

_LITERAL = re.compile(r"[\w.]+")


@dataclass(frozen=True, slots=True)
class Alphas:
    """What the metadata say."""

    _said: Mapping[str, Any]
    """peft's configuration of each part of the model: `unet.lora_alpha` and others."""
    _layers: Mapping[str, Any]
    """Alphas of layers of their own, by the part and the end of the layer's name."""

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Alphas:
        """Return those of a file; raises UnusableError if they cannot be read."""
        try:
            said = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise _unreadable()
        layers: dict[str, Any] = {}
        for key, patterns in said.items():
            part, _, field = key.rpartition(".")
            if field != "alpha_pattern" or patterns is None:
                continue
            # peft takes them for regular expressions; diffusers writes the names of layers.
            if not isinstance(patterns, dict) or not all(map(_LITERAL.fullmatch, patterns)):
                raise _unreadable()
            layers |= {f"{part} {_plain(name)}": alpha for name, alpha in patterns.items()}
        return cls(said, layers)

    def factor(self, target: Target, rank: int) -> float:
        """Return alpha by rank, or by the root of the rank, for a layer without its own alpha.

        Raises UnusableError. The root is that of rsLoRA (Kalajdzievski, 2023, arXiv:2312.03732).
        """
        alpha = self._said.get(f"{target.part}.lora_alpha")
        words = _plain(target.name).split(".")
        # Not each of the patterns, of which a file may have very many; the longest end counts.
        for start in range(len(words)):
            own = self._layers.get(f"{target.part} {'.'.join(words[start:])}")
            if own is not None:
                alpha = own
                break
        by = math.sqrt(rank) if self._said.get(f"{target.part}.use_rslora") else rank
        try:
            return 1.0 if alpha is None else float(alpha) / by
        except (TypeError, ValueError, OverflowError):
            raise _unreadable() from None


def _plain(name: str) -> str:
    return name.removeprefix("text_model.")


def _unreadable() -> UnusableError:
    return UnusableError("parse_failed", "has unreadable metadata")
