"""`python -m gpu_worker.tiny DIR [--xl]`: create a tiny, random Stable Diffusion model, offline.

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


def build(
    directory: Path,
    seed: int = SEED,
    *,
    xl: bool = False,
    repainting: bool = False,
    flux: bool = False,
    z_image: bool = False,
) -> Path:
    """Write the model to `directory` atomically, unless it is there already; returns the path.

    `xl` makes one of the family of Stable Diffusion XL, `flux` one of FLUX.1 [dev], `z_image` one
    of Z-Image, `repainting` an inpainting checkpoint of the others.
    """
    if (directory / "model_index.json").exists():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        if flux:
            _write_flux(scratch, seed)
        elif z_image:
            _write_z_image(scratch, seed)
        else:
            (_write_xl if xl else _write)(scratch, seed, 9 if repainting else 4)
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


def _write(directory: Path, seed: int, channels: int) -> None:
    diffusers = libraries()
    import torch  # noqa: PLC0415
    from transformers import CLIPTextModel  # noqa: PLC0415

    tokenizer = tokenizer_of_bytes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(text_config(tokenizer))
        unet = diffusers.UNet2DConditionModel(
            **UNET, in_channels=channels, cross_attention_dim=HIDDEN
        )
        vae = diffusers.AutoencoderKL(**VAE)
    inpainting = "Inpaint" if channels > VAE["latent_channels"] else ""
    getattr(diffusers, f"StableDiffusion{inpainting}Pipeline")(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        # Stable Diffusion 1's own scheduler, so that samplers start from its configuration.
        scheduler=diffusers.PNDMScheduler(
            **BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(directory)


def _write_xl(directory: Path, seed: int, channels: int) -> None:
    diffusers = libraries()
    import torch  # noqa: PLC0415
    from transformers import CLIPTextModel, CLIPTextModelWithProjection  # noqa: PLC0415

    tokenizer, tokenizer_2 = tokenizer_of_bytes(), tokenizer_of_bytes(pad="!")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(text_config(tokenizer))
        text_encoder_2 = CLIPTextModelWithProjection(
            text_config(tokenizer_2, projection_dim=HIDDEN)
        )
        unet = diffusers.UNet2DConditionModel(
            **UNET,
            in_channels=channels,
            cross_attention_dim=2 * HIDDEN,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            # The vector of the prompt, and six numbers: sizes and crop.
            projection_class_embeddings_input_dim=HIDDEN + 6 * 8,
        )
        vae = diffusers.AutoencoderKL(**VAE, scaling_factor=0.13025)
    inpainting = "Inpaint" if channels > VAE["latent_channels"] else ""
    getattr(diffusers, f"StableDiffusionXL{inpainting}Pipeline")(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        unet=unet,
        # Stable Diffusion XL's own.
        scheduler=diffusers.EulerDiscreteScheduler(
            **BETAS, timestep_spacing="leading", steps_offset=1, interpolation_type="linear"
        ),
        add_watermarker=False,
    ).save_pretrained(directory)


def _write_flux(directory: Path, seed: int) -> None:
    diffusers = libraries()
    import torch  # noqa: PLC0415
    from transformers import CLIPTextModel, T5Config, T5EncoderModel  # noqa: PLC0415

    tokenizer = tokenizer_of_bytes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = CLIPTextModel(text_config(tokenizer))
        text_encoder_2 = T5EncoderModel(
            T5Config(vocab_size=64, d_model=HIDDEN, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
        )
        transformer = diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * FLUX_LATENTS,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=HIDDEN,
            pooled_projection_dim=HIDDEN,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        )
        vae = diffusers.AutoencoderKL(**{**VAE, **FLUX_VAE})
    diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_of_letters(),
        transformer=transformer,
    ).save_pretrained(directory)


def _write_z_image(directory: Path, seed: int) -> None:
    diffusers = libraries()
    import torch  # noqa: PLC0415
    from transformers import Qwen3Config, Qwen3Model  # noqa: PLC0415

    tokenizer = _chat_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text_encoder = Qwen3Model(
            Qwen3Config(
                vocab_size=len(tokenizer),
                hidden_size=HIDDEN,
                intermediate_size=64,
                num_hidden_layers=3,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
            )
        )
        transformer = diffusers.ZImageTransformer2DModel(
            in_channels=FLUX_LATENTS,
            dim=HIDDEN,
            n_layers=2,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=HIDDEN,
            axes_dims=[4, 6, 6],
        )
        for pad in (transformer.x_pad_token, transformer.cap_pad_token):
            torch.nn.init.normal_(pad)
        vae = diffusers.AutoencoderKL(**{**VAE, **FLUX_VAE})
    diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(directory)


def build_control(directory: Path, model: Path, seed: int = SEED) -> Path:
    """Write a random ControlNet for a model that `build` made; returns the path.

    Fresh ones have no effect, since their last convolutions are zero; here these are random too.
    """
    diffusers = libraries()
    import torch  # noqa: PLC0415

    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet", local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = diffusers.ControlNetModel.from_unet(unet, load_weights_from_unet=False)
        part: Any
        for part in network.controlnet_cond_embedding.modules():
            if hasattr(part, "weight"):
                torch.nn.init.kaiming_normal_(part.weight)
                torch.nn.init.zeros_(part.bias)
        for part in (*network.controlnet_down_blocks, network.controlnet_mid_block):
            torch.nn.init.normal_(part.weight, std=0.3)
    network.save_pretrained(directory)
    return directory


HIDDEN = 32
FLUX_LATENTS = 16
"""Channels of the latents of FLUX and Z-Image, which have the same autoencoder."""
FLUX_VAE: dict[str, Any] = {
    "latent_channels": FLUX_LATENTS,
    "shift_factor": 0.1159,
    "scaling_factor": 0.3611,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""What their autoencoder has of its own."""
BETAS: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
UNET: dict[str, Any] = {
    "sample_size": NATIVE_SIZE // 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": (8, 16, 16, 32),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": NATIVE_SIZE,
}


def libraries() -> Any:
    """Return diffusers, which then never downloads."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return import_module("diffusers")


def text_config(tokenizer: CLIPTokenizer, **more: Any) -> Any:
    """Return the configuration of a text encoder; `more` replaces its tiny sizes."""
    from transformers import CLIPTextConfig  # noqa: PLC0415

    sizes = {
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{**sizes, **more},
    )


def tokenizer_of_bytes(pad: str = END) -> CLIPTokenizer:
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
        **dict.fromkeys(("eos_token", "unk_token"), END),
        pad_token=pad,
    )


def _chat_tokenizer() -> Any:
    """Return Qwen's kind of tokenizer, with one token per byte and a template of a question."""
    from tokenizers import pre_tokenizers  # noqa: PLC0415
    from transformers import Qwen2Tokenizer  # noqa: PLC0415

    end, *marks = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: number for number, token in enumerate([*symbols, end])}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[],
        unk_token=end,
        eos_token=end,
        pad_token=end,
        model_max_length=2048,
        additional_special_tokens=marks,
    )
    tokenizer.chat_template = (
        "{% for one in messages %}<|im_start|>{{ one.role }}\n{{ one.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer


def tokenizer_of_letters() -> Any:
    """Return T5's kind of tokenizer, with one token per letter."""
    from transformers import T5Tokenizer  # noqa: PLC0415

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(letter, -2.0) for letter in "\u2581abcdefghijklmnopqrstuvwxyz0123456789,.#"]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)


def main() -> None:
    """Create the model in the directory that the command line names."""
    names = [one for one in sys.argv[1:] if one != "--xl"]
    if len(names) != 1:
        sys.exit("usage: python -m gpu_worker.tiny DIR [--xl]")
    sys.stdout.write(f"{build(Path(names[0]), xl='--xl' in sys.argv)}\n")


if __name__ == "__main__":
    main()
