"""What a job asks for: the `loras` and `tis` of the Horde's payload, and how they fail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from gpu_worker.horde_client import BadJobError

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["lora", "ti"]
Fault = Literal["download_failed", "parse_failed", "baseline_mismatch"]

MAX_LORAS = 5
MAX_INVERSIONS = 20
MAX_STRENGTH = 5.0
MAX_NAME = 255
"""Characters of a name (horde-api.md 1.1)."""


class AddOnError(BadJobError):
    """A LoRA or textual inversion cannot be had; the message is safe to log, and has no name."""

    def __init__(self, kind: Kind, fault: Fault, name: str, message: str) -> None:
        """Say which one failed, and how, in the Horde's words for `gen_metadata`."""
        what = "LoRA" if kind == "lora" else "textual inversion"
        super().__init__(f"a {what} {message}")
        self.remark = {"type": kind, "value": fault, "ref": name[:MAX_NAME]}


class UnusableError(ValueError):
    """A file or an answer is not what it should be; the message is safe to log."""

    def __init__(self, fault: Fault, message: str) -> None:
        """Keep the Horde's word for it."""
        super().__init__(message)
        self.fault: Fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One of a job's `loras`."""

    name: str
    """The name of its file, or CivitAI's number of it or of its version."""
    model: float
    clip: float
    trigger: str | None
    is_version: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """One of a job's `tis`."""

    name: str
    inject: Literal["prompt", "negprompt"] | None
    """Where it is put by itself; None if the prompt names it as `embedding:name`."""
    strength: float


def loras(payload: Mapping[str, Any]) -> list[Lora]:
    """Return the LoRAs that a payload asks for; raises BadJobError if it is malformed."""
    return [
        Lora(
            name=_name(one),
            model=_strength(one, "model"),
            clip=_strength(one, "clip"),
            trigger=str(one["inject_trigger"])[:MAX_NAME] if one.get("inject_trigger") else None,
            is_version=bool(one.get("is_version")),
        )
        for one in _list(payload, "loras", MAX_LORAS)
    ]


def inversions(payload: Mapping[str, Any]) -> list[Inversion]:
    """Return the textual inversions that a payload asks for; raises BadJobError likewise."""
    found = []
    for one in _list(payload, "tis", MAX_INVERSIONS):
        where = one.get("inject_ti")
        if where not in (None, "prompt", "negprompt"):
            _refuse("tis")
        found.append(Inversion(name=_name(one), inject=where, strength=_strength(one, "strength")))
    return found


def _list(payload: Mapping[str, Any], field: str, most: int) -> list[Mapping[str, Any]]:
    found = payload.get(field) or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        _refuse(field)
    if len(found) > most:
        message = f"more than {most} {field} are not supported"
        raise BadJobError(message)
    return found


def _name(one: Mapping[str, Any]) -> str:
    name = one.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
        _refuse("name")
    return str(name)


def _strength(one: Mapping[str, Any], field: str) -> float:
    value = one.get(field)
    if value is None:
        return 1.0
    if not isinstance(value, int | float) or not math.isfinite(value):
        _refuse(field)
    return max(-MAX_STRENGTH, min(MAX_STRENGTH, float(value)))


def _refuse(field: str) -> NoReturn:
    message = f"the payload is unreadable ({field})"
    raise BadJobError(message)
