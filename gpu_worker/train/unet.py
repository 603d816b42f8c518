"""The UNet, trained to denoise latents of captioned pictures with the frozen text encoder."""

from __future__ import annotations

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gpu_worker.train.progress import Progress, rate_factor, save
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
EMA_DECAY = 0.995
"""Decay of the exponential moving average of the weights, which is exported."""


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


def train(latents: Latents, encoder: Any, checkpoint: Path, steps: int, cooldown: int) -> Any:
    """Train a UNet, from the checkpoint if there is one; returns it with averaged weights."""
    torch.manual_seed(0)
    unet = build()
    parameters = [*unet.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
    )
    average = [weight.detach().clone() for weight in parameters]
    done = 0
    if checkpoint.exists():
        state = torch.load(checkpoint)
        unet.load_state_dict(state["unet"])
        optimizer.load_state_dict(state["optimizer"])
        average, done = state["average"], state["step"]
        latents.skip(done)
        torch.manual_seed(done)
    alphas = scheduler().alphas_cumprod
    progress = Progress("unet", done, steps)
    last = time.monotonic()
    for step in range(done, steps):
        clean, tokens = latents.batch()
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate_factor(step, steps, cooldown=cooldown)
        # Sample high noise levels more often, since there the text decides the shape.
        time_ = (torch.rand(BATCH).sqrt() * 1000).long().clamp(max=999)
        noise = torch.randn_like(clean) + NOISE_OFFSET * torch.randn(BATCH, 4, 1, 1)
        signal = alphas[time_].sqrt()[:, None, None, None]
        blur = (1 - alphas[time_]).sqrt()[:, None, None, None]
        with torch.no_grad():
            hidden = encoder(tokens, output_hidden_states=True).hidden_states
            # Every tenth step uses the last layer but one, which clip_skip 2 selects.
            text = encoder.final_layer_norm(hidden[1 if step % 10 == 9 else 2])
        guess = unet(signal * clean + blur * noise, time_, text).sample
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
                "unet": unet.state_dict(), "average": average,
                "optimizer": optimizer.state_dict(), "step": step + 1,
            }  # fmt: skip
            save(state, checkpoint)
    return averaged(unet, average)


@torch.no_grad()
def averaged(unet: Any, average: list[torch.Tensor]) -> Any:
    """Return the UNet with its weights replaced by their moving average."""
    for weight, mean in zip(unet.parameters(), average, strict=True):
        weight.copy_(mean)
    return unet.eval()
