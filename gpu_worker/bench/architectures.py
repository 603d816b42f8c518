"""Models with random weights in the shapes of published ones: they are as fast, and need no file.

Sizes are those of the published configurations (`config.json` of stable-diffusion-v1-5,
stable-diffusion-xl-base-1.0 and FLUX.1-dev). The text encoders read bytes, and T5 has one layer:
prompts are encoded once and kept, so they cost next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpu_worker import tiny

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BLOCKS = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
          "num_attention_heads": 12}  # fmt: skip
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
          "num_attention_heads": 20, "projection_dim": 1280}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A shape of model, and what is drawn with it."""

    name: str
    what: str
    """What it stands for, in words."""
    build: Callable[[str], Any]
    """Returns a pipeline of diffusers with random weights, which a device made."""
    side: int
    """Of the images, in pixels."""
    steps: int
    guidance: float
    gigabytes: float
    """Memory of a GPU with which it is measured, at least."""
    batch: int
    """Images of a batch."""

    def write(self, directory: Path, device: str) -> None:
        """Write the model in half precision."""
        import torch  # noqa: PLC0415

        self.build(device).to(dtype=torch.float16).save_pretrained(directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny(Architecture):
    """A model that a CPU draws with in a while: the ratios say something, the figures nothing."""

    options: dict[str, bool]

    def write(self, directory: Path, device: str) -> None:  # noqa: ARG002 - they take no time
        """Write the model that tests use."""
        tiny.build(directory, **self.options)


def _sd(device: str) -> Any:
    diffusers = tiny.libraries()
    import torch  # noqa: PLC0415
    from transformers import CLIPTextModel  # noqa: PLC0415

    tokenizer = tiny.tokenizer_of_bytes()
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=(*BLOCKS[:1] * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *BLOCKS[1:] * 3),
            attention_head_dim=8,
            cross_attention_dim=768,
        )
        vae = diffusers.AutoencoderKL(**VAE, sample_size=512)
        encoder = CLIPTextModel(tiny.text_config(tokenizer, **CLIP_L))
    return diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(**tiny.BETAS, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _xl(device: str) -> Any:
    diffusers = tiny.libraries()
    import torch  # noqa: PLC0415
    from transformers import CLIPTextModel, CLIPTextModelWithProjection  # noqa: PLC0415

    tokenizers = tiny.tokenizer_of_bytes(), tiny.tokenizer_of_bytes(pad="!")
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", *BLOCKS[:1] * 2),
            up_block_types=(*BLOCKS[1:] * 2, "UpBlock2D"),
            attention_head_dim=(5, 10, 20),
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=1280 + 6 * 256,
        )
        vae = diffusers.AutoencoderKL(**VAE, sample_size=1024, scaling_factor=0.13025)
        encoders = (
            CLIPTextModel(tiny.text_config(tokenizers[0], **CLIP_L)),
            CLIPTextModelWithProjection(tiny.text_config(tokenizers[1], **CLIP_G)),
        )
    return diffusers.StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(
            **tiny.BETAS, timestep_spacing="leading", steps_offset=1
        ),
        add_watermarker=False,
    )


def _flux(device: str) -> Any:
    diffusers = tiny.libraries()
    import torch  # noqa: PLC0415
    from transformers import CLIPTextModel, T5Config, T5EncoderModel  # noqa: PLC0415

    tokenizer = tiny.tokenizer_of_bytes()
    with torch.device(device):
        transformer = diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=5,
            num_single_layers=10,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )
        vae = diffusers.AutoencoderKL(**{**VAE, **tiny.FLUX_VAE}, sample_size=1024)
        encoder = CLIPTextModel(tiny.text_config(tokenizer, **CLIP_L))
        t5 = T5EncoderModel(
            T5Config(vocab_size=64, d_model=4096, d_kv=64, d_ff=64, num_layers=1, num_heads=1)
        )
    return diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=tiny.tokenizer_of_letters(),
        transformer=transformer,
    )


FULL = (
    Architecture(name="sd15", what="Stable Diffusion 1.5, 512x512", build=_sd,
                 side=512, steps=30, guidance=7.5, gigabytes=8, batch=8),
    Architecture(name="sdxl", what="Stable Diffusion XL, 1024x1024", build=_xl,
                 side=1024, steps=30, guidance=5.0, gigabytes=20, batch=4),
    Architecture(name="flux", what="a quarter of FLUX.1's blocks, 1024x1024", build=_flux,
                 side=1024, steps=28, guidance=1.0, gigabytes=20, batch=4),
)  # fmt: skip
TINY = (
    Tiny(name="sd15", what="tiny, of Stable Diffusion 1's kind, 64x64", options={}, build=_sd,
         side=64, steps=20, guidance=7.5, gigabytes=0, batch=8),
    Tiny(name="sdxl", what="tiny, of Stable Diffusion XL's kind, 64x64", options={"xl": True},
         build=_xl, side=64, steps=20, guidance=5.0, gigabytes=0, batch=4),
    Tiny(name="flux", what="tiny, of FLUX's kind, 64x64", options={"flux": True}, build=_flux,
         side=64, steps=20, guidance=1.0, gigabytes=0, batch=4),
)  # fmt: skip
