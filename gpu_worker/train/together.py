"""`python -m gpu_worker.train.together`: go on with a trained model, and show it groups of things.

The UNet and the text encoder learn pairs ("a cat and a dog") and two to four of a thing, beside
single emoji and what else they know. The autoencoder stays as it is.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from gpu_worker.train import adapt, unet
from gpu_worker.train.data import Pictures, load
from gpu_worker.train.drawings import Drawings
from gpu_worker.train.export import SHIPPED, export
from gpu_worker.train.nouns import CORE

POOL, NEW_PER_STEP = 24_000, 6
"""Pictures kept encoded, and those that each step adds: groups differ more than single things."""


def main() -> None:
    """Train and export the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--start", type=Path, default=SHIPPED, help="the model that it goes on with"
    )
    parser.add_argument("--out", type=Path, default=Path("build/emoji"), help="model directory")
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--cooldown", type=int, default=1800, help="last, ever smaller steps")
    parser.add_argument("--share-groups", type=float, default=0.45)
    parser.add_argument(
        "--text-share", type=float, default=0.3, help="the text encoder's share of the UNet's rate"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    loaded = import_module("diffusers").StableDiffusionPipeline.from_pretrained(
        args.start, dtype=torch.float32, local_files_only=True, safety_checker=None
    )
    denoiser = unet.build()  # afresh, or its files would name the directory that it came from
    denoiser.load_state_dict(loaded.unet.state_dict())
    pictures = Pictures(load(args.work / "data"), 16, CORE, share_3d=0.85)
    mixture = adapt.Mixture(
        pictures,
        Drawings(17),
        loaded.vae,
        loaded.tokenizer,
        share_groups=args.share_groups,
        pool=POOL,
        new_per_step=NEW_PER_STEP,
    )
    adapt.train(
        mixture,
        denoiser,
        loaded.text_encoder,
        args.work / "together.pt",
        args.steps,
        cooldown=args.cooldown,
        text_share=args.text_share,
    )
    export(loaded.vae, denoiser, loaded.text_encoder, loaded.tokenizer, args.out)


if __name__ == "__main__":
    main()
