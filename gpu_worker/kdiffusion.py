"""Samplers that diffusers lacks, or has only in part, as schedulers of diffusers.

The maths is that of Karras et al. (2022, arXiv 2206.00364) and of DPM-Solver++ (Lu et al. 2022,
arXiv 2211.01095), in the ancestral and SDE forms that k-diffusion made usual, and that the Horde's
reference worker draws with: `t` is minus the logarithm of the noise level sigma. Two-call samplers
evaluate the model at a midpoint too, but for the last step, whose noise is zero: 2n - 1 calls for n
steps. UniPC (Zhao et al. 2023, arXiv 2302.04867) has the levels of the others here. All noise comes
from each image's own generator. DPM-Solver is in `dpm_solver`.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch

diffusers: Any = import_module("diffusers")
randn_tensor: Any = import_module("diffusers.utils.torch_utils").randn_tensor

Base: Any = diffusers.EulerDiscreteScheduler
UniPcBase: Any = diffusers.UniPCMultistepScheduler
CPU = torch.device("cpu")
LAST = 0.001
"""The level at which UniPC ends, as the reference's does: its steps are logarithms of levels."""


def ancestral_step(sigma: float, after: float) -> tuple[float, float]:
    """Return the level to which a step goes down, and that of the noise which it then adds."""
    up = min(after, math.sqrt(after**2 * (sigma**2 - after**2) / sigma**2))
    return math.sqrt(after**2 - up**2), up


class KScheduler(Base):  # type: ignore[misc]
    """What these samplers have in common: levels, also Karras's, and the model's prediction."""

    sigmas: torch.Tensor
    timesteps: torch.Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **more: Any) -> None:
        """Choose the levels of the steps, with a midpoint in each but the last if `order` is 2."""
        super().set_timesteps(num_inference_steps, device, **more)
        self.levels = [float(one) for one in self.sigmas]
        self._kept: torch.Tensor | None = None
        if self.order == 1:
            return
        logs = self.logs()
        sigmas, timesteps = list[float](), list[float]()
        for number, level in enumerate(self.levels[:-1]):
            sigmas.append(level)
            timesteps.append(float(self.timesteps[number]))
            if self.levels[number + 1] > 0:
                between = self.midpoint(level, self.levels[number + 1])
                sigmas.append(between)
                timesteps.append(float(self._sigma_to_t(np.array(between), logs)))
        self.sigmas = torch.tensor([*sigmas, 0.0], dtype=torch.float32)
        self.timesteps = torch.tensor(timesteps, dtype=torch.float32, device=device)

    def logs(self) -> Any:
        """Return the logarithms of the levels that the model was trained with, smallest first."""
        return np.log(((1 - self.alphas_cumprod) / self.alphas_cumprod).numpy() ** 0.5)

    def midpoint(self, sigma: float, after: float) -> float:
        """Return the level of the second call of a step."""
        raise NotImplementedError

    def denoised(self, output: torch.Tensor, sample: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return the picture that the model sees in a sample, by what it was trained to predict."""
        if self.config.prediction_type == "epsilon":
            return sample - sigma * output
        if self.config.prediction_type == "v_prediction":
            scale = sigma**2 + 1
            return sample / scale - output * (sigma / math.sqrt(scale))
        return output

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Go on by one call of the model; returns the next sample, and the picture it sees.

        Always as a tuple: diffusers' pipelines ask for nothing else (`return_dict=False`).
        """
        if self.step_index is None:
            self._init_step_index(timestep)
        x, out = sample.float(), model_output.float()
        sigma = float(self.sigmas[self.step_index])
        picture = self.denoised(out, x, sigma)

        def noise() -> torch.Tensor:
            if not x.is_cuda:
                drawn: torch.Tensor = randn_tensor(
                    x.shape, generator=generator, device=x.device, dtype=x.dtype
                )
                return drawn
            # From pinned memory, since any other copy waits for all that the GPU has to do.
            host = randn_tensor(x.shape, generator=generator, device=CPU, dtype=x.dtype)
            return cast("torch.Tensor", host.pin_memory().to(x.device, non_blocking=True))

        following = float(self.sigmas[self.step_index + 1])
        if self._kept is None and following == 0:
            x = picture
        elif self.order == 1:
            x = self.only(x, picture, sigma, following, noise)
        elif self._kept is None:
            level = float(self.sigmas[self.step_index + 2])
            self._kept, x = x, self.first(x, picture, sigma, level, noise)
        else:
            before, self._kept = self._kept, None
            level = float(self.sigmas[self.step_index - 1])
            x = self.second(before, picture, level, following, noise)
        self._step_index += 1
        return x.to(model_output.dtype), picture

    def only(self, x: Any, picture: Any, sigma: float, after: float, noise: Any) -> Any:
        """Return the sample after a step of one call."""
        raise NotImplementedError

    def first(self, x: Any, picture: Any, sigma: float, after: float, noise: Any) -> Any:
        """Return the sample at the midpoint of a step."""
        raise NotImplementedError

    def second(self, x: Any, picture: Any, sigma: float, after: float, noise: Any) -> Any:
        """Return the sample after a step that began at `x`, by the picture of its second call.

        With the midpoint in the middle the picture of the first call no longer counts.
        """
        raise NotImplementedError


class EulerAncestral(KScheduler):
    """Euler's method with fresh noise at each step, and with Karras's levels where asked for."""

    order = 1

    def only(self, x: Any, picture: Any, sigma: float, after: float, noise: Any) -> Any:
        """Return the sample after a step of one call."""
        down, up = ancestral_step(sigma, after)
        x = x + (x - picture) / sigma * (down - sigma)
        return x + noise() * up


class Dpmpp2m(KScheduler):
    """DPM-Solver++ of second order, multi-step; that of diffusers rounds Karras's levels."""

    order = 1

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **more: Any) -> None:
        """Choose the levels of the steps, and forget the step before."""
        super().set_timesteps(num_inference_steps, device, **more)
        self._before: tuple[torch.Tensor, float] | None = None

    def only(self, x: Any, picture: Any, sigma: float, after: float, _noise: Any) -> Any:
        """Return the sample after a step, by this picture and that of the step before."""
        length = math.log(sigma / after)
        seen = picture
        if self._before is not None:
            last, before = self._before
            share = length / (2 * before)
            seen = (1 + share) * picture - share * last
        self._before = picture, length
        ratio = after / sigma
        return ratio * x + (1 - ratio) * seen


class Dpmpp2sAncestral(KScheduler):
    """DPM-Solver++ of second order, single-step, with fresh noise at each step."""

    order = 2

    def midpoint(self, sigma: float, after: float) -> float:
        """Return the level halfway, in logarithms, to where the step goes down."""
        return math.sqrt(sigma * max(ancestral_step(sigma, after)[0], 1e-10))

    def first(self, x: Any, picture: Any, sigma: float, after: float, _noise: Any) -> Any:
        """Return the sample at the midpoint of a step."""
        ratio = self.midpoint(sigma, after) / sigma
        return ratio * x + (1 - ratio) * picture

    def second(self, x: Any, picture: Any, sigma: float, after: float, noise: Any) -> Any:
        """Return the sample after a step."""
        down, up = ancestral_step(sigma, after)
        ratio = down / sigma
        return ratio * x + (1 - ratio) * picture + noise() * up


class DpmppSde(KScheduler):
    """DPM-Solver++ (stochastic): both calls add noise of one Brownian path."""

    order = 2

    def midpoint(self, sigma: float, after: float) -> float:
        """Return the level halfway in logarithms."""
        return math.sqrt(sigma * after)

    def first(self, x: Any, picture: Any, sigma: float, after: float, noise: Any) -> Any:
        """Return the sample at the midpoint of a step."""
        between = self.midpoint(sigma, after)
        down, up = ancestral_step(sigma, between)
        self._walked = noise() * math.sqrt(sigma - between)
        ratio = down / sigma
        return ratio * x + (1 - ratio) * picture + self._walked / math.sqrt(sigma - between) * up

    def second(self, x: Any, picture: Any, sigma: float, after: float, noise: Any) -> Any:
        """Return the sample after a step."""
        between = self.midpoint(sigma, after)
        down, up = ancestral_step(sigma, after)
        walked = self._walked + noise() * math.sqrt(between - after)
        ratio = down / sigma
        return ratio * x + (1 - ratio) * picture + walked / math.sqrt(sigma - after) * up


class UniPc(UniPcBase):  # type: ignore[misc]
    """UniPC of third order over the levels of the other samplers; that of diffusers rounds them."""

    sigmas: torch.Tensor
    timesteps: torch.Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None, **more: Any) -> None:
        """Choose the levels of the steps."""
        super().set_timesteps(num_inference_steps, device, **more)
        levels = Base.from_config(self.config)
        levels.set_timesteps(num_inference_steps, device)
        self.sigmas = torch.cat([levels.sigmas[:-1].cpu(), torch.tensor([LAST])])
        self.timesteps = levels.timesteps
