"""Tiny random networks of each class that annotators load, and ways to spoil their folders."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
import transformers
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path

ANY: Any = transformers


def a_depth(folder: Path, **more: Any) -> Path:
    """Write a relative Depth Anything that sees 56 pixels."""
    backbone = ANY.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14,
        out_features=[f"stage{n}" for n in range(1, 5)], reshape_hidden_states=False,
    )  # fmt: skip
    config = ANY.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8, head_hidden_size=8, **more,
    )  # fmt: skip
    return _written(
        folder,
        lambda: ANY.DepthAnythingForDepthEstimation(config),
        {"size": {"height": 56, "width": 56}, "image_mean": [0.5, 0.5, 0.5]},
    )


def a_seg(folder: Path, classes: int = 150, first: str = "wall", **more: Any) -> Path:
    """Write a UperNet that sees 64 pixels and tells ADE20K's classes apart."""
    names = [first, "building", "sky", *[f"thing {n}" for n in range(3, 150)]][:classes]
    backbone = ANY.ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1],
        out_features=[f"stage{n}" for n in range(1, 5)],
    )  # fmt: skip
    config = ANY.UperNetConfig(
        backbone_config=backbone, hidden_size=8, pool_scales=[1, 2], auxiliary_in_channels=8,
        auxiliary_channels=8, **_named(names), **more,
    )  # fmt: skip
    return _written(
        folder,
        lambda: ANY.UperNetForSemanticSegmentation(config),
        {"size": {"height": 64, "width": 64}},
    )


def an_openpose(folder: Path, **more: Any) -> Path:
    """Write both networks of `openpose`."""
    a_finder(folder / "persons", **more)
    a_pose(folder / "pose")
    return folder


def a_finder(folder: Path, things: tuple[str, ...] = ("dog", "person"), found: int = 0) -> Path:
    """Write an RT-DETR that sees 320 pixels, and takes `found` places for a person; none for 0."""
    backbone = ANY.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = ANY.RTDetrConfig(
        backbone_config=backbone, encoder_in_channels=[8, 8, 8], decoder_in_channels=[8, 8, 8],
        encoder_hidden_dim=8, encoder_ffn_dim=8, encoder_attention_heads=2, d_model=8,
        decoder_ffn_dim=8, decoder_layers=1, decoder_attention_heads=2, hidden_expansion=1.0,
        num_queries=found or 10, **_named(things),
    )  # fmt: skip

    def network() -> Any:
        made = ANY.RTDetrForObjectDetection(config)
        last = made.model.decoder.class_embed[-1]
        last.weight.data.mul_(0.1)
        last.bias.data.fill_(-9)
        last.bias.data[list(things).index("person") if "person" in things else 0] = (
            9 if found else -9
        )
        return made

    said = {"size": {"height": 320, "width": 320}, "do_normalize": False}
    return _written(folder, network, said)


def a_pose(folder: Path, joints: int = 17, **more: Any) -> Path:
    """Write a ViTPose that sees 48x64 pixels."""
    backbone = ANY.VitPoseBackboneConfig(
        image_size=[64, 48], hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        out_indices=[2], part_features=4, **more,
    )  # fmt: skip
    config = ANY.VitPoseConfig(backbone_config=backbone, num_labels=joints)
    return _written(folder, lambda: ANY.VitPoseForPoseEstimation(config), {})


HARMS = {
    "config": "is no {}",
    "bin": "has no weights as safetensors; other formats run code",
    "part": "lacks some of its weights",
    "cut": "cannot be loaded",
    "typed": r"cannot be loaded \(StrictDataclassFieldValidationError\)",
    "infinite": "has weights that are no finite numbers",
}
"""What can be wrong with any folder of transformers, and what is said of it."""


def spoil(folder: Path, harm: str, layer: str) -> None:
    """Make a folder one that cannot be used; `layer` is a part of a tensor's name."""
    network, config = folder / "model.safetensors", folder / "config.json"
    if harm == "config":
        config.write_text("[]")
    elif harm == "bin":
        network.rename(folder / "pytorch_model.bin")
    elif harm == "cut":
        network.write_bytes(network.read_bytes()[:-1000])
    elif harm == "typed":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"initializer_range": "x"}))
    else:
        weights = load_file(network)
        name = next(name for name in weights if layer in name)
        if harm == "part":
            del weights[name]
        else:
            weights[name].fill_(math.inf)
        save_file(weights, network, metadata={"format": "pt"})


def _named(names: Any) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {one: n for n, one in enumerate(names)}}


def _written(folder: Path, make: Any, said: dict[str, Any]) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        make().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder
