"""CLIP's text encoders, as Stable Diffusion uses them: chunks, weights, and layers."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch

from gpu_worker import prompts
from gpu_worker.addons.prompt import split

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

EMBEDDINGS = 512
"""Chunks whose embeddings are kept, of 0.1 to 0.2 MB each on a GPU. Negative prompts and the
prompts of a request's images come again and again."""
MAX_VECTORS = 4096
"""Vectors of textual inversions that are kept, of 1 to 5 KB each."""

Chunk = list[prompts.Token]
Inversion = tuple[str, torch.Tensor]
"""A textual inversion for one encoder: a name of its content, and vectors (tokens, hidden size)."""


class Encoder:
    """One text encoder with its tokenizer."""

    def __init__(self, tokenizer: Any, model: Any, *, least_skip: int, normed: bool) -> None:
        """Take them as diffusers loaded them.

        `least_skip` is the clip_skip that the family was trained with: 1 reads the last layer.
        `normed` says whether the layer that is read goes through the final norm.
        """
        self._tokenizer, self._model = tokenizer, model
        self._least_skip, self._normed = least_skip, normed
        self._kept: dict[Hashable, tuple[torch.Tensor, torch.Tensor | None]] = {}
        self.changed_by: Hashable = ()
        """The LoRAs in the model's weights, which change every embedding."""
        self.width = int(model.config.hidden_size)
        """Numbers of a token's vector."""
        self._vocabulary = int(model.config.vocab_size)
        self._next = self._vocabulary
        self._tokens: dict[str, range] = {}
        """The tokens of each textual inversion; no token is ever given to another one."""
        self._vectors: dict[int, torch.Tensor] = {}

    def forget(self) -> None:
        """Let go of the textual inversions if they are many; prompts must be read anew then."""
        if len(self._vectors) > MAX_VECTORS:
            self._tokens.clear()
            self._vectors.clear()

    def chunks(self, prompt: str, inversions: Sequence[Inversion] = ()) -> list[Chunk]:
        """Return a prompt in chunks of tokens; raises ValueError if it is too long.

        `addons.prompt.placeholder(n)` in it stands for the n-th of `inversions`.
        """
        tokenizer = self._tokenizer
        groups = [
            [(token, weight) for token in tokens]
            for phrase, weight in prompts.phrases(prompt)
            for tokens in self._phrase(phrase, inversions)
        ]
        return prompts.chunks(
            groups,
            start=tokenizer.bos_token_id,
            end=tokenizer.eos_token_id,
            pad=tokenizer.pad_token_id,
            length=tokenizer.model_max_length,
        )

    def _phrase(self, phrase: str, inversions: Sequence[Inversion]) -> Iterator[Sequence[int]]:
        """Yield the tokens of a phrase, and each textual inversion in it by itself."""
        for part in split(phrase) if inversions else (phrase,):
            if isinstance(part, str):
                yield self._tokenizer(part, add_special_tokens=False).input_ids
            elif part < len(inversions):
                yield self._added(*inversions[part])

    def _added(self, key: str, vectors: torch.Tensor) -> range:
        """Return the tokens of a textual inversion, new ones if it has none yet."""
        if key not in self._tokens:
            tokens = range(self._next, self._next + len(vectors))
            self._tokens[key], self._next = tokens, tokens.stop
            self._vectors.update(zip(tokens, vectors, strict=True))
        return self._tokens[key]

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
        tokens = [token for token, _ in chunk]
        key = layer, tuple(tokens), self.changed_by
        found = self._kept.pop(key, None)
        if found is None:
            with self._inverted(tokens) as plain:
                numbers = torch.tensor([plain], device=self._model.device)
                output = self._model(numbers, output_hidden_states=True)
            hidden = output.hidden_states[layer]
            hidden = self._model.final_layer_norm(hidden) if self._normed else hidden
            vector = getattr(output, "text_embeds", None)
            found = cast("torch.Tensor", hidden[0]), None if vector is None else vector[0]
            if len(self._kept) >= EMBEDDINGS:
                self._kept.pop(next(iter(self._kept)))
        self._kept[key] = found  # the newest last
        return found

    @contextmanager
    def _inverted(self, tokens: list[int]) -> Iterator[list[int]]:
        """Give tokens that the model knows; in this context some stand for textual inversions."""
        places = [at for at, token in enumerate(tokens) if token >= self._vocabulary]
        if not places:
            yield tokens
            return
        vectors = torch.stack([self._vectors[tokens[at]] for at in places])

        def put(_module: Any, _inputs: Any, found: torch.Tensor) -> torch.Tensor:
            found = found.clone()
            found[0, places] = vectors.to(found)
            return found

        # The lowest token, since older models take the highest one for the prompt's end.
        plain = [0 if token >= self._vocabulary else token for token in tokens]
        hook = self._model.get_input_embeddings().register_forward_hook(put)
        try:
            yield plain
        finally:
            hook.remove()
