"""`python -m gpu_worker.handler`: the RunPod worker. A RunPod job is a ticket, not work.

A ticket starts a shift: pop a batch from the Horde, draw it, upload and submit its images, and
again until a pop comes back empty or the shift is over. What a ticket says is for people to read
(`{"input": {"v": 1, "model": "...", "request_id": "...", "images": 3}}`): an old worker takes a
newer ticket, and a lost or superfluous ticket costs one pop.

Imports neither torch nor runpod: those are needed only where a worker really starts, in `main`.
Nothing here logs a prompt, a key or a presigned URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpu_worker import image_codec, safety
from gpu_worker.horde_client import BadJobError, Horde, HordeError, Job, State
from gpu_worker.settings import Settings
from gpu_worker.upscale import UpscalerMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from PIL import Image

    Draw = Callable[[Sequence[Job], Sequence[Image.Image | None]], list[Image.Image]]

CONCURRENCY = 2
"""Tickets at a time: one shift draws while the other uploads, submits and pops. With one, RunPod's
SDK leaves the GPU idle for up to a second after each job (`JobScaler.get_jobs` sleeps). The SDK
applies a change only when it is quite idle, so this is a constant."""

FRUITLESS_ROUNDS = 3
"""Rounds in a row without one image after which the worker asks RunPod to replace it. A broken GPU
fails fast: it would fault every request that waits, three times each, which ends them."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """What a shift did: the ticket's output."""

    images: int = 0
    """Submitted and accepted, censored ones included."""
    faulted: int = 0
    """Given back to the Horde undrawn."""
    pops: int = 0


class Worker:
    """One model, one Horde, any number of shifts at a time of which one draws."""

    def __init__(self, settings: Settings, horde: Horde, draw: Draw) -> None:
        """`draw` is called by one thread at a time."""
        self._settings = settings
        self._horde = horde
        self._draw = draw
        self._gpu = asyncio.Lock()
        self._fruitless = 0
        self._stopping = False

    def stop(self) -> None:
        """Finish what is popped, and pop no more."""
        self._stopping = True

    async def work(self, ticket: dict[str, Any]) -> dict[str, Any]:
        """Work one shift: the RunPod handler. A key `error` in the answer makes the job FAILED."""
        tally = Tally()
        try:
            await self._shift(tally)
        except HordeError as error:
            log.error("ticket %s failed: %s", ticket.get("id"), error)  # noqa: TRY400
            return {**asdict(tally), "error": str(error)}
        except Exception as error:  # noqa: BLE001 - the SDK would log and send its text as it is
            log.error("ticket %s failed: %s", ticket.get("id"), _describe(error))  # noqa: TRY400
            return {**asdict(tally), "error": f"internal error: {_describe(error)}"}
        log.info("ticket %s: %s", ticket.get("id"), tally)
        if self._fruitless >= FRUITLESS_ROUNDS:
            reason = f"nothing could be drawn {self._fruitless} times in a row"
            return {**asdict(tally), "error": reason, "refresh_worker": True}
        return asdict(tally)

    async def _shift(self, tally: Tally) -> None:
        end = time.monotonic() + self._settings.shift_seconds
        while not self._stopping and self._fruitless < FRUITLESS_ROUNDS:
            if not await _to_the_end(self._round(tally)) or time.monotonic() >= end:
                return

    async def _round(self, tally: Tally) -> bool:
        """Pop, draw and deliver one batch; False if nothing waits."""
        jobs = await asyncio.to_thread(self._horde.pop)
        tally.pops += 1
        if not jobs:
            return False
        sources = await asyncio.gather(*(asyncio.to_thread(self._source, job) for job in jobs))
        async with self._gpu:
            drawings = await asyncio.to_thread(self._drawings, jobs, sources)
        delivered = await asyncio.gather(
            *(
                asyncio.to_thread(self._deliver, job, drawing)
                for job, drawing in zip(jobs, drawings, strict=True)
            )
        )
        tally.images += delivered.count("ok") + delivered.count("censored")
        tally.faulted += delivered.count("faulted")
        return True

    def _source(self, job: Job) -> Image.Image | Exception | None:
        """Fetch the source image, or return what is wrong with it, before the GPU is taken."""
        try:
            data = self._horde.fetch_source(job)
            if data is None:
                return None
            width, height = int(job.payload["width"]), int(job.payload["height"])
            if job.paints:
                return image_codec.decode_painting(data, self._horde.fetch_mask(job), width, height)
            return image_codec.decode_source(data, width, height)
        except Exception as error:  # noqa: BLE001 - one job's source is no other job's trouble
            return error

    def _drawings(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | Exception | None]
    ) -> list[Image.Image | Exception]:
        """Return a drawing, or the reason for none, for each job."""
        drawings: dict[int, Image.Image | Exception] = {}
        now = time.monotonic()
        for number, (job, source) in enumerate(zip(jobs, sources, strict=True)):
            if isinstance(source, Exception):
                drawings[number] = source
            elif now > job.deadline:
                # It waited for the GPU too long: someone else has it by now.
                drawings[number] = BadJobError("its ttl is over")
        ready = [number for number in range(len(jobs)) if number not in drawings]
        drawn = self._draw_apart(
            [jobs[number] for number in ready],
            # Narrows the type: the exceptions are already in `drawings`.
            [None if isinstance(s := sources[number], Exception) else s for number in ready],
        )
        drawings.update(zip(ready, drawn, strict=True))
        if any(not isinstance(drawing, Exception) for drawing in drawn):
            self._fruitless = 0
        elif any(not isinstance(drawing, BadJobError) for drawing in drawn):
            self._fruitless += 1
        return [drawings[number] for number in range(len(jobs))]

    def _draw_apart(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | None]
    ) -> list[Image.Image | Exception]:
        """Draw together; if that fails draw apart, so that a bad job fails alone."""
        if not jobs:
            return []
        started = time.monotonic()
        try:
            drawn = self._draw(jobs, sources)
        except Exception as error:  # noqa: BLE001 - whatever it is, the Horde must get its jobs back
            count = len(jobs)
            log.warning("a batch of %d failed: %s", count, _describe(error))
            if count == 1:
                return [error]
            # Too little memory for all may be enough for half; else one of them is to blame.
            size = count // 2 if isinstance(error, MemoryError) else 1
            return [
                drawing
                for start in range(0, count, size)
                for drawing in self._draw_apart(
                    jobs[start : start + size], sources[start : start + size]
                )
            ]
        log.info("%d images in %.2f s", len(drawn), time.monotonic() - started)
        return list(drawn)

    def _deliver(self, job: Job, drawing: Image.Image | Exception) -> State | None:
        """Upload and submit, or fault; None if the Horde did not want it (any more)."""
        state: State = "faulted"
        data = None
        try:
            if isinstance(drawing, Exception):
                raise drawing  # noqa: TRY301 - the same way out as a failed upload
            state, data = self._finish(job, drawing)
            self._horde.upload(job, data)
        except Exception as error:  # noqa: BLE001 - the Horde must learn that this job is free again
            log.warning("job %s faulted: %s", job.id, _describe(error))
            state, data = "faulted", None
        try:
            self._horde.submit(job, state, data)
        except HordeError as error:
            # Taken back, finished by someone else, or the Horde is away: the ttl settles it.
            log.warning("job %s: submit failed: %s", job.id, error)
            return "faulted" if state == "faulted" else None
        return state

    def _finish(self, job: Job, image: Image.Image) -> tuple[State, bytes]:
        if image_codec.is_blank(image):
            message = "the drawing is one colour"
            raise BadJobError(message)
        if job.wants_censor and safety.nsfw_score(image) >= self._settings.nsfw_threshold:
            return "censored", image_codec.encode_webp(image_codec.censored(*image.size))
        return "ok", image_codec.encode_webp(image)


async def _to_the_end(work: Coroutine[Any, Any, bool]) -> bool:
    """Await `work` to its end also when the ticket is cancelled: popped jobs are owed an answer."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            log.warning("in a cancelled ticket: %s", _describe(error))
        raise


def _describe(error: BaseException) -> str:
    """Say of an error what may be logged: foreign messages can quote a prompt or a URL."""
    if isinstance(error, HordeError | BadJobError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where


@cache
def _chain_sigterm(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM before what the SDK does (it waits for the shifts to end)."""
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        stop()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)


def main() -> None:
    """Load the model, then take tickets."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)-7s| %(name)s: %(message)s")
    try:
        settings = Settings.from_env()
    except ValueError as error:
        sys.exit(f"gpu_worker: {error}")
    if not (settings.model_dir / "model_index.json").is_file():
        sys.exit("gpu_worker: MODEL_DIR holds no diffusers model (no model_index.json)")
    # Else the SDK logs each poll.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")

    from gpu_worker.pipeline import Pipeline  # noqa: PLC0415

    try:
        # Before the first ticket: the ttl of a job starts with its pop.
        pipeline = Pipeline(settings)
    except UpscalerMissingError as error:
        sys.exit(f"gpu_worker: {error}")
    worker = Worker(settings, Horde(settings), pipeline.draw)

    async def handler(ticket: dict[str, Any]) -> dict[str, Any]:
        # Now, because the SDK sets its own signal handler when it starts.
        _chain_sigterm(worker.stop)
        return await worker.work(ticket)

    runpod: Any = import_module("runpod")
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: CONCURRENCY})


if __name__ == "__main__":
    main()
