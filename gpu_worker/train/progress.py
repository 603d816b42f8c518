"""What all trainings have in common: steps, learning rate, checkpoints, progress lines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

WARM_UP_STEPS = 50
LOG_EVERY = 25
"""Steps between two progress lines."""
SAVE_EVERY_S = 60
EMA_DECAY = 0.995
"""Decay of the exponential moving average of the weights."""


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


class Training:
    """The steps of one training: AdamW, clipped gradients, checkpoints, progress lines.

    for step in training.steps():
        training.learn(loss_of(step))
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[Any, float],
        steps: int,
        *,
        rate: float,
        cooldown: int,
        decay: float = 1e-2,
        checkpoint: Path | None = None,
        averaging: bool = False,
    ) -> None:
        """Go on from the checkpoint if there is one.

        `parts` are the modules that learn, and the share of the learning rate that each has. With
        `averaging` they end with a moving average of their weights.
        """
        self._parts = torch.nn.ModuleList(parts)
        self._parameters = [*self._parts.parameters()]
        self._shares = [*parts.values()]
        self._steps, self._rate, self._cooldown = steps, rate, cooldown
        self._optimizer = torch.optim.AdamW(
            [{"params": [*part.parameters()]} for part in parts],
            rate,
            betas=(0.9, 0.99),
            weight_decay=decay,
            fused=True,
        )
        self._checkpoint = checkpoint
        self._average = [one.detach().clone() for one in self._parameters] if averaging else []
        self._step = self.done = 0
        """Steps that an earlier run made."""
        if checkpoint and checkpoint.exists():
            state = torch.load(checkpoint)
            self._parts.load_state_dict(state["parts"])
            self._optimizer.load_state_dict(state["optimizer"])
            self._average, self.done = state["average"], state["step"]
        self._progress = Progress(name, self.done, steps)
        self._saved = time.monotonic()

    def steps(self) -> Iterator[int]:
        """Yield the number of each step that is left, with its learning rate set."""
        for step in range(self.done, self._steps):
            self._step = step
            rate = self._rate * rate_factor(step, self._steps, cooldown=self._cooldown)
            for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
                group["lr"] = rate * share
            yield step

    def learn(self, loss: Any) -> None:
        """Change the weights by the gradients of a loss."""
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        step = self._step + 1
        if self._average:
            decay = min(EMA_DECAY, step / (9 + step))
            weights = [one.detach() for one in self._parameters]
            torch._foreach_lerp_(self._average, weights, 1 - decay)
        self._progress.step(step, loss.item())
        late = time.monotonic() - self._saved > SAVE_EVERY_S
        if self._checkpoint and (late or step == self._steps):
            self._saved = time.monotonic()
            state = {
                "parts": self._parts.state_dict(), "average": self._average,
                "optimizer": self._optimizer.state_dict(), "step": step,
            }  # fmt: skip
            save(state, self._checkpoint)

    @torch.no_grad()
    def finish(self) -> None:
        """Replace the weights by their moving average, and end the training."""
        for weight, mean in zip(self._parameters, self._average, strict=True):
            weight.copy_(mean)
        self._parts.eval()
