"""The autoencoder, between 64x64 pixels and latents of 16x16 with four channels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from gpu_worker.train.progress import Training

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.train.data import Pictures

BATCH, CROP = 16, 32
LEARNING_RATE = 2e-3
KL_WEIGHT = 1e-5
GRADIENT_WEIGHT = 0.5
"""Weight of the image gradients in the loss: edges matter in an emoji."""


def build(layers: int = 1) -> Any:
    """Return a new autoencoder of 1.5 million weights, or of 1.9 million with two layers."""
    return import_module("diffusers").AutoencoderKL(
        block_out_channels=(24, 48, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=layers,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
    )


def to_tensor(pictures: list[Any]) -> torch.Tensor:
    """Return pictures of bytes as a tensor from -1 to 1, of shape (pictures, 3, height, width)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _batch(pictures: Pictures, pool: list[Any]) -> torch.Tensor:
    if len(pool) < 4000:
        pool.extend(pictures.draw()[0] for _ in range(BATCH))
    crops = []
    for number in pictures.random.integers(len(pool), size=BATCH):
        y, x = pictures.random.integers(0, 64 - CROP + 1, 2)
        crops.append(pool[number][y : y + CROP, x : x + CROP])
    return to_tensor(crops)


def loss_of(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the L1 loss of pixels and of their gradients; both are (batch, 3, height, width)."""
    loss = functional.l1_loss(pixels, target)
    for axis in (2, 3):
        gradients = pixels.diff(dim=axis), target.diff(dim=axis)
        loss = loss + GRADIENT_WEIGHT * functional.l1_loss(*gradients)
    return loss


def train(pictures: Pictures, checkpoint: Path, steps: int) -> Any:
    """Train an autoencoder, from the checkpoint if there is one."""
    torch.manual_seed(0)
    vae = build()
    training = Training(
        "vae", {vae: 1.0}, steps, rate=LEARNING_RATE, cooldown=steps // 2, decay=1e-3,
        checkpoint=checkpoint,
    )  # fmt: skip
    pool: list[Any] = []
    for _ in training.steps():
        target = _batch(pictures, pool)
        latents = vae.encode(target).latent_dist
        # Slightly noisy latents make the decoder robust against errors of the UNet.
        loss = loss_of(vae.decode(latents.sample()).sample, target)
        training.learn(loss + KL_WEIGHT * latents.kl().mean())
    return vae.eval()


LOG_VARIANCE = -30.0
"""Of the latents of a picture: a deviation of 3e-7."""


@torch.inference_mode()
def standardise(vae: Any, pictures: Pictures) -> None:
    """Rescale the weights so that each latent channel has mean 0 and standard deviation 1.

    So the model needs no scaling factor. And a picture gets latents without noise: the training
    leaves a channel that says nothing at a deviation of five, which image-to-image would draw from.
    """
    sample = to_tensor([pictures.draw()[0] for _ in range(512)])
    latents = torch.cat([vae.encode(part).latent_dist.mode() for part in torch.split(sample, 64)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    vae.quant_conv.weight[:channels] /= deviation[:, None, None, None]
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) / deviation
    # The other half of the channels is the log variance: of no noise, and still a number.
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = LOG_VARIANCE
    before = vae.post_quant_conv.weight.clone()
    vae.post_quant_conv.weight *= deviation[None, :, None, None]
    vae.post_quant_conv.bias += (before[:, :, 0, 0] * mean).sum(1)


@torch.inference_mode()
def psnr(vae: Any, pictures: Pictures) -> float:
    """Return the peak signal-to-noise ratio of reconstructed pictures, in dB."""
    sample = to_tensor([pictures.draw()[0] for _ in range(128)])
    decoded = torch.cat(
        [vae.decode(vae.encode(part).latent_dist.mode()).sample for part in torch.split(sample, 32)]
    ).clamp(-1, 1)
    return float(-10 * torch.log10(((decoded - sample) / 2).square().mean()))
