"""Upscalers of other architectures, which the package spandrel loads."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from gpu_worker.horde_client import Job
from gpu_worker.model_files import ModelError
from gpu_worker.post import kinds, processors

if TYPE_CHECKING:
    from pathlib import Path

    from gpu_worker.settings import Settings

torch = pytest.importorskip("torch")
networks = pytest.importorskip("gpu_worker.post.networks")
engine = pytest.importorskip("gpu_worker.post.engine")

SIZES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "2xModernSpanimationV1": (
        "SPAN",
        "SPAN",
        {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2},
    ),
    "4xNomosWebPhoto_RealPLKSR": (
        "PLKSR",
        "RealPLKSR",
        {"dim": 16, "upscaling_factor": 4, "n_blocks": 2, "kernel_size": 5},
    ),
    "4xNomos2_realplksr_dysample": (
        "PLKSR",
        "RealPLKSR",
        {"dim": 16, "upscaling_factor": 4, "n_blocks": 2, "kernel_size": 5, "dysample": True},
    ),
    "4xNomos2_hq_dat2": (
        "DAT",
        "DAT",
        {"embed_dim": 16, "depth": [1], "num_heads": [2], "expansion_factor": 2,
         "split_size": [8, 16], "upscale": 4},
    ),
}  # fmt: skip
"""Small networks of the architectures in which the Horde's upscalers are published, by name."""
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.slow,  # importing torch, and networks of some size
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
]


def made(name: str) -> Any:
    networks._spandrel()
    package, kind, sizes = SIZES[name]
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return getattr(import_module(f"spandrel.architectures.{package}"), kind)(**sizes).eval()


def saved(tensors: dict[str, Any], folder: Path, name: str) -> Path:
    from safetensors.torch import save_file

    file = folder / f"{name}.safetensors"
    save_file({key: one.contiguous() for key, one in tensors.items()}, file)
    return file


def loaded(settings: Settings, folder: Path) -> processors.PostProcessors:
    return processors.load(
        replace(
            settings, device="cpu", torch_threads=1, post_processor_dir=folder,
            max_pixels=72 * 64, max_batch=1,
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_each_architecture_of_the_hordes_upscalers_is_loaded_and_enlarges(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    net = made(name)
    saved(dict(net.state_dict()), tmp_path, name)
    post = loaded(settings, tmp_path)
    assert name in post.offered
    image = Image.effect_noise((72, 48), 90).convert("RGB")
    payload = {"width": 72, "height": 48, "post_processing": [name]}
    job = Job(id="j", payload=payload, deadline=float("inf"))
    found = post.run(job, image, lambda call: call())
    factor = kinds.UPSCALERS[name]
    assert found.size == (72 * factor, 48 * factor)
    # As the network alone draws it, with the borders that tiles continue.
    pixels = np.pad(np.asarray(image, np.float32), ((32, 32), (32, 32), (0, 0)), mode="edge") / 255
    with torch.inference_mode():
        alone = net(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].clamp(0, 1)
    cut = 32 * factor
    alone = alone[:, cut:-cut, cut:-cut].permute(1, 2, 0).numpy() * 255
    assert np.abs(np.asarray(found, np.float32) - alone).max() <= 1.01


def test_a_file_may_have_the_architecture_that_another_name_is_published_in(
    settings: Settings, tmp_path: Path
) -> None:
    saved(dict(made("4xNomosWebPhoto_RealPLKSR").state_dict()), tmp_path, "4x_AnimeSharp")
    assert "4x_AnimeSharp" in loaded(settings, tmp_path).offered


@pytest.mark.parametrize("lie", ["lacks", "more", "shape", "nan", "numbers"])
@pytest.mark.parametrize("name", ["2xModernSpanimationV1", "4xNomos2_hq_dat2"])
def test_a_file_that_is_not_its_network_is_one_sentence(
    lie: str, name: str, settings: Settings, tmp_path: Path
) -> None:
    tensors = dict(made(name).state_dict())
    key = "conv_cat.weight" if "SPAN" in SIZES[name] else "conv_first.weight"
    if lie == "lacks":
        tensors.pop([one for one in tensors if one.endswith("bias")][-1])
    elif lie == "more":
        tensors["attention.weight"] = torch.zeros(1)
    elif lie == "shape":
        tensors[key] = torch.zeros(*tensors[key].shape[:2], 5, 5)
    elif lie == "nan":
        tensors[key] = tensors[key] * float("nan")
    else:
        tensors["layers.999999999.blocks.0.norm1.weight"] = torch.zeros(16)
    saved(tensors, tmp_path, name)
    with pytest.raises(ModelError) as refused:
        loaded(settings, tmp_path)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(f"POST_PROCESSOR_DIR: {name}.safetensors ")


def test_a_network_of_one_colour_is_refused(settings: Settings, tmp_path: Path) -> None:
    networks._spandrel()
    package = import_module("spandrel.architectures.SPAN")
    net = package.SPAN(num_in_ch=1, num_out_ch=1, feature_channels=8, upscale=2)
    saved(dict(net.state_dict()), tmp_path, "2xModernSpanimationV1")
    with pytest.raises(ModelError, match="is not for pictures of three colours"):
        loaded(settings, tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("GFPGAN", "none of the architectures GFPGAN, RestoreFormer"),
        ("NMKD_Siax", "enlarges by 2, not by 4"),
    ],
)
def test_a_network_of_another_kind_than_its_name_is_refused(
    name: str, why: str, settings: Settings, tmp_path: Path
) -> None:
    saved(dict(made("2xModernSpanimationV1").state_dict()), tmp_path, name)
    with pytest.raises(ModelError, match=why):
        loaded(settings, tmp_path)


def test_checkpoints_of_these_architectures_are_converted(tmp_path: Path) -> None:
    from gpu_worker.post import from_pth

    net, source = made("4xNomosWebPhoto_RealPLKSR"), tmp_path / "in.pth"
    torch.save({"params_ema": net.state_dict()}, source)
    from_pth.convert(source, tmp_path / "out.safetensors")
    found = networks.upscaler(tmp_path / "out.safetensors").module.state_dict()
    assert all(torch.equal(found[name], one) for name, one in net.state_dict().items())


def test_sides_are_filled_up_to_what_a_network_wants() -> None:
    seen = []

    class Picky(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x: Any) -> Any:
            seen.append(tuple(x.shape[2:]))
            return x

    net = networks.Network(Picky(), multiple=8, smallest=48, work=1)
    one = engine.Engine(net, "cpu", 1)
    pixels = np.random.default_rng(1).integers(0, 256, (21, 67, 3), np.uint8)
    assert (one._enlarge(pixels) == pixels).all()
    assert seen == [(48, 72)]


@pytest.mark.skipif(bool(find_spec("torchvision")), reason="torchvision is installed here")
def test_spandrel_is_imported_without_torchvision_and_leaves_nothing_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "spandrel"]:
        monkeypatch.delitem(sys.modules, name)
    assert networks._spandrel().MAIN_REGISTRY
    assert [one for one in sys.modules if one.partition(".")[0] == "torchvision"] == []
    assert find_spec("torchvision") is None
    # What it has of torchvision says so if it is ever called.
    lama = import_module("spandrel.architectures.LaMa.__arch.LaMa")
    with pytest.raises(RuntimeError, match="torchvision is not installed"):
        lama.rotate()


def test_without_spandrel_the_operators_files_are_refused_with_what_is_missing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved({"a": torch.zeros(1)}, tmp_path, "NMKD_Siax")
    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    monkeypatch.setattr(networks, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="the package spandrel is not installed"):
        loaded(settings, tmp_path)
