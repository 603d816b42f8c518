"""`python -m gpu_worker.tiny DIR`: create a tiny, random Stable Diffusion model, offline.

It draws coloured noise. But it is a complete diffusers model directory of a few megabytes, and any
sampler, size and option runs on a CPU within a second. Tests use it in place of real weights.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77
"""CLIP's context length. A token is one byte here, so a prompt is truncated after 75 bytes."""
SEED = 20230106
NATIVE_SIZE = 64
"""Native side of the images, in pixels (Stable Diffusion 1: 512); hires_fix applies above it."""


def build(directory: Path, seed: int = SEED) -> Path:
    """Write the model to `directory` atomically, unless it is there already; returns the path."""
    if (directory / "model_index.json").exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        _write(scratch, seed)
        # mkdtemp makes a private directory, but anyone may read the model.
        scratch.chmod(0o755)
        try:
            scratch.rename(directory)
        except OSError:
            # Another process was faster and wrote the same model.
            if not (directory / "model_index.json").exists():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return directory


def _write(directory: Path, seed: int) -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch  # noqa: PLC0415
    from transformers import CLIPTextConfig, CLIPTextModel  # noqa: PLC0415

    diffusers: Any = import_module("diffusers")

    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                max_position_embeddings=MAX_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        unet = diffusers.UNet2DConditionModel(
            sample_size=NATIVE_SIZE // 8,
            block_out_channels=(32, 64),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 16, 16, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
            norm_num_groups=8,
            sample_size=NATIVE_SIZE,
        )
    # Stable Diffusion 1's own scheduler, so that samplers start from its configuration.
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(directory)


def _tokenizer() -> CLIPTokenizer:
    """Return a tokenizer with one token per byte, so that every prompt has an encoding."""
    from tokenizers import pre_tokenizers  # noqa: PLC0415
    from transformers import CLIPTokenizer  # noqa: PLC0415

    # Sorted, since the alphabet comes from a hash map in a different order in each process.
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*symbols, *(f"{symbol}</w>" for symbol in symbols)]
    vocab = {token: number for number, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(
        vocab=vocab,
        merges=[],
        bos_token=START,
        model_max_length=MAX_TOKENS,
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), END),
    )


def main() -> None:
    """Create the model in the directory that the command line names."""
    if len(sys.argv) != 2:  # noqa: PLR2004
        sys.exit("usage: python -m gpu_worker.tiny DIR")
    sys.stdout.write(f"{build(Path(sys.argv[1]))}\n")


if __name__ == "__main__":
    main()
