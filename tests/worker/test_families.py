"""Other families on tiny random models; `test_pipeline` has what all of them share."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from gpu_worker.settings import Settings
from tests.worker.test_pipeline import SAMPLERS, a_job, difference, drawn, pixels, redrawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpu_worker.pipeline import Pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


@contextmanager
def loaded(model: Path) -> Iterator[Pipeline]:
    import torch

    from gpu_worker.pipeline import Pipeline

    threads = torch.get_num_threads()
    common: dict[str, Any] = {"horde_url": "", "horde_api_key": "", "worker_name": ""}
    yield Pipeline(Settings(**common, model_dir=model, torch_threads=1, device="cpu"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def xl(tiny_xl_model: Path) -> Iterator[Pipeline]:
    with loaded(tiny_xl_model) as pipeline:
        yield pipeline


@pytest.fixture(scope="module", params=[False, True], ids=["sd", "xl"])
def repainting(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    from gpu_worker.tiny import build

    folder = tmp_path_factory.mktemp("models") / "repainting"
    with loaded(build(folder, xl=request.param, repainting=True)) as pipeline:
        yield pipeline


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_from_noise_and_from_a_picture(
    xl: Pipeline, source: Image.Image, sampler: str
) -> None:
    options: dict[str, Any] = {"sampler_name": sampler, "ddim_steps": 3}
    assert drawn(xl, **options).std() > 2
    assert redrawn(xl, source, denoising_strength=0.6, **options).std() > 2


def test_an_image_is_the_same_alone_and_whatever_its_mates(xl: Pipeline) -> None:
    jobs = [a_job(prompt=f"a{n}", seed=str(n), sampler_name="k_dpmpp_sde") for n in range(4)]
    together, turned = xl.draw(jobs), xl.draw(jobs[::-1])
    assert [one.tobytes() for one in together] == [one.tobytes() for one in turned[::-1]]
    for job, image in zip(jobs, together, strict=True):
        assert np.abs(pixels(xl.draw([job])[0]) - pixels(image)).max() <= 1


def test_prompt_negative_prompt_guidance_weights_and_length_have_an_effect(xl: Pipeline) -> None:
    long = "word " * 40
    plain = drawn(xl, prompt=f"{long}cat")
    for other in (
        {"prompt": f"{long}dog"},
        {"prompt": f"{long}cat###blue"},
        {"prompt": f"{long}(cat:1.5)"},
        {"prompt": f"{long}cat", "cfg_scale": 3.0},
        {"prompt": f"{long}cat", "clip_skip": 3},
    ):
        assert difference(plain, drawn(xl, **other)) > 0, other


def test_it_reads_the_last_layer_but_one_as_diffusers_does(xl: Pipeline) -> None:
    import torch

    model = xl._model
    with torch.inference_mode():
        theirs = model.text2img.encode_prompt(
            "a cat", device="cpu", do_classifier_free_guidance=True, negative_prompt="a dog"
        )
        ours = model.prompts([model.read("a cat")], [model.read("a dog")], 1, clip_skip=1)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds")
    for name, wanted in zip((*names, "negative_pooled_prompt_embeds"), theirs, strict=True):
        assert torch.equal(ours[name], wanted), name
    assert difference(drawn(xl, clip_skip=1), drawn(xl, clip_skip=2)) == 0


def test_the_text_alone_in_the_second_encoder_counts(
    xl: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    plain = drawn(xl)
    monkeypatch.setattr(xl._model.encoders[1], "pooled", lambda *_: torch.zeros(32))
    assert difference(plain, drawn(xl)) > 0


def test_hires_fix_and_tiling_act(xl: Pipeline) -> None:
    assert xl.native_size == 64
    size = {"width": 128, "height": 192}
    plain = drawn(xl, **size)
    assert difference(plain, drawn(xl, hires_fix=True, **size)) > 1
    assert difference(plain, drawn(xl, tiling=True, **size)) > 0.1


def test_only_what_the_mask_says_is_painted_anew(xl: Pipeline, source: Image.Image) -> None:
    repainted(xl, source)


def half_masked(source: Image.Image) -> Image.Image:
    """Return a picture whose left half is to be painted anew."""
    keep = Image.new("L", source.size, 255)
    keep.paste(0, (0, 0, source.width // 2, source.height))
    masked = source.copy()
    masked.putalpha(keep)
    return masked


def repainted(pipeline: Pipeline, source: Image.Image) -> None:
    """Have the left half of a picture painted anew, and see that the right half is kept."""
    job = replace(a_job(source="url"), source_processing="inpainting")
    (image,) = pipeline.draw([job], [half_masked(source)])
    half = (source.width // 2, 0, source.width, source.height)
    assert image.crop(half).tobytes() == source.crop(half).tobytes()
    assert difference(pixels(image), pixels(source)) > 0.02


def test_few_steps_without_guidance_draw_as_turbo_and_lightning_do(xl: Pipeline) -> None:
    unguided = drawn(xl, prompt="a###blue", cfg_scale=1.0, ddim_steps=1)
    assert unguided.std() > 2
    assert difference(unguided, drawn(xl, prompt="a###red", cfg_scale=1.0, ddim_steps=1)) == 0


def test_weights_that_are_published_in_half_precision_alone_are_found(
    tiny_xl_model: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_xl_model, half)
    for weights in half.rglob("*.safetensors"):
        weights.rename(weights.with_suffix(".fp16.safetensors"))
    with loaded(half) as pipeline:
        pipeline.warm_up()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder_2"])
def test_damaged_weights_are_one_sentence(tiny_xl_model: Path, tmp_path: Path, part: str) -> None:
    from gpu_worker.model_files import ModelError

    broken = tmp_path / "broken"
    shutil.copytree(tiny_xl_model, broken)
    (weights,) = (broken / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError) as refused, loaded(broken):
        pass
    (line,) = str(refused.value).splitlines()
    assert line.startswith("the model in MODEL_DIR cannot be loaded")


def test_it_warms_up(xl: Pipeline) -> None:
    xl.warm_up()


def test_an_inpainting_checkpoint_draws_from_noise_from_a_picture_and_a_part_of_one(
    repainting: Pipeline, source: Image.Image
) -> None:
    repainting.warm_up()
    for sampler in ("k_euler_a", "k_dpmpp_sde", "k_heun"):
        options: dict[str, Any] = {"sampler_name": sampler, "ddim_steps": 3}
        plain = drawn(repainting, **options)
        assert difference(plain, drawn(repainting, seed="9", **options)) > 1
        weak, strong = (
            redrawn(repainting, source, denoising_strength=strength, **options)
            for strength in (0.34, 1.0)
        )
        assert difference(weak, strong) > 1
    size = {"width": 128, "height": 128}
    fixed = drawn(repainting, hires_fix=True, **size)
    assert difference(drawn(repainting, **size), fixed) > 1


def test_an_inpainting_checkpoint_sees_what_is_kept(
    repainting: Pipeline, source: Image.Image
) -> None:
    job = replace(a_job(source="url", denoising_strength=1.0), source_processing="inpainting")

    def painted(around: Image.Image) -> Image.Image:
        return repainting.draw([job], [half_masked(around)])[0]

    left = (0, 0, source.width // 2, source.height)
    half = (source.width // 2, 0, source.width, source.height)
    image, other = painted(source), painted(Image.new("RGB", source.size, (200, 40, 40)))
    assert image.crop(half).tobytes() == source.crop(half).tobytes()
    assert difference(pixels(image.crop(left)), pixels(other.crop(left))) > 0.1


def test_an_inpainting_checkpoint_draws_the_same_whatever_its_mates(repainting: Pipeline) -> None:
    jobs = [a_job(prompt=f"a{n}", seed=str(n)) for n in range(4)]
    together, turned = repainting.draw(jobs), repainting.draw(jobs[::-1])
    assert [one.tobytes() for one in together] == [one.tobytes() for one in turned[::-1]]
