"""What makes a device draw faster changes no picture."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpu_worker.horde_client import Job
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
    # torch's compiler calls what torch has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
]
SHAPE = (64, 64, 2)


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    yield
    torch.compiler.set_stance("default")
    torch.compiler.reset()
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(threads)


def a_pipeline(model: Path, **changes: Any) -> Pipeline:
    from gpu_worker.pipeline import Pipeline

    settings = Settings(
        horde_url="", horde_api_key="", worker_name="", model_dir=model, device="cpu",
        torch_threads=1,
    )  # fmt: skip
    return Pipeline(replace(settings, **changes))


def a_job(seed: int, **payload: Any) -> Job:
    return Job(id="j", payload={**PAYLOAD, "seed": str(seed), **payload}, deadline=0)


def drawn(pipeline: Pipeline, *jobs: Job) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(image).astype(np.int16) for image in pipeline.draw(jobs)])


def traces() -> int:
    from torch._dynamo.utils import counters

    return int(counters["frames"]["total"])


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only trace what would be compiled, which takes seconds instead of a minute."""
    from gpu_worker import speed

    compile_for = speed.compile_for
    monkeypatch.setattr(
        speed, "compile_for", lambda model, draws: compile_for(model, draws, "eager")
    )


@pytest.mark.parametrize(
    "family", [{}, {"flux": True}, {"z_image": True}], ids=["sd", "flux", "z-image"]
)
@pytest.mark.usefixtures("traced")
def test_after_the_warm_up_nothing_is_compiled_whatever_is_asked_for(
    family: dict[str, Any], tmp_path: Path
) -> None:
    from gpu_worker.tiny import build

    directory = build(tmp_path / "model", **family)
    pipeline, plain = a_pipeline(directory, compiled=(SHAPE,)), a_pipeline(directory)
    before = traces()
    pipeline.warm_up()
    plain.warm_up()
    known = traces()
    assert known > before
    asked = [
        (a_job(1), a_job(2)),
        (a_job(3),),
        (a_job(4, width=128),),
        (a_job(5, tiling=True), a_job(6, tiling=True)),
        (a_job(7, sampler_name="lcm"), a_job(8, sampler_name="lcm")),
        (a_job(9, prompt="word " * 90), a_job(10, prompt="word " * 90)),
    ]
    # In a thread of its own, as the worker draws.
    with ThreadPoolExecutor(1) as gpu:
        for jobs in asked:
            found = gpu.submit(drawn, pipeline, *jobs).result()
            assert np.abs(found - drawn(plain, *jobs)).max() <= 1
    assert traces() == known


def test_compiled_code_draws_the_same_pictures(tiny_model: Path) -> None:
    pipeline, plain = a_pipeline(tiny_model, compiled=(SHAPE,)), a_pipeline(tiny_model)
    before = traces()
    pipeline.warm_up()
    plain.warm_up()
    assert traces() > before
    both = a_job(1), a_job(2)
    assert np.abs(drawn(pipeline, *both) - drawn(plain, *both)).max() <= 1


def test_a_worker_that_cannot_compile_draws_without(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from gpu_worker import speed

    def broken(*_: Any) -> Any:
        raise RuntimeError

    compile_for = speed.compile_for
    monkeypatch.setattr(
        speed, "compile_for", lambda model, draws: compile_for(model, draws, broken)
    )
    pipeline, plain = a_pipeline(tiny_model, compiled=(SHAPE,)), a_pipeline(tiny_model)
    pipeline.warm_up()
    plain.warm_up()
    assert "nothing is compiled" in caplog.text
    both = a_job(1), a_job(2)
    assert np.array_equal(drawn(pipeline, *both), drawn(plain, *both))


def test_a_compiled_size_that_does_not_fit_ends_the_worker_with_its_reason(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker import speed
    from gpu_worker.model_files import ModelError

    pipeline = a_pipeline(tiny_model, compiled=(SHAPE,))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(speed, "compile_for", full)
    with pytest.raises(ModelError, match="COMPILE does not fit"):
        pipeline.warm_up()


def test_weights_in_a_gpus_order_draw_the_same_pictures(tiny_model: Path) -> None:
    from gpu_worker import speed

    pipeline, plain = a_pipeline(tiny_model), a_pipeline(tiny_model)
    speed.arrange(pipeline._model)
    import torch

    weight = pipeline._model.network.conv_in.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(drawn(pipeline, a_job(1)) - drawn(plain, a_job(1))).max() <= 1


def test_a_pass_is_no_larger_than_the_measured_memory_and_decoded_at_once_where_it_fits(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = a_pipeline(tiny_model, max_batch=4)
    pipeline.warm_up()
    assert pipeline.learnt.capacity
    assert pipeline.learnt.max_pixels
    seen: list[tuple[int, bool]] = []
    run, vae = pipeline._run, pipeline._model.text2img.vae

    def watched(common: Any, jobs: Any, sources: Any) -> Any:
        seen.append((len(jobs), vae.use_slicing))
        return run(common, jobs, sources)

    monkeypatch.setattr(pipeline, "_run", watched)
    jobs = [a_job(seed) for seed in range(4)]
    plenty = drawn(pipeline, *jobs)
    known = pipeline.learnt.capacity
    small = replace(known, free=2.5 * known.denoising * 64 * 64)
    monkeypatch.setattr(pipeline.learnt, "capacity", small)
    assert np.abs(drawn(pipeline, *jobs) - plenty).max() <= 1
    assert seen[0] == (4, False)
    assert [count for count, _ in seen[1:]] == [2, 2]
    tight = replace(known, free=known.decoding * 64 * 64 * 1.5)
    tight = replace(tight, denoising=known.denoising / 100)
    monkeypatch.setattr(pipeline.learnt, "capacity", tight)
    drawn(pipeline, *jobs)
    assert seen[-1] == (4, True)


@pytest.mark.usefixtures("traced")
def test_a_model_that_draws_one_size_is_compiled_too() -> None:
    from gpu_worker.train.export import SHIPPED

    pipeline = a_pipeline(SHIPPED, compiled=(SHAPE,))
    before = traces()
    pipeline.warm_up()
    assert traces() > before
    assert pipeline.learnt.max_pixels is None


@pytest.mark.parametrize(("fits", "popped"), [(8192, 8192), (0, 4096), (10**9, None)])
def test_no_larger_image_is_popped_than_fits_by_the_measure(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, fits: int, popped: int | None
) -> None:
    from gpu_worker import handler
    from gpu_worker.capacity import MARGIN, Capacity
    from gpu_worker.pipeline import Pipeline

    def measured(pipeline: Pipeline) -> None:
        free = fits / MARGIN + 1
        pipeline.learnt.capacity = Capacity(free=free, denoising=1, decoding=1)

    monkeypatch.setattr(Pipeline, "warm_up", measured)
    settings = Settings(
        horde_url="http://h/api", horde_api_key="", worker_name="", model_dir=tiny_model,
        torch_threads=1, device="cpu",
    )  # fmt: skip
    worker = handler._with_one(settings, lambda *_: (0.01, "stand-in"))
    assert worker._abilities.fields([settings.model_name]).get("max_pixels") == popped


@pytest.mark.usefixtures("traced")
def test_a_second_model_of_a_process_is_compiled_too(tiny_model: Path, tiny_xl_model: Path) -> None:
    for model in (tiny_model, tiny_xl_model):
        before = traces()
        a_pipeline(model, compiled=(SHAPE,)).warm_up()
        assert traces() > before
