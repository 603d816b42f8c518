"""What makes a device draw faster, and changes pictures by no more than rounding does."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gpu_worker.families.stable_diffusion import StableDiffusion

log = logging.getLogger(__name__)


def arrange(model: StableDiffusion) -> None:
    """Lay the weights out as a GPU's convolutions read them, the channels of a pixel together.

    Transformers have next to no convolutions, and stay as they are. Products of single precision,
    as of XL's autoencoder, get TF32's ten bits, which half precision has too.
    """
    torch.set_float32_matmul_precision("high")
    for module in (model.network, model.text2img.vae):
        if _convolves(module):
            module.to(memory_format=torch.channels_last)


def compile_for(
    model: StableDiffusion,
    draws: Iterable[Callable[[], object]],
    backend: str | Callable[..., Any] = "inductor",
) -> bool:
    """Compile a model for the shapes of some drawings; returns whether that was possible.

    Each of `draws` is called once, which takes up to a minute, or seconds where torch's cache has
    the code (`compile_cache`). From then on nothing is compiled: these shapes are
    drawn by compiled code, all others as before. Raises MemoryError.
    """
    torch.compiler.set_stance("default")
    network, decoder = model.network, model.text2img.vae.decoder
    if _convolves(network):
        network.compile(dynamic=False, backend=backend)
    else:
        # One block stands for all that repeat it, which compiles faster by their number.
        network.compile_repeated_blocks(dynamic=False, backend=backend)
    decoder.compile(dynamic=False, backend=backend)
    try:
        for draw in draws:
            draw()
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - no compiler, no Triton: it draws without
        log.warning("nothing is compiled, so drawing is slower (%s)", type(error).__name__)
        _undo(network)
        _undo(decoder)
        return False
    # A process-wide state; other models of the process are never compiled.
    torch.compiler.set_stance("eager_on_recompile")
    return True


def _convolves(module: Any) -> bool:
    return any(isinstance(one, torch.nn.Conv2d) for one in module.modules())


def _undo(module: Any) -> None:
    for one in module.modules():
        one._compiled_call_impl = None  # noqa: SLF001 - torch has no other way back
