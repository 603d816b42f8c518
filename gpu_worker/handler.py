"""`python -m gpu_worker.handler`: the RunPod worker. A RunPod job is a ticket, not work.

A ticket starts a shift. The worker pops a batch from the Horde, draws it, encodes, scores, uploads
and submits its images. It repeats this until a pop comes back empty or the shift is over. These
stages overlap: while one batch is drawn, the next is popped and those before are finished. A ticket
ends when all that it popped is answered for. The content of a ticket
(`{"input": {"v": 1, "model": "...", "request_id": "...", "images": 3}}`) is only informative: of
several models, a worker that has none in memory yet loads the one of its first ticket. So an old
worker can take a newer ticket, and a lost or superfluous ticket costs one pop.

This module imports neither torch nor runpod; only `main` does. It never logs a prompt, a key or a
presigned URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from gpu_worker import control, image_codec, model_files, safety
from gpu_worker.abilities import Abilities, Ability
from gpu_worker.addons.library import Library
from gpu_worker.addons.loader import Loader
from gpu_worker.annotators.loading import load as load_annotators
from gpu_worker.finishing import Finisher, describe
from gpu_worker.horde_client import MIN_TTL_S, BadJobError, Horde, HordeError, Job
from gpu_worker.model_files import ModelError
from gpu_worker.offers import Offers, OneModel
from gpu_worker.post import processors
from gpu_worker.settings import Settings
from gpu_worker.upscale import UpscalerMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from concurrent.futures import Executor

    from PIL import Image

    from gpu_worker.offers import Models

    Draw = Callable[[Sequence[Job], Sequence[Image.Image | None]], list[Image.Image]]

CONCURRENCY = 2
"""Tickets at a time: one shift draws while the other ends and its ticket is replaced. With only
one, RunPod's SDK leaves the GPU idle for up to a second after each job (`JobScaler.get_jobs`
sleeps). The SDK applies a change only while it has no job, so this is a constant."""

LEAD = 2
"""The next batch is popped when the drawing in hand lasts this many times as long as the slowest of
the last pops. An image's place in the queue is decided when it is popped, so popping earlier is
unfair to what is asked for meanwhile."""
MAX_LEAD_S = MIN_TTL_S / 10
"""Most drawing in hand, in seconds, at which a batch is popped, however slow the pops are. So a
batch waits for the GPU for a tenth of the shortest ttl, unless the estimate is wrong."""
MAX_AHEAD = 2
"""Batches that are popped, or being popped, and not yet drawn: the bound if the estimate is
wrong."""
MAX_UNFINISHED = 8
"""Batches that are popped and not yet all submitted. With more, nothing is popped, so that images
do not pile up in memory and past their ttl if the CPU or the network is slower than the GPU."""
SLOW_S = 1.0
"""Seconds after its pop from which a batch without all its source images and LoRAs is not counted
as in hand."""
RECENT = 8
"""Batches whose seconds are remembered."""
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


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch in hand: from the decision to pop it until it is drawn."""

    work: float
    """Its `_work`; until it is popped, that of the last one."""
    asked: float = field(default_factory=time.monotonic)
    ready: bool = False
    """Whether its source images and add-ons are there."""
    loading: float = 0.0
    """Seconds that its add-ons took."""
    began: float | None = None
    """When its drawing began; only the drawing thread writes it."""
    models: Collection[str] = ()
    """Those of its jobs; until it is popped, those that were offered."""
    jobs: list[Job] = field(default_factory=list)


class Worker:
    """A worker for one horde, with one model or several.

    Its concurrent shifts share one GPU, which draws one batch at a time, in the order in which
    batches and their source images arrive. The next batch is popped just in time, by what the last
    batches have taken (`LEAD`, `MAX_LEAD_S`, `MAX_AHEAD`).
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
        self._hand: list[_Batch] = []
        self._finishing = 0
        self._last_work = 0.0
        self._rates: deque[float] = deque(maxlen=RECENT)
        """Seconds for a unit of `_work`."""
        self._latencies: deque[float] = deque(maxlen=RECENT)
        """Seconds from a pop until its batch can be drawn."""
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

    async def _popped(self, shift: _Shift) -> _Batch | None:
        """Pop a batch when it is wanted; None if the shift is over or nothing waits."""
        while self._offered(shift):
            async with self._turn:  # the shifts take turns
                while not self._is_wanted():
                    if self._is_over(shift):
                        return None
                    await asyncio.sleep(LOOK_S)
                if self._is_over(shift):
                    return None
                resident, offered = self._resident(), self._offered(shift)
                offer = self._abilities.fields(offered)
                batch = _Batch(self._last_work, models=offered)
                self._hand.append(batch)
            try:
                batch.jobs = await self._run(self._threads, self._horde.pop, offered, offer)
            finally:
                if not batch.jobs:
                    self._hand.remove(batch)
            shift.result.pops += 1
            batch.models = {job.model for job in batch.jobs if job.model} or resident
            given = batch.models if batch.jobs else ()
            self._abilities.answered(offered, given=bool(batch.jobs))
            self._offers.answered(offered, given, resident, shift.in_vain, now=time.monotonic())
            if batch.jobs:
                batch.work = self._last_work = _work(batch.jobs)
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
        coming = self._hand[-1].models if self._hand else ()
        loaded = self._models.loaded
        return loaded if all(name in loaded for name in coming) else coming

    def _is_over(self, shift: _Shift) -> bool:
        late = shift.result.pops > 0 and time.monotonic() >= shift.end
        broken = self._failed_rounds >= MAX_FAILED_ROUNDS
        return self._stopping or shift.cancelled or late or broken

    def _is_wanted(self) -> bool:
        """Whether the next batch must be popped now, so that the GPU never waits for it."""
        if len(self._hand) + self._finishing >= MAX_UNFINISHED:
            return False
        if self._failed_rounds:  # the GPU may be broken
            return not self._hand
        now, latency = time.monotonic(), LEAD * max(self._latencies, default=math.inf)
        # Others wait for a slow source image or LoRA, and do not keep the GPU busy.
        slow = max(SLOW_S, latency) if self._latencies else SLOW_S
        near = [batch for batch in self._hand if batch.ready or now - batch.asked <= slow]
        waiting = sum(batch.began is None for batch in near)
        if not self._rates:  # during the first drawing
            return waiting == 0
        rate = min(self._rates)
        in_hand = sum(
            max(0.0, batch.work * rate - (0 if batch.began is None else now - batch.began))
            for batch in near
        )
        return waiting < MAX_AHEAD and (not near or in_hand <= min(MAX_LEAD_S, latency))

    async def _round(self, batch: _Batch, result: ShiftResult) -> None:
        """Draw and deliver a popped batch."""
        try:
            prepared = await asyncio.gather(
                *(self._run(self._threads, self._prepared, batch, job) for job in batch.jobs)
            )
            batch.jobs, sources = [job for job, _ in prepared], [source for _, source in prepared]
            batch.ready = True
            # A download says nothing of the next pop.
            self._latencies.append(time.monotonic() - batch.asked - batch.loading)
            drawings = await self._run(self._gpu, self._drawings, batch, sources)
        finally:
            self._hand.remove(batch)
        self._finishing += 1
        try:
            delivered = await asyncio.gather(
                *(
                    self._run(self._threads, self._finisher.deliver, job, drawing)
                    for job, drawing in zip(batch.jobs, drawings, strict=True)
                )
            )
        finally:
            self._finishing -= 1
        result.images += delivered.count("ok") + delivered.count("censored")
        result.faulted += delivered.count("faulted")

    @staticmethod
    async def _run(where: Executor, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(where, call, *arguments)

    def _prepared(self, batch: _Batch, job: Job) -> tuple[Job, Image.Image | Exception | None]:
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
        return job, self._source(job)

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
        self, batch: _Batch, sources: Sequence[Image.Image | Exception | None]
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
            self._rates.append((time.monotonic() - now) / max(1.0, _work(ready_jobs)))
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


def _work(jobs: Sequence[Job]) -> float:
    """Return how much drawing jobs are, in pixel steps; what cannot be drawn is nothing."""
    found = 0.0
    for job in jobs:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            sizes = (float(job.payload[key]) for key in ("width", "height", "ddim_steps"))
            found += math.prod(sizes)
    return found


@cache
def _chain_sigterm(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM before the SDK's own handler, which waits for the shifts to end."""
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        stop()
        if callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handle)


def _with_one(settings: Settings, detector: safety.Detector) -> Worker:
    """Return a worker with the one model of its settings; raises ModelError, UpscalerMissingError.

    It is loaded before the first ticket, since the ttl of a job starts with its pop.
    """
    from gpu_worker.pipeline import Pipeline  # noqa: PLC0415

    annotators = load_annotators(settings.annotator_dir)
    pipeline = Pipeline(settings)
    post = processors.load(settings)  # before the free memory is measured
    pipeline.warm_up()
    library = _library(settings, pipeline.files.baseline)
    kept = settings.lora_memory_mb * 1024 * 1024
    add_ons = (
        Loader(library, pipeline.adapters, kept) if library and pipeline.takes_add_ons else None
    )
    one = Ability(
        lora=add_ons is not None,
        controls=tuple(sorted(pipeline.controls)),
        xl=pipeline.files.is_xl,
    )
    able = Abilities({settings.model_name: one}, annotators)
    fits = pipeline.learnt.max_pixels
    if fits is not None and fits < settings.max_pixels:
        able.limit(settings.model_name, fits)
    return Worker(settings, Horde(settings), pipeline.draw, detector, None, post, add_ons, able)


def _with_models(settings: Settings, detector: safety.Detector) -> Worker:
    """Return a worker with the models of `MODELS`; raises ModelError if none can be used.

    The first ticket decides which of several is loaded first.
    """
    from gpu_worker.addons.several import ModelsLoader  # noqa: PLC0415
    from gpu_worker.device import open_models  # noqa: PLC0415

    cache, able = open_models(settings, load_annotators(settings.annotator_dir))
    post = processors.load(settings)  # before the free memory is measured
    library = _library(settings, "")
    kept = settings.lora_memory_mb * 1024 * 1024
    add_ons = ModelsLoader(library, cache.directories, kept) if library else None
    if len(settings.models) == 1:
        cache.prefer(settings.models[0].name)
    return Worker(settings, Horde(settings), cache.draw, detector, cache, post, add_ons, able)


def _library(settings: Settings, baseline: str) -> Library | None:
    """Return where LoRAs come from, if from anywhere; raises ModelError."""
    try:
        return Library.of(settings, baseline)
    except OSError as error:
        message = f"LORA_CACHE_DIR cannot be written ({type(error).__name__})"
        raise ModelError(message) from None


def main() -> None:
    """Load the model, then take tickets."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)-7s| %(name)s: %(message)s")
    try:
        settings = Settings.from_env()
    except ValueError as error:
        sys.exit(f"gpu_worker: {error}")
    try:
        if not settings.models:
            model_files.read(settings.model_dir)
    except ModelError as error:
        sys.exit(f"gpu_worker: {error}")
    # At the SDK's default level it logs every poll.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")

    try:
        detector = safety.load(settings.detector)
        worker = (
            _with_models(settings, detector) if settings.models else _with_one(settings, detector)
        )
    except (safety.DetectorError, UpscalerMissingError, ModelError) as error:
        sys.exit(f"gpu_worker: {error}")

    async def handler(ticket: dict[str, Any]) -> dict[str, Any]:
        # Not earlier, since the SDK sets its own signal handler when it starts.
        _chain_sigterm(worker.stop)
        return await worker.work(ticket)

    runpod: Any = import_module("runpod")
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: CONCURRENCY})


if __name__ == "__main__":
    main()
