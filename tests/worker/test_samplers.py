"""The samplers' steps."""

from __future__ import annotations

import inspect
from typing import Any, Self

import pytest
import torch
from torch.utils._pytree import tree_map

from gpu_worker.passes import ADAPTIVE
from gpu_worker.samplers import SAMPLERS, scheduler

pytestmark = [
    # Importing torch and diffusers takes seconds.
    pytest.mark.slow,
    # diffusers with numpy 2.
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

MODEL = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
READS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.is_nonzero")
"""What the CPU can only do with a GPU's tensor after all that the GPU was asked for."""


class OnDevice(torch.Tensor):
    """A tensor that stands for one on a GPU, as do all that are made with it; counts reads."""

    reads = 0
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, tensor: torch.Tensor) -> Self:
        return torch.Tensor._make_subclass(cls, tensor)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        def plain(value: Any) -> Any:
            return value.as_subclass(torch.Tensor) if isinstance(value, cls) else value

        del types
        OnDevice.reads += str(func).startswith(READS)
        with torch._C._DisableTorchDispatch():
            found = func(*tree_map(plain, args), **tree_map(plain, kwargs or {}))
        return tree_map(lambda one: cls(one) if type(one) is torch.Tensor else one, found)


# The steps of an adaptive sampler depend on the picture, so it must look.
@pytest.mark.parametrize("sampler", [one for one in SAMPLERS if one != ADAPTIVE])
def test_a_step_never_waits_for_what_the_gpu_was_asked_to_do(sampler: str) -> None:
    found = scheduler(sampler, MODEL, karras=True)
    found.set_timesteps(8)
    found.timesteps = OnDevice(found.timesteps)
    sample: Any = OnDevice(torch.ones(2, 4, 8, 8)) * float(found.init_noise_sigma)
    more: dict[str, Any] = {"return_dict": False}
    if "generator" in inspect.signature(found.step).parameters:
        more["generator"] = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    reads = []
    for time in found.timesteps:
        OnDevice.reads = 0
        guess = found.scale_model_input(sample, time) * 0.1
        (sample, *_) = found.step(guess, time, sample, **more)
        assert isinstance(sample, OnDevice)
        reads.append(OnDevice.reads)
    # The first step looks its number up; nothing was asked of the GPU before.
    assert not any(reads[1:])


@pytest.mark.parametrize("sampler", ["lcm", "plms"])
def test_a_wrapped_step_still_shows_its_parameters_to_the_pipeline(sampler: str) -> None:
    wrapped, _ = SAMPLERS[sampler]
    bare = wrapped.__mro__[2]
    assert inspect.signature(wrapped.step) == inspect.signature(bare.step)
