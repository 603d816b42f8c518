"""FLUX: flow matching, guided by CLIP's whole vector and by T5's tokens.

FLUX.1 [dev] reads its guidance as a number, which is fixed here as in ComfyUI's workflow;
`cfg_scale` above 1 is true classifier-free guidance, with the negative prompt, and doubles the
work. [schnell] wants 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from gpu_worker.families.flow import FlowMatching

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_worker.families.stable_diffusion import Text

GUIDANCE = 3.5
"""What [dev] is told; ComfyUI's FluxGuidance and diffusers say the same."""
TOKENS, TOKENS_DISTILLED = 512, 256
"""T5's tokens of a prompt that [dev] and [schnell] were trained with (the models' cards)."""


class Flux(FlowMatching[tuple[torch.Tensor, torch.Tensor]]):
    """A model that is loaded, and the pipelines of diffusers that draw with it."""

    classes = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    left_out = ("image_encoder", "feature_extractor")
    takes_add_ons = True

    def guided(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a pipeline, with both kinds of guidance."""
        asked = options["guidance_scale"]
        return {**options, "true_cfg_scale": asked, "guidance_scale": GUIDANCE}

    def tokens(self, text: str) -> tuple[int, int]:
        """Return the number of T5's tokens of a prompt, and the most that the model reads."""
        return len(self.text2img.tokenizer_2(text).input_ids), self._most_tokens()

    def prompts(
        self,
        positive: Sequence[Text],
        negative: Sequence[Text],
        length: int,  # noqa: ARG002 - all have the same
        clip_skip: int,  # noqa: ARG002 - it reads the last layer
    ) -> dict[str, Any]:
        """Return the prompts of a batch as its pipelines take them; each is encoded alone."""
        found: dict[str, Any] = {}
        for name, texts in (("", positive), ("negative_", negative)):
            both = [self.encoded(cast("str", text)) for text in texts]
            found[f"{name}prompt_embeds"] = torch.stack([tokens for tokens, _ in both])
            found[f"{name}pooled_prompt_embeds"] = torch.stack([whole for _, whole in both])
        return found

    def _most_tokens(self) -> int:
        return TOKENS if self.text2img.transformer.config.guidance_embeds else TOKENS_DISTILLED

    def encode(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Return T5's tokens and CLIP's vector of a prompt, made now."""
        tokens, whole, _ = self.text2img.encode_prompt(
            prompt=text,
            prompt_2=text,
            device=self.text2img.device,
            max_sequence_length=self._most_tokens(),
        )
        return tokens[0], whole[0]
