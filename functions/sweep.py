"""Every minute: end leases, count the fleet, replace lost tickets, finish what else is due.

Every ten minutes it also looks after RunPod's endpoints (``horde.endpoints``).

Leases come first, and each step has its own time, so that no backlog of one delays the others for
more than a minute. What is too much for one run is handed to ``finish``, which works off each shard
of the due index in parallel. Any other run may repeat each step. Every write is conditional on the
state that it was decided from. So nothing is done twice if a sweep dies, or if two run at once.
"""

import json
from itertools import islice
from typing import Any

from pydantic import field_validator

from horde import aws, clock, endpoints, overdue, runpod, startup
from horde.log import logger
from horde.records import ONLINE_S, Census
from horde.rules import estimates, tickets
from horde.rules.sharing import earns_trust
from horde.runpod import Model, Models
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
"""Most tickets for an endpoint in one run."""
TICKETS_S = 12
"""Seconds after which no further endpoint gets tickets in a run; the next begins with another."""
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
    runpod_management_url: str
    """Empty if endpoints are not looked after."""
    images_per_ticket: int
    cold_start_seconds: float
    max_wait_seconds: float
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
    """Send tickets for waiting images that have none; returns how many.

    Raises an ExceptionGroup of what RunPod refused; one endpoint does not hold up the others.
    """
    sent, errors, until = 0, list[Exception](), clock.now() + TICKETS_S
    found = runpod.endpoints(Settings.load().models)
    census: Census | None = None
    for endpoint in endpoints.in_turn(found, clock.now() // 60):
        if clock.now() > until:
            break
        waiting = _waiting(store, found[endpoint])
        if not any(waiting.values()):
            continue
        census = census or store.census.read()[0]
        try:
            sent += _send_missing(endpoint, waiting, census)
        except runpod.RunPodError as error:
            errors.append(error)
    if errors:
        message = "some endpoints got no tickets"
        raise ExceptionGroup(message, errors)
    return sent


def _waiting(store: Store, models: dict[str, Model]) -> dict[str, int]:
    """Return how many images of each model have waited for so long that a ticket may be lost."""
    before = clock.now_ms() - TICKET_GRACE_MS
    return store.backlog.since(runpod.abilities(models), before, MAX_COUNTED)


def _send_missing(endpoint: str, waiting: dict[str, int], census: Census) -> int:
    """Send an endpoint the tickets that waiting images of its models lack; returns how many."""
    settings, work = Settings.load(), tickets.Work()
    costs = tickets.Costs(
        settings.images_per_ticket, settings.cold_start_seconds, settings.max_wait_seconds
    )
    for name, images in waiting.items():
        image = estimates.average_work(census.load(name)) or tickets.USUAL_WORK
        work += tickets.work(images, images * image, tickets.speed_of(census, name))
    account = runpod.connect(settings.runpod_url, settings.runpod_key_parameter)
    missing = tickets.missing(costs, work, account.health(endpoint).jobs)
    most = max(waiting, key=lambda name: waiting[name])
    for _ in range(sent := min(missing, MAX_TICKETS)):
        account.run(endpoint, model=most, request_id=None, images=settings.images_per_ticket)
    return sent


def look_after_endpoints(_store: Store) -> int:
    """Look after RunPod's endpoints every few minutes; returns how many it re-armed."""
    settings, now = Settings.load(), clock.now()
    found = runpod.endpoints(settings.models)
    if not found or not endpoints.is_time(now):
        return 0
    account = runpod.connect(settings.runpod_url, settings.runpod_key_parameter)
    url = settings.runpod_management_url
    management = runpod.connect(url, settings.runpod_key_parameter) if url else None
    return endpoints.look_after(found, account, management)


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
        ("endpoints", look_after_endpoints),
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
