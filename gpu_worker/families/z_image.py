"""Z-Image and Z-Image-Turbo: flow matching, guided by the tokens of a language model, Qwen3.

`cfg_scale` above 1 is classifier-free guidance, with the negative prompt, and doubles the work.
Turbo was distilled to draw without, in 8 or 9 steps: it wants 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from gpu_worker.families.flow import FlowMatching

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_worker.families.stable_diffusion import Text

TOKENS = 512
"""Tokens of a prompt that diffusers reads, its question to the language model included."""


class ZImage(FlowMatching[torch.Tensor]):
    """A model that is loaded, and the pipelines of diffusers that draw with it."""

    classes = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
    left_out = ()

    def guided(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a pipeline, which counts from what is drawn without guidance."""
        return {**options, "guidance_scale": max(0.0, options["guidance_scale"] - 1)}

    def tokens(self, text: str) -> tuple[int, int]:
        """Return the number of a prompt's tokens, and the most that the model reads."""
        tokenizer = self.text2img.tokenizer
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        return len(tokenizer(asked).input_ids), TOKENS

    def prompts(
        self,
        positive: Sequence[Text],
        negative: Sequence[Text],
        length: int,  # noqa: ARG002 - the transformer fills them up, and masks what it fills
        clip_skip: int,  # noqa: ARG002 - it reads the last layer but one
    ) -> dict[str, Any]:
        """Return the prompts of a batch as its pipelines take them; each is encoded alone."""
        return {
            f"{name}prompt_embeds": [self.encoded(cast("str", text)) for text in texts]
            for name, texts in (("", positive), ("negative_", negative))
        }

    def encode(self, text: str) -> torch.Tensor:
        """Return the embedding of a prompt's tokens, made now: (tokens, hidden size)."""
        (found,), _ = self.text2img.encode_prompt(
            prompt=text, do_classifier_free_guidance=False, max_sequence_length=TOKENS
        )
        return cast("torch.Tensor", found)
