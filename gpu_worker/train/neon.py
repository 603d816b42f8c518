"""`python -m gpu_worker.train.neon`: train the LoRA of the demo model, which draws neon signs.

The model itself does not change. Each convolution and linear layer of its UNet gets a product of
two small matrices (Hu et al., 2021, arXiv:2106.09685), trained on pictures of the model's own
training data as neon signs.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.utils import parametrize

from gpu_worker.train import unet
from gpu_worker.train.data import Bytes, Floats, Pictures, load
from gpu_worker.train.export import SHIPPED
from gpu_worker.train.nouns import CORE
from gpu_worker.train.progress import Training

NAME = "neon"
TRIGGER = "neon sign"
RANK = 8
LEARNING_RATE = 2e-3
BATCH = 16
LINES = 10.0
"""Gain of the edges: those of a tenth of the range become full light."""
SOFT = 1.3
"""Radius in pixels by which a picture is blurred first: the autoencoder loses thinner lines."""
DARK = np.array([0.04, 0.03, 0.10], np.float32)
"""Colour of the wall behind the sign, 0 to 1."""
PALE = np.array([0.30, 0.90, 1.0], np.float32)
"""Colour of a tube whose edge has none."""


def _blurred(image: Floats, radius: float) -> Floats:
    reach = int(3 * radius)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if one == axis else (0, 0) for one in range(3)]
        wide = np.pad(image, pad, mode="edge")
        places = [range(at, at + image.shape[axis]) for at in range(len(kernel))]
        parts = [np.take(wide, place, axis) for place in places]
        image = np.tensordot(kernel, np.stack(parts), 1).astype(np.float32)
    return image


def neon(picture: Bytes) -> Bytes:
    """Return a picture of shape (height, width, 3) as a neon sign: its edges glow in the dark."""
    image: Floats = (picture / 255).astype(np.float32)
    down, across = np.gradient(_blurred(image, SOFT), axis=(0, 1))
    edges = np.sqrt(down**2 + across**2).max(-1, keepdims=True)
    light = np.clip((edges - 0.02) * LINES, 0, 1)
    brightest = image.max(-1, keepdims=True)
    is_grey = brightest - image.min(-1, keepdims=True) < 0.12
    hue: Floats = np.where(is_grey, PALE, (image / np.maximum(brightest, 1e-3)) ** 3).astype("f4")
    tubes = light * _blurred(hue, SOFT)
    shown = DARK + tubes + 0.8 * _blurred(tubes, 2)
    sign: Bytes = (np.clip(shown, 0, 1) * 255).astype(np.uint8)
    return sign


class Signs(Pictures):
    """The pictures as neon signs; half of the captions say so."""

    def draw(self) -> tuple[Bytes, str]:
        """Return the next picture and its caption."""
        picture, caption = super().draw()
        said = self.random.random() < 0.5
        return neon(picture), f"{TRIGGER} of {caption}" if said else caption


class LowRank(torch.nn.Module):
    """Adds the product of two matrices to a weight of shape (out, in, ...)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.down = torch.nn.Parameter(torch.randn(RANK, weight[0].numel()) / RANK)
        self.up = torch.nn.Parameter(torch.zeros(len(weight), RANK))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight as it is drawn with."""
        return weight + (self.up @ self.down).view_as(weight)


def adapted(model: Any) -> dict[str, LowRank]:
    """Freeze a UNet, and return a trainable part for each of its layers in blocks, by name."""
    model.requires_grad_(requires_grad=False)
    parts = {}
    for name, layer in list(model.named_modules()):
        if "blocks." in name or "mid_block." in name:
            if not isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
                continue
            parts[name] = LowRank(layer.weight)
            parametrize.register_parametrization(layer, "weight", parts[name])
    return parts


def train(model: Any, latents: unet.Latents, encoder: Any, steps: int) -> dict[str, LowRank]:
    """Train and return the parts of a UNet, which keeps its own weights."""
    torch.manual_seed(0)
    parts = adapted(model)
    training = Training(
        "lora", dict.fromkeys(parts.values(), 1.0), steps, rate=LEARNING_RATE, cooldown=steps // 2
    )
    for _ in training.steps():
        clean, tokens = (both[:BATCH] for both in latents.batch())
        time = unet.high_times(BATCH)
        noisy, velocity = unet.noised(clean, time)
        with torch.no_grad():
            text = unet.embedded(encoder, tokens, 0)
        training.learn((model(noisy, time, text).sample - velocity).square().mean())
    return parts


def save(model: Any, parts: dict[str, LowRank], path: Path) -> None:
    """Write the parts as LoRAs are published (kohya's names), and what is told of them beside."""
    layers = dict(model.named_modules())
    tensors = {}
    for name, part in parts.items():
        key = "lora_unet_" + name.replace(".", "_")
        shape = layers[name].weight.shape
        point = (1,) * len(shape[2:])
        down = part.down.detach().view(RANK, *shape[1:])
        up = part.up.detach().view(shape[0], RANK, *point)
        tensors[f"{key}.lora_down.weight"] = down.half().contiguous()
        tensors[f"{key}.lora_up.weight"] = up.half().contiguous()
        tensors[f"{key}.alpha"] = torch.tensor(float(RANK)).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    about = {"triggers": [TRIGGER], "baseline": "stable_diffusion_1"}
    path.with_suffix(".json").write_text(json.dumps(about) + "\n")


def main() -> None:
    """Train the LoRA of a model directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=SHIPPED, help="model directory")
    parser.add_argument("--out", type=Path, default=Path("build/loras") / f"{NAME}.safetensors")
    parser.add_argument("--work", type=Path, default=Path("build/train"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=600)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    diffusers = import_module("diffusers")
    parts = diffusers.StableDiffusionPipeline.from_pretrained(
        args.model, dtype=torch.float32, local_files_only=True, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for part in (parts.vae, parts.text_encoder, parts.unet):
        part.requires_grad_(requires_grad=False).eval()
    processors = import_module("diffusers.models.attention_processor")
    parts.unet.set_attn_processor(processors.AttnProcessor())
    signs = Signs(load(args.work / "data"), 11, CORE, share_3d=0.85)
    latents = unet.Latents(signs, parts.vae, parts.tokenizer)
    trained = train(parts.unet, latents, parts.text_encoder, args.steps)
    save(parts.unet, trained, args.out)
    print(f"{args.out}: {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
