"""How many tickets there are for what waits. One ticket is one shift of one slot of a worker.

A shift pops until nothing waits, so a ticket may stand for more than one pass. Work is counted in
images and in the milliseconds that one worker takes for them, by its measured speed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from horde.records import Census
from horde.rules.estimates import DEFAULT_SPEED, average_speed
from horde.rules.ruleset import IN_FORCE

SLOTS = 2
"""Shifts that one worker runs at a time: ``CONCURRENCY`` of gpu_worker, and the ``requestCount`` of
its endpoint. RunPod runs ceil(tickets / SLOTS) workers (gpu-worker.md 1.8)."""
START_SHARE = 1 / 3
"""Most of a worker's paid time that its cold start may take, where the wait allows it."""
USUAL_WORK = 512 * 512 * 30
"""Pixelsteps of an image whose work is not known."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What the operator knows of an endpoint, and wants."""

    batch: int
    """Images that are drawn in one pass."""
    cold_start_s: float
    """Seconds from a ticket to the first pass of a worker that was not running."""
    max_wait_s: float
    """The wait in seconds that is wanted for the last of many images."""


class Jobs(NamedTuple):
    """RunPod's jobs of an endpoint: tickets that wait for a worker, and shifts."""

    queued: int
    running: int


@dataclass(frozen=True, slots=True)
class Work:
    """Images, and the milliseconds that one worker takes for them."""

    images: int = 0
    ms: int = 0

    def __add__(self, other: "Work") -> "Work":
        """Return both together."""
        return Work(self.images + other.images, self.ms + other.ms)


def work(images: int, pixelsteps: int, speed: int) -> Work:
    """Return the work of images at a worker's speed, in pixelsteps per second."""
    return Work(images, -(-pixelsteps * 1000 // max(1, speed)))


def pixelsteps(payload: Mapping[str, Any]) -> int:
    """Return the work of an image with a request's payload, in pixelsteps.

    It is an estimate: source images and ``hires_fix`` do not count.
    """
    steps = int(payload["ddim_steps"])
    if payload.get("sampler_name") in IN_FORCE.two_pass_samplers:
        steps *= 2
    return int(payload["width"]) * int(payload["height"]) * steps


def speed_of(census: Census, model: str) -> int:
    """Return the speed of one of a model's workers in pixelsteps per second, as last measured."""
    return average_speed(census.load(model)) or DEFAULT_SPEED


def ms_per_ticket(costs: Costs, asked: Work) -> int:
    """Return the milliseconds of drawing behind one ticket, at least 1.

    A worker that starts for ``SLOTS`` tickets of t seconds is paid for c + SLOTS * t, where c is
    its cold start. Both cost the same price per second, so the price cancels out of the share of
    the start, c / (c + SLOTS * t). It is ``START_SHARE`` at t = c * (1 / START_SHARE - 1) / SLOTS.
    Its last image waits c + SLOTS * t, which bounds t by (max_wait_s - c) / SLOTS. The tickets
    of a worker stand for a whole pass at least, of images like those ``asked``: half a pass would
    mostly take as long.
    """
    cheap = costs.cold_start_s * (1 / START_SHARE - 1) / SLOTS
    quick = (costs.max_wait_s - costs.cold_start_s) / SLOTS
    a_pass = costs.batch * asked.ms // max(1, asked.images)
    return max(1, -(-a_pass // SLOTS), round(1000 * min(cheap, quick)))


def due(costs: Costs, older: Work | None, new: Work, lot: int) -> int:
    """Return the tickets that new work asks for, where ``older`` work already waits.

    Whoever crosses a multiple of a ticket's work, in the order in which images came, sends one. So
    any number of requests at the same time make ceil(work / ticket) tickets together without
    telling one another, and one that is alone makes one at once. If so much waits that it was not
    counted (None), ``lot``, which is any number fixed by the request, says where its work begins:
    then they make that number on average.
    """
    per_ticket = ms_per_ticket(costs, new if older is None else older + new)
    before = lot % per_ticket if older is None else older.ms
    return -(-(before + new.ms) // per_ticket) - -(-before // per_ticket)


def to_send(costs: Costs, older: Work, new: Work, jobs: Jobs) -> int:
    """Return how many tickets to send for new work: those due, less what is there already.

    A ticket in RunPod's queue will draw what waits. A shift in progress mostly will, but it may
    have popped its last, so at least one ticket that is due is sent if none is in the queue.
    """
    asked = older + new
    needed = -(-asked.ms // ms_per_ticket(costs, asked))
    missing = max(needed - sum(jobs), 0 if jobs.queued else 1)
    return min(due(costs, older, new, 0), max(0, missing))


def missing(costs: Costs, waiting: Work, jobs: Jobs) -> int:
    """Return how many tickets are needed so that all work that waits for long has one behind it.

    A shift in progress pops until nothing waits, so it counts as a ticket.
    """
    return max(0, -(-waiting.ms // ms_per_ticket(costs, waiting)) - sum(jobs))
