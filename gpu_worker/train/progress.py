"""Learning-rate schedule, checkpoints and progress lines of all trainings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

WARM_UP_STEPS = 50
LOG_EVERY = 25
"""Steps between two progress lines."""


def rate_factor(step: int, steps: int, *, cooldown: int) -> float:
    """Return the factor of the learning rate: warm-up, constant, then linear decay to 0.

    The decay takes the last `cooldown` steps. The steps before it do not depend on `steps`, so a
    training can be prolonged or shortened from a checkpoint.
    """
    return min(1.0, (step + 1) / WARM_UP_STEPS, (steps - step) / max(1, cooldown))


def save(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint atomically."""
    scratch = path.with_suffix(".part")
    torch.save(state, scratch)
    scratch.replace(path)


class Progress:
    """Prints the progress of a training, its loss and the time left."""

    def __init__(self, name: str, done: int, steps: int) -> None:
        self._name, self._done, self._steps = name, done, steps
        self._start, self._cpu = time.monotonic(), time.process_time()
        self._mean = 0.0

    def step(self, step: int, loss: float) -> None:
        """Record one step, and print a line every `LOG_EVERY` steps."""
        self._mean = 0.95 * self._mean + 0.05 * loss if self._mean else loss
        if step % LOG_EVERY and step != self._steps:
            return
        spent = time.monotonic() - self._start
        left = spent / (step - self._done) * (self._steps - step)
        print(
            f"{self._name} {step}/{self._steps} loss {self._mean:.4f} {spent:.0f} s, "
            f"{time.process_time() - self._cpu:.0f} CPU-s, {left:.0f} s left",
            flush=True,
        )
