"""Teach a trained autoencoder pictures that are not emoji.

An emoji's latents stay near those that they had, so that a UNet of the old ones learns the new ones
soon. A channel that the old decoder did not read is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from gpu_worker.train import vae
from gpu_worker.train.progress import Training

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.train.data import Pictures
    from gpu_worker.train.drawings import Drawings

EMOJI, MADE = 8, 14
"""Crops of each kind in a batch: of training pictures and of made ones."""
CROP = vae.CROP
POOL = 8000
"""Pictures of a kind kept for crops; until then every step adds some."""
LEARNING_RATE = 1.5e-3
COOLDOWN = 400
"""Last steps, with a falling learning rate."""
ANCHOR_WEIGHT = 0.03
"""Weight of the squared change of an emoji's latents, whose deviation is 1."""
BOUND, BOUND_WEIGHT = 2.5, 0.01
"""What latents exceed in size, and the weight of its square: they would grow out of the noise."""
READ = 0.2
"""A channel of less than this share of the strongest one's weight is not read by the decoder."""
NOISE = 0.1
"""Largest deviation of the noise on latents, which makes the decoder bear the UNet's errors."""


def read_channels(teacher: Any) -> torch.Tensor:
    """Return which latent channels the decoder reads, as booleans."""
    strength = teacher.post_quant_conv.weight[:, :, 0, 0].norm(dim=0)
    return strength > READ * strength.max()  # type: ignore[no-any-return]


def deepened(teacher: Any) -> Any:
    """Return an autoencoder with one more ResNet block in every stage, to be trained.

    The new blocks add nothing at first: the last convolution of each is zero. A channel that was
    not read is read at random.
    """
    student = vae.build(layers=2)
    missing = student.load_state_dict(teacher.state_dict(), strict=False).missing_keys
    with torch.no_grad():
        for name in missing:
            if ".conv2." in name:
                student.get_parameter(name).zero_()
        free = ~read_channels(teacher)
        weight = student.post_quant_conv.weight
        weight[:, free] = 0.4 * torch.randn_like(weight[:, free])
    return student


class Crops:
    """Random crops of a growing pool of pictures."""

    def __init__(self, source: Pictures | Drawings) -> None:
        self._source = source
        self._pool: list[Any] = []

    def take(self, count: int) -> torch.Tensor:
        """Return crops as a tensor (count, 3, CROP, CROP) from -1 to 1."""
        random = self._source.random
        fresh = count if self._pool else 256
        for _ in range(fresh if len(self._pool) < POOL else 0):
            drawn = self._source.draw()
            self._pool.append(drawn[0] if isinstance(drawn, tuple) else drawn)
        crops = []
        for number in random.integers(len(self._pool), size=count):
            y, x = random.integers(0, self._pool[0].shape[0] - CROP + 1, 2)
            crops.append(self._pool[number][y : y + CROP, x : x + CROP])
        return vae.to_tensor(crops)


def loss_of(pixels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the loss of pixels (batch, 3, height, width), with their squares and their colours.

    The colours are means of 4x4 pixels: a sky must stay blue before its clouds are sharp.
    """
    areas = functional.avg_pool2d(pixels, 4), functional.avg_pool2d(target, 4)
    loss = vae.loss_of(pixels, target) + 2 * functional.mse_loss(pixels, target)
    return loss + functional.l1_loss(*areas)


def train(teacher: Any, emoji: Pictures, made: Drawings, checkpoint: Path, steps: int) -> Any:
    """Return a deepened autoencoder that knows both kinds of pictures.

    The training goes on from the checkpoint if there is one.
    """
    torch.manual_seed(0)
    student = deepened(teacher)
    teacher.requires_grad_(requires_grad=False).eval()
    read = read_channels(teacher)
    # Without decay, which would move the log variance; nothing else moves it.
    training = Training(
        "widen", {student: 1.0}, steps, rate=LEARNING_RATE, cooldown=COOLDOWN, decay=0.0,
        checkpoint=checkpoint,
    )  # fmt: skip
    if done := training.done:
        # Other pictures than at the start.
        torch.manual_seed(done)
        emoji.random, made.random = (np.random.default_rng(done + n) for n in range(2))
    crops = Crops(emoji), Crops(made)
    for _ in training.steps():
        target = torch.cat([crops[0].take(EMOJI), crops[1].take(MADE)])
        # bfloat16 takes half the time, where the CPU has instructions for it.
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                anchors = teacher.encode(target[:EMOJI]).latent_dist.mode().float()
            latents = student.encode(target).latent_dist.mode().float()
            noisy = latents + NOISE * torch.rand(len(latents), 1, 1, 1) * torch.randn_like(latents)
            pixels = student.decode(noisy).sample.float()
        change = (latents[:EMOJI] - anchors)[:, read]
        loss = loss_of(pixels, target) + ANCHOR_WEIGHT * change.square().mean()
        beyond = functional.relu(latents.abs() - BOUND)
        training.learn(loss + BOUND_WEIGHT * beyond.square().mean())
    return student.eval()
