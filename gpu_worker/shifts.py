"""The worker's shifts. A RunPod job is a ticket, not work.

A ticket starts a shift. The worker pops a batch from the Horde, draws it, encodes, scores, uploads
and submits its images. It repeats this until a pop comes back empty or the shift is over. These
stages overlap: while one batch is drawn, the next is popped and those before are finished. A ticket
ends when all that it popped is answered for. The content of a ticket
(`{"input": {"v": 1, "model": "...", "request_id": "...", "images": 3}}`) is only informative: of
several models, a worker that has none in memory yet loads the one of its first ticket. So an old
worker can take a newer ticket, and a lost or superfluous ticket costs one pop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from gpu_worker import control, image_codec, safety
from gpu_worker.abilities import Abilities
from gpu_worker.finishing import Finisher, describe
from gpu_worker.horde_client import BadJobError, Horde, HordeError, Job
from gpu_worker.model_files import ModelError
from gpu_worker.offers import Offers, OneModel
from gpu_worker.pop_timing import MAX_UNFINISHED, Batch, Hand, work_of
from gpu_worker.post import processors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Executor

    from gpu_worker.offers import Models
    from gpu_worker.settings import Settings

    Draw = Callable[[Sequence[Job], Sequence[Image.Image | None]], list[Image.Image]]

CONCURRENCY = 2
"""Tickets at a time: one shift draws while the other ends and its ticket is replaced. With only
one, RunPod's SDK leaves the GPU idle for up to a second after each job (`JobScaler.get_jobs`
sleeps). The SDK applies a change only while it has no job, so this is a constant."""

LOOK_S = 0.01
"""Seconds between two looks at whether the next batch is to be popped."""

MAX_FAILED_ROUNDS = 3
"""Rounds in a row without any image after which the worker asks RunPod to replace it. A broken GPU
fails fast, and would fault every waiting image until its request ends."""

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(slots=True)
class ShiftResult:
    """The result of a shift, and so the output of its ticket."""

    images: int = 0
    """Images that the Horde accepted, including censored ones."""
    faulted: int = 0
    """Images returned to the Horde undrawn."""
    pops: int = 0


@dataclass(slots=True)
class _Shift:
    """One ticket's shift; only the event loop's thread touches it."""

    end: float
    """The `time.monotonic()` after which it pops no more."""
    cancelled: bool = False
    in_vain: set[str] = field(default_factory=set)
    """Models that nothing waited for, by its last pops."""
    result: ShiftResult = field(default_factory=ShiftResult)


class Worker:
    """A worker for one horde, with one model or several.

    Its concurrent shifts share one GPU, which draws one batch at a time, in the order in which
    batches and their source images arrive. The next batch is popped just in time, by what the last
    batches have taken (`pop_timing`).
    """

    def __init__(
        self,
        settings: Settings,
        horde: Horde,
        draw: Draw,
        detector: safety.Detector,
        models: Models | None = None,
        post: processors.PostProcessors | None = None,
        add_ons: Callable[[Job], Job] | None = None,
        abilities: Abilities | None = None,
    ) -> None:
        """Create the worker; `draw` is called by one thread at a time, `detector` by several.

        `models` are those that `draw` draws; by default, the one of the settings. `post` has its
        post-processors; by default, none. `add_ons` gives a job its LoRAs and textual inversions,
        in several threads; without it they are refused. `abilities` say what it does with which
        model, and make the maps of ControlNets; by default, the same with all, and those maps that
        need no weights.
        """
        self._settings = settings
        self._models = models or OneModel(settings.model_name)
        self._offers = Offers()
        self._post = post or processors.PostProcessors()
        horde.offer = {**horde.offer, **self._post.offer}
        self._horde = horde
        self._draw = draw
        self._add_ons = add_ons
        self._abilities = abilities or Abilities()
        self._failed_rounds = 0
        self._stopping = False
        self._turn = asyncio.Lock()
        self._hand = Hand()
        self._last_work = 0.0
        # A queue of its own, which needs no event loop: between two batches the GPU never waits.
        self._gpu = ThreadPoolExecutor(1, "gpu")
        # One for each image in hand or being finished; they mostly wait for the network.
        most = MAX_UNFINISHED * settings.max_batch + CONCURRENCY
        self._threads = ThreadPoolExecutor(most, "horde")
        # Pillow releases the GIL while it encodes, so more at a time would only take turns.
        self._cpus = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._finisher = Finisher(settings, horde, detector, self._post, self._gpu, self._cpus)

    def stop(self) -> None:
        """Finish the popped jobs, and pop no more."""
        self._stopping = True

    async def work(self, ticket: dict[str, Any]) -> dict[str, Any]:
        """Work one shift, as RunPod's handler; an `error` in the result makes the job FAILED."""
        shift = _Shift(time.monotonic() + self._settings.shift_seconds)
        result = shift.result
        try:
            if not self._models.loaded:
                await self._run(self._gpu, self._models.prefer, _hint(ticket))
                self._offers.began = time.monotonic()
            await self._to_its_end(shift)
        except (HordeError, ModelError) as error:
            log.error("ticket %s failed: %s", ticket.get("id"), error)  # noqa: TRY400
            if isinstance(error, ModelError):
                return {**asdict(result), "error": str(error), "refresh_worker": True}
            return {**asdict(result), "error": str(error)}
        except Exception as error:  # noqa: BLE001 - the SDK would log and send its raw text
            log.error("ticket %s failed: %s", ticket.get("id"), describe(error))  # noqa: TRY400
            return {**asdict(result), "error": f"internal error: {describe(error)}"}
        log.info("ticket %s: %s", ticket.get("id"), result)
        reason = ""
        if self._failed_rounds >= MAX_FAILED_ROUNDS:
            reason = f"no image could be drawn in {self._failed_rounds} rounds in a row"
        elif not self._models.usable:
            reason = "no model can be loaded; the log says why for each"
        return {**asdict(result), **({"error": reason, "refresh_worker": True} if reason else {})}

    async def _to_its_end(self, shift: _Shift) -> None:
        """Work a shift; if its ticket is cancelled, pop no more, but finish what is popped."""
        task = asyncio.create_task(self._work(shift))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            shift.cancelled = True
            while not task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()):
                log.warning("error in a cancelled ticket: %s", describe(error))
            raise

    async def _work(self, shift: _Shift) -> None:
        rounds: list[asyncio.Task[None]] = []
        try:
            while batch := await self._popped(shift):
                rounds.append(asyncio.create_task(self._round(batch, shift.result)))
        finally:
            await asyncio.gather(*rounds, return_exceptions=True)
        for one in rounds:
            one.result()

    async def _popped(self, shift: _Shift) -> Batch | None:
        """Pop a batch when it is wanted; None if the shift is over or nothing waits."""
        while self._offered(shift):
            async with self._turn:  # the shifts take turns
                while not self._hand.is_wanted(time.monotonic(), failing=self._failed_rounds > 0):
                    if self._is_over(shift):
                        return None
                    await asyncio.sleep(LOOK_S)
                if self._is_over(shift):
                    return None
                resident, offered = self._resident(), self._offered(shift)
                offer = self._abilities.fields(offered)
                batch = Batch(self._last_work, models=offered)
                self._hand.batches.append(batch)
            try:
                batch.jobs = await self._run(self._threads, self._horde.pop, offered, offer)
            finally:
                if not batch.jobs:
                    self._hand.batches.remove(batch)
            shift.result.pops += 1
            batch.models = {job.model for job in batch.jobs if job.model} or resident
            given = batch.models if batch.jobs else ()
            self._abilities.answered(offered, given=bool(batch.jobs))
            self._offers.answered(offered, given, resident, shift.in_vain, now=time.monotonic())
            if batch.jobs:
                batch.work = self._last_work = work_of(batch.jobs)
                return batch
        return None

    def _offered(self, shift: _Shift) -> list[str]:
        """Return the models to offer in the next pop; none if nothing waits for any of them."""
        models, now = self._models, time.monotonic()
        names = self._offers.next(
            models.usable, self._resident(), shift.in_vain, swap_s=models.swap_s, now=now
        )
        return self._abilities.alike(names, shift.in_vain)

    def _resident(self) -> Collection[str]:
        """Return the models in memory, or those that the last batch in hand will bring there."""
        batches = self._hand.batches
        coming = batches[-1].models if batches else ()
        loaded = self._models.loaded
        return loaded if all(name in loaded for name in coming) else coming

    def _is_over(self, shift: _Shift) -> bool:
        late = shift.result.pops > 0 and time.monotonic() >= shift.end
        broken = self._failed_rounds >= MAX_FAILED_ROUNDS
        return self._stopping or shift.cancelled or late or broken

    async def _round(self, batch: Batch, result: ShiftResult) -> None:
        """Draw and deliver a popped batch."""
        try:
            prepared = await asyncio.gather(
                *(self._run(self._threads, self._prepared, batch, job) for job in batch.jobs)
            )
            batch.jobs, sources = [job for job, _ in prepared], [source for _, source in prepared]
            batch.ready = True
            # A download says nothing of the next pop.
            self._hand.latencies.append(time.monotonic() - batch.asked - batch.loading)
            drawings = await self._run(self._gpu, self._drawings, batch, sources)
        finally:
            self._hand.batches.remove(batch)
        self._hand.finishing += 1
        try:
            delivered = await asyncio.gather(
                *(
                    self._run(self._threads, self._finisher.deliver, job, drawing)
                    for job, drawing in zip(batch.jobs, drawings, strict=True)
                )
            )
        finally:
            self._hand.finishing -= 1
        result.images += delivered.count("ok") + delivered.count("censored")
        result.faulted += delivered.count("faulted")

    @staticmethod
    async def _run(where: Executor, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(where, call, *arguments)

    def _prepared(self, batch: Batch, job: Job) -> tuple[Job, Image.Image | Exception | None]:
        """Return a job with its add-ons and its source image, before the GPU is taken.

        If one of them cannot be had, the error is in the image's place.
        """
        if self._add_ons:
            started = time.monotonic()
            try:
                job = self._add_ons(job)
            except Exception as error:  # noqa: BLE001 - one job's LoRA must not fail other jobs
                return job, error
            finally:
                batch.loading = max(batch.loading, time.monotonic() - started)
        source = self._source(job)
        if isinstance(source, Image.Image) and (said := control.told(job, source)):
            job = replace(job, remarks=(safety.remark(said),))
        return job, source

    def _source(self, job: Job) -> Image.Image | Exception | None:
        """Return a job's source image, or the error it caused."""
        try:
            self._post.asked(job)
            control.asked(job, self._abilities.annotators)
            data = self._horde.fetch_source(job)
            if data is None:
                return None
            width, height = int(job.payload["width"]), int(job.payload["height"])
            if job.painting:
                return image_codec.decode_painting(data, self._horde.fetch_mask(job), width, height)
            source = image_codec.decode_source(data, width, height)
            with self._cpus:
                return control.prepared(job, source, self._abilities.annotators)
        except Exception as error:  # noqa: BLE001 - one job's source must not fail other jobs
            return error

    def _drawings(
        self, batch: Batch, sources: Sequence[Image.Image | Exception | None]
    ) -> list[Image.Image | Exception]:
        """Return a drawing, or the error that prevented it, for each job."""
        drawings: dict[int, Image.Image | Exception] = {}
        jobs = batch.jobs
        batch.began = now = time.monotonic()
        for number, (job, source) in enumerate(zip(jobs, sources, strict=True)):
            if isinstance(source, Exception):
                drawings[number] = source
            elif now > job.deadline:
                # It waited for the GPU too long, and another worker has it by now.
                drawings[number] = BadJobError("its ttl is over")
            elif source and control.is_returned(job):
                drawings[number] = control.map_of(source)
        ready = [number for number in range(len(jobs)) if number not in drawings]
        ready_jobs = [jobs[number] for number in ready]
        drawn = self._draw_or_split(
            ready_jobs,
            # Narrows the type: the exceptions are already in `drawings`.
            [None if isinstance(s := sources[number], Exception) else s for number in ready],
        )
        drawings.update(zip(ready, drawn, strict=True))
        if any(not isinstance(drawing, Exception) for drawing in drawn):
            self._failed_rounds = 0
            self._hand.rates.append((time.monotonic() - now) / max(1.0, work_of(ready_jobs)))
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
            log.warning("a batch of %d failed: %s", count, describe(error))
            if count == 1:
                if isinstance(error, MemoryError):
                    self._offer_less(jobs[0])
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

    def _offer_less(self, job: Job) -> None:
        """Pop no such image of this model any more: not even one fits into the memory."""
        name = job.model or next(iter(self._models.loaded), "")
        kind = control.asked(job, control.TYPES)
        if kind and kind in (self._abilities.of(name).controls or ()):
            # Without its ControlNet an image of this size may fit.
            self._abilities.lose(name, kind)
        else:
            self._abilities.shrink(name, int(job.payload["width"]) * int(job.payload["height"]))


def _hint(ticket: dict[str, Any]) -> str:
    """Return the model that a ticket is for, if it says so."""
    told = ticket.get("input")
    return str(told.get("model") or "") if isinstance(told, dict) else ""
