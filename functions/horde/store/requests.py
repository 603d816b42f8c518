"""Requests and their images, from acceptance to the close. ``store.charges`` has the charge."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from horde import clock
from horde.records import Generation, Request, SharedKey, User
from horde.rules import admission
from horde.rules import sharedkeys as sharedkey_rules
from horde.rules.refusals import Busy, DeletedUser, InvalidAPIKey
from horde.store.accounts import Accounts
from horde.store.charges import charge
from horde.store.due import Due, due
from horde.store.entries import copies
from horde.store.items import (
    DUE,
    KEEP_S,
    LISTED,
    TTL,
    WAITING,
    Item,
    Kind,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    listed,
    requests_list,
    to_item,
    waiting_list,
)
from horde.store.queuenames import QueueName
from horde.store.registry import Registry
from horde.store.sharedkeys import SharedKeys
from horde.store.table import BATCH, DECISION_TRIES, ConditionFailed, Table
from horde.store.transaction import EXISTS, new

OPEN = f"attribute_exists({DUE.sort})"
"""A request is in the due index until it is closed."""


class Requests:
    """Requests and their images."""

    def __init__(
        self, table: Table, accounts: Accounts, shared: SharedKeys, registry: Registry
    ) -> None:
        self._table = table
        self._registry = registry
        self._accounts = accounts
        self._sharedkeys = shared

    # --- accept -----------------------------------------------------------------------------

    def accept(
        self,
        request: Request,
        generations: list[Generation],
        user: User,
        shared: SharedKey | None = None,
        *,
        upfront: str | None = None,
        posts_per_s: int | None = None,
    ) -> None:
        """Charge the user and record the request with its images, both or neither.

        An anonymous request charges nobody, since one account for all would be a hot key; ``user``
        is then the part of the anonymous account that its images count in. Any other charge is
        computed from the account as read, and guarded by a condition. A request
        with a shared key is also charged to that key's budget. ``upfront`` is why the request needs
        its kudos upfront, if it does: then it is charged in full or refused. The same transaction
        counts the images as waiting, within the account's limit, and the request as one of
        ``posts_per_s``. Raises Busy, DeletedUser, InvalidAPIKey, KudosUpfront, TooManyPosts,
        TooManyPrompts, SharedKeyExpired, SharedKeyEmpty or SharedKeyInsufficientKudos.
        """
        generations = [replace(one, counted=True, part=user.part) for one in generations]
        queue = self._registry.enter(generations[0], len(generations))
        more = [
            copy
            for number, generation in enumerate(generations)
            for copy in copies(generation, self._registry, 0 if number else len(generations))
        ]
        seen: User | None = user
        for _ in range(DECISION_TRIES):
            if seen is None:
                raise Busy
            accepted, charged = charge(
                request, seen, shared, upfront=upfront, posts_per_s=posts_per_s
            )
            parts = [*charged, new(_request_item(accepted))]
            parts += [new(waiting_item(one, queue)) for one in generations]
            parts += [new(copy) for copy in more]
            try:
                self._table.transact(parts)
            except ConditionFailed as failed:
                if max(failed.which) < len(charged):
                    # The balance, the budget or the count of waiting images has changed since it
                    # was read: decide again.
                    seen = self._accounts.again(user)
                    if seen is not None and seen.deleted:
                        raise DeletedUser from None
                    if seen is not None:
                        admission.check_concurrency(seen, waiting=seen.waiting, n=request.n)
                    shared = self._fresh(shared, (request.price + request.tax) * request.n)
                    continue
            return  # accepted, now or by an earlier try whose response was lost
        raise Busy

    def _fresh(self, shared: SharedKey | None, total: int) -> SharedKey | None:
        if shared is None:
            return None
        fresh = self._sharedkeys.get(shared.id)
        if fresh is None:
            raise InvalidAPIKey
        sharedkey_rules.check_alive(fresh, clock.now())
        sharedkey_rules.check_budget(fresh, total)
        return fresh

    # --- read -------------------------------------------------------------------------------

    def get(self, request_id: str) -> Request | None:
        """Read a request."""
        item = self._table.get(key(Kind.REQUEST, request_id))
        return from_item(Request, item) if item else None

    def generation(self, generation_id: str) -> Generation | None:
        """Read one image."""
        item = self._table.get(key(Kind.GENERATION, generation_id))
        return from_item(Generation, item) if item else None

    def generations(self, request: Request) -> list[Generation]:
        """Read all images of a request, by index."""
        found = self.generations_by_id(request.generations)
        return sorted(found, key=lambda generation: generation.index)

    def generations_by_id(self, ids: Iterable[str]) -> list[Generation]:
        """Read images, in no order."""
        items = self._table.batch(key(Kind.GENERATION, generation_id) for generation_id in ids)
        return [from_item(Generation, item) for item in items]

    def prompts(self, request_ids: Iterable[str]) -> dict[str, str]:
        """Return the prompts of requests, by request id."""
        ids = dict.fromkeys(request_ids)
        items = self._table.batch(key(Kind.REQUEST, request_id) for request_id in ids)
        found = [from_item(Request, item) for item in items]
        return {request.id: str(request.payload.get("prompt", "")) for request in found}

    def open_of(self, user_id: int, limit: int) -> list[str]:
        """Return the ids of an account's requests, finished or not, newest first.

        Cancelled, faulted and expired requests are left out.
        """
        found = self._table.read_list(requests_list(user_id), limit, last_first=True)
        return [id_of(item) for item in found]

    def all_open_of(self, user_id: int) -> Iterator[tuple[Request, list[Generation]]]:
        """Yield all requests that ``open_of`` returns, with their images."""
        for page in self._table.list_pages(requests_list(user_id), Limit=BATCH):
            items = self._table.batch(key(Kind.REQUEST, id_of(item)) for item in page)
            images: dict[str, list[Generation]] = {id_of(item): [] for item in items}
            requests = [from_item(Request, item) for item in items]
            for image in self.generations_by_id(one for r in requests for one in r.generations):
                images[image.request_id].append(image)
            yield from ((request, images[request.id]) for request in requests)

    # --- change -----------------------------------------------------------------------------

    def extend_expiry(self, request_id: str, expires_at: int) -> Request | None:
        """Set when a request expires (seconds since the epoch).

        Returns the request, or None if it is closed.
        """
        change = f"SET expires_at = :at, {DUE.sort} = :at"
        return self._update(request_id, change, OPEN, {":at": encode(expires_at)})

    def open(self, request_ids: Iterable[str]) -> dict[str, Request]:
        """Return those of these requests that are not closed, by id."""
        items = self._table.batch(key(Kind.REQUEST, request_id) for request_id in request_ids)
        found = [from_item(Request, item) for item in items if DUE.sort in item]
        return {request.id: request for request in found}

    def cancel(self, request_id: str, due_at: int) -> Request | None:
        """Flag a request so that none of its images is requeued, and make it due for the sweep.

        Returns the request, or None if it is closed. Idempotent, so that a second call can end the
        images that an interrupted first one left waiting.
        """
        return self._update(
            request_id,
            f"SET cancelled = :true, {DUE.sort} = :due REMOVE {LISTED.attributes}",
            OPEN,
            encode_all({"true": True, "due": due_at}),
        )

    def reschedule(self, request: Request, due_at: int) -> None:
        """Set when the sweep next looks at a request (seconds since the epoch)."""
        self._update(request.id, f"SET {DUE.sort} = :at", OPEN, {":at": encode(due_at)})

    def close(self, request: Request) -> None:
        """Remove an ended request from the due index; its items are deleted ``KEEP_S`` later.

        Crash window: if only some images got a TTL, the request is still due and the next sweep
        repeats the close. If the request was extended meanwhile, its items still last ``KEEP_S``.
        """
        gone = {":gone": encode(clock.now() + KEEP_S)}
        for generation_id in request.generations:
            generation = key(Kind.GENERATION, generation_id)
            self._table.try_update(generation, f"SET {TTL} = :gone", EXISTS, gone)
        indexed = f"{DUE.attributes}, {LISTED.attributes}"
        self._update(request.id, f"SET {TTL} = :gone REMOVE {indexed}", OPEN, gone)

    def _update(
        self, request_id: str, expression: str, condition: str, values: Item
    ) -> Request | None:
        request = key(Kind.REQUEST, request_id)
        updated = self._table.try_update(request, expression, condition, values)
        return from_item(Request, updated) if updated else None


def _request_item(request: Request) -> Item:
    return {
        **key(Kind.REQUEST, request.id),
        **to_item(request),
        **due(Due.REQUEST, request.id, request.expires_at),
        # The anonymous account has no list: it would be a hot key, and nobody may see it.
        **({} if request.anonymous else listed(requests_list(request.user_id), request.created_at)),
    }


def waiting_item(generation: Generation, queue: QueueName) -> Item:
    """Return the item of an image that begins to wait in a queue."""
    return {
        **key(Kind.GENERATION, generation.id),
        **to_item(generation),
        WAITING.partition: {"S": str(queue)},
        **listed(waiting_list(generation.user_id, generation.part), generation.created_at),
    }
