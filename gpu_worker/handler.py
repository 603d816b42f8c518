"""`python -m gpu_worker.handler`: the RunPod worker. A RunPod job is a ticket, not work.

A ticket starts a shift. The worker pops a batch from the Horde, draws it, uploads and submits its
images. It repeats this until a pop comes back empty or the shift is over. The content of a ticket
(`{"input": {"v": 1, "model": "...", "request_id": "...", "images": 3}}`) is only informative. So an
old worker can take a newer ticket, and a lost or superfluous ticket costs one pop.

This module imports neither torch nor runpod; only `main` does. It never logs a prompt, a key or a
presigned URL.
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

from gpu_worker import image_codec, model_files, safety
from gpu_worker.horde_client import BadJobError, Horde, HordeError, Job, State
from gpu_worker.model_files import ModelError
from gpu_worker.settings import Settings
from gpu_worker.upscale import UpscalerMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from PIL import Image

    Draw = Callable[[Sequence[Job], Sequence[Image.Image | None]], list[Image.Image]]

CONCURRENCY = 2
"""Tickets at a time: one shift draws while the other uploads, submits and pops. With only one,
RunPod's SDK leaves the GPU idle for up to a second after each job (`JobScaler.get_jobs` sleeps).
The SDK applies a change only while it has no job, so this is a constant."""

MAX_FAILED_ROUNDS = 3
"""Rounds in a row without any image after which the worker asks RunPod to replace it. A broken GPU
fails fast, and would fault every waiting image until its request ends."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class ShiftResult:
    """The result of a shift, and so the output of its ticket."""

    images: int = 0
    """Images that the Horde accepted, including censored ones."""
    faulted: int = 0
    """Images returned to the Horde undrawn."""
    pops: int = 0


class Worker:
    """A worker with one model for one horde. Of its concurrent shifts, one draws at a time."""

    def __init__(self, settings: Settings, horde: Horde, draw: Draw) -> None:
        """Create the worker; `draw` is called by one thread at a time."""
        self._settings = settings
        self._horde = horde
        self._draw = draw
        self._gpu = asyncio.Lock()
        self._failed_rounds = 0
        self._stopping = False

    def stop(self) -> None:
        """Finish the popped jobs, and pop no more."""
        self._stopping = True

    async def work(self, ticket: dict[str, Any]) -> dict[str, Any]:
        """Work one shift, as RunPod's handler; an `error` in the result makes the job FAILED."""
        result = ShiftResult()
        try:
            await self._shift(result)
        except HordeError as error:
            log.error("ticket %s failed: %s", ticket.get("id"), error)  # noqa: TRY400
            return {**asdict(result), "error": str(error)}
        except Exception as error:  # noqa: BLE001 - the SDK would log and send its raw text
            log.error("ticket %s failed: %s", ticket.get("id"), _describe(error))  # noqa: TRY400
            return {**asdict(result), "error": f"internal error: {_describe(error)}"}
        log.info("ticket %s: %s", ticket.get("id"), result)
        if self._failed_rounds >= MAX_FAILED_ROUNDS:
            reason = f"no image could be drawn in {self._failed_rounds} rounds in a row"
            return {**asdict(result), "error": reason, "refresh_worker": True}
        return asdict(result)

    async def _shift(self, result: ShiftResult) -> None:
        end = time.monotonic() + self._settings.shift_seconds
        while not self._stopping and self._failed_rounds < MAX_FAILED_ROUNDS:
            if not await _uncancelled(self._round(result)) or time.monotonic() >= end:
                return

    async def _round(self, result: ShiftResult) -> bool:
        """Pop, draw and deliver one batch; returns False if the pop was empty."""
        jobs = await asyncio.to_thread(self._horde.pop)
        result.pops += 1
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
        result.images += delivered.count("ok") + delivered.count("censored")
        result.faulted += delivered.count("faulted")
        return True

    def _source(self, job: Job) -> Image.Image | Exception | None:
        """Return a job's source image, or the error it caused, before the GPU is taken."""
        try:
            data = self._horde.fetch_source(job)
            if data is None:
                return None
            width, height = int(job.payload["width"]), int(job.payload["height"])
            if job.painting:
                return image_codec.decode_painting(data, self._horde.fetch_mask(job), width, height)
            return image_codec.decode_source(data, width, height)
        except Exception as error:  # noqa: BLE001 - one job's source must not fail other jobs
            return error

    def _drawings(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | Exception | None]
    ) -> list[Image.Image | Exception]:
        """Return a drawing, or the error that prevented it, for each job."""
        drawings: dict[int, Image.Image | Exception] = {}
        now = time.monotonic()
        for number, (job, source) in enumerate(zip(jobs, sources, strict=True)):
            if isinstance(source, Exception):
                drawings[number] = source
            elif now > job.deadline:
                # It waited for the GPU too long, and another worker has it by now.
                drawings[number] = BadJobError("its ttl is over")
        ready = [number for number in range(len(jobs)) if number not in drawings]
        drawn = self._draw_or_split(
            [jobs[number] for number in ready],
            # Narrows the type: the exceptions are already in `drawings`.
            [None if isinstance(s := sources[number], Exception) else s for number in ready],
        )
        drawings.update(zip(ready, drawn, strict=True))
        if any(not isinstance(drawing, Exception) for drawing in drawn):
            self._failed_rounds = 0
        elif any(not isinstance(drawing, BadJobError) for drawing in drawn):
            self._failed_rounds += 1
        return [drawings[number] for number in range(len(jobs))]

    def _draw_or_split(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | None]
    ) -> list[Image.Image | Exception]:
        """Draw jobs in one batch. If that fails, split the batch, so that a bad job fails alone."""
        if not jobs:
            return []
        started = time.monotonic()
        try:
            drawn = self._draw(jobs, sources)
        except Exception as error:  # noqa: BLE001 - the Horde must get its jobs back in any case
            count = len(jobs)
            log.warning("a batch of %d failed: %s", count, _describe(error))
            if count == 1:
                return [error]
            # Without memory for the batch, try halves; any other error is a single job's.
            size = count // 2 if isinstance(error, MemoryError) else 1
            return [
                drawing
                for start in range(0, count, size)
                for drawing in self._draw_or_split(
                    jobs[start : start + size], sources[start : start + size]
                )
            ]
        log.info("%d images in %.2f s", len(drawn), time.monotonic() - started)
        return list(drawn)

    def _deliver(self, job: Job, drawing: Image.Image | Exception) -> State | None:
        """Upload and submit a job, or fault it; None if the Horde refused the submit."""
        state: State = "faulted"
        data = None
        try:
            if isinstance(drawing, Exception):
                raise drawing  # noqa: TRY301 - handled like a failed upload
            state, data = self._finish(job, drawing)
            self._horde.upload(job, data)
        except Exception as error:  # noqa: BLE001 - the Horde must learn that the job failed
            log.warning("job %s faulted: %s", job.id, _describe(error))
            state, data = "faulted", None
        try:
            self._horde.submit(job, state, data)
        except HordeError as error:
            # The lease expired, another worker finished it, or the Horde is down. The ttl decides.
            log.warning("job %s: submit failed: %s", job.id, error)
            return "faulted" if state == "faulted" else None
        return state

    def _finish(self, job: Job, image: Image.Image) -> tuple[State, bytes]:
        if image_codec.is_blank(image):
            message = "the drawing has a single colour"
            raise BadJobError(message)
        if job.wants_censor and safety.nsfw_score(image) >= self._settings.nsfw_threshold:
            return "censored", image_codec.encode_webp(image_codec.censored(*image.size))
        return "ok", image_codec.encode_webp(image)


async def _uncancelled(work: Coroutine[Any, Any, bool]) -> bool:
    """Await `work` to its end even if the ticket is cancelled, since popped jobs need a submit."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            log.warning("error in a cancelled ticket: %s", _describe(error))
        raise


def _describe(error: BaseException) -> str:
    """Return a safe description to log: other errors' messages may quote a prompt or URL."""
    if isinstance(error, HordeError | BadJobError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where


@cache
def _chain_sigterm(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM before the SDK's own handler, which waits for the shifts to end."""
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
    try:
        model_files.read(settings.model_dir)
    except ModelError as error:
        sys.exit(f"gpu_worker: {error}")
    # At the SDK's default level it logs every poll.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")

    from gpu_worker.pipeline import Pipeline  # noqa: PLC0415

    try:
        # Load it before the first ticket, since the ttl of a job starts with its pop.
        pipeline = Pipeline(settings)
        pipeline.warm_up()
    except (UpscalerMissingError, ModelError) as error:
        sys.exit(f"gpu_worker: {error}")
    worker = Worker(settings, Horde(settings), pipeline.draw)

    async def handler(ticket: dict[str, Any]) -> dict[str, Any]:
        # Not earlier, since the SDK sets its own signal handler when it starts.
        _chain_sigterm(worker.stop)
        return await worker.work(ticket)

    runpod: Any = import_module("runpod")
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: CONCURRENCY})


if __name__ == "__main__":
    main()
