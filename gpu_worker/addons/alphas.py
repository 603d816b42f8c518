"""The alphas of LoRAs that newer versions of diffusers keep in a file's metadata."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gpu_worker.addons.asked import UnusableError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gpu_worker.addons.layers import Target

_LITERAL = re.compile(r"[\w.]+")


@dataclass(frozen=True, slots=True)
class Alphas:
    """What the metadata say: peft's configuration of each part of the model."""

    _said: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Alphas:
        """Return those of a file; raises UnusableError if they cannot be read."""
        try:
            said = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            raise _unreadable()
        return cls(said)

    def factor(self, target: Target, rank: int) -> float:
        """Return alpha by rank, or by the root of the rank, for a layer without its own alpha.

        Raises UnusableError. The root is that of rsLoRA (Kalajdzievski, 2023, arXiv:2312.03732).
        """
        alpha = self._said.get(f"{target.part}.lora_alpha")
        patterns = self._said.get(f"{target.part}.alpha_pattern") or {}
        if not isinstance(patterns, dict):
            raise _unreadable()
        name = f".{_plain(target.name)}"
        for pattern, value in patterns.items():
            # peft takes them for regular expressions; diffusers writes the names of layers.
            if not _LITERAL.fullmatch(pattern):
                raise _unreadable()
            if name.endswith(f".{_plain(pattern)}"):
                alpha = value
        by = math.sqrt(rank) if self._said.get(f"{target.part}.use_rslora") else rank
        try:
            return 1.0 if alpha is None else float(alpha) / by
        except (TypeError, ValueError):
            raise _unreadable() from None


def _plain(name: str) -> str:
    return name.removeprefix("text_model.")


def _unreadable() -> UnusableError:
    return UnusableError("parse_failed", "has unreadable metadata")
