"""A checkpoint in a single file becomes a directory that draws the same pictures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from gpu_worker import tiny
from gpu_worker.convert import ConvertError, convert
from gpu_worker.layouts import SD1, SD2, SDXL
from tests.support.numbers import HANG_S
from tests.worker import single_files

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.slow  # models of some size

ROOT = Path(__file__).resolve().parents[2]
BASELINES = {SD1: SD1, SD2: f"{SD2}_512", SDXL: SDXL}


@pytest.fixture(scope="module", params=[SD1, SD2, SDXL, "painting"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models of each family."""
    folder = tmp_path_factory.mktemp("models")

    def model(family: str) -> Path:
        painting = family == "painting"
        return tiny.build(folder / family, xl=family == SDXL, repainting=painting)

    return model


@pytest.fixture(scope="module")
def checkpoint(models: Callable[[str], Path], family: str, tmp_path_factory: Any) -> Path:
    file = tmp_path_factory.mktemp("files") / "model.safetensors"
    return single_files.write(models(family), file, SD1 if family == "painting" else family)


@pytest.fixture
def simple(models: Callable[[str], Path], tmp_path: Path) -> tuple[Path, Path]:
    """A tiny model of Stable Diffusion 1, and the same in one file."""
    return models(SD1), single_files.write(models(SD1), tmp_path / "m.safetensors", SD1)


def refusal(file: Path, config: Path | None, **options: Any) -> str:
    target = file.parent / "made"
    with pytest.raises(ConvertError) as refused:
        convert(file, target, config=config, **options)
    assert not target.exists()
    assert not (file.parent / ".made.part").exists()
    (line,) = str(refused.value).splitlines()
    return line


def test_every_weight_of_each_family_arrives_in_half_precision(
    family: str, models: Callable[[str], Path], checkpoint: Path, tmp_path: Path
) -> None:
    source = models(family)
    baseline = BASELINES.get(family, "")
    made = convert(checkpoint, tmp_path / "made", baseline=baseline, config=source)
    assert made.baseline == (baseline or SD1)
    assert made.native_size == tiny.NATIVE_SIZE
    count = 0
    for part in ("unet", "vae", "text_encoder", *(["text_encoder_2"] if family == SDXL else [])):
        before = single_files.weights(source, part)
        after = single_files.weights(tmp_path / "made", part)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name].half(), after[name]) for name in before), part
        count += sum(tensor.numel() for tensor in after.values())
    assert made.parameters == count


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
def test_the_worker_draws_with_what_was_made(simple: tuple[Path, Path], tmp_path: Path) -> None:
    config, file = simple
    convert(file, tmp_path / "made", config=config)
    images = [single_files.drawn(one) for one in (config, tmp_path / "made")]
    pairs = zip(*(image.tobytes() for image in images), strict=True)
    assert max(abs(one - other) for one, other in pairs) <= 3  # half precision


def test_a_worker_of_another_user_can_read_what_was_made(
    simple: tuple[Path, Path], tmp_path: Path
) -> None:
    config, file = simple
    convert(file, tmp_path / "made", config=config)
    found = [tmp_path / "made", *(tmp_path / "made").rglob("*")]
    assert any(path.suffix == ".safetensors" for path in found)
    assert all(
        path.stat().st_mode & 0o7777 == (0o755 if path.is_dir() else 0o644) for path in found
    )


def test_the_same_twice_changes_nothing(simple: tuple[Path, Path], tmp_path: Path) -> None:
    config, file = simple
    first = convert(file, tmp_path / "made", config=config)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")}
    second = convert(file, tmp_path / "made", config=config)
    assert (first.made, second.made) == (True, False)
    assert first.sha256 == second.sha256
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "made").rglob("*")} == before


def test_what_is_there_already_is_never_written_over(
    simple: tuple[Path, Path], tmp_path: Path
) -> None:
    config, file = simple
    shutil.copytree(config, tmp_path / "own")
    with pytest.raises(ConvertError, match="was not made by this command"):
        convert(file, tmp_path / "own", config=config)
    convert(file, tmp_path / "made", config=config)
    file.write_bytes(file.read_bytes()[:-2] + b"xx")
    with pytest.raises(ConvertError, match="made of another file: remove it first"):
        convert(file, tmp_path / "made", config=config)


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x04\x95", b"PK\x03\x04"])
def test_a_pickle_is_refused_and_never_opened(tmp_path: Path, start: bytes) -> None:
    file = tmp_path / "model.ckpt"
    file.write_bytes(start + bytes(100))
    assert "is a pickle, and loading it runs code" in refusal(file, None)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lora_unet_down.alpha": 1}, "is a LoRA, not a model"),
        ({"double_blocks.0.weight": 1}, "is FLUX's transformer alone, without autoencoder"),
        ({"diffusion_model.double_blocks.0.lora_A.weight": 1}, "is a LoRA, not a model"),
        ({"model.diffusion_model.cap_pad_token": 1}, "is a Z-Image model"),
        ({"control_model.input": 1}, "is a ControlNet"),
        ({"conditioner.embedders.0.model.ln_final": 1}, "refiner of Stable Diffusion XL"),
        ({"weight": 1}, "is no checkpoint of Stable Diffusion 1, 2, XL or FLUX.1"),
        ({"model.diffusion_model.input_blocks.0.0.weight": 1}, "a UNet and no text encoder"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    tmp_path: Path, tensors: dict[str, int], said: str
) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "m.safetensors"
    save_file({name: torch.zeros(size) for name, size in tensors.items()}, file)
    assert said in refusal(file, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda one: one * float("nan"), "is damaged: conv_out.bias is not finite"),
        (lambda one: one + 1e6, "is damaged: conv_out.bias is not finite in half precision"),
        (lambda one: one[:-1], "the UNet has other shapes than its family: conv_out.bias"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_the_name_of_its_tensor(
    models: Callable[[str], Path], tmp_path: Path, change: Callable[[Any], Any], said: str
) -> None:
    name = "model.diffusion_model.out.2.bias"
    good = load_file(single_files.write(models(SD1), tmp_path / "good.safetensors", SD1))[name]
    file = tmp_path / "m.safetensors"
    single_files.write(models(SD1), file, SD1, **{name: change(good)})
    assert said in refusal(file, models(SD1))


def test_a_checkpoint_that_lacks_weights_is_refused(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    found = load_file(single_files.write(models(SD1), tmp_path / "m.safetensors", SD1))
    for name, said in (
        ("model.diffusion_model.out.2.bias", "the UNet lacks conv_out.bias"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.bias", "text_encoder lacks fin"),
        ("first_stage_model.quant_conv.bias", "the autoencoder lacks quant_conv.bias"),
    ):
        file = tmp_path / "less.safetensors"
        save_file({one: tensor for one, tensor in found.items() if one != name}, file)
        assert said in refusal(file, models(SD1))
    save_file({one: found[one] for one in found if not one.startswith("first_stage")}, file)
    assert "has no autoencoder" in refusal(file, models(SD1))


def test_a_file_that_is_cut_off_or_missing_is_refused(simple: tuple[Path, Path]) -> None:
    config, file = simple
    file.write_bytes(file.read_bytes()[:-10])
    assert "is cut off" in refusal(file, config)
    assert "No such file" in refusal(file.with_name("nothing"), config)


def test_the_family_must_be_the_one_that_is_named(
    simple: tuple[Path, Path], models: Callable[[str], Path], tmp_path: Path
) -> None:
    config, file = simple
    assert "not stable_diffusion_xl" in refusal(file, config, baseline=SDXL)
    second = single_files.write(models(SD1), tmp_path / "2.safetensors", SD2)
    assert "--baseline stable_diffusion_2_512 or" in refusal(second, config)


def test_without_room_on_the_disk_nothing_is_begun(
    simple: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, file = simple
    none = shutil.disk_usage(file)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: none)
    assert "GB are needed, and 0.0 are free" in refusal(file, config)


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_half_and_the_next_one_makes_it(
    simple: tuple[Path, Path], tmp_path: Path
) -> None:
    config, file = simple
    code = (
        "import sys, time; from pathlib import Path; from gpu_worker import convert as c\n"
        "c._settle = lambda _: (print('written', flush=True), time.sleep(3600))\n"
        "c.convert(Path(sys.argv[1]), Path(sys.argv[2]), config=Path(sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, str(file), str(tmp_path / "made"), str(config)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        with pytest.raises(ConvertError, match="another run is making"):
            convert(file, tmp_path / "made", config=config)
        os.kill(process.pid, signal.SIGKILL)
    assert not (tmp_path / "made").exists()
    end = time.monotonic() + HANG_S
    assert convert(file, tmp_path / "made", config=config).made
    assert time.monotonic() < end
    assert json.loads((tmp_path / "made" / "source.json").read_text())["baseline"] == SD1
