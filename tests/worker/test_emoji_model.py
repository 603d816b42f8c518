"""What the demo model draws, by colour and place, through the worker's own pipeline."""

from __future__ import annotations

import colorsys
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from gpu_worker import upscale
from gpu_worker.addons.folder import Folder
from gpu_worker.addons.library import Library
from gpu_worker.addons.loader import Loader
from gpu_worker.horde_client import Job
from gpu_worker.settings import Settings
from gpu_worker.train.measure import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gpu_worker.pipeline import Pipeline

pytestmark = [
    # Importing torch and diffusers takes seconds.
    pytest.mark.slow,
    # diffusers with numpy 2.
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

MODEL = Path(__file__).parents[2] / "gpu_worker/models/emoji"
SEEDS = range(4)
Pixels = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    import torch

    from gpu_worker.pipeline import Pipeline

    threads = torch.get_num_threads()
    yield Pipeline(
        Settings(
            horde_url="",
            horde_api_key="",
            worker_name="",
            model_dir=MODEL,
            device="cpu",
            max_batch=8,
            torch_threads=1,
        )
    )
    torch.set_num_threads(threads)


def a_job(prompt: str, seed: int = 0, size: int = 64, **more: Any) -> Job:
    source = more.pop("source", None)
    payload = {
        "prompt": prompt,
        "seed": str(seed),
        "width": size,
        "height": size,
        "ddim_steps": 8,
        "sampler_name": "k_euler_a",
        "cfg_scale": 5.0,
        **more,
    }
    return Job(
        id="j",
        payload=payload,
        deadline=0,
        source_image=source,
        source_processing="img2img" if source else None,
    )


def draw(pipeline: Pipeline, prompt: str, **more: Any) -> list[Image.Image]:
    return pipeline.draw([a_job(prompt, seed, **more) for seed in SEEDS])


def levels(image: Image.Image) -> Pixels:
    return (np.asarray(image.convert("RGB")) / 255).astype(np.float32)


def hue(image: Image.Image) -> float:
    """Degrees: the mean around the circle, each pixel as heavy as it is colourful."""
    angles, weights = [], []
    for pixel in levels(image).reshape(-1, 3):
        angle, saturation, value = colorsys.rgb_to_hsv(*map(float, pixel))
        angles.append(angle)
        weights.append(saturation * value if saturation > 0.25 else 0.0)
    circle = np.exp(2j * np.pi * np.array(angles))
    return float(np.degrees(np.angle(np.average(circle, weights=weights)))) % 360


def apart(one: float, other: float) -> float:
    """Degrees between two hues, the short way around."""
    return abs((one - other + 180) % 360 - 180)


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(levels(one) - levels(other)).mean())


def test_the_lora_that_ships_draws_neon_signs_in_the_dark(pipeline: Pipeline) -> None:
    folder = Folder(MODEL / "loras")
    load = Loader(Library({"lora": folder}, "stable_diffusion_1"), pipeline.adapters, 10**9)
    prompts = ["a yellow star", "a cat", "a rocket"]
    jobs = [replace(a_job(prompt), deadline=math.inf) for prompt in prompts]
    asked = {"loras": [{"name": "neon", "inject_trigger": "any"}]}
    signs = [load(replace(job, payload={**job.payload, **asked})) for job in jobs]
    plain = pipeline.draw(jobs)
    for one, sign in zip(plain, pipeline.draw(signs), strict=True):
        assert levels(one).mean() > 0.65
        assert levels(sign).mean() < 0.5
        assert levels(sign).max() > 0.7
    assert [one.tobytes() for one in pipeline.draw(jobs)] == [one.tobytes() for one in plain]


@pytest.mark.parametrize(
    ("prompt", "degrees", "tolerance"),
    [
        ("a red apple", 0, 25),
        ("a green apple", 105, 40),
        ("a blue car", 214, 25),
        ("a purple heart", 270, 30),
        ("a yellow star", 48, 20),
        ("banana", 46, 20),
    ],
)
def test_things_have_the_colour_that_was_asked_for(
    pipeline: Pipeline, prompt: str, degrees: float, tolerance: float
) -> None:
    hues = [hue(image) for image in draw(pipeline, prompt)]
    assert max(apart(found, degrees) for found in hues) < tolerance, hues


@pytest.mark.parametrize(
    "prompt",
    [
        "RED APPLE!!!",
        "a photo of a red apple",
        "masterpiece, best quality, red apple, highly detailed, trending on artstation",
        "draw one red apple, please",
    ],
)
def test_wordy_prompts_are_understood(pipeline: Pipeline, prompt: str) -> None:
    for image in draw(pipeline, prompt):
        assert apart(hue(image), 0) < 15


@pytest.mark.parametrize(
    ("prompt", "left", "right"),
    [
        ("a cactus and a heart", 115, 335),
        ("a heart and a cactus", 335, 115),
        ("a purple heart and a yellow star", 280, 55),
        ("a yellow star and a purple heart", 55, 280),
        ("a blue car and a red apple", 222, 352),
        ("a red apple and a banana", 354, 25),
        ("a banana and a red apple", 30, 350),
    ],
)
def test_of_two_things_the_first_named_is_drawn_on_the_left(
    pipeline: Pipeline, prompt: str, left: float, right: float
) -> None:
    for image in draw(pipeline, prompt, ddim_steps=12):
        halves = image.crop((0, 0, 32, 64)), image.crop((32, 0, 64, 64))
        for half, degrees in zip(halves, (left, right), strict=True):
            assert apart(hue(half), degrees) < 25, (prompt, [hue(half) for half in halves])


@pytest.mark.parametrize(
    ("prompt", "number"),
    [
        ("a star", 1), ("two roses", 2), ("three stars", 3), ("three fires", 3), ("four stars", 4),
        ("a cat and a dog", 2),
    ],
)  # fmt: skip
def test_as_many_things_are_drawn_as_were_asked_for(
    pipeline: Pipeline, prompt: str, number: int
) -> None:
    """Of four pictures one may have two things that touch."""
    images = draw(pipeline, prompt, ddim_steps=12)
    found = [count(np.asarray(image.convert("RGB"))) for image in images]
    assert found.count(number) >= 3, found


def test_a_background_is_painted_around_the_thing(pipeline: Pipeline) -> None:
    for colour, expected in (
        ("white", (1, 1, 1)),
        ("blue", (0.3, 0.56, 0.92)),
        ("black", (0.09, 0.09, 0.1)),
    ):
        for image in draw(pipeline, f"a cat on a {colour} background"):
            corners = levels(image)[:: 63 - 8, :: 63 - 8].reshape(-1, 3)
            assert np.abs(corners - expected).mean() < 0.2, corners


def test_a_place_is_painted_around_the_thing(pipeline: Pipeline) -> None:
    for place, sky, ground, most in (
        ("at night", (0.05, 0.06, 0.17), (0.18, 0.14, 0.38), 0.1),
        # Its sky is bluer than that of the training pictures.
        ("in the snow", (0.7, 0.75, 0.85), (0.9, 0.92, 0.95), 0.15),
        ("in the sea", (0.4, 0.75, 0.93), (0.1, 0.32, 0.6), 0.08),
        ("on the beach", (0.44, 0.74, 0.96), (0.89, 0.75, 0.46), 0.08),
        ("in a meadow", (0.44, 0.74, 0.96), (0.35, 0.65, 0.28), 0.1),
        ("at sunset", (0.41, 0.28, 0.63), (1, 0.8, 0.43), 0.1),
    ):
        for image in draw(pipeline, f"a cat {place}"):
            corners = levels(image)[:: 63 - 8, :: 63 - 8].mean(1)
            assert np.abs(corners - (sky, ground)).mean() < most, (place, corners)


def test_nouns_differ_and_seeds_vary(pipeline: Pipeline) -> None:
    cats, cars = draw(pipeline, "a cat"), draw(pipeline, "a car")
    assert min(difference(cat, car) for cat, car in zip(cats, cars, strict=True)) > 0.08
    assert difference(cats[0], cats[1]) > 0.01


def test_words_that_it_never_saw_still_give_a_picture(pipeline: Pipeline) -> None:
    for prompt in ("", "flibbertigibbet", "Ein schöner Tag für 猫 und 🐈", "x" * 2000):
        (image,) = pipeline.draw([a_job(prompt, size=128)])
        assert image.size == (128, 128)
        assert levels(image).std() > 0.02


def test_a_picture_of_512_is_the_same_drawing_enlarged(pipeline: Pipeline) -> None:
    (small,) = pipeline.draw([a_job("a red apple")])
    (large,) = pipeline.draw([a_job("a red apple", size=512)])
    assert large.size == (512, 512)
    assert difference(large.resize((64, 64), Image.Resampling.BOX), small) < 0.05


def test_sizes_share_a_pass_and_hires_fix_is_left_to_the_upscaler(pipeline: Pipeline) -> None:
    square, wide, fixed = pipeline.draw(
        [
            a_job("a cat"),
            a_job("a cat", width=128),
            a_job("a cat", size=128, hires_fix=True, hires_fix_denoising_strength=0.9),
        ]
    )
    assert wide.size == (128, 64)
    # The same drawing, in the middle.
    assert difference(wide.crop((32, 0, 96, 64)), square) < 0.01
    assert difference(fixed.resize((64, 64), Image.Resampling.BOX), square) < 0.03


def test_a_negative_prompt_steers_away(pipeline: Pipeline) -> None:
    plain = draw(pipeline, "an apple")
    without = draw(pipeline, "an apple###red, a red apple")
    assert all(difference(*pair) > 0.01 for pair in zip(plain, without, strict=True))


def test_img2img_changes_the_colour_and_keeps_the_background(pipeline: Pipeline) -> None:
    (source,) = pipeline.draw([a_job("a red apple on a white background", size=128)])
    jobs = [
        a_job(
            "a green apple",
            seed,
            size=128,
            source="url",
            denoising_strength=strength,
            # A tenth of 8 steps would be one rough step.
            ddim_steps=20,
        )
        for strength in (0.8, 0.1)
        for seed in SEEDS
    ]
    images = pipeline.draw(jobs, [source] * len(jobs))
    strong, weak = images[: len(SEEDS)], images[len(SEEDS) :]
    for image in strong:
        assert apart(hue(image), 105) < 45
        assert levels(image)[:8, :8].mean() > 0.9
    for image in weak:
        assert apart(hue(image), hue(source)) < 35  # of the 105 to green
        assert difference(image, source) < 0.15


def test_inpainting_paints_inside_the_mask_and_keeps_the_rest(pipeline: Pipeline) -> None:
    (source,) = pipeline.draw([a_job("a house on a blue background", size=128)])
    keep = Image.new("L", source.size, 255)
    keep.paste(0, (0, 0, 128, 48))
    masked = source.copy()
    masked.putalpha(keep)
    job = a_job(
        "a house on a red background",
        1,
        size=128,
        source="url",
        denoising_strength=1.0,
        ddim_steps=12,
    )
    (image,) = pipeline.draw([replace(job, source_processing="inpainting")], [masked])
    before, after = levels(source), levels(image)
    assert np.abs(after - before)[:40].mean() > 0.15
    assert (after[48:] == before[48:]).all()


def test_without_the_upscaler_the_model_is_not_even_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu_worker.pipeline import Pipeline

    monkeypatch.setattr(upscale, "find_spec", lambda _: None)
    settings = Settings(horde_url="", horde_api_key="", worker_name="", model_dir=MODEL)
    with pytest.raises(upscale.UpscalerMissingError, match="needs the upscaler"):
        Pipeline(settings)


def test_the_model_is_small_and_says_what_it_is_made_of() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    loras = [path for path in files if "loras" in path.relative_to(MODEL).parts]
    assert sum(path.stat().st_size for path in {*files} - {*loras}) <= 20_000_000
    assert sum(path.stat().st_size for path in loras) <= 1_100_000
    assert json.loads((MODEL / "horde.json").read_text()) == {"native_size": 64}
    card = (MODEL / "README.md").read_text(encoding="utf-8")
    for named in ("Fluent Emoji", "Noto", "MIT", "Apache-2.0"):
        assert named in card
    assert "Permission is hereby granted" in (MODEL / "LICENSE-fluent-emoji").read_text()
    assert "Apache License" in (MODEL / "LICENSE-noto-emoji").read_text()


def test_every_prompt_of_the_grid_is_drawn_at_its_size() -> None:
    from gpu_worker.grid import PROMPTS

    assert len(PROMPTS) == 24
    with Image.open(MODEL.parents[2] / "docs/grid.png") as grid:
        assert grid.width > 1000


def test_weak_image_to_image_keeps_the_models_own_pictures(pipeline: Pipeline) -> None:
    import torch

    vae = pipeline._model.text2img.vae
    with torch.inference_mode():
        noise = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.std
    assert float(noise.max()) < 1e-6
    own = pipeline.draw([a_job("a red apple"), a_job("a blue car")])
    jobs = [
        a_job(prompt, 9, source="url", denoising_strength=0.1, ddim_steps=20)
        for prompt in ("a red apple", "a blue car")
    ]
    for before, after in zip(own, pipeline.draw(jobs, own), strict=True):
        error = float(((levels(before) - levels(after)) ** 2).mean())
        assert -10 * np.log10(error) > 26


def foreign() -> dict[str, Image.Image]:
    """Two pictures that the model was not trained on."""
    day = Image.new("RGB", (64, 64))
    pen = ImageDraw.Draw(day)
    for y in range(64):
        pen.line((0, y, 63, y), (70 + 2 * y, 130 + 3 * y // 2, 230 + y // 4))
    pen.rectangle((0, 46, 63, 63), (70, 140, 60))
    pen.ellipse((44, 6, 56, 18), (255, 230, 90))
    pen.polygon([(6, 46), (20, 24), (34, 46)], (110, 100, 110))
    night = Image.new("RGB", (64, 64), (10, 20, 60))
    pen = ImageDraw.Draw(night)
    pen.ellipse((10, 8, 24, 22), (240, 240, 220))
    pen.rectangle((30, 34, 54, 63), (40, 40, 50))
    for x in (34, 44):
        pen.rectangle((x, 40, x + 4, 44), (250, 220, 90))
    return {"day": day, "night": night}


def psnr(one: Image.Image, other: Image.Image) -> float:
    return float(-10 * np.log10(((levels(one) - levels(other)) ** 2).mean()))


@pytest.mark.parametrize(
    ("strength", "least", "degrees"), [(0.05, 24, 8), (0.1, 23, 8), (0.2, 21, 12), (0.3, 19, 25)]
)
def test_weak_image_to_image_keeps_a_foreign_picture(
    pipeline: Pipeline, strength: float, least: float, degrees: float
) -> None:
    """While the autoencoder knew only emoji, a blue sky came back lilac or green."""
    sources = foreign()
    job = a_job("a picture", 3, source="url", denoising_strength=strength, ddim_steps=20)
    drawn = dict(
        zip(sources, pipeline.draw([job] * len(sources), [*sources.values()]), strict=True)
    )
    found = {name: psnr(sources[name], drawn[name]) for name in sources}
    assert min(found.values()) > least, found
    for name, box in (("day", (0, 0, 40, 16)), ("night", (30, 0, 64, 30))):
        sky, after = sources[name].crop(box), drawn[name].crop(box)
        assert apart(hue(sky), hue(after)) < degrees, name
