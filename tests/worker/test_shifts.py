"""Shifts against a well-behaved horde; the drawing is a stand-in, so no torch is needed."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from gpu_worker.horde_client import MAX_TRIES, MIN_TTL_S, Horde, Job
from gpu_worker.pop_timing import MAX_AHEAD, MAX_UNFINISHED, Batch, Hand
from gpu_worker.shifts import LOOK_S, MAX_FAILED_ROUNDS, Worker
from tests.support.numbers import HANG_S

if TYPE_CHECKING:
    from gpu_worker import safety
    from gpu_worker.settings import Settings
    from tests.worker.fake_horde import FakeHorde

TICKET = {"id": "t", "input": {"v": 99, "model": "stable_diffusion", "something": "new"}}
Draw = Callable[[Sequence[Job], Sequence[Image.Image | None]], list[Image.Image]]


def noise(jobs: Sequence[Job], _: Sequence[Image.Image | None]) -> list[Image.Image]:
    return [Image.effect_noise((64, 64), 60).convert("RGB") for _ in jobs]


def failing(when: Callable[[Sequence[Job]], BaseException | None]) -> tuple[Draw, list[int]]:
    """A drawing that fails when it should, and the sizes of the batches it was asked for."""
    sizes: list[int] = []

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        sizes.append(len(jobs))
        if error := when(jobs):
            raise error
        return noise(jobs, sources)

    return draw, sizes


def scoring(value: float) -> safety.Detector:
    return lambda _file, _image: (value, "stand-in 1")


def shift(
    settings: Settings,
    client: Horde,
    draw: Draw = noise,
    tickets: int = 1,
    detector: safety.Detector | None = None,
) -> Any:
    async def work() -> list[dict[str, Any]]:
        worker = Worker(settings, client, draw, detector or scoring(0.01))
        return await asyncio.gather(*(worker.work(TICKET) for _ in range(tickets)))

    results = asyncio.run(work())
    return results[0] if tickets == 1 else results


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.001)


def states(horde: FakeHorde) -> dict[str, str]:
    return {job_id: submit["state"] for job_id, submit in horde.settled.items()}


def test_a_shift_draws_until_nothing_waits(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    ids = {horde.add() for _ in range(6)}
    assert shift(settings, client) == {"images": 6, "faulted": 0, "pops": 3}
    assert set(horde.uploads) == ids
    assert set(states(horde).values()) == {"ok"}


def test_a_superfluous_ticket_costs_one_empty_pop(settings: Settings, client: Horde) -> None:
    assert shift(settings, client) == {"images": 0, "faulted": 0, "pops": 1}


def test_a_shift_that_is_over_pops_no_more(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(9):
        horde.add()
    result = shift(replace(settings, shift_seconds=0), client)
    assert result == {"images": 4, "faulted": 0, "pops": 1}


@pytest.mark.lengthy
def test_a_gpu_that_breaks_costs_no_more_images_than_its_failed_rounds(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(40):
        horde.add()
    alone = replace(settings, max_batch=1)
    good, count = 4, 0

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        nonlocal count
        count += 1
        if count > good:
            time.sleep(20 * LOOK_S)  # a worker that still popped ahead would pop meanwhile
            raise RuntimeError("CUDA error")
        return noise(jobs, sources)

    result = shift(alone, Horde(alone), draw)
    assert (result["images"], result["faulted"]) == (good, MAX_FAILED_ROUNDS)
    assert result["refresh_worker"]


@pytest.mark.lengthy
@pytest.mark.parametrize("tickets", [1, 2])
def test_one_batch_is_drawn_at_a_time_and_the_next_is_popped_meanwhile(
    tickets: int, horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(24):
        horde.add()
    drawing, sizes = threading.Lock(), []

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        assert drawing.acquire(blocking=False)
        sizes.append(len(jobs))
        wait_for(lambda: horde.calls["pop"] > len(sizes))
        drawing.release()
        return noise(jobs, sources)

    results = shift(settings, client, draw, tickets)
    shifts = results if tickets > 1 else [results]
    assert sum(result["images"] for result in shifts) == 24
    assert all(result["images"] for result in shifts)
    assert sizes == [4] * 6


@pytest.mark.lengthy
def test_images_are_finished_while_the_next_batches_are_drawn(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(12):
        horde.add()
    horde.let_upload.clear()
    count = 0

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        nonlocal count
        count += 1
        if count == 3:
            assert horde.done() == 0
            horde.let_upload.set()
        return noise(jobs, sources)

    assert shift(settings, client, draw) == {"images": 12, "faulted": 0, "pops": 4}


def held_back(
    horde: FakeHorde, settings: Settings, client: Horde, work: Draw, until: Callable[[], bool]
) -> dict[str, int]:
    """Let a shift work until it comes to rest; say what the horde had given it and got of it."""

    async def run() -> dict[str, int]:
        task = asyncio.create_task(Worker(settings, client, work, scoring(0)).work(TICKET))
        await asyncio.to_thread(wait_for, until)
        await asyncio.sleep(50 * LOOK_S)  # a worker without the bound would pop meanwhile
        seen = {"pops": horde.calls["pop"], "leased": len(horde.leased), "done": horde.done()}
        horde.let_upload.set()
        ahead.set()
        await task
        return seen

    return asyncio.run(run())


ahead = threading.Event()


@pytest.mark.lengthy
def test_no_more_is_popped_ahead_than_two_batches_however_wrong_the_estimate(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(40):
        horde.add()
    ahead.clear()
    count = 0

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        nonlocal count
        count += 1
        if count == 2:  # all before were quick
            ahead.wait(HANG_S)
        return noise(jobs, sources)

    seen = held_back(
        horde, settings, client, draw, lambda: count == 2 and horde.calls["pop"] >= 2 + MAX_AHEAD
    )
    assert seen["pops"] == 2 + MAX_AHEAD


@pytest.mark.slow
def test_a_batch_that_takes_long_is_not_popped_ahead_of_its_turn(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    """So what is asked for meanwhile, with a higher priority, is drawn before it."""
    for number in range(40):
        horde.add(ddim_steps=1 if number < 4 else 1000)
    ahead.clear()
    count = 0

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        nonlocal count
        count += 1
        if count == 1:  # so the second takes minutes, and a pop takes far less
            time.sleep(0.2)
        if count == 2:
            ahead.wait(HANG_S)
        return noise(jobs, sources)

    seen = held_back(horde, settings, client, draw, lambda: count == 2)
    assert seen["pops"] == 2


@pytest.mark.parametrize(("in_hand", "wanted"), [(1.1, False), (0.9, True)])
def test_no_batch_is_popped_to_wait_longer_than_a_tenth_of_the_shortest_ttl(
    in_hand: float, wanted: bool
) -> None:
    hand = Hand()
    hand.rates.append(1.0)
    hand.latencies.append(1000.0)
    hand.batches.append(Batch(work=in_hand * MIN_TTL_S / 10))
    assert hand.is_wanted(time.monotonic(), failing=False) is wanted


@pytest.mark.slow
def test_nothing_is_popped_while_too_many_images_wait_for_their_upload(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(200):
        horde.add()
    horde.let_upload.clear()
    seen = held_back(horde, settings, client, noise, lambda: horde.calls["pop"] >= MAX_UNFINISHED)
    assert seen == {"pops": MAX_UNFINISHED, "leased": 4 * MAX_UNFINISHED, "done": 0}
    assert horde.done() == 200


@pytest.mark.slow
def test_a_slow_source_image_keeps_the_gpu_from_no_other_image(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    alone = replace(settings, max_batch=1)
    horde.files["slow.webp"] = b"not an image"
    for source in (None, None, *["slow.webp"] * MAX_AHEAD, *[None] * 5):
        horde.add(**({"source": source} if source else {}))
    horde.let_fetch.clear()

    async def work() -> dict[str, Any]:
        worker = Worker(alone, Horde(alone), noise, scoring(0))
        task = asyncio.create_task(worker.work(TICKET))
        await asyncio.to_thread(wait_for, lambda: horde.done() == 7)
        horde.let_fetch.set()
        return await task

    assert asyncio.run(work()) == {"images": 7, "faulted": MAX_AHEAD, "pops": 8 + MAX_AHEAD}


def test_an_upload_is_webp_without_metadata(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id = horde.add()

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        drawn = noise(jobs, sources)
        drawn[0].info["exif"] = Image.Exif().tobytes()
        drawn[0].info["comment"] = b"a prompt"
        return drawn

    shift(settings, client, draw)
    image = Image.open(io.BytesIO(horde.uploads[job_id]))
    assert (image.format, image.size) == ("WEBP", (64, 64))
    assert not image.getexif()
    assert b"EXIF" not in horde.uploads[job_id]
    assert b"prompt" not in horde.uploads[job_id]


def test_a_prompt_that_crashes_faults_only_itself(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    ids = [horde.add(prompt=prompt) for prompt in ("a", "crash", "b", "c")]
    draw, sizes = failing(
        lambda jobs: (
            RuntimeError("boom") if any(j.payload["prompt"] == "crash" for j in jobs) else None
        )
    )
    assert shift(settings, client, draw) == {"images": 3, "faulted": 1, "pops": 2}
    assert sizes == [4, 1, 1, 1, 1]
    assert states(horde)[ids[1]] == "faulted"


def test_a_batch_too_large_for_the_memory_is_halved(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(4):
        horde.add()
    draw, sizes = failing(lambda jobs: MemoryError() if len(jobs) > 2 else None)
    assert shift(settings, client, draw)["images"] == 4
    assert sizes == [4, 2, 2]


def test_an_image_that_does_not_fit_into_the_memory_is_not_popped_again(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    horde.add(width=128, height=64)
    draw, _ = failing(lambda _jobs: MemoryError())
    assert shift(settings, client, draw)["faulted"] == 1
    assert [pop["max_pixels"] for pop in horde.pops] == [settings.max_pixels, 128 * 64 - 1]


def test_an_unreadable_source_image_faults_only_itself(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 20), "red").save(buffer, "PNG")
    horde.files = {"good.png": buffer.getvalue(), "bad.png": b"not an image"}
    good, bad, gone = (
        horde.add(source=name) for name in ("good.png", "bad.png", f"{horde.url}/get/gone.png")
    )
    seen: list[Image.Image | None] = []

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        seen.extend(sources)
        return noise(jobs, sources)

    assert shift(settings, client, draw) == {"images": 1, "faulted": 2, "pops": 2}
    assert states(horde) == {good: "ok", bad: "faulted", gone: "faulted"}
    assert [image.size for image in seen if image] == [(64, 64)]


def test_a_drawing_of_one_colour_is_faulted(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id = horde.add()
    shift(settings, client, lambda jobs, _: [Image.new("RGB", (64, 64)) for _ in jobs])
    assert states(horde) == {job_id: "faulted"}
    assert not horde.uploads


@pytest.mark.lengthy
@pytest.mark.parametrize("failures", [[500] * MAX_TRIES, [403], [0] * MAX_TRIES])
def test_an_image_that_cannot_be_uploaded_travels_in_its_submit(
    failures: list[int], horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id = horde.add()
    horde.failures["upload"] = deque(failures)
    assert shift(settings, client) == {"images": 1, "faulted": 0, "pops": 2}
    image = Image.open(io.BytesIO(base64.b64decode(horde.settled[job_id]["generation"])))
    assert (image.format, image.size) == ("WEBP", (64, 64))
    assert not horde.uploads


def test_an_image_whose_upload_got_lost_is_submitted_again_with_the_image(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    ids = [horde.add(), horde.add()]
    horde.lose_uploads = 1
    assert shift(settings, client)["images"] == 2
    assert len(horde.uploads) == 1
    assert set(states(horde)) == set(ids)
    (lost,) = horde.lost
    assert base64.b64decode(horde.settled[lost]["generation"]).startswith(b"RIFF")


@pytest.mark.lengthy
@pytest.mark.parametrize("status", [401, 429, 503, 0])
def test_an_image_is_submitted_again_until_its_lease_expires(
    status: int, horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id = horde.add()
    horde.failures["submit"] = deque([status] * 2 * MAX_TRIES)
    assert shift(settings, client)["images"] == 1
    assert states(horde) == {job_id: "ok"}


@pytest.mark.lengthy
def test_a_submit_is_given_up_when_the_lease_expires(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    horde.add(ttl=1)
    horde.failures["submit"] = deque([503] * 1000)
    assert shift(settings, client) == {"images": 0, "faulted": 0, "pops": 2}
    assert horde.calls["submit"] < 100


def test_a_submit_answered_late_is_an_image_once(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    ids = {horde.add() for _ in range(4)}
    horde.lose_answers["submit"] = 3
    assert shift(settings, client)["images"] == 4
    assert set(states(horde)) == ids


def test_a_job_that_waited_past_its_ttl_is_not_drawn(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    horde.add(ttl=-1)
    draw, sizes = failing(lambda _: None)
    assert shift(settings, client, draw)["faulted"] == 1
    assert not sizes


@pytest.mark.parametrize("loss", ["aborted", "unknown", "submitted by someone else"])
def test_a_job_lost_meanwhile_does_not_end_the_shift(
    loss: str, horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    ids = [horde.add() for _ in range(6)]

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        with horde.lock:
            if loss == "aborted":
                horde.aborted.add(ids[0])
            else:
                lease = horde.leased.pop(ids[0], None)
                if lease and loss != "unknown":
                    horde.settled[ids[0]] = {"state": "ok"}
        return noise(jobs, sources)

    assert shift(settings, client, draw) == {"images": 5, "faulted": 0, "pops": 3}


@pytest.mark.lengthy
def test_a_ticket_fails_when_the_horde_stays_away(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    horde.failures["pop"] = deque([502] * MAX_TRIES)
    result = shift(settings, client)
    assert result["error"] == f"pop: 502 pop fails ({MAX_TRIES} tries)"


def test_a_pop_that_fails_loses_nothing_of_the_pops_before(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(8):
        horde.add()

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        horde.failures["pop"] = deque([401] * 99)
        return noise(jobs, sources)

    result = shift(settings, client, draw)
    assert result["error"].startswith("401")
    assert result["images"] == horde.done() == 8 - len(horde.waiting)
    assert not horde.leased


def test_a_ticket_fails_with_the_hordes_own_words(settings: Settings, horde: FakeHorde) -> None:
    wrong = Horde(replace(settings, horde_api_key="wrong"))
    assert "InvalidAPIKey: No user matching" in shift(settings, wrong)["error"]
    assert horde.calls["pop"] == 1


def test_an_unforeseen_failure_fails_the_ticket_without_quoting_it(
    settings: Settings, client: Horde, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_models: Sequence[str], _offer: Any) -> list[Job]:
        raise RuntimeError("a secret")

    monkeypatch.setattr(client, "pop", broken)
    assert shift(settings, client)["error"].startswith("internal error: RuntimeError at test_")


def test_a_worker_that_can_draw_nothing_asks_to_be_replaced(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(40):
        horde.add()
    draw, _ = failing(lambda _: RuntimeError("CUDA error"))
    result = shift(replace(settings, max_batch=1), Horde(replace(settings, max_batch=1)), draw)
    assert result["refresh_worker"]
    assert result["faulted"] == MAX_FAILED_ROUNDS
    assert len(horde.waiting) == 40 - MAX_FAILED_ROUNDS


def test_a_cancelled_ticket_still_answers_for_what_it_popped(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(40):
        horde.add()
    popped_ahead, go_on = threading.Event(), threading.Event()

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        wait_for(lambda: horde.calls["pop"] >= 2)
        popped_ahead.set()
        go_on.wait(HANG_S)
        return noise(jobs, sources)

    async def cancel() -> None:
        task = asyncio.create_task(Worker(settings, client, draw, scoring(0)).work(TICKET))
        await asyncio.to_thread(popped_ahead.wait, HANG_S)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert horde.done() == 8
    assert not horde.leased
    assert len(horde.waiting) == 32


@pytest.mark.lengthy
def test_a_ticket_that_is_cancelled_during_its_pop_answers_for_what_comes(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    horde.add()
    horde.seconds["pop"] = 0.2

    async def cancel() -> None:
        task = asyncio.create_task(Worker(settings, client, noise, scoring(0)).work(TICKET))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert horde.done() == 1


def test_a_worker_told_to_stop_finishes_what_it_popped_and_pops_no_more(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(40):
        horde.add()

    async def work() -> dict[str, Any]:
        def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
            wait_for(lambda: horde.calls["pop"] >= 2)
            worker.stop()
            return noise(jobs, sources)

        worker = Worker(settings, client, draw, scoring(0))
        return await worker.work(TICKET)

    assert asyncio.run(work()) == {"images": 8, "faulted": 0, "pops": 2}
    assert not horde.leased


def remarks(horde: FakeHorde, job_id: str) -> list[str]:
    return [entry.get("ref", entry["value"]) for entry in horde.settled[job_id]["gen_metadata"]]


def test_nudity_is_censored_only_for_those_who_asked(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    asked, other = horde.add(use_nsfw_censor=True), horde.add()
    assert shift(settings, client, detector=scoring(0.9))["images"] == 2
    assert states(horde) == {asked: "censored", other: "ok"}
    placeholder = Image.open(io.BytesIO(horde.uploads[asked]))
    assert placeholder.size == (64, 64)
    assert max(placeholder.convert("L").resize((1, 1)).tobytes()) < 64


def test_an_image_under_the_threshold_is_delivered(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id = horde.add(use_nsfw_censor=True)
    shift(settings, client, detector=scoring(0.49))
    assert states(horde) == {job_id: "ok"}


@pytest.mark.parametrize("censor", [True, False])
def test_every_image_is_submitted_with_its_score_whatever_the_client_set(
    censor: bool, horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id = horde.add(use_nsfw_censor=censor)
    shift(settings, client, detector=scoring(0.75))
    censorship = ["nsfw"] if censor else []
    assert remarks(horde, job_id) == [*censorship, "nsfw_score=0.7500 by stand-in 1"]


def broken(_file: bytes, _image: Image.Image) -> tuple[float, str]:
    raise ImportError


NO_SCORES = [
    broken,
    scoring(float("nan")),
    scoring(float("inf")),
    scoring(-0.1),
    scoring(1.1),
    lambda _file, _image: (None, "none"),
]


@pytest.mark.parametrize("detector", NO_SCORES)
def test_an_image_that_cannot_be_scored_is_not_delivered_as_censored_ones_must_be(
    detector: safety.Detector, horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id = horde.add(use_nsfw_censor=True)
    assert shift(settings, client, detector=detector)["faulted"] == 1
    assert states(horde) == {job_id: "faulted"}
    assert not horde.uploads


@pytest.mark.parametrize("detector", NO_SCORES)
def test_an_image_without_a_score_says_so_where_nobody_asked_for_censoring(
    detector: safety.Detector, horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    job_id = horde.add()
    assert shift(settings, client, detector=detector)["images"] == 1
    assert remarks(horde, job_id) == ["nsfw_score=unknown"]


def test_logs_hold_neither_prompts_nor_keys(
    horde: FakeHorde, settings: Settings, client: Horde, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="gpu_worker")
    horde.add(prompt="my secret prompt")
    horde.add(prompt="my other secret")
    draw, _ = failing(lambda jobs: ValueError(f"bad prompt: {jobs[0].payload['prompt']}"))
    shift(settings, client, draw)
    assert "ValueError at test_shifts.py" in caplog.text
    assert "secret" not in caplog.text
    assert settings.horde_api_key not in caplog.text


@pytest.mark.lengthy
def test_the_handler_imports_without_torch_runpod_or_configuration() -> None:
    code = (
        "import sys, gpu_worker.handler\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'runpod', 'onnxruntime'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
