"""`python -m gpu_worker.train.together`: go on with a trained model, and show it groups of things.

The UNet and the text encoder learn pairs ("a cat and a dog") and two to four of a thing, beside
single emoji and what else they know. The autoencoder stays as it is.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from gpu_worker.train import adapt, unet, vae
from gpu_worker.train.data import Pictures, load
from gpu_worker.train.drawings import Drawings
from gpu_worker.train.export import SHIPPED, export
from gpu_worker.train.nouns import CORE

if TYPE_CHECKING:
    from gpu_worker.train.data import Bytes

POOL, NEW_PER_STEP = 24_000, 6
"""Pictures kept encoded, and those that each step adds: groups differ more than single things."""
STEPS, COOLDOWN = 6500, 1800
"""Steps, and the last of them with a falling learning rate."""
SHARE_GROUPS = 0.45
TEXT_SHARE = 0.3
"""The text encoder's share of the UNet's learning rate."""


def train(
    parts: tuple[Any, Any, Any, Any],
    cutouts: dict[tuple[str, str], Bytes],
    checkpoint: Path,
    steps: int,
    cooldown: int = COOLDOWN,
) -> None:
    """Train UNet and text encoder in place; `parts` are (autoencoder, UNet, encoder, tokenizer)."""
    autoencoder, denoiser, encoder, tokenizer = parts
    pictures = Pictures(cutouts, 16, CORE, share_3d=0.85)
    mixture = adapt.Mixture(
        pictures,
        Drawings(17),
        autoencoder,
        tokenizer,
        share_groups=SHARE_GROUPS,
        pool=POOL,
        new_per_step=NEW_PER_STEP,
    )
    adapt.train(
        mixture, denoiser, encoder, checkpoint, steps, cooldown=cooldown, text_share=TEXT_SHARE
    )


def main() -> None:
    """Train and export the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--start", type=Path, default=SHIPPED, help="the model that it goes on with"
    )
    parser.add_argument("--out", type=Path, default=Path("build/emoji"), help="model directory")
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--cooldown", type=int, default=COOLDOWN, help="last, ever smaller steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    loaded = import_module("diffusers").StableDiffusionPipeline.from_pretrained(
        args.start, dtype=torch.float32, local_files_only=True, safety_checker=None
    )
    # Afresh, or their files would name the directory that they came from.
    denoiser, autoencoder = unet.build(), vae.build(layers=2).eval()
    denoiser.load_state_dict(loaded.unet.state_dict())
    autoencoder.load_state_dict(loaded.vae.state_dict())
    parts = autoencoder, denoiser, loaded.text_encoder, loaded.tokenizer
    cutouts = load(args.work / "data")
    train(parts, cutouts, args.work / "together.pt", args.steps, args.cooldown)
    export(*parts, args.out)


if __name__ == "__main__":
    main()
