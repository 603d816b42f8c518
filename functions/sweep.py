"""Every minute: end leases, count the fleet, replace lost tickets, finish what else is due.

Leases come first, and each step has its own time, so that no backlog of one delays the others for
more than a minute. What is too much for one run is handed to ``finish``, which works off each shard
of the due index in parallel. Any other run may repeat each step. Every write is conditional on the
state that it was decided from. So nothing is done twice if a sweep dies, or if two run at once.
"""

import json
from itertools import islice
from typing import Any

from pydantic import field_validator

from horde import aws, clock, overdue, runpod, startup
from horde.log import logger
from horde.records import ONLINE_S
from horde.rules import estimates
from horde.rules.sharing import earns_trust
from horde.runpod import Models
from horde.store import Store, connect
from horde.store.due import Due

TICKET_GRACE_MS = 60_000
"""An image younger than this may still have its first ticket on the way."""
MAX_HERE = 200
"""Most due rows of a kind that the sweep works off itself; each costs three to six calls."""
LEASES_S = 15
OTHERS_S = 8
"""Seconds that one kind may take in a run, which has 55 in all."""
MAX_COUNTED = 10_000
"""Most waiting images of a model that are looked at for lost tickets: 500 read units."""
MAX_TICKETS = 100
MAX_WORKERS = 250
"""Most workers in the census per shard of their list."""
MAX_HOLDERS = 1000
"""Most accounts whose held images are looked at in one run."""
MAX_RELEASED = 25
"""Held images of one account that are released in one run."""
MAX_TIDIED = 200
"""Most queues that are looked into in one run."""
MAX_QUEUED = 5000
"""Most images in the census per model."""


class Settings(overdue.Settings):
    """The names of this function's resources, and the operator's models."""

    table_name: str
    models: Models
    runpod_url: str
    runpod_key_parameter: str
    images_per_ticket: int
    uploads_queue_url: str
    finish_function: str
    trusted_after_images: int | None = None
    """Images that make an account trusted; None if only the operator's word counts."""

    @field_validator("trusted_after_images", mode="before")
    @classmethod
    def _none_if_empty(cls, text: str | None) -> str | None:
        return text or None


def sweep_leases(store: Store) -> int:
    """Take back images whose leases have ended; returns how many."""
    return _sweep(store, Due.LEASE, clock.now() + LEASES_S)


def sweep_others(store: Store) -> int:
    """Work off what else is due; returns how many rows. Raises an ExceptionGroup of failures."""
    others = [kind for kind in Due if kind is not Due.LEASE]
    return sum(_sweep(store, kind, clock.now() + OTHERS_S) for kind in others)


def _sweep(store: Store, kind: Due, until: int) -> int:
    """Work off the due rows of a kind here if they are few, else by ``finish`` in parallel.

    ``until`` is in seconds. Returns the number of rows worked off here. Crash window: if this run
    dies before it has handed over every shard, the next one hands over all again.
    """
    now = clock.now()
    rows = list(islice(store.due.until(kind, now), MAX_HERE + 1))
    if len(rows) > MAX_HERE:
        for shard in range(kind.shards):
            event = {"kind": kind, "shard": shard, "at": now}
            aws.hand_over(Settings.load().finish_function, event)
        logger.warning("many are due", extra={"kind": kind, "shards": kind.shards})
        return 0
    done, errors = overdue.work_off(store, rows, until)
    if errors:
        message = f"{kind}: some rows were not swept"
        raise ExceptionGroup(message, errors)
    return done


def top_up(store: Store) -> int:
    """Send tickets for waiting images that have none; returns how many. Raises RunPodError."""
    settings, sent = Settings.load(), 0
    before = clock.now_ms() - TICKET_GRACE_MS
    for name, model in settings.models.items():
        if model.endpoint is None:
            continue
        waiting = store.queue.waiting_since(name, before, MAX_COUNTED, model.max_pixels)
        if not waiting:
            continue
        account = runpod.connect(settings.runpod_url, settings.runpod_key_parameter)
        queued = account.queued(model.endpoint)
        missing = estimates.tickets_missing(waiting, settings.images_per_ticket, queued)
        for _ in range(min(missing, MAX_TICKETS)):
            account.run(
                model.endpoint, model=name, request_id=None, images=settings.images_per_ticket
            )
            sent += 1
    return sent


def release_held(store: Store) -> int:
    """Ask for the release of held images whose worker's owner is trusted; returns how many.

    An owner whose workers drew enough becomes trusted here. Images of an owner who is flagged or
    gone are asked for too, and dropped.
    """
    settings, asked = Settings.load(), 0
    holders = store.held.holders(MAX_HOLDERS)
    owners = store.accounts.get_many(holders)
    for user_id in holders:
        owner = owners.get(user_id)
        if owner is not None and not owner.trusted and not owner.flagged:
            needed = settings.trusted_after_images
            if not earns_trust(owner, images=needed, now=clock.now()):
                continue
            store.accounts.change(owner, {"trusted": True})
        ids = store.held.ids_of(user_id, MAX_RELEASED)
        for generation_id in ids:
            aws.sqs().send_message(
                QueueUrl=settings.uploads_queue_url,
                MessageBody=json.dumps({"release": generation_id}),
            )
        asked += len(ids)
        if not ids:
            store.held.forget_holder(user_id)
    return asked


def count_fleet(store: Store) -> int:
    """Write the census and return the number of online workers.

    The number of workers, of models and of images per model is bounded.
    """
    now = clock.now()
    workers = store.workers.get_many(store.workers.seen_since(now - ONLINE_S, MAX_WORKERS))
    names = estimates.models_of(Settings.load().models, (worker for worker, _ in workers))
    queues = {name: store.queue.size(name, MAX_QUEUED) for name in names}
    owners = store.accounts.get_many({worker.user_id for worker, _ in workers})
    found = estimates.census(now, workers, queues, owners)
    store.census.put(found)
    return found.workers


def tidy_queues(store: Store) -> int:
    """Look into queues that may be empty, and unmark those that are; returns how many it saw."""
    return store.queue.tidy(MAX_TIDIED)


startup.ready("dynamodb")


def handler(_event: dict[str, Any], _context: object) -> dict[str, int]:
    """Lambda's entry point. A step that fails does not stop the others, but raises the alarm."""
    store, counts, errors = connect(Settings.load().table_name), dict[str, int](), list[Exception]()
    steps = (
        ("leases", sweep_leases),
        ("workers", count_fleet),
        ("tickets", top_up),
        ("due", sweep_others),
        ("released", release_held),
        ("queues", tidy_queues),
    )
    for name, step in steps:
        counts[name] = 0
        try:
            counts[name] = step(store)
        except Exception as error:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("step failed", extra={"step": step.__name__})
            errors.append(error)
    logger.info("swept", extra={**counts, "errors": len(errors)})
    if errors:
        message = "some steps failed"
        raise ExceptionGroup(message, errors)
    return counts
