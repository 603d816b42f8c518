"""Every minute: finish what is due, replace lost tickets, count the fleet.

Any other run may repeat each step. Every write is conditional on the state that it was decided
from. So nothing is done twice if a sweep dies, or if two run at once.
"""

import json
from typing import Any

from pydantic import field_validator

from horde import aws, clock, ending, runpod
from horde.log import logger
from horde.records import ONLINE_S, State
from horde.rules import estimates
from horde.rules.sharing import earns_trust
from horde.runpod import Models
from horde.store import Store, connect
from horde.store.due import DueRow
from horde.store.items import Kind

TICKET_GRACE_MS = 60_000
"""An image younger than this may still have its first ticket on the way."""
LIST_LAG_S = 60
"""Seconds after which the list of a deleted account's requests surely has those accepted before."""
MAX_COUNTED = 1000
MAX_TICKETS = 100
MAX_WORKERS = 250
"""Most workers in the census per shard of their list."""
MAX_HOLDERS = 1000
"""Most accounts whose held images are looked at in one run."""
MAX_RELEASED = 25
"""Held images of one account that are released in one run."""
MAX_QUEUED = 5000
"""Most images in the census per model."""


class Settings(aws.Settings):
    """The names of this function's resources, and the operator's models."""

    table_name: str
    sources_bucket: str
    models: Models
    runpod_url: str
    runpod_key_parameter: str
    images_per_ticket: int
    uploads_queue_url: str
    trusted_after_images: int | None = None
    """Images that make an account trusted; None if only the operator's word counts."""

    @field_validator("trusted_after_images", mode="before")
    @classmethod
    def _none_if_empty(cls, text: str | None) -> str | None:
        return text or None


def sweep_due(store: Store, due: DueRow, now: int) -> None:
    """Finish what one row is due for; ``now`` is in seconds.

    It ends an expired lease or request, posts a late reward, or cancels what a deleted account has
    open.
    """
    if due.kind is Kind.GENERATION:
        end_lease(store, due.id, now)
        return
    if due.kind is Kind.LEDGER:  # the stream's record was lost
        settlement = store.payouts.pending(due.user_id, due.id)
        if settlement is not None:
            store.payouts.post([settlement])
        return
    if due.kind is Kind.USER:
        finish_deletion(store, int(due.id), now)
        return
    request = store.requests.get(due.id)
    if request is not None and ending.end_request(store, request, now):
        bucket = Settings.load().sources_bucket
        for key in (request.source_key, request.mask_key):
            if key is not None:
                aws.s3().delete_object(Bucket=bucket, Key=key)
        store.requests.close(request)


def end_lease(store: Store, generation_id: str, now: int) -> None:
    """Take an image back from a worker whose lease has ended; ``now`` is in seconds."""
    generation = store.requests.generation(generation_id)
    if generation is None or generation.state is not State.PROCESSING:
        return
    if (generation.lease_until or 0) > now:
        return  # the index lags behind, and another worker has the lease by now
    request = store.requests.get(generation.request_id)
    if request is not None:
        ending.fault(store, request, generation)


def finish_deletion(store: Store, user_id: int, now: int) -> None:
    """Cancel what a deleted account has open; ``now`` is in seconds.

    The account stays due until the list of its requests surely has all of them.
    """
    user = store.accounts.get(user_id)
    if user is not None and user.deleted:
        ending.cancel_all_of(store, user_id)
    store.accounts.end_deletion(user_id, now - LIST_LAG_S)


def top_up(store: Store) -> int:
    """Send tickets for waiting images that have none; returns how many. Raises RunPodError."""
    settings, sent = Settings.load(), 0
    before = clock.now_ms() - TICKET_GRACE_MS
    for name, model in settings.models.items():
        if model.endpoint is None:
            continue
        waiting = store.queue.waiting_since(name, before, MAX_COUNTED)
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
    found = estimates.census(now, workers, queues)
    store.census.put(found)
    return found.workers


def handler(_event: dict[str, Any], _context: object) -> dict[str, int]:
    """Lambda's entry point. A row that fails does not stop the others, but raises the alarm."""
    store, now = connect(Settings.load().table_name), clock.now()
    swept, errors = 0, []
    for due in list(store.due.until(now)):
        try:
            sweep_due(store, due, now)
            swept += 1
        except Exception as error:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not swept", extra={"kind": due.kind, "id": due.id})
            errors.append(error)
    counts = {"due": swept, "tickets": 0, "workers": 0, "released": 0}
    steps = (("tickets", top_up), ("workers", count_fleet), ("released", release_held))
    for name, step in steps:
        try:
            counts[name] = step(store)
        except Exception as error:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("step failed", extra={"step": step.__name__})
            errors.append(error)
    logger.info("swept", extra={**counts, "errors": len(errors)})
    if errors:
        raise ExceptionGroup("some rows were not swept", errors)
    return counts
