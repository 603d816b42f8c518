"""What is due: an ended lease or request, an expired image, a reward not posted, a deleted account.

``sweep`` and ``finish`` work it off. Every write is conditional on the state that it was decided
from, so two of them may work on the same row at once.
"""

from collections.abc import Iterable

from horde import aws, clock, ending, images
from horde.log import logger
from horde.records import State
from horde.store import Store
from horde.store.due import Due, DueRow


class Settings(aws.Settings):
    """The bucket of the source images, which are deleted with their request's end."""

    sources_bucket: str


def work_off(store: Store, rows: Iterable[DueRow], until: int) -> tuple[int, list[Exception]]:
    """Work rows off until a time (seconds); returns how many, and the errors of the others.

    A row that fails does not stop the others.
    """
    done, errors = 0, list[Exception]()
    for row in rows:
        now = clock.now()
        if now >= until:
            break
        try:
            finish(store, row, now)
            done += 1
        except Exception as error:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not finished", extra={"kind": row.kind, "id": row.id})
            errors.append(error)
    return done, errors


def finish(store: Store, row: DueRow, now: int) -> None:
    """Finish what one row is due for; ``now`` is in seconds."""
    match row.kind:
        case Due.LEASE:
            end_lease(store, row.id, now)
        case Due.IMAGE:
            image = store.requests.generation(row.id)
            if image is not None:
                ending.end_image(store, image, now)
        case Due.REQUEST:
            end_request(store, row.id, now)
        case Due.REWARD:  # the stream's record was lost
            settlement = store.payouts.pending(row.user_id, row.id)
            if settlement is not None:
                store.payouts.post([settlement])
        case Due.ACCOUNT:
            end_account(store, int(row.id), now)


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


def end_request(store: Store, request_id: str, now: int) -> None:
    """End and close a cancelled, faulted or expired request; ``now`` is in seconds."""
    request = store.requests.get(request_id)
    if request is not None and ending.end_request(store, request, now):
        for key in (request.source_key, request.mask_key):
            if key is not None:
                images.delete(aws.s3(), Settings.load().sources_bucket, key)
        store.requests.close(request)


def end_account(store: Store, user_id: int, now: int) -> None:
    """Cancel what a deleted account has open; ``now`` is in seconds.

    Once is enough: its own item says what it has open, and it can open nothing more.
    """
    user = store.accounts.get(user_id)
    if user is not None and user.deleted:
        ending.cancel_all_of(store, user_id)
    store.accounts.end_deletion(user_id, now)
