"""Stable Diffusion 1 and 2: one text encoder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from gpu_worker import prompts
from gpu_worker.families.clip import Chunk, Encoder
from gpu_worker.model_files import ModelError
from gpu_worker.samplers import scheduler

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from gpu_worker.addons.parts import InversionPart

diffusers: Any = import_module("diffusers")

MAX_MESSAGE = 300
"""Most characters of what is said of a damaged model."""
Text = tuple[list[Chunk], ...]
"""A prompt in chunks, for each encoder."""


class StableDiffusion:
    """A model that is loaded, and the pipelines of diffusers that draw with it."""

    classes: tuple[str, str, str] = (
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
    )
    options: dict[str, Any] = {"requires_safety_checker": False}  # noqa: RUF012 - never changed
    left_out: tuple[str, ...] = ("safety_checker", "feature_extractor")
    half = torch.float16
    """The type of the weights on a GPU."""
    takes_add_ons = True
    """Whether LoRAs change it, and textual inversions where it has `encoders`."""
    tiles = True
    """Whether `tiling` makes opposite edges of its pictures match."""
    takes_latents = True
    """Whether `redraw` takes latents, so that `hires_fix` decodes nothing between its passes."""

    def __init__(
        self, directory: Path, device: str, dtype: torch.dtype, variant: str | None
    ) -> None:
        """Load the model, which takes seconds; raises ModelError if its files are damaged."""
        first, *others = (getattr(diffusers, name) for name in self.classes)
        try:
            self.text2img = first.from_pretrained(
                directory,
                dtype=dtype,
                variant=variant,
                local_files_only=True,
                use_safetensors=True,
                **dict.fromkeys(self.left_out),
                **self.options,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            message = f"the model in MODEL_DIR cannot be loaded ({type(error).__name__}): {error}"
            raise ModelError(" ".join(message.split())[:MAX_MESSAGE]) from None
        self.text2img.to(device)
        self.decode(at_once=False)
        self.img2img, self.inpaint = (
            other(**self.text2img.components, **self.options) for other in others
        )
        for pipeline in (self.text2img, self.img2img, self.inpaint):
            pipeline.set_progress_bar_config(disable=True)
        self.schedule = dict(self.text2img.scheduler.config)
        self.scale = int(self.text2img.vae_scale_factor)
        self.native_size = self.side()
        self.encoders = self.made_encoders()

    def made_encoders(self) -> list[Encoder]:
        """Return the text encoders, which read the last layer and norm it."""
        both = self.text2img.tokenizer, self.text2img.text_encoder
        return [Encoder(*both, least_skip=1, normed=True)]

    @property
    def network(self) -> Any:
        """What denoises."""
        return self.text2img.unet

    def side(self) -> int:
        """Return the side of the images that the model was trained on, in pixels."""
        return int(self.text2img.unet.config.sample_size) * self.scale

    def scheduler(self, sampler: str, *, karras: bool) -> Any:
        """Return a new scheduler for the next batch."""
        return scheduler(sampler, self.schedule, karras=karras)

    def draw(self, **options: Any) -> Any:
        """Draw a batch from noise; takes and returns what diffusers' pipelines do."""
        return self.text2img(**options)

    def redraw(self, **options: Any) -> Any:
        """Draw a batch from pictures or latents, only where they are masked if there are masks."""
        return (self.inpaint if "mask_image" in options else self.img2img)(**options)

    def decode(self, *, at_once: bool) -> None:
        """Have the autoencoder take the images of a batch at once, or else one after the other.

        At once is faster, and needs the memory of all.
        """
        vae = self.text2img.vae
        (vae.disable_slicing if at_once else vae.enable_slicing)()

    def use(self, scheduler: Any) -> None:
        """Draw the next batch with a scheduler of its own."""
        for pipeline in (self.text2img, self.img2img, self.inpaint):
            pipeline.scheduler = scheduler

    def read(self, prompt: str, inversions: Sequence[InversionPart] = ()) -> Text:
        """Return a prompt in chunks for each encoder; raises ValueError if it is too long."""
        return tuple(
            encoder.chunks(prompt, [(one.key, one.vectors.each[number]) for one in inversions])
            for number, encoder in enumerate(self.encoders)
        )

    def changed_by(self, part: str, loras: Hashable) -> None:
        """Take a text encoder's name, and the LoRAs that are in its weights from now on."""
        for name, encoder in zip(("text_encoder", "text_encoder_2"), self.encoders, strict=False):
            if name == part:
                encoder.changed_by = loras

    def forget(self) -> None:
        """Let go of textual inversions if they are many; prompts must be read anew then."""
        for encoder in self.encoders:
            encoder.forget()

    def length(self, positive: Text, negative: Text) -> int:
        """Return the number of chunks that both prompts of an image have in a pass."""
        return prompts.common_length(len(positive[0]), len(negative[0]))

    def prompts(
        self, positive: Sequence[Text], negative: Sequence[Text], length: int, clip_skip: int
    ) -> dict[str, Any]:
        """Return the prompts of a batch as its pipelines take them."""
        return {
            "prompt_embeds": self._embeddings(positive, length, clip_skip),
            "negative_prompt_embeds": self._embeddings(negative, length, clip_skip),
        }

    def _embeddings(self, texts: Sequence[Text], length: int, clip_skip: int) -> torch.Tensor:
        rows = [
            [
                encoder.encode(chunks, length, clip_skip)
                for encoder, chunks in zip(self.encoders, text, strict=True)
            ]
            for text in texts
        ]
        return torch.stack([torch.cat(row, dim=-1) for row in rows])
