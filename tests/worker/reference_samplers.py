"""The reference's samplers written again: plain loops over a denoiser, as their papers have them.

Noise comes from the generator in the order in which the scheduler asks for it, so that results can
be compared at equal seeds.
"""

from __future__ import annotations

import math
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


LOOPS = {
    "k_euler": euler,
    "k_heun": heun,
    "k_dpm_2": dpm_2,
    "k_dpm_2_a": dpm_2_a,
    "k_dpmpp_2m": dpmpp_2m,
    "k_euler_a": euler_a,
    "k_dpmpp_2s_a": dpmpp_2s_a,
    "k_dpmpp_sde": dpmpp_sde,
}


def both(
    sampler: str, prediction: str, *, steps: int, karras: bool
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], int]:
    """Return what the scheduler makes of a made-up model, what the loop does, and the calls."""
    import torch

    from gpu_worker.samplers import scheduler

    made = scheduler(
        sampler, {**SCHEDULE, "prediction_type": prediction, "steps_offset": 1}, karras=karras
    )
    made.set_timesteps(steps)
    calls = 0

    def picture(x: Any, sigma: float) -> Any:
        """A denoiser that is not linear, and knows the level."""
        return torch.tanh(x / (1 + sigma)) * 0.7 + 0.1 * math.cos(sigma)

    start = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) * made.init_noise_sigma
    x, generator = start, torch.Generator().manual_seed(5)
    for number, timestep in enumerate(made.timesteps):
        sigma = float(made.sigmas[number])
        calls += 1
        scaled = made.scale_model_input(x, timestep)
        seen = picture(scaled * math.sqrt(sigma**2 + 1), sigma)
        output = (
            (x - seen) / sigma
            if prediction == "epsilon"
            else (x / (sigma**2 + 1) - seen) * math.sqrt(sigma**2 + 1) / sigma
        )
        x = made.step(output, timestep, x, generator=generator, return_dict=False)[0]
    generator = torch.Generator().manual_seed(5)

    def noise() -> Any:
        return torch.randn(SHAPE, generator=generator)

    wanted = LOOPS[sampler](picture, start, made.levels, noise)
    return x.numpy(), wanted.numpy(), calls
