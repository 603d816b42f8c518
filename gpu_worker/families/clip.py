"""CLIP's text encoders, as Stable Diffusion uses them: chunks, weights, and layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from gpu_worker import prompts

if TYPE_CHECKING:
    from collections.abc import Sequence

EMBEDDINGS = 512
"""Chunks whose embeddings are kept, of 0.1 to 0.2 MB each on a GPU. Negative prompts and the
prompts of a request's images come again and again."""

Chunk = list[prompts.Token]


class Encoder:
    """One text encoder with its tokenizer."""

    def __init__(self, tokenizer: Any, model: Any, *, least_skip: int, normed: bool) -> None:
        """Take them as diffusers loaded them.

        `least_skip` is the clip_skip that the family was trained with: 1 reads the last layer.
        `normed` says whether the layer that is read goes through the final norm.
        """
        self._tokenizer, self._model = tokenizer, model
        self._least_skip, self._normed = least_skip, normed
        self._kept: dict[tuple[int, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor | None]] = {}

    def chunks(self, prompt: str) -> list[Chunk]:
        """Return a prompt in chunks of tokens; raises ValueError if it is too long."""
        tokenizer = self._tokenizer
        groups = [
            [(token, weight) for token in tokenizer(phrase, add_special_tokens=False).input_ids]
            for phrase, weight in prompts.phrases(prompt)
        ]
        return prompts.chunks(
            groups,
            start=tokenizer.bos_token_id,
            end=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
            length=tokenizer.model_max_length,
        )

    def encode(self, chunks: Sequence[Chunk], length: int, clip_skip: int) -> torch.Tensor:
        """Return a prompt's embedding, of `length` chunks (`prompts.common_length`)."""
        (nothing,) = self.chunks("")
        filled = list(chunks) * (length // len(chunks)) if length % len(chunks) == 0 else [*chunks]
        filled += [nothing] * (length - len(filled))
        return torch.cat([self._weighed(chunk, nothing, clip_skip) for chunk in filled])

    def pooled(self, chunks: Sequence[Chunk], clip_skip: int) -> torch.Tensor:
        """Return the vector of a whole prompt, by its first chunk, without weights."""
        return cast("torch.Tensor", self._embedding(chunks[0], clip_skip)[1])

    def _weighed(self, chunk: Chunk, nothing: Chunk, clip_skip: int) -> torch.Tensor:
        """Return a chunk's embedding; a weight moves its token away from an empty prompt's."""
        found, _ = self._embedding(chunk, clip_skip)
        weights = [weight for _, weight in chunk]
        if all(weight == 1 for weight in weights):
            return found
        empty, _ = self._embedding(nothing, clip_skip)
        factors = torch.tensor(weights, dtype=found.dtype, device=found.device)[:, None]
        return (found - empty) * factors + empty

    def _embedding(self, chunk: Chunk, clip_skip: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return a chunk's embedding and vector; each is encoded alone, as in every batch."""
        # Not by diffusers: it applies clip_skip only to the positive prompt, and with transformers
        # 5 (without `text_model`) to neither. It also logs the truncated part of a long prompt.
        layers = int(self._model.config.num_hidden_layers)
        # hidden_states[0] is the token embedding; clip_skip 1 selects the last layer.
        layer = max(1, layers + 1 - max(self._least_skip, clip_skip))
        key = layer, tuple(token for token, _ in chunk)
        found = self._kept.pop(key, None)
        if found is None:
            tokens = torch.tensor([key[1]], device=self._model.device)
            output = self._model(tokens, output_hidden_states=True)
            hidden = output.hidden_states[layer]
            hidden = self._model.final_layer_norm(hidden) if self._normed else hidden
            vector = getattr(output, "text_embeds", None)
            found = cast("torch.Tensor", hidden[0]), None if vector is None else vector[0]
            if len(self._kept) >= EMBEDDINGS:
                self._kept.pop(next(iter(self._kept)))
        self._kept[key] = found  # the newest last
        return found
