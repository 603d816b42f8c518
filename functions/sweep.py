"""Every minute: leases end, requests are refunded, lost tickets replaced, the fleet counted.

Each step is one that any other run may repeat: a sweep that dies, or two at once, change nothing
twice, since every effect is conditional on the state it was decided from.
"""

from typing import Any

from horde import aws, clock, ending, fleet, runpod, store
from horde.http import logger
from horde.model import State, tickets_missing
from horde.runpod import Models
from horde.store import Due, Store

PATIENCE_MS = 60_000
"""Images that wait for less than this still have their first ticket on its way."""
MOST_COUNTED = 1000
MOST_TICKETS = 100
MOST_WORKERS = 250
"""Workers counted of each part of their list."""
MOST_QUEUED = 5000
"""Images that a census counts of each model's queue."""


class Settings(aws.Settings):
    """Names of what this function uses."""

    table_name: str
    sources_bucket: str
    models: Models
    runpod_url: str
    runpod_key_parameter: str
    images_per_ticket: int


def sweep_due(table: Store, due: Due, now: int) -> None:
    """See to one lease or request that ran out, or to one reward that was not paid."""
    if due.kind == "GENERATION":
        generation = table.generation(due.id)
        if generation is None or generation.state is not State.PROCESSING:
            return
        if (generation.lease_until or 0) > now:
            return  # the index lags behind: it is another worker's lease by now
        request = table.request(generation.request_id)
        if request is not None:
            ending.fault(table, request, generation)
        return
    if due.kind == "LEDGER":  # the stream's record was lost
        settled = table.settlement(due)
        if settled is not None:
            table.tally([settled])
        return
    request = table.request(due.id)
    if request is not None and ending.end_request(table, request, now):
        bucket = Settings.load().sources_bucket
        for key in (request.source_key, request.mask_key):
            if key is not None:
                aws.s3().delete_object(Bucket=bucket, Key=key)
        table.close(request)


def top_up(table: Store) -> int:
    """Make tickets for images that wait with no demand behind them; returns how many."""
    settings, made = Settings.load(), 0
    before = clock.now_ms() - PATIENCE_MS
    for name, model in settings.models.items():
        if model.endpoint is None:
            continue
        waiting = table.waiting_since(name, before, MOST_COUNTED)
        if not waiting:
            continue
        account = runpod.connect(settings.runpod_url, settings.runpod_key_parameter)
        queued = account.queued(model.endpoint)
        missing = tickets_missing(waiting, settings.images_per_ticket, queued)
        for _ in range(min(missing, MOST_TICKETS)):
            account.run(
                model.endpoint, model=name, request_id=None, images=settings.images_per_ticket
            )
            made += 1
    return made


def count_fleet(table: Store) -> int:
    """Write the minute's census; returns how many workers are at work.

    The work is bounded: so many workers, so many models, so many images of each.
    """
    now = clock.now()
    workers = table.workers(table.workers_seen(now - fleet.ONLINE_S, MOST_WORKERS))
    names = fleet.models_of(Settings.load().models, (worker for worker, _ in workers))
    queues = {name: table.queue(name, MOST_QUEUED) for name in names}
    found = fleet.census(now, workers, queues)
    table.put_census(found)
    return found.workers


def handler(_event: dict[str, Any], _context: object) -> dict[str, int]:
    """Lambda's entry. One bad row does not keep the others waiting; the alarm hears of it."""
    table, now = store.connect(Settings.load().table_name), clock.now()
    swept, errors = 0, []
    for due in list(table.due(now)):
        try:
            sweep_due(table, due, now)
            swept += 1
        except Exception as error:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not swept", extra={"kind": due.kind, "id": due.id})
            errors.append(error)
    counts = {"due": swept, "tickets": 0, "workers": 0}
    for name, step in (("tickets", top_up), ("workers", count_fleet)):
        try:
            counts[name] = step(table)
        except Exception as error:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not done", extra={"step": step.__name__})
            errors.append(error)
    logger.info("swept", extra={**counts, "errors": len(errors)})
    if errors:
        raise ExceptionGroup("some rows were not swept", errors)
    return counts
