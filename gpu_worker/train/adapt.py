"""Go on with the training of a UNet, on latents of another autoencoder.

The UNet learns what is new in the latents, to leave a foreign picture as it is when little noise is
to be removed (weak image-to-image), and if asked for to draw groups of things.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gpu_worker.train.groups import Groups
from gpu_worker.train.progress import Progress, rate_factor, save
from gpu_worker.train.text import tokens_of
from gpu_worker.train.unet import (
    BATCH,
    CAPTION_DROPOUT,
    EMA_DECAY,
    NOISE_OFFSET,
    averaged,
    scheduler,
)
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
    both = torch.nn.ModuleList([unet, encoder] if text_share else [unet])
    parameters = [*both.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": [*part.parameters()]} for part in both],
        LEARNING_RATE,
        betas=(0.9, 0.99),
        weight_decay=1e-2,
        fused=True,
    )
    average = [weight.detach().clone() for weight in parameters]
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        both.load_state_dict(state["parts"])
        optimizer.load_state_dict(state["optimizer"])
        average, done = state["average"], state["step"]
        torch.manual_seed(done)
        mixture.skip(done)
    alphas = scheduler().alphas_cumprod
    progress = Progress("adapt", done, steps)
    last = time.monotonic()
    for step in range(done, steps):
        clean, tokens, time_ = mixture.batch()
        rate = LEARNING_RATE * rate_factor(step, steps, cooldown=cooldown)
        for group, share in zip(optimizer.param_groups, (1, text_share), strict=False):
            group["lr"] = rate * share
        noise = torch.randn_like(clean) + NOISE_OFFSET * torch.randn(BATCH, 4, 1, 1)
        signal = alphas[time_].sqrt()[:, None, None, None]
        blur = (1 - alphas[time_]).sqrt()[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(text_share > 0):
                hidden = encoder(tokens, output_hidden_states=True).hidden_states
                # Every tenth step uses the last layer but one, which clip_skip 2 selects.
                text = encoder.final_layer_norm(hidden[1 if step % 10 == 9 else 2])
            guess = unet(signal * clean + blur * noise, time_, text).sample.float()
        loss = (guess - (signal * noise - blur * clean)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(average, [w.detach() for w in parameters], 1 - decay)
        progress.step(step + 1, loss.item())
        if time.monotonic() - last > 90 or step + 1 == steps:
            last = time.monotonic()
            state = {
                "parts": both.state_dict(), "average": average,
                "optimizer": optimizer.state_dict(), "step": step + 1,
            }  # fmt: skip
            save(state, checkpoint)
    averaged(both, average)
