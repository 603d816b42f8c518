"""What the trainings share: the learning rate's course, checkpoints, progress lines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

WARM_UP = 50
LINES = 25
"""Steps between two progress lines."""


def rate(step: int, steps: int, *, cooldown: int) -> float:
    """Share of the learning rate: warm up, stay, and fall to nothing over the last `cooldown`.

    All steps before the cooldown are the same whatever `steps` is, so a training can be prolonged
    or ended early from a checkpoint.
    """
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / max(1, cooldown))


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    scratch = path.with_suffix(".part")
    torch.save(state, scratch)
    scratch.replace(path)


class Progress:
    """Prints where a training is and when it will end."""

    def __init__(self, name: str, done: int, steps: int) -> None:
        self._name, self._done, self._steps = name, done, steps
        self._start, self._cpu = time.monotonic(), time.process_time()
        self._mean = 0.0

    def step(self, step: int, loss: float) -> None:
        """Count one step."""
        self._mean = 0.95 * self._mean + 0.05 * loss if self._mean else loss
        if step % LINES and step != self._steps:
            return
        spent = time.monotonic() - self._start
        left = spent / (step - self._done) * (self._steps - step)
        print(
            f"{self._name} {step}/{self._steps} loss {self._mean:.4f} {spent:.0f} s, "
            f"{time.process_time() - self._cpu:.0f} CPU-s, {left:.0f} s left",
            flush=True,
        )
