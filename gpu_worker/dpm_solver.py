"""DPM-Solver (Lu et al. 2022, arXiv 2206.00927) as the Horde's reference worker draws with it.

A step has as many calls of the model as its order, and goes from one noise level to another; `h` is
its length, the logarithm of their ratio. Steps go down to the least level that the model was
trained with, and leave that noise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gpu_worker.kdiffusion import KScheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

THIRD = (1 / 3, 2 / 3)
MIDPOINTS: Mapping[int, tuple[float, ...]] = {1: (), 2: (1 / 2,), 3: THIRD}
"""Where the calls after the first one look, as parts of a step of an order (section 3.2)."""
RELATIVE, ABSOLUTE, FIRST, ACCEPTED = 0.05, 0.0078, 0.05, 0.81
"""Tolerances of `k_dpm_adaptive` for pictures from -1 to 1 (appendix C), the length of its first
step, and the factor of its length with which a step is taken; all as k-diffusion has them."""
MOST_CALLS = 120
"""Calls after which `k_dpm_adaptive` goes to the end: three times what the Horde prices."""


def moved(
    x: torch.Tensor,
    slopes: Sequence[torch.Tensor],
    parts: Sequence[float],
    h: float,
    *,
    part: float,
    level: float,
) -> torch.Tensor:
    """Return the sample a `part` of a step further than `x`, at `level`.

    `slopes` are the noises that the step's calls have seen so far, and `parts` where those after
    the first one look, or will.
    """
    slope, *others = slopes
    x = x - level * math.expm1(part * h) * slope
    if not others:
        return x
    if len(parts) > 1:
        bend = part / parts[len(others) - 1] * (math.expm1(part * h) / (part * h) - 1)
    else:
        bend = math.expm1(h) / (2 * parts[0])
    return x - level * bend * (others[-1] - slope)


class DpmSolver(KScheduler):
    """What both have in common.

    `begin` is the number of the step from which a picture is drawn on: what follows is laid out
    from its level.
    """

    order = 1
    begin = 0

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **more: Any) -> None:
        """Choose the levels of the calls, with those of the steps before `begin` as they are."""
        super().set_timesteps(num_inference_steps, device, **more)
        self._logs = self.logs()
        first = math.log(self.levels[self.begin])
        # A step of no length has no direction.
        self._least = math.exp(min(float(self._logs[0]), first - 0.001))
        self._slopes = list[torch.Tensor]()
        sigmas = [*self.levels[: self.begin], *self.calls(num_inference_steps - self.begin)]
        self.sigmas = torch.tensor([*sigmas, self._least], dtype=torch.float32)
        times = [self.time(one) for one in sigmas]
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)

    def calls(self, count: int) -> Sequence[float]:
        """Return the levels of the calls from `begin` on, for so many steps of one call."""
        raise NotImplementedError

    def time(self, sigma: float) -> float:
        """Return the time step of a level."""
        return float(self._sigma_to_t(np.array(sigma), self._logs))


class DpmFast(DpmSolver):
    """DPM-Solver-fast: steps of third order, equal in logarithms, and what is left of less.

    n steps are n calls, as the Horde counts.
    """

    def calls(self, count: int) -> Sequence[float]:
        """Return the levels of the calls."""
        orders = [3] * (count // 3 - 1) + [2, 1] if count % 3 == 0 else [3] * (count // 3)
        orders += [count % 3] if count % 3 else []
        ends = np.geomspace(self.levels[self.begin], self._least, len(orders) + 1).tolist()
        self._steps: list[tuple[Sequence[float], float, float]] = [((), 0.0, 0.0)] * self.begin
        sigmas = list[float]()
        for order, level, after in zip(orders, ends, ends[1:], strict=False):
            for part in (0.0, *MIDPOINTS[order]):
                sigmas.append(level * (after / level) ** part)
                self._steps.append((MIDPOINTS[order], level, after))
        return sigmas

    def only(self, x: Any, picture: Any, sigma: float, after: float, _noise: Any) -> Any:
        """Return the sample for the next call: within the step, or after it."""
        parts, level, end = self._steps[self.step_index]
        if not self._slopes:
            self._begun = x
        self._slopes.append((x - picture) / sigma)
        slopes, h = self._slopes, math.log(level / end)
        if len(slopes) <= len(parts):
            return moved(self._begun, slopes, parts, h, part=parts[len(slopes) - 1], level=after)
        self._slopes = []
        return moved(self._begun, slopes, parts, h, part=1.0, level=end)


class DpmAdaptive(DpmSolver):
    """DPM-Solver-23: steps of third order, as long as the second order agrees (appendix C).

    How many there are depends on the picture. So a batch has one image, and time steps are written
    as they are known: a view of them is what diffusers' pipelines go through, until `stop`.
    """

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **more: Any) -> None:
        """Choose the levels of the first step."""
        super().set_timesteps(num_inference_steps, device, **more)
        self.finished = False
        self._place, self._level, self._h = self.begin, self.levels[self.begin], FIRST
        self._before: torch.Tensor | None = None
        self._plan()

    def calls(self, _count: int) -> Sequence[float]:
        """Return as many as there can be; which levels they have is not known yet."""
        return [self._least] * MOST_CALLS

    def _plan(self) -> None:
        """Write the levels and time steps of the next step's calls."""
        left = len(self.timesteps) - self._place
        is_last = left < 2 * (1 + len(THIRD))
        self._end = self._least if is_last else max(self._least, self._level * math.exp(-self._h))
        for part in (0.0, *THIRD):
            sigma = self._level * (self._end / self._level) ** part
            self.sigmas[self._place] = sigma
            self.timesteps[self._place] = self.time(sigma)
            self._place += 1

    def only(self, x: Any, picture: Any, sigma: float, after: float, _noise: Any) -> Any:
        """Return the sample for the next call: within the step, after it, or where it began."""
        if not self._slopes:
            self._begun = x
        self._slopes.append((x - picture) / sigma)
        slopes, h = self._slopes, math.log(self._level / self._end)
        if len(slopes) <= len(THIRD):
            return moved(self._begun, slopes, THIRD, h, part=THIRD[len(slopes) - 1], level=after)
        self._slopes = []
        high = moved(self._begun, slopes, THIRD, h, part=1.0, level=self._end)
        low = moved(self._begun, slopes[:2], THIRD[:1], h, part=1.0, level=self._end)
        before = self._begun if self._before is None else self._before
        bound = (RELATIVE * torch.maximum(low.abs(), before.abs())).clamp(min=ABSOLUTE)
        error = float(((low - high) / bound).square().mean().sqrt())
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / 3) - 1)
        self._h *= factor
        is_taken = factor >= ACCEPTED or self._place == len(self.timesteps)
        if is_taken:
            self._before, self._level = low, self._end
            self.finished = self._end <= self._least
        if not self.finished:
            self._plan()
        return high if is_taken else self._begun


def stop(pipeline: Any, _number: int, _timestep: Any, _given: Any) -> dict[str, Any]:
    """End a pipeline of diffusers (`callback_on_step_end`) when its picture is finished."""
    pipeline._interrupt = pipeline.scheduler.finished  # noqa: SLF001 - `interrupt` only reads it
    return {}
