"""FLUX on a tiny random model: what all families share, and what is its own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from gpu_worker import model_files
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from tests.worker.test_families import loaded
from tests.worker.test_pipeline import a_job, difference, drawn, pixels, redrawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpu_worker.pipeline import Pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_worker.tiny import build

    return build(tmp_path_factory.mktemp("models") / "flux", flux=True)


@pytest.fixture(scope="module")
def flux(model: Path) -> Iterator[Pipeline]:
    with loaded(model) as pipeline:
        yield pipeline


def test_it_warms_up_and_draws_in_every_size(flux: Pipeline) -> None:
    flux.warm_up()
    assert flux.native_size == 64
    for width, height in ((64, 64), (128, 64), (64, 192)):
        (image,) = flux.draw([a_job(width=width, height=height)])
        assert image.size == (width, height)
        assert pixels(image).std() > 2


def test_an_image_is_the_same_alone_and_whatever_its_mates(flux: Pipeline) -> None:
    jobs = [a_job(prompt=f"a{'b' * n}###{n}", seed=str(n)) for n in range(4)]
    together, turned = flux.draw(jobs), flux.draw(jobs[::-1])
    assert [one.tobytes() for one in together] == [one.tobytes() for one in turned[::-1]]
    for job, image in zip(jobs, together, strict=True):
        assert np.abs(pixels(flux.draw([job])[0]) - pixels(image)).max() <= 1


def test_prompt_seed_steps_and_true_guidance_have_an_effect(flux: Pipeline) -> None:
    plain = drawn(flux, prompt="a cat###blue", cfg_scale=4.0)
    for other in (
        {"prompt": "a dog###blue", "cfg_scale": 4.0},
        {"prompt": "a cat###red", "cfg_scale": 4.0},
        {"prompt": "a cat###blue", "cfg_scale": 2.0},
        {"prompt": "a cat###blue", "cfg_scale": 4.0, "seed": "8"},
        {"prompt": "a cat###blue", "cfg_scale": 4.0, "ddim_steps": 9},
    ):
        assert difference(plain, drawn(flux, **other)) > 0, other


def test_without_guidance_the_negative_prompt_costs_nothing_and_changes_nothing(
    flux: Pipeline,
) -> None:
    plain = drawn(flux, prompt="a cat###blue", cfg_scale=1.0)
    assert difference(plain, drawn(flux, prompt="a cat###red", cfg_scale=1.0)) == 0
    assert difference(plain, drawn(flux, prompt="a cat###blue", cfg_scale=0.5)) == 0


@pytest.mark.parametrize(
    "field",
    [
        {"sampler_name": "k_dpmpp_2m"},
        {"karras": False},
        {"clip_skip": 3},
        {"prompt": "a (cat:1.0)"},
    ],
)
def test_what_flow_matching_has_no_use_for_changes_nothing(
    flux: Pipeline, field: dict[str, object]
) -> None:
    plain = drawn(flux, prompt="a cat")
    assert difference(plain, drawn(flux, **{"prompt": "a cat", **field})) == 0


def test_it_reads_prompts_as_diffusers_does(flux: Pipeline) -> None:
    import torch

    ours = flux._model
    with torch.inference_mode():
        tokens, whole, _ = ours.text2img.encode_prompt("a cat", "a cat", max_sequence_length=512)
        found = ours.prompts([ours.read("a cat")], [ours.read("a dog")], 1, 1)
    assert torch.equal(found["prompt_embeds"], tokens)
    assert torch.equal(found["pooled_prompt_embeds"], whole)


def test_a_prompt_of_more_tokens_than_it_reads_is_refused(flux: Pipeline) -> None:
    drawn(flux, prompt="x" * 500)
    with pytest.raises(BadJobError, match=r"tokens; this model reads at most 512"):
        flux.draw([a_job(prompt="x" * 600)])


@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_a_strength_runs_its_share_of_the_steps(
    flux: Pipeline, source: Image.Image, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    network = flux._model.network
    forward = network.forward

    def counted(*args: object, **options: object) -> object:
        calls.append(1)
        return forward(*args, **options)

    monkeypatch.setattr(network, "forward", counted)
    redrawn(flux, source, denoising_strength=strength, ddim_steps=8, cfg_scale=1.0)
    assert len(calls) == max(1, int(8 * strength))


def test_a_weak_redrawing_is_near_its_source(flux: Pipeline, source: Image.Image) -> None:
    weak = redrawn(flux, source, denoising_strength=0.05, ddim_steps=20)
    strong = redrawn(flux, source, denoising_strength=1.0, ddim_steps=20)
    assert difference(weak, strong) > 0


def test_only_what_the_mask_says_is_painted_anew(flux: Pipeline, source: Image.Image) -> None:
    masked = source.copy()
    keep = Image.new("L", source.size, 255)
    keep.paste(0, (0, 0, source.width // 2, source.height))
    masked.putalpha(keep)
    job = replace(a_job(source="url"), source_processing="inpainting")
    (image,) = flux.draw([job], [masked])
    half = (source.width // 2, 0, source.width, source.height)
    assert image.crop(half).tobytes() == source.crop(half).tobytes()
    assert difference(pixels(image), pixels(source)) > 0.02


def test_hires_fix_draws_small_first(flux: Pipeline) -> None:
    size = {"width": 128, "height": 192}
    plain = drawn(flux, **size)
    assert difference(plain, drawn(flux, hires_fix=True, **size)) > 0


def test_a_lora_is_not_for_it(flux: Pipeline) -> None:
    assert not flux.takes_add_ons
    with pytest.raises(BadJobError, match="loras is not supported"):
        flux.draw([a_job(loras=[{"name": "ink"}])])


@pytest.mark.parametrize(
    ("part", "field", "value", "why"),
    [
        ("transformer", "in_channels", 16, "autoencoder"),
        ("transformer", "joint_attention_dim", 8, "text encoders"),
        ("text_encoder", "hidden_size", 8, "text encoders"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_they_are_loaded(
    model: Path, tmp_path: Path, part: str, field: str, value: int, why: str
) -> None:
    assert model_files.read(model).baseline == "flux_1"
    wrong = tmp_path / "wrong"
    shutil.copytree(model, wrong)
    file = wrong / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(ModelError, match=why):
        model_files.read(wrong)
    shutil.rmtree(wrong / "vae")
    with pytest.raises(ModelError, match="vae"):
        model_files.read(wrong)
