"""Stable Diffusion XL, Turbo and Lightning of it included: two text encoders and a whole vector.

Its autoencoder overflows in half precision, so diffusers runs it in single precision, unless its
configuration says that it was mended (`force_upcast`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from gpu_worker.families.clip import Encoder
from gpu_worker.families.stable_diffusion import StableDiffusion, Text

if TYPE_CHECKING:
    from collections.abc import Sequence


class StableDiffusionXL(StableDiffusion):
    """A model that is loaded, and the pipelines of diffusers that draw with it."""

    classes = (
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    )
    options = {"add_watermarker": False}  # noqa: RUF012 - never changed
    left_out = ("image_encoder", "feature_extractor")

    def made_encoders(self) -> list[Encoder]:
        """Return the text encoders: it was trained on the last layer but one, without its norm."""
        loaded = self.text2img
        pairs = [
            (loaded.tokenizer, loaded.text_encoder),
            (loaded.tokenizer_2, loaded.text_encoder_2),
        ]
        return [Encoder(*pair, least_skip=2, normed=False) for pair in pairs]

    def prompts(
        self, positive: Sequence[Text], negative: Sequence[Text], length: int, clip_skip: int
    ) -> dict[str, Any]:
        """Return the prompts of a batch as its pipelines take them."""
        return {
            **super().prompts(positive, negative, length, clip_skip),
            "pooled_prompt_embeds": self._vectors(positive, clip_skip),
            "negative_pooled_prompt_embeds": self._vectors(negative, clip_skip),
        }

    def _vectors(self, texts: Sequence[Text], clip_skip: int) -> torch.Tensor:
        return torch.stack([self.encoders[1].pooled(text[1], clip_skip) for text in texts])
