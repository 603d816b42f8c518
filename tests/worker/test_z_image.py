"""What is Z-Image's own, on a tiny random model; `test_flow` has what it shares with FLUX."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker import model_files
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from tests.worker.test_families import half_masked, loaded
from tests.worker.test_pipeline import a_job, difference, drawn, pixels

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_worker.tiny import build

    return build(tmp_path_factory.mktemp("models") / "z-image", z_image=True)


def test_the_tokens_of_the_template_count_and_none_is_cut_off(model: Path) -> None:
    with loaded(model) as pipeline:
        around, most = pipeline._model.tokens("")  # type: ignore[attr-defined]
        fits = "x" * (most - around)
        assert difference(drawn(pipeline, prompt=fits), drawn(pipeline, prompt=f"{fits[:-1]}y")) > 0
        with pytest.raises(BadJobError, match="has 513 tokens; this model reads at most 512"):
            drawn(pipeline, prompt=f"{fits}x")


def test_every_kind_of_drawing_runs_in_the_type_that_a_gpu_gets(
    model: Path, source: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from gpu_worker.families.z_image import ZImage

    load = ZImage.__init__

    def halved(self: ZImage, directory: Path, device: str, _: Any, variant: str | None) -> None:
        load(self, directory, device, ZImage.half, variant)

    monkeypatch.setattr(ZImage, "__init__", halved)
    with loaded(model) as pipeline:
        assert pipeline._model.network.dtype is torch.bfloat16
        picture = a_job(source="url")
        part = replace(picture, source_processing="inpainting")
        for job, given in ((a_job(), None), (picture, source), (part, half_masked(source))):
            (image,) = pipeline.draw([job], [given])
            assert pixels(image).std() > 2


@pytest.mark.parametrize(
    ("part", "changed", "why"),
    [
        ("transformer", {"axes_dims": [4, 4, 4]}, "axes_dims"),
        ("transformer", {"axes_dims": None}, "axes_dims"),
        ("transformer", {"axes_dims": 16}, "axes_dims"),
        ("transformer", {"n_heads": 3}, "axes_dims"),
        ("transformer", {"n_heads": 0, "dim": 0}, "axes_dims"),
        ("transformer", {"dim": "wide"}, "axes_dims"),
        ("transformer", {"all_patch_size": [4]}, "patches of 2 x 2"),
        ("vae", {"shift_factor": None}, "shift_factor"),
        ("vae", {"block_out_channels": [8] * 7}, "in steps of 64 pixels"),
        ("vae", {"block_out_channels": None}, "in steps of 64 pixels"),
    ],
)
def test_what_diffusers_would_fail_at_later_is_refused_before_anything_is_loaded(
    model: Path, tmp_path: Path, part: str, changed: dict[str, Any], why: str
) -> None:
    wrong = tmp_path / "wrong"
    shutil.copytree(model, wrong)
    file = wrong / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(ModelError, match=why):
        model_files.read(wrong)


def test_a_chat_template_is_a_file_or_stands_in_the_tokenizers_settings(
    model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    template, settings = (
        other / "tokenizer" / name for name in ("chat_template.jinja", "tokenizer_config.json")
    )
    text = template.read_text()
    template.unlink()
    with pytest.raises(ModelError, match="no chat template"):
        model_files.read(other)
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": text}))
    with loaded(other) as pipeline:
        pipeline.warm_up()


def test_the_operator_adds_a_directory_of_it_and_draws_with_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra.operate import commands, model_commands, models_file
    from tests.support.template import ROOT

    settings = tmp_path / "settings" / "prod.json"
    settings.parent.mkdir()
    shutil.copy(ROOT / "settings" / "prod.json", settings)
    for module in (models_file, model_commands):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    shutil.copytree(model, tmp_path / "volume" / "models" / "z-image")
    where = ["--path", "/runpod-volume/models/z-image", "--volume", str(tmp_path / "volume")]
    drawing = tmp_path / "apple.png"
    family = ["--baseline", "z_image_turbo", "--license", "Apache-2.0", "--draw", str(drawing)]
    commands.main(["model", "add", "Z-Image-Turbo", *where, *family])
    entry = json.loads(settings.read_text())["models"]["Z-Image-Turbo"]
    assert (entry["baseline"], entry["native_size"]) == ("z_image_turbo", 64)
    assert drawing.stat().st_size > 1000
    with pytest.raises(SystemExit) as ended:
        commands.main(["model", "check", "Z-Image-Turbo", *where[2:]])
    assert ended.value.code == 0
