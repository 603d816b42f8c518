"""The reference's samplers written again: plain loops over a denoiser, as their papers have them.

Noise comes from the generator in the order in which the scheduler asks for it, so that results can
be compared at equal seeds.
"""

from __future__ import annotations

import math
from inspect import signature
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (1, 4, 8, 8)


def ancestral(sigma: float, after: float) -> tuple[float, float]:
    up = math.sqrt(after**2 * (1 - after**2 / sigma**2)) if after else 0.0
    return math.sqrt(after**2 - up**2), up


def euler_a(model: Any, x: Any, sigmas: list[float], noise: Callable[[], Any]) -> Any:
    for sigma, after in pairwise(sigmas):
        derivative = (x - model(x, sigma)) / sigma
        down, up = ancestral(sigma, after)
        x = x + derivative * (down - sigma)
        if after > 0:
            x = x + noise() * up
    return x


def dpmpp_2s_a(model: Any, x: Any, sigmas: list[float], noise: Callable[[], Any]) -> Any:
    for sigma, after in pairwise(sigmas):
        picture = model(x, sigma)
        down, up = ancestral(sigma, after)
        if after == 0:
            x = x + (x - picture) / sigma * (down - sigma)
            continue
        t, t_next = -math.log(sigma), -math.log(down)
        h = t_next - t
        s = t + h / 2
        x_2 = math.exp(-s) / math.exp(-t) * x - math.expm1(-h / 2) * picture
        picture_2 = model(x_2, math.exp(-s))
        x = math.exp(-t_next) / math.exp(-t) * x - math.expm1(-h) * picture_2
        x = x + noise() * up
    return x


def dpmpp_sde(model: Any, x: Any, sigmas: list[float], noise: Callable[[], Any]) -> Any:
    for sigma, after in pairwise(sigmas):
        picture = model(x, sigma)
        if after == 0:
            x = x + (x - picture) / sigma * (after - sigma)
            continue
        t, t_next = -math.log(sigma), -math.log(after)
        between = math.exp(-(t + (t_next - t) / 2))
        down, up = ancestral(sigma, between)
        half = noise() * math.sqrt(sigma - between)  # a Brownian path over sigma
        x_2 = down / sigma * x - math.expm1(t + math.log(down)) * picture
        x_2 = x_2 + half / math.sqrt(sigma - between) * up
        picture_2 = model(x_2, between)
        down, up = ancestral(sigma, after)
        whole = half + noise() * math.sqrt(between - after)
        x = down / sigma * x - math.expm1(t + math.log(down)) * picture_2
        x = x + whole / math.sqrt(sigma - after) * up
    return x


def euler(model: Any, x: Any, sigmas: list[float], _noise: Callable[[], Any]) -> Any:
    for sigma, after in pairwise(sigmas):
        x = x + (x - model(x, sigma)) / sigma * (after - sigma)
    return x


def heun(model: Any, x: Any, sigmas: list[float], _noise: Callable[[], Any]) -> Any:
    for sigma, after in pairwise(sigmas):
        slope = (x - model(x, sigma)) / sigma
        there = x + slope * (after - sigma)
        if after > 0:
            slope = (slope + (there - model(there, after)) / after) / 2
        x = x + slope * (after - sigma)
    return x


def dpm_2(model: Any, x: Any, sigmas: list[float], _noise: Callable[[], Any]) -> Any:
    for sigma, after in pairwise(sigmas):
        slope = (x - model(x, sigma)) / sigma
        if after > 0:
            between = math.sqrt(sigma * after)
            half = x + slope * (between - sigma)
            slope = (half - model(half, between)) / between
        x = x + slope * (after - sigma)
    return x


def dpm_2_a(model: Any, x: Any, sigmas: list[float], noise: Callable[[], Any]) -> Any:
    for sigma, after in pairwise(sigmas):
        slope = (x - model(x, sigma)) / sigma
        down, up = ancestral(sigma, after)
        if down > 0:
            between = math.sqrt(sigma * down)
            half = x + slope * (between - sigma)
            slope = (half - model(half, between)) / between
        x = x + slope * (down - sigma)
        if after > 0:
            x = x + noise() * up
    return x


def dpmpp_2m(model: Any, x: Any, sigmas: list[float], _noise: Callable[[], Any]) -> Any:
    before, last = None, 0.0
    for sigma, after in pairwise(sigmas):
        picture = model(x, sigma)
        seen = picture
        if after == 0:
            return picture
        h = math.log(sigma / after)
        if before is not None:
            r = last / h
            seen = (1 + 1 / (2 * r)) * picture - 1 / (2 * r) * before
        x = after / sigma * x - math.expm1(-h) * seen
        before, last = picture, h
    return x


def lms(model: Any, x: Any, sigmas: list[float], _noise: Callable[[], Any]) -> Any:
    """Adams and Bashforth's method of fourth order, for levels at any distance from each other."""
    import numpy as np

    slopes: list[Any] = []
    for number, (sigma, after) in enumerate(pairwise(sigmas)):
        slopes = [(x - model(x, sigma)) / sigma, *slopes][:4]
        known = sigmas[max(0, number - 3) : number + 1][::-1]
        for one, slope in zip(known, slopes, strict=True):
            line = np.poly1d([1.0])
            for other in known:
                if other != one:
                    line *= np.poly1d([1.0, -other]) / (one - other)
            area = line.integ()
            x = x + float(area(after) - area(sigma)) * slope
    return x


def plms(model: Any, x: Any, sigmas: list[float], _noise: Callable[[], Any]) -> Any:
    """Pseudo linear multi-step (Liu et al. 2022): the first step is the improved Euler's."""
    slopes: list[Any] = []
    for sigma, after in pairwise(sigmas):
        slopes = [(x - model(x, sigma)) / sigma, *slopes][:4]
        a, b, c, d = (slopes + [slopes[-1]] * 3)[:4]
        if len(slopes) == 1:
            there = x + (after - sigma) * a
            slope = (a + (there - model(there, after)) / after) / 2
        elif len(slopes) == 2:
            slope = (3 * a - b) / 2
        elif len(slopes) == 3:
            slope = (23 * a - 16 * b + 5 * c) / 12
        else:
            slope = (55 * a - 59 * b + 37 * c - 9 * d) / 24
        x = x + (after - sigma) * slope
    return x


def lcm(model: Any, x: Any, sigmas: list[float], noise: Callable[[], Any]) -> Any:
    """The sampler of latent consistency models: each step is to the picture, and back."""
    for sigma, after in pairwise(sigmas):
        x = model(x, sigma)
        if after > 0:
            x = x + after * noise()
    return x


def uni_pc(model: Any, x: Any, sigmas: list[float], *, order: int, bh2: bool) -> Any:
    """UniPC (Zhao et al. 2023), data prediction: each call corrects its step, then goes on."""
    known: list[tuple[float, Any]] = []
    sigmas = [*sigmas[:-1], sigmas[-1] or 0.001]
    begin, steps, used = x, len(sigmas) - 1, 0
    for number, (sigma, after) in enumerate(pairwise(sigmas)):
        picture = model(x, sigma)
        if number:
            x = _unified(begin, known, sigma, used, bh2=bh2, seen=picture)
        known.append((sigma, picture))
        used = min(order, number + 1, steps - number)
        begin, x = x, _unified(x, known, after, used, bh2=bh2)
    return x


def _unified(
    x: Any, known: list[tuple[float, Any]], after: float, order: int, *, bh2: bool, seen: Any = None
) -> Any:
    """One step, predicted (UniP) or, with the picture that is seen there, corrected (UniC)."""
    import numpy as np

    (sigma, picture) = known[-1]
    h = math.log(sigma / after)
    change = math.expm1(-h)
    scale = change if bh2 else -h
    ratios = [math.log(sigma / level) / h for level, _ in known[-order:-1][::-1]]
    slopes = [
        (one - picture) / ratio
        for (_, one), ratio in zip(known[-order:-1][::-1], ratios, strict=True)
    ]
    if seen is not None:
        ratios, slopes = [*ratios, 1.0], [*slopes, seen - picture]
    wanted, phi, factorial = [], change / -h - 1, 1
    for power in range(1, len(ratios) + 1):
        wanted.append(phi * factorial / scale)
        factorial *= power + 1
        phi = phi / -h - 1 / factorial
    if len(ratios) == 1:
        weights = [0.5]  # the paper's choice where one is left
    else:
        weights = list(np.linalg.solve(np.vander(ratios, increasing=True).T, wanted))
    x = after / sigma * x - change * picture
    for weight, slope in zip(weights, slopes, strict=True):
        x = x - scale * float(weight) * slope
    return x


def _dpm(model: Any, x: Any, sigma: float, after: float, ratios: list[float]) -> tuple[Any, Any]:
    """DPM-Solver (Lu et al. 2022) with these midpoints; returns the step, and that of two calls."""
    h = math.log(sigma / after)
    noise = (x - model(x, sigma)) / sigma
    end = x - after * math.expm1(h) * noise
    if not ratios:
        return end, end
    first = sigma * math.exp(-ratios[0] * h)
    there = x - first * math.expm1(ratios[0] * h) * noise
    more = (there - model(there, first)) / first - noise
    two = end - after / (2 * ratios[0]) * math.expm1(h) * more
    if len(ratios) == 1:
        return two, two
    second = sigma * math.exp(-ratios[1] * h)
    part = ratios[1] * h
    there = x - second * math.expm1(part) * noise
    there = there - second * ratios[1] / ratios[0] * (math.expm1(part) / part - 1) * more
    more = (there - model(there, second)) / second - noise
    return end - after / ratios[1] * (math.expm1(h) / h - 1) * more, two


def dpm_fast(model: Any, x: Any, sigmas: list[float], _noise: Callable[[], Any]) -> Any:
    """DPM-Solver-fast: steps of third order, equal in logarithms, and the last ones of less."""
    levels = [one for one in sigmas if one > 0]
    calls = len(sigmas) - 1
    groups = calls // 3 + 1
    rest = calls % 3
    orders = [3] * (groups - 1) + [rest] if rest else [3] * (groups - 2) + [2, 1]
    for number, order in enumerate(orders):
        sigma, after = (
            levels[0] * (levels[-1] / levels[0]) ** (place / groups)
            for place in (number, number + 1)
        )
        x, _ = _dpm(model, x, sigma, after, [[], [1 / 2], [1 / 3, 2 / 3]][order - 1])
    return x


def dpm_adaptive(model: Any, x: Any, sigmas: list[float], _noise: Callable[[], Any]) -> Any:
    """DPM-Solver-23: steps as long as the orders agree, for a tolerance of 5 % and 0.0078."""
    levels = [one for one in sigmas if one > 0]
    sigma, h, before = levels[0], 0.05, x
    while math.log(sigma / levels[-1]) > 1e-5:
        after = max(levels[-1], sigma * math.exp(-h))
        high, low = _dpm(model, x, sigma, after, [1 / 3, 2 / 3])
        bound = (0.05 * low.abs().maximum(before.abs())).clamp(min=0.0078)
        error = float(((low - high) / bound).square().mean().sqrt())
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / 3) - 1)
        if factor >= 0.81:
            x, before, sigma = high, low, after
        h *= factor
    return x


LOOPS = {
    "k_euler": euler,
    "k_heun": heun,
    "k_dpm_2": dpm_2,
    "k_dpm_2_a": dpm_2_a,
    "k_dpmpp_2m": dpmpp_2m,
    "k_euler_a": euler_a,
    "k_dpmpp_2s_a": dpmpp_2s_a,
    "k_dpmpp_sde": dpmpp_sde,
    "k_lms": lms,
    "dpmsolver": dpmpp_2m,
    "k_dpm_fast": dpm_fast,
    "k_dpm_adaptive": dpm_adaptive,
    "ddim": euler,
    "lcm": lcm,
    "uni_pc": lambda model, x, sigmas, _: uni_pc(model, x, sigmas, order=3, bh2=False),
    "uni_pc_bh2": lambda model, x, sigmas, _: uni_pc(model, x, sigmas, order=3, bh2=True),
    "plms": plms,
}
OWN_LEVELS = {"lcm", "plms"}
"""Those whose noise levels are their own, not those of `k_euler`."""
TO_THE_END = {"k_dpm_fast", "k_dpm_adaptive"}
"""Those that know the first level and the model's last one alone."""


def both(
    sampler: str, prediction: str, *, steps: int, karras: bool, begin: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int]:
    """Return what the scheduler makes of a made-up model, what the loop does, and the calls.

    `begin` is the step from which both go on.
    """
    import torch

    from gpu_worker.samplers import scheduler

    made = scheduler(
        sampler, {**SCHEDULE, "prediction_type": prediction, "steps_offset": 1}, karras=karras
    )
    made.begin = begin
    made.set_timesteps(steps)
    made.set_begin_index(begin)
    known = [math.sqrt((1 - one) / one) for one in made.alphas_cumprod.tolist()]
    is_own = sampler in OWN_LEVELS
    if is_own:
        levels = [known[int(one)] for one in dict.fromkeys(made.timesteps.tolist())]
        levels.append(math.sqrt(1 / float(made.final_alpha_cumprod) - 1))
    else:
        levels = getattr(made, "levels", [*made.sigmas[:-1].tolist(), 0.0])[begin:]
    if sampler in TO_THE_END:
        levels[-2] = known[0]
    # Some schedulers keep the power of picture and noise together at one.
    is_scaled = not hasattr(made, "levels")

    def scale(sigma: float) -> float:
        return math.sqrt(sigma**2 + 1) if is_scaled else 1.0

    calls: list[float] = []

    def picture(x: Any, sigma: float) -> Any:
        """A denoiser that is not linear, and knows the level."""
        calls.append(sigma)
        return torch.tanh(x / (1 + sigma)) * 0.7 + 0.1 * math.cos(sigma)

    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) * levels[0]
    x, generator = start / scale(levels[0]), torch.Generator().manual_seed(5)
    more = {"generator": generator} if "generator" in signature(made.step).parameters else {}
    for number, timestep in enumerate(made.timesteps):
        if number < begin or getattr(made, "finished", False):
            continue
        sigma = known[int(timestep)] if is_own else float(made.sigmas[number])
        noisy = made.scale_model_input(x, timestep) * math.sqrt(sigma**2 + 1)
        seen = picture(noisy, sigma)
        output = (
            (noisy - seen) / sigma
            if prediction == "epsilon"
            else (noisy / (sigma**2 + 1) - seen) * math.sqrt(sigma**2 + 1) / sigma
        )
        x = made.step(output, timestep, x, return_dict=False, **more)[0]
    generator, count = torch.Generator().manual_seed(5), len(calls)

    def noise() -> Any:
        return torch.randn(SHAPE, generator=generator)

    wanted = LOOPS[sampler](picture, start, levels, noise)
    if sampler != "plms":  # the loop makes its second call twice
        assert len(calls) == 2 * count
    # UniPC ends at a level of its own.
    x = x * scale(levels[-1] if is_own else float(made.sigmas[-1]))
    return x.numpy(), wanted.numpy(), count
