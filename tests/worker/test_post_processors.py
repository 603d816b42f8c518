"""What post-processors do to jobs: order, bounds, and shifts with stand-ins that behave."""

from __future__ import annotations

import io
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from gpu_worker.horde_client import BadJobError, Job
from gpu_worker.model_files import ModelError
from gpu_worker.post import cutout, kinds, processors
from gpu_worker.post.processors import PostProcessors
from gpu_worker.shifts import Worker
from horde.rules import features
from tests.support.numbers import HANG_S
from tests.worker.test_shifts import Draw, noise, scoring, states

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from gpu_worker.horde_client import Horde
    from gpu_worker.post.kinds import Run
    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import FakeHorde

X4, X2 = "RealESRGAN_x4plus", "RealESRGAN_x2plus"


class Larger:
    """An upscaler that repeats pixels."""

    def __init__(self, factor: int = 4, before: Callable[[], None] = lambda: None) -> None:
        self.factor, self.before = factor, before
        self.threads: set[str] = set()
        self.sizes: list[tuple[int, int]] = []

    def enlarged(self, image: Image.Image, check: Callable[[], None]) -> Image.Image:
        self.threads.add(threading.current_thread().name)
        self.sizes.append(image.size)
        self.before()
        check()
        return image.resize((image.width * self.factor, image.height * self.factor), 0)


def halved(image: Image.Image) -> Image.Image:
    """A cutter that keeps the left half."""
    found = image.convert("RGB")
    mask = Image.new("L", image.size, 0)
    mask.paste(255, (0, 0, image.width // 2, image.height))
    found.putalpha(mask)
    return found


def post(upscaler: Larger | None = None, cut: Any = halved, **options: Any) -> PostProcessors:
    one = upscaler or Larger()
    return PostProcessors({X4: one, X2: one}, cut, **options)


def shift(
    settings: Settings, client: Horde, with_: PostProcessors, draw: Draw = noise, score: float = 0.0
) -> dict[str, Any]:
    import asyncio

    async def work() -> dict[str, Any]:
        worker = Worker(settings, client, draw, scoring(score), post=with_)
        return await worker.work({"id": "t"})

    return asyncio.run(work())


def a_job(**payload: Any) -> Job:
    payload = {"width": 64, "height": 64, **payload}
    return Job(id="j", payload=payload, deadline=time.monotonic() + HANG_S)


def test_the_names_factors_and_limits_are_those_of_our_horde() -> None:
    assert kinds.UPSCALERS == features.UPSCALERS
    assert set(kinds.ORDER) == set(features.POST_PROCESSORS)
    assert kinds.MAX_DELIVERED_PIXELS == features.MAX_DELIVERED_PIXELS
    payload = {"width": 64, "height": 128, "post_processing": [X4, "strip_background"]}
    assert kinds.delivered(payload) == features.delivered_size(payload)


def test_whatever_the_order_in_a_job_the_background_is_stripped_last() -> None:
    job = a_job(post_processing=["strip_background", X4, "strip_background"])
    assert post().asked(job) == [X4, "strip_background"]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        ({"post_processing": X4}, "no list of names"),
        ({"post_processing": [4]}, "no list of names"),
        ({"post_processing": {X4: True}}, "no list of names"),
        ({"post_processing": ["a secret prompt"]}, "1 of its post-processors are unknown"),
        ({"post_processing": ["GFPGAN"]}, "GFPGAN, which this worker does not offer"),
        ({"post_processing": ["4xLSDIRplus", X4]}, "4xLSDIRplus, which this worker"),
        ({"post_processing": [X2, X4]}, "more than one upscaler"),
        ({"post_processing": [X4], "width": 1088, "height": 1024}, "4352x4096 pixels"),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_reason(payload: dict[str, Any], why: str) -> None:
    with pytest.raises(BadJobError, match=why) as refused:
        post().asked(a_job(**payload))
    assert "secret" not in str(refused.value)


def test_a_pop_lists_what_is_there(horde: FakeHorde, settings: Settings, client: Horde) -> None:
    shift(settings, client, post())
    assert horde.pops[0]["allow_post_processing"]
    assert horde.pops[0]["post_processors"] == [X4, X2, "strip_background"]


def test_without_any_a_pop_says_so_and_jobs_that_ask_are_faulted_alone(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    asking, plain = horde.add(post_processing=[X4]), horde.add()
    drawn: list[int] = []

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        drawn.append(len(jobs))
        return noise(jobs, sources)

    shift(settings, client, PostProcessors(), draw)
    assert not horde.pops[0]["allow_post_processing"]
    assert horde.pops[0]["post_processors"] == []
    assert states(horde) == {asking: "faulted", plain: "ok"}
    assert drawn == [1]


def opened(horde: FakeHorde, job_id: str) -> Image.Image:
    return Image.open(io.BytesIO(horde.uploads[job_id]))


def test_images_of_one_batch_are_delivered_each_as_it_was_asked_for(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    plain, four, two, both = (
        horde.add(post_processing=list(asked))
        for asked in ((), (X4,), (X2,), ("strip_background", X4))
    )
    assert shift(settings, client, post()) == {"images": 4, "faulted": 0, "pops": 2}
    sizes = [opened(horde, one).size for one in (plain, four, two, both)]
    assert sizes == [(64, 64), (256, 256), (128, 128), (256, 256)]
    assert [opened(horde, one).mode for one in (plain, both)] == ["RGB", "RGBA"]
    assert opened(horde, both).getchannel("A").getextrema() == (0, 255)


def test_what_is_delivered_is_accepted_by_our_horde(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    from horde import images

    job_id = horde.add(post_processing=[X4, "strip_background"])
    shift(settings, client, post())
    assert images.checked(horde.uploads[job_id], (256, 256)).file == horde.uploads[job_id]


class Fixer:
    """A face fixer that finds none, and says so."""

    def fixed(
        self, image: Image.Image, strength: float, check: Callable[[], None], run: Run
    ) -> tuple[Image.Image, str]:
        check()
        return run(lambda: image), "found no face"


def test_what_a_face_fixer_says_reaches_the_client_of_its_image_alone(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    asking, plain = horde.add(post_processing=["GFPGAN"]), horde.add()
    shift(settings, client, PostProcessors(fixers={"GFPGAN": Fixer()}, on_gpu=True))
    assert states(horde) == {asking: "ok", plain: "ok"}
    told = [[one["ref"] for one in horde.settled[job]["gen_metadata"]] for job in (asking, plain)]
    assert told[0][1:] == ["GFPGAN found no face"]
    assert told[0][:1] == told[1] == ["nsfw_score=0.0000 by stand-in 1"]


def test_a_censored_image_is_not_processed(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id, larger = horde.add(post_processing=[X4], use_nsfw_censor=True), Larger()
    shift(settings, client, post(larger), score=0.9)
    assert states(horde) == {job_id: "censored"}
    assert opened(horde, job_id).size == (64, 64)
    assert not larger.sizes


def test_an_image_that_loses_its_background_is_scored_as_it_was_drawn(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    import asyncio

    horde.add(post_processing=["strip_background", X4])
    seen: list[tuple[str, tuple[int, int]]] = []

    def score(file: bytes, image: Image.Image) -> tuple[float, str]:
        seen.extend((one.mode, one.size) for one in (image, Image.open(io.BytesIO(file))))
        return 0.0, "stand-in"

    async def work() -> None:
        await Worker(settings, client, noise, score, post=post()).work({"id": "t"})

    asyncio.run(work())
    assert seen == [("RGB", (64, 64))] * 2


@pytest.mark.parametrize("on_gpu", [True, False])
def test_upscalers_on_a_gpu_take_turns_with_drawing_and_others_leave_it_alone(
    on_gpu: bool, horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    drawing: set[str] = set()

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        drawing.add(threading.current_thread().name)
        return noise(jobs, sources)

    for _ in range(4):
        horde.add(post_processing=[X4])
    larger = Larger()
    shift(settings, client, post(larger, on_gpu=on_gpu), draw)
    assert (larger.threads == drawing) is on_gpu
    assert drawing.isdisjoint(larger.threads) is not on_gpu


@pytest.mark.lengthy
def test_the_next_batches_are_drawn_while_a_cpu_upscales(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(12):
        horde.add(post_processing=[X4])
    drawn = threading.Semaphore(0)

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        drawn.release()
        return noise(jobs, sources)

    def wait() -> None:
        if first.acquire(blocking=False):
            assert all(drawn.acquire(timeout=HANG_S) for _ in range(3))

    first = threading.Semaphore(1)
    assert shift(settings, client, post(Larger(before=wait)), draw)["images"] == 12


@pytest.mark.lengthy
def test_an_image_whose_lease_ends_in_post_processing_is_given_up(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    late, good = horde.add(post_processing=[X4], ttl=0.5), horde.add(post_processing=[X2])
    shift(settings, client, post(Larger(before=lambda: time.sleep(0.6))))
    assert states(horde) == {late: "faulted", good: "ok"}


@pytest.mark.parametrize("failure", ["raises", "out of memory", "one colour"])
def test_a_post_processor_that_fails_faults_its_image_alone(
    failure: str, horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    def cut(image: Image.Image) -> Image.Image:
        if failure == "one colour":
            return Image.new("RGBA", image.size)
        raise MemoryError if failure == "out of memory" else ValueError(failure)

    bad, good = horde.add(post_processing=["strip_background"]), horde.add(post_processing=[X4])
    result = shift(settings, client, post(cut=cut))
    assert (result["images"], result["faulted"]) == (1, 1)
    assert states(horde) == {bad: "faulted", good: "ok"}


# --- files of the operator ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("NMKD_Siax.pth", r"runs code; convert it: python -m gpu_worker\.post\.from_pth NMKD"),
        ("GFPGAN.pth", r"runs code; convert it: python -m gpu_worker\.post\.from_pth GFPGAN"),
        ("CodeFormers.safetensors", r"is refused: its licence \(S-Lab 1\.0\) forbids commercial"),
        ("CodeFormers.pth", r"is refused: its licence \(S-Lab 1\.0\) forbids commercial"),
        ("mine.safetensors", "is no face fixer or upscaler of the Horde's: GFPGAN, GFPGANv1.3, "),
        ("mine.onnx", "is no network of strip_background: u2net"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_worker_with_the_reason(
    file: str, why: str, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(ModelError, match=why):
        processors.load(replace(settings, post_processor_dir=tmp_path))


def test_a_directory_that_is_not_there_ends_the_worker(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="POST_PROCESSOR_DIR cannot be read: No such file"):
        processors.load(replace(settings, post_processor_dir=tmp_path / "none"))


def test_two_networks_for_one_purpose_are_refused(settings: Settings, tmp_path: Path) -> None:
    for name in ("u2net.onnx", "u2netp.onnx"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ModelError, match="more than one network"):
        processors.load(replace(settings, post_processor_dir=tmp_path))


# --- strip_background ---------------------------------------------------------------------------


def network(file: Path, *, side: int = 320, weights: Sequence[float] = (1, 0, 0)) -> Path:
    """Write a network that finds as salient what is red."""
    from onnx import TensorProto, helper, save

    raw = np.array(weights, np.float32).tobytes()
    given = helper.make_tensor("w", TensorProto.FLOAT, (1, 3, 1, 1), raw, raw=True)
    shape = [1, 3, side, side]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "red",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, side, side])],
        [given],
    )
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), file)
    return file


def test_what_the_network_finds_stays_and_the_rest_is_transparent(tmp_path: Path) -> None:
    image = Image.new("RGB", (96, 64), (0, 120, 200))
    ImageDraw.Draw(image).ellipse((30, 14, 66, 50), (250, 20, 20))
    found = cutout.Cutout(network(tmp_path / "u2net.onnx"))(image)
    assert (found.mode, found.size) == ("RGBA", image.size)
    alpha = np.asarray(found.getchannel("A"))
    assert alpha[32, 48] > 240
    assert (alpha[5, 5], alpha[60, 90]) == (0, 0)
    assert found.convert("RGB").tobytes() == image.tobytes()


def test_a_picture_without_any_subject_is_kept_whole(tmp_path: Path) -> None:
    flat = network(tmp_path / "u2netp.onnx", weights=(0, 0, 0))
    found = cutout.Cutout(flat)(Image.effect_noise((64, 64), 60))
    assert found.getchannel("A").getextrema() == (255, 255)


@pytest.mark.parametrize("lie", ["no file of this kind", "of another size", "no numbers"])
def test_a_network_that_gives_no_mask_is_refused_at_the_start(
    lie: str, settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "u2net.onnx"
    if lie == "no file of this kind":
        file.write_bytes(b"not a network")
    elif lie == "of another size":
        network(file, side=64)
    else:
        network(file, weights=(float("nan"), 0, 0))
    with pytest.raises(ModelError, match=r"u2net\.onnx is no network that finds a subject"):
        processors.load(replace(settings, post_processor_dir=tmp_path))


def test_a_network_cannot_name_other_files(tmp_path: Path) -> None:
    from onnx import external_data_helper, load, save

    model = load(network(tmp_path / "u2net.onnx"))
    external_data_helper.convert_model_to_external_data(
        model, location="weights.bin", size_threshold=0
    )
    save(model, tmp_path / "u2net.onnx")
    assert (tmp_path / "weights.bin").exists()
    with pytest.raises(cutout.CutoutError):
        cutout.Cutout(tmp_path / "u2net.onnx")
