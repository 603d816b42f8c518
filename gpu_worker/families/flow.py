"""What models of flow matching have in common: a transformer, and a scheduler of their own.

It takes Euler steps, whatever `sampler_name` says; karras, clip_skip, weights of words and tiling
have no meaning for them, and the Horde's API tells so.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch

from gpu_worker import prompts
from gpu_worker.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from gpu_worker.addons.parts import InversionPart
    from gpu_worker.families.stable_diffusion import Text

diffusers: Any = import_module("diffusers")

KEPT = 64
"""Prompts whose embeddings are kept, of up to 4 MB each."""
Encoded = TypeVar("Encoded")


class FlowMatching(StableDiffusion, Generic[Encoded]):
    """A model that is loaded, and the pipelines of diffusers that draw with it."""

    options = {}  # noqa: RUF012 - never changed
    half = torch.bfloat16
    """The text encoders overflow in float16."""
    takes_latents = False
    takes_add_ons = False
    tiles = False
    """Their transformers have no edges to wrap around, and the API says that it has no effect."""

    def __init__(
        self, directory: Path, device: str, dtype: torch.dtype, variant: str | None
    ) -> None:
        """Load the model, which takes seconds; raises ModelError if its files are damaged."""
        super().__init__(directory, device, dtype, variant)
        self._kept: dict[Hashable, Encoded] = {}
        self._changed: dict[str, Hashable] = {}
        """The LoRAs in the weights of text encoders, which change every embedding."""

    def made_encoders(self) -> list[Any]:
        """Return none: no textual inversion is for these."""
        return []

    def changed_by(self, part: str, loras: Hashable) -> None:
        """Take a text encoder's name, and the LoRAs that are in its weights from now on."""
        self._changed[part] = loras

    @property
    def network(self) -> Any:
        """What denoises."""
        return self.text2img.transformer

    def side(self) -> int:
        """Return the side of the images that the model was trained on, in pixels."""
        return int(self.text2img.vae.config.sample_size)

    def scheduler(self, sampler: str, *, karras: bool) -> Any:  # noqa: ARG002 - it has one
        """Return a new scheduler for the next batch."""
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(self.schedule)

    def draw(self, **options: Any) -> Any:
        """Draw a batch from noise; takes and returns what diffusers' pipelines do."""
        return super().draw(**self.guided(options))

    def redraw(self, **options: Any) -> Any:
        """Draw a batch from pictures, only where they are masked if there are masks."""
        width, height = options["image"][0].size
        # diffusers rounds the steps that it leaves out down here, and those that it takes there.
        if options["strength"] < 1:
            options["strength"] -= 1 / options["num_inference_steps"]
        return super().redraw(**{**self.guided(options), "width": width, "height": height})

    def guided(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a pipeline with `guidance_scale` as the family takes it."""
        raise NotImplementedError

    def read(self, prompt: str, inversions: Sequence[InversionPart] = ()) -> Text:  # noqa: ARG002
        """Return a prompt without the weights of its words; raises ValueError if it is too long."""
        text = "".join(phrase for phrase, _ in prompts.phrases(prompt))
        tokens, most = self.tokens(text)
        if tokens > most:
            message = f"the prompt has {tokens} tokens; this model reads at most {most}"
            raise ValueError(message)
        return cast("Text", text)

    def tokens(self, text: str) -> tuple[int, int]:
        """Return the number of a prompt's tokens, and the most that the model reads."""
        raise NotImplementedError

    def length(self, positive: Text, negative: Text) -> int:  # noqa: ARG002 - all have the same
        """Return 1: prompts of any length share a pass."""
        return 1

    def encoded(self, text: str) -> Encoded:
        """Return a prompt's embedding, made by itself or kept."""
        key = text, *self._changed.values()
        found = self._kept.pop(key, None)
        if found is None:
            found = self.encode(text)
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
        self._kept[key] = found  # the newest last
        return found

    def encode(self, text: str) -> Encoded:
        """Return a prompt's embedding, made now."""
        raise NotImplementedError
