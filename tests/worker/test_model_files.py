"""What a model directory must hold before a worker loads it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker.model_files import ModelError, read

if TYPE_CHECKING:
    from pathlib import Path

PARTS: dict[str, dict[str, Any]] = {
    "model_index.json": {"_class_name": "StableDiffusionPipeline"},
    "unet/config.json": {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 768},
    "vae/config.json": {"latent_channels": 4},
    "text_encoder/config.json": {"hidden_size": 768},
    "scheduler/scheduler_config.json": {"prediction_type": "v_prediction"},
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    for name, content in PARTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    for part in ("unet", "vae", "text_encoder"):
        (tmp_path / part / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def change(model: Path, name: str, **fields: Any) -> None:
    (model / name).write_text(json.dumps({**PARTS[name], **fields}))


def refusal(model: Path) -> str:
    with pytest.raises(ModelError) as refused:
        read(model)
    (line,) = str(refused.value).splitlines()
    return line


def test_a_stable_diffusion_model_is_read(model: Path) -> None:
    found = read(model)
    assert (found.kind, found.prediction) == ("StableDiffusionPipeline", "v_prediction")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("StableCascadeCombinedPipeline", "a Stable Cascade model"),
        ("SomethingNew", "made for SomethingNew"),
        (None, "made for None"),
    ],
)
def test_a_model_of_another_kind_is_refused_by_its_name(
    model: Path, kind: str | None, said: str
) -> None:
    change(model, "model_index.json", _class_name=kind)
    assert said in refusal(model)


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("unet/config.json", {"in_channels": 9}, "takes 9 channels, not 4: model_index.json must"),
        ("unet/config.json", {"in_channels": 8}, "takes 8 channels, not 4"),
        ("unet/config.json", {"in_channels": None}, "takes None channels"),
        ("unet/config.json", {"out_channels": 8}, "the UNet and the autoencoder"),
        ("vae/config.json", {"latent_channels": 16}, "the UNet and the autoencoder"),
        ("text_encoder/config.json", {"hidden_size": 1024}, "the UNet and the text encoder"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(
    model: Path, name: str, fields: dict[str, Any], said: str
) -> None:
    change(model, name, **fields)
    assert said in refusal(model)


@pytest.mark.parametrize("name", PARTS)
def test_a_file_that_is_missing_or_unreadable_is_named(model: Path, name: str) -> None:
    for content in ("{", "[]", "\x00"):
        (model / name).write_text(content)
        assert name in refusal(model)
    (model / name).unlink()
    assert name in refusal(model)


def test_an_inpainting_model_takes_nine_channels(model: Path) -> None:
    change(model, "model_index.json", _class_name="StableDiffusionInpaintPipeline")
    assert refusal(model) == "the UNet in MODEL_DIR takes 4 channels, not 9"
    change(model, "unet/config.json", in_channels=9)
    assert read(model).kind == "StableDiffusionInpaintPipeline"


def test_the_refiner_of_xl_which_has_no_first_encoder_is_refused(model: Path) -> None:
    change(model, "model_index.json", _class_name="StableDiffusionXLImg2ImgPipeline")
    assert "text_encoder_2/config.json" in refusal(model)


def test_weights_must_be_there_and_be_no_code(model: Path) -> None:
    weights = model / "unet" / "model.safetensors"
    weights.write_bytes(b"")
    assert refusal(model) == "unet in MODEL_DIR has no weights"
    weights.rename(model / "unet" / "model.bin")
    (model / "unet" / "model.bin").write_bytes(b"weights")
    assert "loading them runs code" in refusal(model)


def test_a_directory_that_is_not_there_is_refused(model: Path) -> None:
    shutil.rmtree(model)
    assert "model_index.json" in refusal(model)


@pytest.mark.lengthy
def test_the_models_of_this_project_are_read(tiny_model: Path, tiny_xl_model: Path) -> None:
    from tests.support.template import ROOT

    assert read(tiny_xl_model).kind == "StableDiffusionXLPipeline"
    assert read(tiny_model).prediction == "epsilon"
    assert read(ROOT / "gpu_worker" / "models" / "emoji").prediction == "v_prediction"
