"""The real pipeline on a tiny random model: what each parameter does, not what it looks like."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gpu_worker.capacity import Learnt
from gpu_worker.horde_client import BadJobError, Job
from gpu_worker.settings import Settings
from tests.worker.fake_horde import PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gpu_worker.pipeline import Pipeline

pytestmark = [
    # Importing torch and diffusers takes seconds.
    pytest.mark.slow,
    # diffusers with numpy 2.
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

SAMPLERS = [
    *("k_lms", "k_heun", "k_euler", "k_euler_a", "k_dpm_2", "k_dpm_2_a", "k_dpm_fast"),
    *("k_dpm_adaptive", "k_dpmpp_2s_a", "k_dpmpp_2m", "dpmsolver", "k_dpmpp_sde", "DDIM", "lcm"),
    *("uni_pc", "uni_pc_bh2", "plms"),
]
"""The API's own list, and three that other hordes have."""

Pixels = npt.NDArray[np.int16]


@pytest.fixture(scope="module")
def settings(tiny_model: Path) -> Settings:
    return Settings(
        horde_url="", horde_api_key="", worker_name="", model_dir=tiny_model, torch_threads=1
    )


@pytest.fixture(scope="module")
def pipeline(settings: Settings) -> Iterator[Pipeline]:
    import torch

    from gpu_worker.pipeline import Pipeline

    threads = torch.get_num_threads()
    yield Pipeline(replace(settings, device="cpu"))
    torch.set_num_threads(threads)


def a_job(**payload: Any) -> Job:
    source = payload.pop("source", None)
    return Job(
        id="j",
        payload={**PAYLOAD, **payload},
        deadline=0,
        source_image=source,
        source_processing="img2img" if source else None,
    )


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image).astype(np.int16)


def drawn(pipeline: Pipeline, **payload: Any) -> Pixels:
    (image,) = pipeline.draw([a_job(**payload)])
    return pixels(image)


def redrawn(pipeline: Pipeline, source: Image.Image, **payload: Any) -> Pixels:
    (image,) = pipeline.draw([a_job(source="url", **payload)], [source])
    return pixels(image)


def difference(one: Pixels, other: Pixels) -> float:
    """Mean of the levels, 0 to 255."""
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_with_and_without_karras(
    pipeline: Pipeline, source: Image.Image, sampler: str
) -> None:
    for karras in (True, False):
        options: dict[str, Any] = {"sampler_name": sampler, "karras": karras}
        for steps in (1, 3):
            assert drawn(pipeline, ddim_steps=steps, **options).std() > 2
        for strength in (0.01, 1.0):
            options |= {"ddim_steps": 3, "denoising_strength": strength}
            assert redrawn(pipeline, source, **options).std() > 2


def test_samplers_differ_and_karras_matters_where_there_is_such_a_thing(
    pipeline: Pipeline,
) -> None:
    euler = drawn(pipeline, sampler_name="k_euler", ddim_steps=4)
    assert difference(euler, drawn(pipeline, sampler_name="k_heun", ddim_steps=4)) > 0
    assert difference(euler, drawn(pipeline, karras=False, ddim_steps=4)) > 0
    for sampler in ("k_euler_a", "k_dpmpp_2s_a", "k_dpmpp_sde", "ddim"):
        both = [
            drawn(pipeline, sampler_name=sampler, karras=k, ddim_steps=4) for k in (True, False)
        ]
        assert difference(*both) > 0
    lcm = [drawn(pipeline, sampler_name="lcm", karras=k) for k in (True, False)]
    assert difference(*lcm) == 0


def test_a_seed_reproduces_its_image_after_any_other_drawing(
    pipeline: Pipeline, source: Image.Image
) -> None:
    first = drawn(pipeline, seed="42")
    assert difference(first, drawn(pipeline, seed="43")) > 5
    redrawn(pipeline, source, sampler_name="k_heun")
    drawn(pipeline, tiling=True)
    assert difference(first, drawn(pipeline, seed="42")) == 0


@pytest.mark.parametrize("sampler", ["k_euler_a", "k_dpmpp_sde", "k_dpm_2"])
def test_mates_do_not_change_an_image_in_a_batch_of_the_same_size(
    pipeline: Pipeline, source: Image.Image, sampler: str
) -> None:
    def job(number: int, **more: Any) -> Job:
        return a_job(prompt=f"a{number}", seed=str(number), sampler_name=sampler, **more)

    # Three are padded to four, so both batches are of four; the places differ as well.
    mixed = pipeline.draw([job(1), job(2), job(3), job(4)])
    others = pipeline.draw([job(9), job(8), job(2)])
    assert difference(pixels(mixed[1]), pixels(others[2])) == 0
    mirrored = source.transpose(Image.Transpose.TRANSPOSE).rotate(45)
    mixed = pipeline.draw(
        [job(n, source="url") for n in (1, 2, 3, 4)], [source, mirrored, source, source]
    )
    others = pipeline.draw([job(n, source="url") for n in (7, 8, 2)], [source, source, mirrored])
    assert difference(pixels(mixed[1]), pixels(others[2])) == 0


def test_batches_of_other_sizes_change_an_image_by_a_level_at_most(pipeline: Pipeline) -> None:
    alone = drawn(pipeline, seed="5")
    mates = [a_job(seed=str(seed)) for seed in (5, 6, 7, 8)]
    assert np.abs(alone - pixels(pipeline.draw(mates)[0])).max() <= 1


def test_images_come_back_in_the_order_of_their_jobs(pipeline: Pipeline) -> None:
    # Two kinds of pass, taking turns, and more of one than fit into a batch.
    jobs = [a_job(seed=str(n), width=64 + 64 * (n % 2)) for n in range(7)]
    images = pipeline.draw(jobs)
    assert [image.width for image in images] == [64, 128, 64, 128, 64, 128, 64]
    again = pipeline.draw([jobs[3]])[0]
    assert np.abs(pixels(images[3]) - pixels(again)).max() <= 1


def test_an_image_has_the_size_that_was_asked_for(pipeline: Pipeline) -> None:
    for width, height in ((64, 64), (64, 192), (320, 128)):
        (image,) = pipeline.draw([a_job(width=width, height=height, ddim_steps=1)])
        assert image.size == (width, height)


def test_img2img_differs_from_its_source_and_from_text2img(
    pipeline: Pipeline, source: Image.Image
) -> None:
    image = redrawn(pipeline, source, ddim_steps=4, denoising_strength=0.5)
    assert difference(image, pixels(source)) > 2
    assert difference(image, drawn(pipeline, ddim_steps=4)) > 2
    assert (
        difference(
            image,
            redrawn(
                pipeline,
                source.rotate(90).crop((0, 0, 64, 32)).resize((64, 64)),
                ddim_steps=4,
                denoising_strength=0.5,
            ),
        )
        > 0
    )


def test_denoising_strength_matters(pipeline: Pipeline, source: Image.Image) -> None:
    weak, strong = (
        redrawn(pipeline, source, ddim_steps=10, denoising_strength=strength)
        for strength in (0.1, 0.9)
    )
    assert difference(weak, strong) > 2


def test_source_processing_without_a_source_is_text2img(pipeline: Pipeline) -> None:
    job = replace(a_job(denoising_strength=0.3), source_processing="img2img")
    assert difference(pixels(pipeline.draw([job])[0]), drawn(pipeline)) == 0


def test_prompt_negative_prompt_guidance_and_clip_skip_have_an_effect(pipeline: Pipeline) -> None:
    plain = drawn(pipeline, prompt="a cat")
    for other in (
        {"prompt": "a dog"},
        {"prompt": "a cat###blue"},
        {"prompt": "a cat", "cfg_scale": 3.0},
        {"prompt": "a cat", "clip_skip": 2},
    ):
        assert difference(plain, drawn(pipeline, **other)) > 0.1, other


def test_clip_skip_counts_from_one_and_stops_at_the_models_layers(pipeline: Pipeline) -> None:
    assert difference(drawn(pipeline), drawn(pipeline, clip_skip=0)) == 0
    deepest = drawn(pipeline, clip_skip=3)
    assert difference(deepest, drawn(pipeline, clip_skip=2)) > 0
    assert difference(deepest, drawn(pipeline, clip_skip=12)) == 0


def test_the_last_layer_is_what_diffusers_itself_would_use(pipeline: Pipeline) -> None:
    import torch

    with torch.inference_mode():
        theirs, _ = pipeline._model.text2img.encode_prompt(["a cat"], "cpu", 1, False)
        text = pipeline._model.read("a cat")
        ours = pipeline._model.prompts([text], [text], 1, clip_skip=1)["prompt_embeds"]
    assert torch.equal(theirs, ours)


def test_tiling_has_an_effect_and_is_undone(pipeline: Pipeline) -> None:
    before = drawn(pipeline)
    tiled = drawn(pipeline, tiling=True)
    assert difference(before, tiled) > 0.1
    assert difference(before, drawn(pipeline)) == 0


def test_hires_fix_acts_only_on_images_larger_than_native_on_both_sides(
    pipeline: Pipeline,
) -> None:
    assert pipeline.native_size == 64
    for width, height, acts in ((128, 192, True), (64, 192, False), (64, 64, False)):
        size = {"width": width, "height": height}
        plain, fixed = (drawn(pipeline, hires_fix=fix, **size) for fix in (False, True))
        assert fixed.shape == (height, width, 3)
        assert (difference(plain, fixed) > 1) is acts


def test_the_adaptive_sampler_ignores_the_steps_that_were_asked_for() -> None:
    from gpu_worker.passes import Pass
    from horde.rules.ruleset import IN_FORCE

    passes = [
        Pass.of(a_job(sampler_name="k_dpm_adaptive", ddim_steps=steps)) for steps in (1, 30, 500)
    ]
    assert [one.steps for one in passes] == [IN_FORCE.adaptive_steps] * 3
    assert Pass.of(a_job(ddim_steps=500)).steps == 500


@pytest.mark.parametrize("width", [576, 640, 768, 1024, 1088, 2048, 3072])
@pytest.mark.parametrize("height", [576, 704, 832, 1024, 1536, 3072])
def test_the_first_pass_of_hires_fix_is_the_one_that_is_priced(width: int, height: int) -> None:
    from gpu_worker.passes import first_pass_size
    from horde.records import ImageSpec
    from horde.rules.pricing import first_pass_pixels

    spec = ImageSpec(width=width, height=height, steps=30, sampler_name="k_euler_a", hires_fix=True)
    small, low = first_pass_size(width, height, 512)
    assert first_pass_pixels(spec) == small * low < width * height


def test_a_long_prompt_is_drawn_and_kept_out_of_the_logs(
    pipeline: Pipeline, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    drawn(pipeline, prompt="secret " * 100 + "###" + "hidden " * 100)
    output = capfd.readouterr()
    for log in (output.out, output.err, caplog.text):
        assert "secret" not in log
        assert "hidden" not in log


@pytest.mark.parametrize(
    "params",
    [
        {"sampler_name": "k_unheard_of"},
        {"loras": [{"name": "x"}]},
        {"control_type": "canny"},
        {"width": None},
        {"seed": "a word"},
    ],
    ids=lambda params: next(iter(params)),
)
def test_what_it_cannot_do_is_refused_and_never_left_out(
    pipeline: Pipeline, params: dict[str, Any]
) -> None:
    with pytest.raises(BadJobError):
        pipeline.draw([a_job(**params)])


@pytest.mark.parametrize("processing", ["inpainting", "outpainting"])
def test_only_what_the_mask_says_is_painted_anew(
    pipeline: Pipeline, source: Image.Image, processing: str
) -> None:
    masked = source.copy()
    keep = Image.new("L", source.size, 255)
    keep.paste(0, (0, 0, source.width // 2, source.height))
    masked.putalpha(keep)
    job = replace(a_job(source="url"), source_processing=processing)
    jobs = [job, replace(job, payload={**job.payload, "seed": "8"}), a_job(source="url")]
    first, second, _ = pipeline.draw(jobs, [masked, masked, source])
    half = (source.width // 2, 0, source.width, source.height)
    assert first.crop(half).tobytes() == source.crop(half).tobytes()
    assert difference(pixels(first), pixels(source)) > 0.02
    assert difference(pixels(first), pixels(second)) > 0.005


def test_remix_and_other_models_are_refused(pipeline: Pipeline, source: Image.Image) -> None:
    with pytest.raises(BadJobError, match="source_processing"):
        pipeline.draw([replace(a_job(source="url"), source_processing="remix")], [source])
    with pytest.raises(BadJobError, match="model"):
        pipeline.draw([replace(a_job(), model="another")])


class Memory:
    """A device on which a pass may have so many pixels."""

    def __init__(self, pipeline: Pipeline, patch: pytest.MonkeyPatch, pixels: int) -> None:
        import torch

        self.tried: list[tuple[int, int]] = []
        """Width and images of each pass."""
        real = pipeline._run

        def run(common: Any, jobs: Any, sources: Any) -> Any:
            self.tried.append((common.width, len(jobs)))
            if common.width * common.height * len(jobs) > pixels:
                raise torch.OutOfMemoryError
            return real(common, jobs, sources)

        patch.setattr(pipeline, "learnt", Learnt())
        patch.setattr(pipeline, "_run", run)


def test_too_little_memory_for_one_image_is_told_as_such(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(pipeline, monkeypatch, 64 * 64)
    with pytest.raises(MemoryError):
        pipeline.draw([a_job(width=128)] * 4)
    assert memory.tried == [(128, 4), (128, 2), (128, 1)]


def test_a_batch_that_was_too_large_is_not_tried_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(pipeline, monkeypatch, 2 * 128 * 64)
    jobs = [a_job(width=128, seed=str(seed)) for seed in range(4)]
    images = pipeline.draw(jobs)
    assert memory.tried == [(128, 4), (128, 2), (128, 2)]
    again = pipeline.draw(jobs)
    assert memory.tried[3:] == [(128, 2), (128, 2)]
    assert [one.tobytes() for one in again] == [one.tobytes() for one in images]
    pipeline.draw([a_job(seed=str(seed)) for seed in range(4)])
    assert memory.tried[5:] == [(64, 4)]  # smaller images are not held to it
    pipeline.draw([a_job(width=192, seed=str(seed)) for seed in range(2)])
    assert memory.tried[6:] == [(192, 2), (192, 1), (192, 1)]  # larger ones are


def test_a_weight_pulls_a_picture_towards_its_word_and_one_is_no_weight(
    pipeline: Pipeline,
) -> None:
    plain = drawn(pipeline, prompt="a red cat")
    assert difference(plain, drawn(pipeline, prompt="a (red:1.0) cat")) < 1  # split at the phrase
    same = drawn(pipeline, prompt="a (red:1.0) cat")
    near, far = (drawn(pipeline, prompt=f"a (red:{weight}) cat") for weight in (1.1, 1.6))
    assert 0 < difference(same, near) < difference(same, far)
    assert difference(near, drawn(pipeline, prompt="a (red) cat")) == 0
    assert difference(near, drawn(pipeline, prompt=r"a \(red\) cat")) > 0


def test_a_prompt_is_read_to_its_end(pipeline: Pipeline) -> None:
    beginning = "word " * 40  # a token of this model is a byte
    plain, other, negative = (
        drawn(pipeline, prompt=prompt)
        for prompt in (f"{beginning}cat", f"{beginning}dog", f"{beginning}cat###{beginning}dog")
    )
    assert difference(plain, other) > 0
    assert difference(plain, negative) > 0


def test_a_prompts_mates_may_have_other_lengths(pipeline: Pipeline) -> None:
    long = "word " * 40
    jobs = [
        a_job(prompt=prompt, seed=str(number))
        for number, prompt in enumerate(["a", long, f"a###{long}", f"{long}, {long}###{long}"])
    ]
    together = pipeline.draw(jobs)
    for job, image in zip(jobs, together, strict=True):
        assert np.abs(pixels(pipeline.draw([job])[0]) - pixels(image)).max() <= 1


def test_a_prompt_of_too_many_tokens_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(BadJobError, match="more than 2400 tokens"):
        pipeline.draw([a_job(prompt="x" * 2500)])


def test_a_model_that_draws_nothing_ends_the_worker(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker.model_files import ModelError

    pipeline.warm_up()
    black = Image.new("RGB", (64, 64))
    monkeypatch.setattr(pipeline, "_run", lambda *_: [black])
    with pytest.raises(ModelError, match="single colour"):
        pipeline.warm_up()


@pytest.mark.parametrize(
    ("wanted", "on_runpod", "has_gpu", "found"),
    [
        ("", True, True, "cuda"),
        ("", False, True, "cuda"),
        ("", False, False, "cpu"),
        ("cpu", True, True, "cpu"),
        ("cpu", True, False, "cpu"),
        ("cuda:1", False, True, "cuda:1"),
        ("", True, False, None),
        ("cuda", False, False, None),
    ],
)
def test_where_a_gpu_is_paid_for_nothing_is_drawn_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    found: str | None,
    *,
    on_runpod: bool,
    has_gpu: bool,
) -> None:
    import torch

    from gpu_worker.device_memory import device_of
    from gpu_worker.model_files import ModelError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    env = {"RUNPOD_POD_ID": "x"} if on_runpod else {}
    if found is not None:
        assert device_of(wanted, env) == found
        return
    with pytest.raises(ModelError, match=r"no GPU can be used: .* minCudaVersion 13\.0"):
        device_of(wanted, env)


@pytest.mark.parametrize(
    ("sampler", "calls"),
    [
        ("k_euler_a", 12),
        ("k_dpmpp_2m", 12),
        ("k_dpmpp_2s_a", 23),
        ("k_dpmpp_sde", 23),
        ("k_dpm_fast", 12),
        ("uni_pc", 12),
        ("uni_pc_bh2", 12),
        ("plms", 13),
    ],
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("karras", [True, False])
def test_our_samplers_are_the_references_maths(
    sampler: str, prediction: str, calls: int, *, karras: bool
) -> None:
    from tests.worker.reference_samplers import both

    ours, theirs, made = both(sampler, prediction, steps=12, karras=karras)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert made == calls


@pytest.mark.parametrize("begin", [0, 10])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("karras", [True, False])
def test_the_steps_of_k_dpm_adaptive_are_those_that_the_picture_needs(
    prediction: str, begin: int, *, karras: bool
) -> None:
    from gpu_worker import dpm_solver
    from tests.worker.reference_samplers import both

    ours, theirs, calls = both("k_dpm_adaptive", prediction, steps=40, karras=karras, begin=begin)
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert 9 <= calls < dpm_solver.MOST_CALLS


def test_k_dpm_adaptive_ends_however_little_its_orders_agree() -> None:
    import torch

    from gpu_worker import dpm_solver
    from gpu_worker.samplers import scheduler

    made = scheduler("k_dpm_adaptive", {}, karras=True)
    made.set_timesteps(40)
    x, calls = torch.ones((1, 4, 8, 8)) * made.init_noise_sigma, 0
    for timestep in made.timesteps:
        if not made.finished:
            calls += 1
            x = made.step(torch.randn(x.shape) * 50, timestep, x)[0]
    assert made.finished
    assert 2 * dpm_solver.MOST_CALLS // 3 < calls <= dpm_solver.MOST_CALLS


def test_an_image_of_k_dpm_adaptive_has_a_pass_of_its_own_which_ends_with_it(
    pipeline: Pipeline,
) -> None:
    jobs = [a_job(seed=str(n), sampler_name="k_dpm_adaptive") for n in (1, 2, 3)]
    together = [pixels(one) for one in pipeline.draw(jobs)]
    calls = pipeline._model.text2img.scheduler.step_index
    assert all(
        difference(one, pixels(pipeline.draw([job])[0])) == 0
        for one, job in zip(together, jobs, strict=True)
    )
    assert 9 <= calls < 120


@pytest.mark.parametrize("steps", [2, 3, 4, 5, 6, 11])
@pytest.mark.parametrize("begin", [0, 3])
def test_the_steps_of_k_dpm_fast_are_laid_out_from_where_a_picture_is_drawn_on(
    steps: int, begin: int
) -> None:
    from tests.worker.reference_samplers import both

    ours, theirs, made = both(
        "k_dpm_fast", "epsilon", steps=steps + begin, karras=True, begin=begin
    )
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert made == steps


def test_k_dpm_fast_is_told_where_a_source_image_is_drawn_on(pipeline: Pipeline) -> None:
    source = Image.new("RGB", (64, 64), "red")
    steps = {"ddim_steps": 10, "denoising_strength": 0.5}
    redrawn(pipeline, source, sampler_name="k_dpm_fast", **steps)
    assert pipeline._model.img2img.scheduler.begin == 5


@pytest.mark.parametrize("begin", [0, 7])
def test_a_single_step_of_k_dpm_fast_is_drawn_however_little_noise_is_left(begin: int) -> None:
    import torch

    from gpu_worker.samplers import scheduler

    made = scheduler("k_dpm_fast", {"timestep_spacing": "linspace"}, karras=False)
    made.begin = begin
    made.set_timesteps(begin + 1)
    made.set_begin_index(begin)
    (time,) = made.timesteps[begin:]
    sample = torch.full((1, 4, 8, 8), made.levels[begin])
    (after, picture) = made.step(torch.ones_like(sample), time, sample)
    assert float((after - picture).abs().max()) < 0.03


def test_a_seed_alone_decides_the_noise_of_our_samplers(pipeline: Pipeline) -> None:
    for sampler in ("k_dpmpp_2s_a", "k_dpmpp_sde"):
        jobs = [a_job(seed=str(n), sampler_name=sampler, ddim_steps=5) for n in (1, 2, 3, 4)]
        forth, back = pipeline.draw(jobs), pipeline.draw(jobs[::-1])
        assert [one.tobytes() for one in forth] == [one.tobytes() for one in back[::-1]]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_scheduler_file_without_clip_sample_cuts_no_picture_off(sampler: str) -> None:
    from gpu_worker.samplers import scheduler

    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    made = scheduler(sampler.lower(), config, karras=False)
    assert not made.config.get("clip_sample")
    assert not made.config.get("thresholding")


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("karras", [True, False])
def test_ddim_is_eulers_method_in_levels_of_noise(prediction: str, *, karras: bool) -> None:
    """Song et al. 2021, equation 12 without noise, step by step."""
    import torch

    from gpu_worker.samplers import scheduler
    from tests.worker.reference_samplers import SCHEDULE

    made = scheduler("ddim", {**SCHEDULE, "prediction_type": prediction}, karras=karras)
    made.set_timesteps(10)
    x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    y = x * float(made.init_noise_sigma)
    powers = [1 / (1 + float(one) ** 2) for one in made.sigmas]
    x = y * powers[0] ** 0.5
    for timestep, power, after in zip(made.timesteps, powers, powers[1:], strict=False):
        output = torch.tanh(x) * 0.5
        y = made.step(output, timestep, y, return_dict=False)[0]
        is_noise = prediction == "epsilon"
        noise = output if is_noise else power**0.5 * output + (1 - power) ** 0.5 * x
        picture = (x - (1 - power) ** 0.5 * noise) / power**0.5
        x = after**0.5 * picture + (1 - after) ** 0.5 * noise
    assert float((x - y).abs().max()) < 1e-4 * float(x.abs().max())


def test_batches_are_padded_to_few_sizes() -> None:
    from gpu_worker.passes import bucket

    assert [bucket(n, 8) for n in range(1, 9)] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert [bucket(n, 6) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]


def test_the_tiny_model_is_the_same_each_time_and_left_alone_when_complete(
    tiny_model: Path, tmp_path: Path
) -> None:
    from gpu_worker.tiny import build

    def files(root: Path) -> dict[str, bytes]:
        return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}

    again = build(tmp_path / "again")
    assert files(again) == files(tiny_model)
    (again / "model_index.json").write_text("kept")
    build(again)
    assert (again / "model_index.json").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["again"]
