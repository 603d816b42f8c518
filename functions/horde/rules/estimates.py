"""How long things take: waits, speeds, the minute's census, and how many tickets are missing.

Speeds are in pixelsteps per second: width times height times accurate steps, per second.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from horde.records import Census, Load, QueueSize, Settlement, Worker, WorkerStats
from horde.rules.lifecycle import Progress

MAX_MODELS = 300
"""Models of a census; its item stays under DynamoDB's 400 KB whatever their names."""
USUAL_PS = 512 * 512 * 30 // 6
"""A middling GPU: 512x512 with 30 steps in six seconds. Stands in for an unmeasured speed."""
MEMORY = 0.95
"""What an image weighs in a worker's speed, against the one drawn after it."""
NEVER_S = 10_000
"""The Horde's ``eta`` of a model that nobody draws, in seconds."""


def performance(speed: int | None) -> str:
    """Return a worker's speed in the Horde's words."""
    if speed is None:
        return "No requests fulfilled yet"
    return f"{speed / 1_000_000:.1f} megapixelsteps per second"


def average_speed(load: Load) -> int:
    """Return the average speed of a model's workers, 0 while nobody knows."""
    return load.speed // load.measured if load.measured else 0


def throughput(load: Load) -> int:
    """Return what all of a model's workers draw in a second.

    Where none has popped yet, one of usual speed is assumed; never 0.
    """
    unmeasured = max(0, load.workers - load.measured) if load.workers else 1
    return max(1, load.speed + unmeasured * USUAL_PS)


def average_work(queue: QueueSize) -> int:
    """Return the pixelsteps of a waiting image on average."""
    return queue.pixelsteps // queue.images if queue.images else 0


def eta(load: Load, *, endpoint: bool) -> int:
    """Return in how many seconds all that waits is drawn; ``endpoint``: GPUs start for it."""
    if not load.workers and not endpoint:
        return NEVER_S
    return -(-load.pixelsteps // throughput(load))


def wait_seconds(state: Progress, *, ahead: int, own: int, speed: int, workers: int) -> int:
    """Estimate the wait in seconds, at least 2 while not done (clients divide by it).

    ``ahead`` is the pixelsteps that wait before this request's first image, ``own`` those of one
    image of its own; ``speed`` is what the model's ``workers`` draw together. An image in hand is
    taken as just begun, by one of them. The time in which a GPU starts is not included.
    """
    if state.done:
        return 0
    work = ahead + state.waiting * own
    in_hand = own * max(1, workers) if state.processing else 0
    return max(2, -(-(work + in_hand) // max(1, speed)))


def tickets_missing(waiting: int, per_ticket: int, queued: int) -> int:
    """Return how many tickets to top up so that every waiting image has demand behind it.

    ``waiting`` counts images that have waited for over a minute, ``queued`` RunPod's jobs in its
    queue and in progress (a job in progress pops until nothing waits).
    """
    return max(0, -(-waiting // per_ticket) - queued)


def moving_speed(stats: WorkerStats, settlements: Iterable[Settlement]) -> dict[str, int]:
    """Return a worker's speed after more images, as fields of its statistics.

    A worker is busy from a claim, or from the settlement before, to the settlement. A batch is
    claimed at once and settled one by one, and its seconds must not count for each of its images.
    Old images weigh ever less. An image that arrives out of order adds its work and no time.
    """
    ps, ms, last = float(stats.recent_ps), float(stats.recent_ms), stats.settled_at
    for settlement in sorted(settlements, key=lambda settlement: settlement.settled_at):
        busy = settlement.settled_at - max(settlement.claimed_at, last)
        ps = ps * MEMORY + settlement.pixelsteps
        ms = ms * MEMORY + max(0, busy)
        last = max(last, settlement.settled_at)
    return {"recent_ps": round(ps), "recent_ms": max(1, round(ms)), "settled_at": last}


def models_of(
    configured: Iterable[str], workers: Iterable[Worker], limit: int = MAX_MODELS
) -> list[str]:
    """Return whose queues a census looks at: the operator's models, then the most offered."""
    offered: Counter[str] = Counter()
    for worker in workers:
        offered.update(worker.models)
    ordered = [*configured, *(name for name, _ in offered.most_common())]
    return list(dict.fromkeys(ordered))[:limit]


def census(
    at: int, workers: Iterable[tuple[Worker, WorkerStats]], queues: Mapping[str, QueueSize]
) -> Census:
    """Count the fleet at a moment (seconds); workers that rest do not count."""
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
    return Census(at=at, workers=len(active), threads=threads, models=models)
