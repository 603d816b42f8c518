"""FLUX: flow matching with a transformer, guided by CLIP's whole vector and by T5's tokens.

Its own scheduler takes Euler steps, whatever `sampler_name` says; karras, clip_skip, weights of
words and tiling have no meaning for it, and the Horde's API tells so. FLUX.1 [dev] reads its
guidance as a number, which is fixed here as in ComfyUI's workflow; `cfg_scale` above 1 is true
classifier-free guidance, with the negative prompt, and doubles the work. [schnell] wants 1.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import torch

from gpu_worker import prompts
from gpu_worker.families.stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_worker.addons.parts import InversionPart
    from gpu_worker.families.stable_diffusion import Text

diffusers: Any = import_module("diffusers")

GUIDANCE = 3.5
"""What [dev] is told; ComfyUI's FluxGuidance and diffusers say the same."""
TOKENS, TOKENS_DISTILLED = 512, 256
"""T5's tokens of a prompt that [dev] and [schnell] were trained with (the models' cards)."""
KEPT = 64
"""Prompts whose embeddings are kept, of up to 4 MB each."""


class Flux(StableDiffusion):
    """A model that is loaded, and the pipelines of diffusers that draw with it."""

    classes = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    options = {}  # noqa: RUF012 - never changed
    left_out = ("image_encoder", "feature_extractor")
    half = torch.bfloat16
    """T5 overflows in float16."""
    takes_latents = False
    takes_add_ons = False

    def made_encoders(self) -> list[Any]:
        """Return none: no textual inversion and no LoRA is for these."""
        self._kept: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        return []

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
        return super().draw(**self._guided(options))

    def redraw(self, **options: Any) -> Any:
        """Draw a batch from pictures, only where they are masked if there are masks."""
        width, height = options["image"][0].size
        # diffusers rounds the steps that it leaves out down here, and those that it takes there.
        if options["strength"] < 1:
            options["strength"] -= 1 / options["num_inference_steps"]
        return super().redraw(**{**self._guided(options), "width": width, "height": height})

    def _guided(self, options: dict[str, Any]) -> dict[str, Any]:
        asked = options["guidance_scale"]
        return {**options, "true_cfg_scale": asked, "guidance_scale": GUIDANCE}

    def read(self, prompt: str, inversions: Sequence[InversionPart] = ()) -> Text:  # noqa: ARG002
        """Return a prompt without the weights of its words; raises ValueError if it is too long."""
        text = "".join(phrase for phrase, _ in prompts.phrases(prompt))
        tokens, most = len(self.text2img.tokenizer_2(text).input_ids), self._most_tokens()
        if tokens > most:
            message = f"the prompt has {tokens} tokens; this model reads at most {most}"
            raise ValueError(message)
        return cast("Text", text)

    def length(self, positive: Text, negative: Text) -> int:  # noqa: ARG002 - all have the same
        """Return 1: T5's tokens are always filled up to the same number."""
        return 1

    def prompts(
        self,
        positive: Sequence[Text],
        negative: Sequence[Text],
        length: int,  # noqa: ARG002 - all have the same
        clip_skip: int,  # noqa: ARG002 - it reads the last layer
    ) -> dict[str, torch.Tensor]:
        """Return the prompts of a batch as its pipelines take them; each is encoded alone."""
        found: dict[str, torch.Tensor] = {}
        for name, texts in (("", positive), ("negative_", negative)):
            both = [self._encoded(cast("str", text)) for text in texts]
            found[f"{name}prompt_embeds"] = torch.stack([tokens for tokens, _ in both])
            found[f"{name}pooled_prompt_embeds"] = torch.stack([whole for _, whole in both])
        return found

    def _most_tokens(self) -> int:
        return TOKENS if self.text2img.transformer.config.guidance_embeds else TOKENS_DISTILLED

    def _encoded(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._kept.pop(text, None)
        if found is None:
            tokens, whole, _ = self.text2img.encode_prompt(
                prompt=text,
                prompt_2=text,
                device=self.text2img.device,
                max_sequence_length=self._most_tokens(),
            )
            found = tokens[0], whole[0]
            if len(self._kept) >= KEPT:
                self._kept.pop(next(iter(self._kept)))
        self._kept[text] = found  # the newest last
        return found
