"""`python -m gpu_worker.train`: train the demo model and write its model directory.

It trains the autoencoder, the text encoder and the UNet on single emoji; then the autoencoder on
pictures of all kinds, and the UNet on the new latents; at last UNet and text encoder on groups.
Each part is saved under build/, so an interrupted training resumes there; delete the folder to
start again. Without interruption, the same steps, threads, versions and kind of CPU give the same
weights.
"""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from gpu_worker.train import adapt, text, together, unet, vae, widen
from gpu_worker.train.data import Pictures, load
from gpu_worker.train.drawings import Drawings
from gpu_worker.train.export import export
from gpu_worker.train.nouns import CORE, NOUNS
from gpu_worker.train.progress import save

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpu_worker.train.data import Bytes
    from gpu_worker.train.nouns import Noun


def main() -> None:
    """Train the parts that are not trained yet, then export the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/emoji"), help="model directory")
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vae-steps", type=int, default=850)
    parser.add_argument("--steps", type=int, default=6000, help="steps of the UNet")
    parser.add_argument(
        "--cooldown", type=int, default=1200, help="last steps, with a falling learning rate"
    )
    parser.add_argument("--text-steps", type=int, default=350)
    parser.add_argument(
        "--widen-steps", type=int, default=1500, help="of the autoencoder, on all pictures"
    )
    parser.add_argument("--adapt-steps", type=int, default=1200, help="of the UNet, after that")
    parser.add_argument(
        "--together-steps", type=int, default=together.STEPS, help="with groups of things, at last"
    )
    parser.add_argument(
        "--start", type=Path, help="a model directory that the first half of the training gave"
    )
    parser.add_argument(
        "--share-3d", type=float, default=0.85, help="share of 3D pictures; the rest is flat"
    )
    parser.add_argument("--mirrored", type=float, default=0.5, help="share of mirrored pictures")
    parser.add_argument(
        "--all-nouns", action="store_true", help=f"train {len(NOUNS)} nouns instead of {len(CORE)}"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)

    cutouts = load(args.work / "data")
    nouns = NOUNS if args.all_nouns else CORE
    if args.start:
        pipeline = import_module("diffusers").StableDiffusionPipeline.from_pretrained(
            args.start, dtype=torch.float32, local_files_only=True, safety_checker=None
        )
        loaded = unet.build()  # afresh, or its files would name the directory that it came from
        loaded.load_state_dict(pipeline.unet.state_dict())
        first = pipeline.vae, loaded, pipeline.text_encoder, pipeline.tokenizer
    else:
        first = _emoji(args, cutouts, nouns)
    # As in an exported model, so that both ways go on from the same weights.
    teacher, denoiser, encoder = (part.half().float() for part in first[:3])
    tokenizer = first[3]
    autoencoder = widen.train(
        teacher, Pictures(cutouts, 12, nouns), Drawings(13), args.work / "wide.pt", args.widen_steps
    )
    vae.standardise(autoencoder, Pictures(cutouts, 3, nouns))
    pictures = Pictures(cutouts, 14, nouns, share_3d=args.share_3d, mirrored=args.mirrored)
    mixture = adapt.Mixture(pictures, Drawings(15), autoencoder, tokenizer)
    adapt.train(mixture, denoiser, encoder, args.work / "adapted.pt", args.adapt_steps)
    if args.together_steps:
        parts = autoencoder, denoiser, encoder, tokenizer
        together.train(parts, cutouts, args.work / "together.pt", args.together_steps)
    print(f"autoencoder {vae.psnr(autoencoder, Pictures(cutouts, 9, nouns)):.2f} dB")
    export(autoencoder, denoiser, encoder, tokenizer, args.out)
    print(f"{args.out}: {sum(path.stat().st_size for path in args.out.rglob('*.*'))} bytes")


def _emoji(
    args: argparse.Namespace, cutouts: dict[tuple[str, str], Bytes], nouns: Sequence[Noun]
) -> tuple[Any, ...]:
    """Return autoencoder, UNet, text encoder and tokenizer, trained on single emoji."""
    parts = args.work / "parts.pt"
    if parts.exists():
        state = torch.load(parts)
        tokenizer = text.tokenizer_from(args.work / "tokenizer")
        autoencoder, encoder = vae.build(), text.encoder_for(tokenizer)
        autoencoder.load_state_dict(state["vae"])
        encoder.load_state_dict(state["text"])
        encoder.requires_grad_(requires_grad=False).eval()
    else:
        captions = (caption for _, caption in Pictures(cutouts, 1, NOUNS).take(20_000))
        tokenizer = text.tokenizer_of(captions)
        autoencoder = vae.train(Pictures(cutouts, 1, nouns), args.work / "vae.pt", args.vae_steps)
        vae.standardise(autoencoder, Pictures(cutouts, 3, nouns))
        encoder = text.train(Pictures(cutouts, 2, NOUNS), tokenizer, args.text_steps)
        tokenizer.save_pretrained(args.work / "tokenizer")
        save({"vae": autoencoder.state_dict(), "text": encoder.state_dict()}, parts)
    autoencoder.eval()
    pictures = Pictures(cutouts, 5, nouns, share_3d=args.share_3d, mirrored=args.mirrored)
    latents = unet.Latents(pictures, autoencoder, tokenizer)
    denoiser = unet.train(latents, encoder, args.work / "unet.pt", args.steps, args.cooldown)
    return autoencoder, denoiser, encoder, tokenizer


if __name__ == "__main__":
    main()
