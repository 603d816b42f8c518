"""`python -m gpu_worker.train`: data, autoencoder, UNet and text encoder, and the model directory.

Each part is kept under build/, so a training that was ended goes on where it was; delete the folder
to start anew. Same steps, threads and versions: same weights, if it was not interrupted.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from gpu_worker.train import text, unet, vae
from gpu_worker.train.data import Pictures, load
from gpu_worker.train.export import export
from gpu_worker.train.nouns import CORE, NOUNS
from gpu_worker.train.progress import save


def main() -> None:
    """Train what is not trained yet, then export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/emoji"), help="model directory")
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--vae-steps", type=int, default=850)
    parser.add_argument("--decoder-steps", type=int, default=0, help="the decoder alone, later")
    parser.add_argument("--steps", type=int, default=6000, help="of the UNet")
    parser.add_argument("--cooldown", type=int, default=1200, help="last steps, ever smaller")
    parser.add_argument("--text-steps", type=int, default=350)
    parser.add_argument("--share-3d", type=float, default=0.85, help="the rest in the flat style")
    parser.add_argument("--mirrored", type=float, default=0.5, help="share of the pictures")
    parser.add_argument(
        "--all-nouns", action="store_true", help=f"{len(NOUNS)} instead of {len(CORE)}"
    )
    wish = parser.parse_args()
    torch.set_num_threads(wish.threads)
    wish.work.mkdir(parents=True, exist_ok=True)

    cutouts = load(wish.work / "data")
    nouns = NOUNS if wish.all_nouns else CORE
    parts = wish.work / "parts.pt"
    if parts.exists():
        state = torch.load(parts)
        tokenizer = text.tokenizer_from(wish.work / "tokenizer")
        autoencoder, encoder = vae.build(), text.encoder_for(tokenizer)
        autoencoder.load_state_dict(state["vae"])
        encoder.load_state_dict(state["text"])
        encoder.requires_grad_(requires_grad=False).eval()
    else:
        captions = (caption for _, caption in Pictures(cutouts, 1, NOUNS).take(20_000))
        tokenizer = text.tokenizer_of(captions)
        autoencoder = vae.train(Pictures(cutouts, 1, nouns), wish.work / "vae.pt", wish.vae_steps)
        vae.standardise(autoencoder, Pictures(cutouts, 3, nouns))
        encoder = text.train(Pictures(cutouts, 2, NOUNS), tokenizer, wish.text_steps)
        tokenizer.save_pretrained(wish.work / "tokenizer")
        save({"vae": autoencoder.state_dict(), "text": encoder.state_dict()}, parts)
    autoencoder.eval()
    pictures = Pictures(cutouts, 5, nouns, share_3d=wish.share_3d, mirrored=wish.mirrored)
    latents = unet.Latents(pictures, autoencoder, tokenizer)
    denoiser = unet.train(latents, encoder, wish.work / "unet.pt", wish.steps, wish.cooldown)
    if wish.decoder_steps:
        autoencoder = vae.train(
            Pictures(cutouts, 7, nouns),
            wish.work / "decoder.pt",
            wish.decoder_steps,
            decoder_of=autoencoder,
        )
    print(f"autoencoder {vae.psnr(autoencoder, Pictures(cutouts, 9, nouns)):.2f} dB")
    export(autoencoder, denoiser, encoder, tokenizer, wish.out)
    print(f"{wish.out}: {sum(path.stat().st_size for path in wish.out.rglob('*.*'))} bytes")


if __name__ == "__main__":
    main()
