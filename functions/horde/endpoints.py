"""The care for RunPod's endpoints: their workers, and how many there may be.

RunPod cuts the most workers of an endpoint without requests to 2 after three days and to 0 after
seven, and leaves them there (gpu-worker.md 1.8). Its tickets would then wait for ever. So each
endpoint is looked at every ``LOOK_S`` seconds, whether or not anything waits, and its workers are
set as they were: at most once in that time. Nothing here is needed to draw: what fails is logged,
counted by an alarm, and tried again by the next look.
"""

from collections.abc import Iterator, Mapping

from horde import clock
from horde.log import logger
from horde.runpod import Health, Model, RunPod, RunPodError, count

LOOK_S = 10 * 60
"""Seconds between two looks."""
CARE_S = 10
"""Seconds that one look may take; a later one goes on with other endpoints."""
NEEDS_ATTENTION = "endpoint needs attention"
"""What the log says of each thing that is wrong; an alarm counts it."""


def is_time(now: int) -> bool:
    """Return whether the sweep of this minute (seconds since the epoch) looks at the endpoints."""
    return now // 60 % (LOOK_S // 60) == 0


def in_turn(names: Mapping[str, object], turn: int) -> list[str]:
    """Return names in an order that begins elsewhere each turn: a step may lack time for all."""
    ordered = sorted(names)
    first = turn % max(1, len(ordered))
    return ordered[first:] + ordered[:first]


def look_after(
    endpoints: Mapping[str, Mapping[str, Model]], account: RunPod, management: RunPod | None
) -> int:
    """Look at endpoints, log what is wrong, and re-arm those whose workers were cut.

    ``management`` is the API that has the most workers, or None if it may not be asked. Returns how
    many were re-armed.
    """
    now, armed = clock.now(), 0
    for endpoint in in_turn(endpoints, now // LOOK_S):
        if clock.now() > now + CARE_S:
            logger.warning("not all endpoints were looked at")
            break
        try:
            wrong = list(_unwell(account.health(endpoint)))
        except RunPodError as error:
            wrong = [str(error)]
        if management is not None:
            wanted = max(
                (model.max_workers or 0 for model in endpoints[endpoint].values()), default=0
            )
            try:
                armed += _arm(management, endpoint, wanted)
            except RunPodError as error:
                wrong.append(str(error))
        for reason in wrong:
            logger.warning(NEEDS_ATTENTION, extra={"endpoint": endpoint, "reason": reason})
    return armed


def _unwell(health: Health) -> Iterator[str]:
    """Yield what is wrong with an endpoint's workers."""
    unhealthy = health.workers.get("unhealthy", 0)
    if unhealthy:
        yield f"{unhealthy} workers are unhealthy"
    throttled = health.workers.get("throttled", 0)
    alive = sum(health.workers.get(state, 0) for state in ("idle", "ready", "running"))
    if throttled and health.jobs.queued and not alive:
        yield f"{throttled} workers are throttled, and no other draws what waits"


def _arm(management: RunPod, endpoint: str, wanted: int) -> bool:
    """Set an endpoint's most workers if they are fewer than ``wanted``; returns whether it did.

    Raises RunPodError if RunPod does not say how many there may be, or keeps them low.
    """
    path = f"/serverless/{endpoint}"
    allowed = _most_workers(management.call("GET", path))
    if allowed >= max(1, wanted):
        return False
    if not wanted:
        message = "it may have no worker, and max_workers does not say how many it shall have"
        raise RunPodError(message)
    kept = _most_workers(management.call("PATCH", path, {"workers": {"max": wanted}}))
    if kept < wanted:
        message = f"RunPod keeps it at {kept} workers, and {wanted} are wanted"
        raise RunPodError(message)
    logger.info("endpoint re-armed", extra={"endpoint": endpoint, "was": allowed, "is": kept})
    return True


def _most_workers(answer: Mapping[str, object]) -> int:
    workers = answer.get("workers")
    return count(workers.get("max") if isinstance(workers, dict) else None, "workers.max")
