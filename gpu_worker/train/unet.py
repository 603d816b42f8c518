"""The UNet, trained to denoise latents of captioned pictures with the frozen text encoder."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gpu_worker.train.progress import Training
from gpu_worker.train.text import WIDTH, tokens_of
from gpu_worker.train.vae import to_tensor

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.train.data import Pictures

BATCH = 32
LEARNING_RATE = 1e-3
CAPTION_DROPOUT = 0.1
"""Share of captions replaced by an empty one, for classifier-free guidance."""
NOISE_OFFSET = 0.1
"""Noise shared by all pixels of a channel, so that noise hides the picture's brightness too."""
POOL = 24_000
"""Pictures kept encoded. When the pool is full, each step replaces some."""
NEW_PER_STEP = 4
"""Pictures that each step adds to a full pool."""


def scheduler() -> Any:
    """Return Stable Diffusion's noise schedule, with velocity prediction."""
    return import_module("diffusers").DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
    )


def build() -> Any:
    """Return a new UNet of 7 million weights.

    The text conditions every block by scale and shift (`addition_embed_type`). This lets so small a
    model learn fast; with attention alone it drew only blobs.
    """
    unet = import_module("diffusers").UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=8,
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )
    # Faster than torch's fused attention for so few channels.
    processors = import_module("diffusers.models.attention_processor")
    unet.set_attn_processor(processors.AttnProcessor())
    return unet


class Latents:
    """A pool of encoded pictures and their captions, filled during the training."""

    def __init__(self, pictures: Pictures, vae: Any, tokenizer: Any) -> None:
        self._pictures, self._vae, self._tokenizer = pictures, vae, tokenizer
        self._latents = torch.empty(POOL, 4, 16, 16)
        self._tokens = torch.empty(POOL, tokenizer.model_max_length, dtype=torch.long)
        self._count = 0
        self.empty = tokens_of(tokenizer, [""])[0]

    @torch.no_grad()
    def _add(self, count: int) -> None:
        drawn = [self._pictures.draw() for _ in range(count)]
        where = (torch.arange(count) + self._count) % POOL
        pictures = to_tensor([picture for picture, _ in drawn])
        self._latents[where] = self._vae.encode(pictures).latent_dist.mode()
        self._tokens[where] = tokens_of(self._tokenizer, [caption for _, caption in drawn])
        self._count += count

    def skip(self, steps: int) -> None:
        """Continue with other pictures than at the start, after a resume at step `steps`."""
        self._pictures.random = np.random.default_rng(steps)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents (BATCH, 4, 16, 16) and tokens (BATCH, MAX_TOKENS) of random pictures."""
        if not self._count:
            for _ in range(40):
                self._add(BATCH)
        self._add(BATCH // 4 if self._count < POOL else NEW_PER_STEP)
        random = self._pictures.random
        chosen = torch.from_numpy(random.integers(min(self._count, POOL), size=BATCH))
        tokens = self._tokens[chosen]
        tokens[torch.from_numpy(random.random(BATCH) < CAPTION_DROPOUT)] = self.empty
        return self._latents[chosen], tokens


def noised(clean: torch.Tensor, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return latents with the noise of their time steps, and the velocity to be predicted."""
    alphas = scheduler().alphas_cumprod
    noise = torch.randn_like(clean) + NOISE_OFFSET * torch.randn(len(clean), 4, 1, 1)
    signal = alphas[time].sqrt()[:, None, None, None]
    blur = (1 - alphas[time]).sqrt()[:, None, None, None]
    return signal * clean + blur * noise, signal * noise - blur * clean


def high_times(count: int) -> torch.Tensor:
    """Return random time steps, more of high noise, since there the text decides the shape."""
    return (torch.rand(count).sqrt() * 1000).long().clamp(max=999)


def embedded(encoder: Any, tokens: torch.Tensor, step: int) -> torch.Tensor:
    """Return the text encoder's embedding of captions.

    Every tenth step uses the last layer but one, which clip_skip 2 selects.
    """
    hidden = encoder(tokens, output_hidden_states=True).hidden_states
    found: torch.Tensor = encoder.final_layer_norm(hidden[1 if step % 10 == 9 else 2])
    return found


def train(latents: Latents, encoder: Any, checkpoint: Path, steps: int, cooldown: int) -> Any:
    """Train a UNet, from the checkpoint if there is one; returns it with averaged weights."""
    torch.manual_seed(0)
    unet = build()
    training = Training(
        "unet", {unet: 1.0}, steps, rate=LEARNING_RATE, cooldown=cooldown, checkpoint=checkpoint,
        averaging=True,
    )  # fmt: skip
    if training.done:
        latents.skip(training.done)
        torch.manual_seed(training.done)
    for step in training.steps():
        clean, tokens = latents.batch()
        time = high_times(BATCH)
        noisy, velocity = noised(clean, time)
        with torch.no_grad():
            text = embedded(encoder, tokens, step)
        training.learn((unet(noisy, time, text).sample - velocity).square().mean())
    training.finish()
    return unet
