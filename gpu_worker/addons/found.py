"""A file that was found, and what is known of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

BASELINES = ("stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_xl", "flux_1")
"""The Horde's names of the families of models."""
CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file of safetensors on this machine."""

    path: Path
    key: str
    """Names its content: another content has another key."""
    triggers: tuple[str, ...] = ()
    """Words that its maker trained it with, the most important first."""
    baseline: str = ""
    """One of `BASELINES`, or empty if nobody says so; then its shapes decide."""


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
