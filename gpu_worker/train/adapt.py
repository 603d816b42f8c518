"""Go on with the training of a UNet, on latents of another autoencoder.

The UNet learns what is new in the latents, to leave a foreign picture as it is when little noise is
to be removed (weak image-to-image), and if asked for to draw groups of things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gpu_worker.train.groups import Groups
from gpu_worker.train.progress import Training
from gpu_worker.train.text import tokens_of
from gpu_worker.train.unet import BATCH, CAPTION_DROPOUT, embedded, noised
from gpu_worker.train.vae import to_tensor

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.train.data import Pictures
    from gpu_worker.train.drawings import Drawings

POOL, FIRST, NEW_PER_STEP = 16_000, 1280, 4
"""Pictures kept encoded, those before the first step, and those that each step adds."""
SHARE_MADE = 0.15
"""Share of made pictures; the rest are single emoji, and groups if they are asked for."""
LATEST = 400
"""Highest time step, of 1000, at which made pictures are shown."""
LEARNING_RATE = 6e-4
COOLDOWN = 600
"""Last steps, with a falling learning rate."""


class Mixture:
    """A pool of encoded pictures of three kinds, their captions, and their highest time steps."""

    def __init__(
        self,
        emoji: Pictures,
        made: Drawings,
        vae: Any,
        tokenizer: Any,
        *,
        share_groups: float = 0,
        pool: int = POOL,
        new_per_step: int = NEW_PER_STEP,
    ) -> None:
        self._emoji, self._made = emoji, made
        self._groups, self._share_groups = Groups(emoji), share_groups
        self._vae, self._tokenizer = vae, tokenizer
        self._pool, self._new_per_step = pool, new_per_step
        self._latents = torch.empty(pool, 4, 16, 16)
        self._tokens = torch.empty(pool, tokenizer.model_max_length, dtype=torch.long)
        self._latest = torch.empty(pool)
        self._count = 0
        self._empty = tokens_of(tokenizer, [""])[0]

    def _draw(self) -> tuple[Any, str, int]:
        random = self._emoji.random
        chance = random.random()
        if chance < SHARE_MADE:
            # Any prompt may come with a picture.
            caption = self._emoji.spec().caption if random.random() < 0.7 else ""
            return self._made.draw(), caption, LATEST
        source = self._groups if chance < SHARE_MADE + self._share_groups else self._emoji
        return *source.draw(), 1000

    @torch.no_grad()
    def _add(self, count: int) -> None:
        pictures, captions, latest = zip(*(self._draw() for _ in range(count)), strict=True)
        where = (torch.arange(count) + self._count) % self._pool
        self._latents[where] = self._vae.encode(to_tensor([*pictures])).latent_dist.mode()
        self._tokens[where] = tokens_of(self._tokenizer, [*captions])
        self._latest[where] = torch.tensor(latest, dtype=torch.float32)
        self._count += count

    def skip(self, steps: int) -> None:
        """Continue with other pictures than at the start, after a resume at step `steps`."""
        self._emoji.random = np.random.default_rng(steps)
        self._made.random = np.random.default_rng(steps + 1)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return latents (BATCH, 4, 16, 16), tokens (BATCH, MAX_TOKENS) and time steps (BATCH)."""
        while self._count < FIRST:
            self._add(BATCH)
        self._add(self._new_per_step)
        random = self._emoji.random
        chosen = torch.from_numpy(random.integers(min(self._count, self._pool), size=BATCH))
        tokens = self._tokens[chosen]
        tokens[torch.from_numpy(random.random(BATCH) < CAPTION_DROPOUT)] = self._empty
        latest = self._latest[chosen]
        # Sample high noise levels more often, since there the text decides the shape.
        share = torch.where(latest < 1000, torch.rand(BATCH), torch.rand(BATCH).sqrt())
        return self._latents[chosen], tokens, (share * latest).long().clamp(max=999)


def train(
    mixture: Mixture,
    unet: Any,
    encoder: Any,
    checkpoint: Path,
    steps: int,
    *,
    cooldown: int = COOLDOWN,
    text_share: float = 0,
) -> None:
    """Train a UNet in place; it ends with averaged weights.

    The text encoder is frozen, or trained too at `text_share` of the UNet's learning rate. The
    training goes on from the checkpoint if there is one, with other pictures.
    """
    torch.manual_seed(0)
    encoder.requires_grad_(requires_grad=text_share > 0).eval()
    unet.train()
    training = Training(
        "adapt",
        {unet: 1.0, encoder: text_share} if text_share else {unet: 1.0},
        steps,
        rate=LEARNING_RATE,
        cooldown=cooldown,
        checkpoint=checkpoint,
        averaging=True,
    )
    if training.done:
        torch.manual_seed(training.done)
        mixture.skip(training.done)
    for step in training.steps():
        clean, tokens, time = mixture.batch()
        noisy, velocity = noised(clean, time)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(text_share > 0):
                text = embedded(encoder, tokens, step)
            guess = unet(noisy, time, text).sample.float()
        training.learn((guess - velocity).square().mean())
    training.finish()
