"""FLUX and Z-Image on tiny random models: what they share with all families, and their own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpu_worker import model_files
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError
from tests.worker.test_families import half_masked, loaded, repainted
from tests.worker.test_pipeline import a_job, difference, drawn, pixels, redrawn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from PIL import Image

    from gpu_worker.pipeline import Pipeline

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


@pytest.fixture(scope="module", params=["flux", "z_image"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_worker.tiny import build

    options: dict[str, Any] = {family: True}
    return build(tmp_path_factory.mktemp("models") / family, **options)


@pytest.fixture(scope="module")
def flow(model: Path) -> Iterator[Pipeline]:
    with loaded(model) as pipeline:
        yield pipeline


def test_it_warms_up_and_draws_in_every_size(flow: Pipeline) -> None:
    flow.warm_up()
    assert flow.native_size == 64
    for width, height in ((64, 64), (128, 64), (64, 192)):
        (image,) = flow.draw([a_job(width=width, height=height)])
        assert image.size == (width, height)
        assert pixels(image).std() > 2


@pytest.mark.parametrize("cfg_scale", [1.0, 5.0])
@pytest.mark.parametrize("kind", ["noise", "picture", "part"])
def test_an_image_is_the_same_alone_and_whatever_its_mates(
    flow: Pipeline, source: Image.Image, kind: str, cfg_scale: float
) -> None:
    # Prompts of other multiples of 32 tokens, so that Z-Image must mask what it fills up.
    jobs = [
        a_job(prompt=f"a{'b' * 30 * n}###{'c' * 40 * (3 - n)}", seed=str(n), cfg_scale=cfg_scale)
        for n in range(4)
    ]
    sources = None
    if kind != "noise":
        processing = "inpainting" if kind == "part" else "img2img"
        jobs = [replace(job, source_image="u", source_processing=processing) for job in jobs]
        sources = [half_masked(source) if kind == "part" else source] * 4
    together, turned = flow.draw(jobs, sources), flow.draw(jobs[::-1], sources)
    assert [one.tobytes() for one in together] == [one.tobytes() for one in turned[::-1]]
    assert len({one.tobytes() for one in together}) == 4
    for job, image in zip(jobs, together, strict=True):
        (alone,) = flow.draw([job], sources and sources[:1])
        assert np.abs(pixels(alone) - pixels(image)).max() <= 1


def test_prompt_seed_steps_and_true_guidance_have_an_effect(flow: Pipeline) -> None:
    plain = drawn(flow, prompt="a cat###blue", cfg_scale=4.0)
    for other in (
        {"prompt": "a dog###blue", "cfg_scale": 4.0},
        {"prompt": "a cat###red", "cfg_scale": 4.0},
        {"prompt": "a cat###blue", "cfg_scale": 2.0},
        {"prompt": "a cat###blue", "cfg_scale": 4.0, "seed": "8"},
        {"prompt": "a cat###blue", "cfg_scale": 4.0, "ddim_steps": 9},
    ):
        assert difference(plain, drawn(flow, **other)) > 0, other


def test_without_guidance_the_negative_prompt_costs_nothing_and_changes_nothing(
    flow: Pipeline,
) -> None:
    plain = drawn(flow, prompt="a cat###blue", cfg_scale=1.0)
    assert difference(plain, drawn(flow, prompt="a cat###red", cfg_scale=1.0)) == 0
    assert difference(plain, drawn(flow, prompt="a cat###blue", cfg_scale=0.5)) == 0


@pytest.mark.parametrize(
    "field",
    [
        {"sampler_name": "k_dpmpp_2m"},
        {"karras": False},
        {"clip_skip": 3},
        {"tiling": True},
        {"prompt": "a (cat:1.0)"},
    ],
)
def test_what_flow_matching_has_no_use_for_changes_nothing(
    flow: Pipeline, field: dict[str, object]
) -> None:
    plain = drawn(flow, prompt="a cat")
    assert difference(plain, drawn(flow, **{"prompt": "a cat", **field})) == 0


def test_it_reads_prompts_as_diffusers_does(flow: Pipeline, family: str) -> None:
    import torch

    ours = flow._model
    with torch.inference_mode():
        found = ours.prompts([ours.read("a cat")], [ours.read("a dog")], 1, 1)
        if family == "flux":
            tokens, whole, _ = ours.text2img.encode_prompt(
                "a cat", "a cat", max_sequence_length=512
            )
            assert torch.equal(found["pooled_prompt_embeds"], whole)
        else:
            tokens, _ = ours.text2img.encode_prompt("a cat")
        assert torch.equal(found["prompt_embeds"][0], tokens[0])


@pytest.mark.parametrize("family", ["z_image"], indirect=True)
def test_guidance_is_counted_as_elsewhere_and_not_as_diffusers_does(flow: Pipeline) -> None:
    # diffusers adds the difference of both prompts to the positive one, so 3 is its 2.
    drawing = flow._model.text2img
    import torch

    size = {"width": 64, "height": 64, "num_inference_steps": 4}
    with torch.inference_mode():
        plain = drawing(
            prompt="a cat", negative_prompt="blue", guidance_scale=2.0, **size,
            generator=[torch.Generator("cpu").manual_seed(7)],
        ).images[0]  # fmt: skip
    ours = drawn(flow, prompt="a cat###blue", cfg_scale=3.0, seed="7", ddim_steps=4)
    assert difference(pixels(plain), ours) == 0


def test_a_prompt_of_more_tokens_than_it_reads_is_refused(flow: Pipeline) -> None:
    drawn(flow, prompt="x" * 480)
    with pytest.raises(BadJobError, match=r"tokens; this model reads at most 512"):
        flow.draw([a_job(prompt="x" * 600)])


@pytest.mark.parametrize("strength", [0.05, 0.5, 1.0])
def test_a_strength_runs_its_share_of_the_steps(
    flow: Pipeline, source: Image.Image, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    network = flow._model.network
    forward = network.forward

    def counted(*args: object, **options: object) -> object:
        calls.append(1)
        return forward(*args, **options)

    monkeypatch.setattr(network, "forward", counted)
    redrawn(flow, source, denoising_strength=strength, ddim_steps=8, cfg_scale=1.0)
    assert len(calls) == max(1, int(8 * strength))


def test_a_weak_redrawing_is_near_its_source(flow: Pipeline, source: Image.Image) -> None:
    weak = redrawn(flow, source, denoising_strength=0.05, ddim_steps=20)
    strong = redrawn(flow, source, denoising_strength=1.0, ddim_steps=20)
    assert difference(weak, strong) > 0


def test_only_what_the_mask_says_is_painted_anew(flow: Pipeline, source: Image.Image) -> None:
    repainted(flow, source)


def test_hires_fix_draws_small_first(flow: Pipeline) -> None:
    size = {"width": 128, "height": 192}
    plain = drawn(flow, **size)
    assert difference(plain, drawn(flow, hires_fix=True, **size)) > 0


@pytest.mark.parametrize("family", ["z_image"], indirect=True)
def test_a_lora_is_not_for_z_image(flow: Pipeline) -> None:
    assert not flow.takes_add_ons
    with pytest.raises(BadJobError, match="loras is not supported"):
        flow.draw([a_job(loras=[{"name": "ink"}])])


@pytest.mark.parametrize(
    ("family", "part", "field", "value", "why"),
    [
        ("flux", "transformer", "in_channels", 16, "autoencoder"),
        ("flux", "transformer", "joint_attention_dim", 8, "text encoders"),
        ("flux", "text_encoder", "hidden_size", 8, "text encoders"),
        ("z_image", "transformer", "in_channels", 64, "autoencoder"),
        ("z_image", "vae", "latent_channels", 4, "autoencoder"),
        ("z_image", "text_encoder", "hidden_size", 8, "text encoders"),
    ],
    indirect=["family"],
)
def test_parts_that_do_not_fit_are_refused_before_they_are_loaded(
    family: str, model: Path, tmp_path: Path, part: str, field: str, value: int, why: str
) -> None:
    baseline = {"flux": "flux_1", "z_image": "z_image_turbo"}[family]
    assert model_files.read(model).baseline == baseline
    wrong = tmp_path / "wrong"
    shutil.copytree(model, wrong)
    file = wrong / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(ModelError, match=why):
        model_files.read(wrong)
    shutil.rmtree(wrong / "vae")
    with pytest.raises(ModelError, match="vae"):
        model_files.read(wrong)
