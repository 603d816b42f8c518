"""The Horde's samplers as schedulers of diffusers."""

from __future__ import annotations

import functools
from importlib import import_module
from typing import TYPE_CHECKING, Any

from gpu_worker import dpm_solver, kdiffusion

if TYPE_CHECKING:
    from collections.abc import Mapping

diffusers: Any = import_module("diffusers")


class Unwaiting:
    """A scheduler that looks its time steps up in the CPU's memory.

    Those of diffusers below read them from the device in each step, which waits for all that was
    asked of the GPU; meanwhile nothing more is.
    """

    timesteps: Any

    def __init_subclass__(cls) -> None:
        """Wrap `step` in what looks like it: pipelines look at its parameters."""
        super().__init_subclass__()
        inner: Any = cls.step  # type: ignore[attr-defined]

        @functools.wraps(inner)
        def step(self: Any, model_output: Any, _timestep: Any, *more: Any, **options: Any) -> Any:
            on_device, self.timesteps = self.timesteps, self.on_host
            number = int(self.on_host[self.at])
            self.at += 1
            try:
                return inner(self, model_output, number, *more, **options)
            finally:
                self.timesteps = on_device

        cls.step = step  # type: ignore[attr-defined]

    def set_timesteps(self, *arguments: Any, **options: Any) -> None:
        """Choose the time steps."""
        super().set_timesteps(*arguments, **options)  # type: ignore[misc]
        self.on_host = self.timesteps.cpu()
        self.at = 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with a later time step, as image-to-image does."""
        self.at = begin_index
        if hasattr(super(), "set_begin_index"):
            super().set_begin_index(begin_index)  # type: ignore[misc]


class Lcm(Unwaiting, diffusers.LCMScheduler):  # type: ignore[misc]
    """The sampler of latent consistency models."""


class Plms(Unwaiting, diffusers.PNDMScheduler):  # type: ignore[misc]
    """Pseudo linear multi-step over the noise that the model sees (Liu et al. 2022).

    That of diffusers mixes a model's outputs of several steps before it reads them, which is the
    noise only if the model was trained to predict that.
    """

    @functools.wraps(diffusers.PNDMScheduler.step)
    def step(self, model_output: Any, timestep: int, sample: Any, **options: Any) -> Any:
        """Go on by one call of the model."""
        if self.config.prediction_type == "v_prediction":
            signal = float(self.alphas_cumprod[timestep])
            model_output = signal**0.5 * model_output + (1 - signal) ** 0.5 * sample
        return super().step(model_output, timestep, sample, **options)

    def _get_prev_sample(self, sample: Any, timestep: int, before: int, noise: Any) -> Any:
        """Return the sample one step on: DDIM's step, by the mixed noise."""
        signal = float(self.alphas_cumprod[timestep])
        after = float(self.alphas_cumprod[before] if before >= 0 else self.final_alpha_cumprod)
        change = ((1 - after) / after) ** 0.5 - ((1 - signal) / signal) ** 0.5
        return after**0.5 * (sample / signal**0.5 + change * noise)


SAMPLERS: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "k_euler": (diffusers.EulerDiscreteScheduler, {}),
    "k_euler_a": (kdiffusion.EulerAncestral, {}),
    "k_heun": (diffusers.HeunDiscreteScheduler, {}),
    "k_lms": (diffusers.LMSDiscreteScheduler, {}),
    "k_dpm_2": (diffusers.KDPM2DiscreteScheduler, {}),
    "k_dpm_2_a": (diffusers.KDPM2AncestralDiscreteScheduler, {}),
    "k_dpmpp_2m": (kdiffusion.Dpmpp2m, {}),
    "dpmsolver": (kdiffusion.Dpmpp2m, {}),
    "k_dpmpp_2s_a": (kdiffusion.Dpmpp2sAncestral, {}),
    "k_dpmpp_sde": (kdiffusion.DpmppSde, {}),
    "k_dpm_fast": (dpm_solver.DpmFast, {}),
    "k_dpm_adaptive": (dpm_solver.DpmAdaptive, {}),
    # In levels of noise DDIM is Euler's method (Karras et al. 2022, section 3), and the reference
    # draws it so. That of diffusers has no levels of Karras.
    "ddim": (diffusers.EulerDiscreteScheduler, {}),
    # A scheduler's file that says nothing of it would have diffusers cut the picture off at 1.
    "lcm": (Lcm, {"clip_sample": False, "thresholding": False}),
    "uni_pc": (kdiffusion.UniPc, {"solver_order": 3, "solver_type": "bh1"}),
    "uni_pc_bh2": (kdiffusion.UniPc, {"solver_order": 3, "solver_type": "bh2"}),
    "plms": (Plms, {"skip_prk_steps": True}),
}
"""Sampler of the Horde -> scheduler and its options. The DPMSolverSDE of diffusers draws noise from
one tree for a batch, so an image would depend on the others in its batch."""
KARRAS = "use_karras_sigmas"


def has_karras(sampler: str) -> bool:
    """Return whether a sampler can use Karras's noise levels."""
    cls, _ = SAMPLERS[sampler]
    return KARRAS in cls._get_init_keys(cls)


def scheduler(sampler: str, config: Mapping[str, Any], *, karras: bool) -> Any:
    """Return a new scheduler for a model's `config`, since schedulers keep the state of steps."""
    cls, options = SAMPLERS[sampler]
    chosen = {KARRAS: karras} if has_karras(sampler) else {}
    return cls.from_config({**config, **options, **chosen})
