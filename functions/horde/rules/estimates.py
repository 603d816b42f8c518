"""Estimates: waits, speeds and the census of the fleet.

Speeds are in pixelsteps per second, where pixelsteps are width times height times accurate steps.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from horde.records import Census, Load, QueueSize, Settlement, User, Worker, WorkerStats
from horde.rules.drawing import drawer
from horde.rules.lifecycle import Progress

MAX_MODELS = 300
"""Models in a census; with names of any length its item stays under DynamoDB's 400 KB."""
DEFAULT_SPEED = 512 * 512 * 30 // 6
"""Assumed if unmeasured, in pixelsteps per second: a mid-range GPU, 512x512, 30 steps in 6 s."""
SPEED_DECAY = 0.95
"""Weight of an image in a worker's speed, relative to the next image."""
ETA_NEVER_S = 10_000
"""The Horde's ``eta`` of a model that no worker draws, in seconds."""


def performance(speed: int | None) -> str:
    """Return a worker's speed (pixelsteps per second) in the Horde's wording."""
    if speed is None:
        return "No requests fulfilled yet"
    return f"{speed / 1_000_000:.1f} megapixelsteps per second"


def average_speed(load: Load) -> int:
    """Return the average speed of a model's measured workers; 0 if there are none."""
    return load.speed // load.measured if load.measured else 0


def throughput(load: Load) -> int:
    """Return the total speed of a model's workers in pixelsteps per second, at least 1.

    An unmeasured worker counts with ``DEFAULT_SPEED``, and so does a model without workers.
    """
    unmeasured = max(0, load.workers - load.measured) if load.workers else 1
    return max(1, load.speed + unmeasured * DEFAULT_SPEED)


def average_work(queue: QueueSize) -> int:
    """Return the average pixelsteps of a waiting image; 0 if none waits."""
    return queue.pixelsteps // queue.images if queue.images else 0


def eta(load: Load, *, endpoint: bool) -> int:
    """Return the seconds until a model's queue is drawn.

    ``endpoint`` says whether one of the operator's endpoints draws the model. Without one and
    without workers the result is ``ETA_NEVER_S``.
    """
    if not load.workers and not endpoint:
        return ETA_NEVER_S
    return -(-load.pixelsteps // throughput(load))


def wait_seconds(state: Progress, *, ahead: int, own: int, speed: int, workers: int) -> int:
    """Estimate the wait in seconds, at least 2 until done, since clients divide by it.

    ``ahead`` is the work before this request's first image and ``own`` that of each of its images,
    in pixelsteps. ``speed`` is that of all ``workers`` of the model together. An image in
    processing counts as just begun by one worker. The start of a GPU is not included.
    """
    if state.done:
        return 0
    work = ahead + state.waiting * own
    in_hand = own * max(1, workers) if state.processing else 0
    return max(2, -(-(work + in_hand) // max(1, speed)))


def moving_speed(stats: WorkerStats, settlements: Iterable[Settlement]) -> dict[str, int]:
    """Return a worker's speed after more images, as fields of its statistics.

    The time of an image runs from its claim, or from the previous settlement if that is later, to
    its settlement. So a batch, claimed at once and settled one by one, counts its time once. The
    weight of old images decays by ``SPEED_DECAY`` per image. An image that arrives out of order
    adds its work and no time.
    """
    ps, ms, last = float(stats.recent_ps), float(stats.recent_ms), stats.settled_at
    for settlement in sorted(settlements, key=lambda settlement: settlement.settled_at):
        busy = settlement.settled_at - max(settlement.claimed_at, last)
        ps = ps * SPEED_DECAY + settlement.pixelsteps
        ms = ms * SPEED_DECAY + max(0, busy)
        last = max(last, settlement.settled_at)
    return {"recent_ps": round(ps), "recent_ms": max(1, round(ms)), "settled_at": last}


def models_of(
    configured: Iterable[str], workers: Iterable[Worker], limit: int = MAX_MODELS
) -> list[str]:
    """Return the models in a census: the operator's, then the most offered, up to ``limit``."""
    offered: Counter[str] = Counter()
    for worker in workers:
        offered.update(worker.models)
    ordered = [*configured, *(name for name, _ in offered.most_common())]
    return list(dict.fromkeys(ordered))[:limit]


def undrawn(census: Census, models: Iterable[str]) -> list[str]:
    """Return those of these models that no worker in a census draws."""
    return [model for model in models if not census.load(model).workers]


def census(
    at: int,
    workers: Iterable[tuple[Worker, WorkerStats]],
    queues: Mapping[str, QueueSize],
    owners: Mapping[int, User],
) -> Census:
    """Return the census of a fleet at a time (seconds); resting workers do not count.

    ``owners`` are the workers' owners by their ids.
    """
    active = [(worker, stats) for worker, stats in workers if not worker.resting]
    models = {}
    for name, queue in queues.items():
        offering = [(worker, stats) for worker, stats in active if name in worker.models]
        speeds = [stats.speed for _, stats in offering if stats.speed is not None]
        models[name] = Load(
            **asdict(queue),
            workers=len(offering),
            threads=sum(worker.threads for worker, _ in offering),
            measured=len(speeds),
            speed=sum(speeds),
        )
    threads = sum(worker.threads for worker, _ in active)
    found = [drawer(worker, stats, owners.get(worker.user_id), models) for worker, stats in active]
    return Census(at=at, workers=len(active), threads=threads, models=models, drawers=tuple(found))
