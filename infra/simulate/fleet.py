"""A discrete-event simulation of one endpoint: requests, tickets, workers that start and stop.

It knows of RunPod what gpu-worker.md 1.8 says: ``REQUEST_COUNT`` wants ceil(jobs / SLOTS) workers
up to a maximum; starts and idle seconds are paid. How many tickets there are is decided by
``horde.rules.tickets``, as ``dispatch`` and ``sweep`` call it. Simpler than in life: all images of
a pass fit together whatever their sizes, a pass takes as long as the work in it, and each request
is dispatched alone, though the stream hands over those together that come together.
"""

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from horde.rules import tickets
from horde.rules.tickets import SLOTS, Costs, Jobs

USUAL = Costs(batch=4, cold_start_s=30, max_wait_s=90)
"""The defaults of the settings."""
DISPATCHED_S = 0.5
"""From a request to its dispatch, which reads the queue."""
TICKET_S = 0.2
"""From there until RunPod has its tickets."""
TRIES_S = (0, 60, 180)
"""When Lambda runs a dispatch that RunPod refuses, in seconds after the first try."""
SWEEP_S, GRACE_S, MAX_TICKETS = 60, 60, 100
"""As in ``sweep``."""
MAX_OLDER = 100
"""As in ``dispatch``."""
SHIFT_S = 240
"""How long a ticket keeps a worker popping: the default of gpu_worker."""
END_S = 24 * 3600
"""What waits so long has waited for ever: nothing comes of it any more."""
LEASE_S = 150
"""After which an image of a dead worker waits again."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request; ``work`` is that of each image, in pixelsteps, and ``at`` in seconds."""

    at: float
    images: int
    work: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Luck:
    """What goes wrong, as shares of all tickets, calls and passes."""

    lost: float = 0
    """Tickets that RunPod takes and forgets."""
    refused: float = 0
    """Dispatches that RunPod refuses."""
    dead: float = 0
    """Passes in which the worker dies, with its tickets."""
    health_lag_s: float = 0
    """How old the answer of ``/health`` is."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint, its price and its workers."""

    costs: Costs = USUAL
    speed: int = 512 * 512 * 30 // 6
    """Of one worker with full passes, in pixelsteps per second."""
    pass_s: float = 0.5
    """What a pass takes beside its work: pop, encode, submit."""
    idle_s: float = 5
    workers_max: int = 50
    dollars_per_s: float = 0.00031
    """RunPod's price of a 4090 (gpu-worker.md 1.8)."""
    luck: Luck = Luck()


@dataclass(slots=True)
class Result:
    """What became of all requests."""

    waits: list[tuple[int, float]] = field(default_factory=list)
    """The priority and the wait in seconds of each image."""
    tickets: int = 0
    starts: int = 0
    most_workers: int = 0
    passes: int = 0
    gpu_s: float = 0

    def wait(self, share: float, priority: int | None = None) -> float:
        """Return a percentile of the waits, in seconds; ``share`` is 0 to 1."""
        waits = sorted(wait for p, wait in self.waits if priority in (None, p))
        return waits[max(0, math.ceil(share * len(waits)) - 1)]


@dataclass(frozen=True, slots=True, order=True)
class _Image:
    negative_priority: int
    number: int
    at: float = field(compare=False)
    work: int = field(compare=False)


@dataclass(slots=True, eq=False)
class _Worker:
    started: float
    ready: float
    shifts: list[float] = field(default_factory=list)
    """When each of its tickets ends."""
    drawing: bool = False
    idle_since: float = 0
    free: float = 0
    """When it can draw its next job, if a job is a request."""


Policy = Callable[["Simulation", Arrival], int]


def by_work(world: "Simulation", arrival: Arrival) -> int:
    """Return the tickets for a request as ``dispatch`` makes them, by the same functions."""
    costs, speed = world.endpoint.costs, world.endpoint.speed
    new = tickets.work(arrival.images, arrival.images * arrival.work, speed)
    waiting = [image for image in world.images if image.at < arrival.at]
    if len(world.images) > MAX_OLDER:
        return tickets.due(costs, None, new, world.dice.getrandbits(64))
    older = tickets.work(len(waiting), sum(image.work for image in waiting), speed)
    return tickets.to_send(costs, older, new, world.health())


def by_batch(world: "Simulation", arrival: Arrival) -> int:
    """Return one ticket for each pass of a request, as it was before."""
    return -(-arrival.images // world.endpoint.costs.batch)


class Simulation:
    """An endpoint with its queue, its tickets and its workers; times are in seconds."""

    def __init__(self, endpoint: Endpoint, policy: Policy) -> None:
        self.endpoint, self._policy = endpoint, policy
        self.now = 0.0
        self.images: list[_Image] = []
        """Those that wait, as a heap: the highest priority first, then the first come."""
        self.dice = random.Random(endpoint.luck.seed)  # noqa: S311 - a load, and no secret
        self._result = Result()
        self._open = 0
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._workers: list[_Worker] = []
        self._jobs = 0
        self._said: list[tuple[float, Jobs]] = [(-math.inf, Jobs(0, 0))]

    def run(self, arrivals: Sequence[Arrival]) -> Result:
        """Let requests come until all are drawn, and all workers have stopped."""
        self._open = sum(arrival.images for arrival in arrivals)
        for arrival in arrivals:
            self._at(arrival.at, lambda arrival=arrival: self._ask(arrival))  # type: ignore[misc]
        self._at(SWEEP_S, self._sweep)
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()
        return self._result

    def health(self) -> Jobs:
        """Return the tickets that RunPod says it has."""
        until = self.now - self.endpoint.luck.health_lag_s
        return next(jobs for at, jobs in reversed(self._said) if at <= until)

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    # --- requests and tickets ---------------------------------------------------------------

    def _ask(self, arrival: Arrival) -> None:
        for _ in range(arrival.images):
            image = _Image(-arrival.priority, next(self._numbers), arrival.at, arrival.work)
            heapq.heappush(self.images, image)
        self._at(self.now + DISPATCHED_S, lambda: self._dispatch(arrival, 0))

    def _dispatch(self, arrival: Arrival, tries: int) -> None:
        if self.dice.random() < self.endpoint.luck.refused:
            if tries + 1 < len(TRIES_S):
                wait = TRIES_S[tries + 1] - TRIES_S[tries]
                self._at(self.now + wait, lambda: self._dispatch(arrival, tries + 1))
            return
        self._send(self._policy(self, arrival))

    def _send(self, number: int) -> None:
        for _ in range(number):
            self._result.tickets += 1
            if self.dice.random() >= self.endpoint.luck.lost:
                self._at(self.now + TICKET_S, self._queue)

    def _queue(self) -> None:
        self._jobs += 1
        self._step()

    def _sweep(self) -> None:
        old = [image for image in self.images if image.at < self.now - GRACE_S]
        if old:
            costs, speed = self.endpoint.costs, self.endpoint.speed
            work = tickets.work(len(old), sum(image.work for image in old), speed)
            self._send(min(MAX_TICKETS, tickets.missing(costs, work, self.health())))
        if self._open and self.now < END_S:
            self._at(self.now + SWEEP_S, self._sweep)

    # --- workers ----------------------------------------------------------------------------

    def _step(self) -> None:
        """Start the workers that RunPod's scaler wants, and give jobs to those that are free."""
        running = sum(len(worker.shifts) for worker in self._workers)
        wanted = min(self.endpoint.workers_max, -(-(self._jobs + running) // SLOTS))
        for _ in range(wanted - len(self._workers)):
            worker = _Worker(self.now, self.now + self.endpoint.costs.cold_start_s)
            self._workers.append(worker)
            self._result.starts += 1
            self._at(worker.ready, self._step)
        self._result.most_workers = max(self._result.most_workers, len(self._workers))
        for worker in list(self._workers):
            while worker.ready <= self.now and len(worker.shifts) < SLOTS and self._jobs:
                self._jobs -= 1
                worker.shifts.append(self.now + SHIFT_S)
                if not worker.drawing:
                    self._pop(worker)
        running = sum(len(worker.shifts) for worker in self._workers)
        self._said.append((self.now, Jobs(self._jobs, running)))

    def _pop(self, worker: _Worker) -> None:
        worker.drawing = False
        worker.shifts = [end for end in worker.shifts if self.now < end]
        number = min(self.endpoint.costs.batch, len(self.images)) if worker.shifts else 0
        batch = [heapq.heappop(self.images) for _ in range(number)]
        if not batch:
            worker.shifts.clear()
            worker.idle_since = self.now
            self._at(self.now + self.endpoint.idle_s, lambda: self._rest(worker))
            return
        worker.drawing = True
        self._result.passes += 1
        seconds = sum(one.work for one in batch) / self.endpoint.speed + self.endpoint.pass_s
        if self.dice.random() < self.endpoint.luck.dead:
            self._at(self.now + seconds * self.dice.random(), lambda: self._die(worker, batch))
        else:
            self._at(self.now + seconds, lambda: self._drawn(worker, batch))

    def _drawn(self, worker: _Worker, batch: list[_Image]) -> None:
        self._finish(batch)
        self._pop(worker)
        self._step()

    def _finish(self, batch: list[_Image]) -> None:
        self._open -= len(batch)
        self._result.waits += [(-one.negative_priority, self.now - one.at) for one in batch]

    def _die(self, worker: _Worker, batch: list[_Image]) -> None:
        self._stop(worker)
        self._at(self.now + LEASE_S, lambda: self._requeue(batch))

    def _requeue(self, batch: list[_Image]) -> None:
        for image in batch:
            heapq.heappush(self.images, image)

    def _rest(self, worker: _Worker) -> None:
        idle = not worker.shifts and self.now >= worker.idle_since + self.endpoint.idle_s
        if idle and worker in self._workers:
            self._stop(worker)

    def _stop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._result.gpu_s += self.now - worker.started
        self._step()


class OneJobPerRequest(Simulation):
    """Stock workers: a job draws its own request and nothing else, in the order of arrival."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(replace(endpoint, luck=Luck()), by_batch)
        self._asked: list[Arrival] = []

    def _ask(self, arrival: Arrival) -> None:
        self._asked.append(arrival)
        self._result.tickets += 1
        self._at(self.now + DISPATCHED_S + TICKET_S, self._queue)

    def _pop(self, worker: _Worker) -> None:
        """Draw the job that the worker's last free slot has just taken."""
        asked = self._asked.pop(0)
        images = [
            _Image(-asked.priority, next(self._numbers), asked.at, asked.work)
            for _ in range(asked.images)
        ]
        seconds = asked.images * asked.work / self.endpoint.speed + self.endpoint.pass_s
        worker.free = max(self.now, worker.free) + seconds  # one job draws at a time
        self._result.passes += 1
        self._at(worker.free, lambda: self._drawn(worker, images))

    def _drawn(self, worker: _Worker, batch: list[_Image]) -> None:
        self._finish(batch)
        worker.shifts.pop()
        worker.idle_since = self.now
        self._at(self.now + self.endpoint.idle_s, lambda: self._rest(worker))
        self._step()


def simulate(arrivals: Sequence[Arrival], policy: Policy, endpoint: Endpoint) -> Result:
    """Return what becomes of requests whose tickets a policy makes."""
    return Simulation(endpoint, policy).run(arrivals)
