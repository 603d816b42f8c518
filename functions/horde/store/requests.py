"""Requests and their images, from acceptance to the close. ``store.charges`` has the charge."""

from collections.abc import Iterable
from dataclasses import replace

from horde import clock
from horde.records import Generation, Request, SharedKey, User
from horde.rules import admission
from horde.rules import sharedkeys as sharedkey_rules
from horde.rules.dates import DAY_S
from horde.rules.lifecycle import ends_with_image
from horde.rules.refusals import Busy, DeletedUser, InvalidAPIKey
from horde.store.accounts import Accounts
from horde.store.charges import charge
from horde.store.counts import no_places
from horde.store.due import Due, due
from horde.store.entries import copies
from horde.store.items import (
    DUE,
    KEEP_S,
    TTL,
    WAITING,
    Item,
    Kind,
    encode,
    encode_all,
    from_item,
    key,
    to_item,
)
from horde.store.queuenames import QueueName
from horde.store.registry import Registry
from horde.store.sharedkeys import SharedKeys
from horde.store.table import DECISION_TRIES, ConditionFailed, Table
from horde.store.transaction import EXISTS, new

NOT_CLOSED = f"attribute_exists({DUE.sort})"
"""A request is in the due index until it is closed, unless it ends with its image."""
UNTOUCHED_S = 3 * DAY_S
"""Seconds after its first end at which the item of a request goes that ends with its image, since
it is not written again: far more than any image waits, should the sweep stand still for a day."""
TRUE = encode(value=True)


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
        drawn: frozenset[str] = frozenset(),
        upfront: str | None = None,
        posts_per_s: int | None = None,
    ) -> None:
        """Charge the user and record the request with its images, both or neither.

        An anonymous request charges nobody, since one account for all would be a hot key; ``user``
        is then the part of the anonymous account that its images belong to. Any other charge is
        computed from the account as read, and guarded by a condition. A request with a shared key
        is also charged to that key's budget. ``upfront`` is why the request needs its kudos
        upfront, if it does: then it is charged in full or refused. The same transaction adds the
        images to the account's open ones, of which ``drawn`` do not wait, within its limit, and
        counts the request as one of ``posts_per_s``. Raises Busy, DeletedUser, InvalidAPIKey,
        KudosUpfront, TooManyPosts, TooManyPrompts, SharedKeyExpired, SharedKeyEmpty or
        SharedKeyInsufficientKudos.
        """
        expires_at = request.expires_at if ends_with_image(request) else None
        generations = [replace(one, part=user.part, expires_at=expires_at) for one in generations]
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
                request, seen, shared, drawn=drawn, upfront=upfront, posts_per_s=posts_per_s
            )
            parts = [*charged, new(_request_item(accepted))]
            unpaid = {"unpaid": TRUE} if accepted.waived else {}
            parts += [new({**waiting_item(one, queue), **unpaid}) for one in generations]
            parts += [new({**copy, **unpaid}) for copy in more]
            try:
                self._table.transact(parts)
            except ConditionFailed as failed:
                if max(failed.which) < len(charged):
                    # The balance, the budget or the open images have changed since they were read:
                    # decide again.
                    seen = self._accounts.again(user)
                    if seen is not None and seen.deleted:
                        raise DeletedUser from None
                    if seen is not None:
                        waiting = len(seen.open_images) - len(no_places(seen, drawn))
                        admission.check_concurrency(seen, waiting=waiting, n=request.n)
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
        found = self.get_many(request_ids)
        return {name: str(request.payload.get("prompt", "")) for name, request in found.items()}

    def get_many(self, request_ids: Iterable[str]) -> dict[str, Request]:
        """Read requests, by id; missing ones are left out."""
        wanted = (key(Kind.REQUEST, one) for one in dict.fromkeys(request_ids))
        found = [from_item(Request, item) for item in self._table.batch(wanted)]
        return {request.id: request for request in found}

    # --- change -----------------------------------------------------------------------------

    def extend_expiry(self, request_id: str, expires_at: int) -> Request | None:
        """Set when a request expires (seconds since the epoch) whose images do not say so.

        Returns the request, or None if it is closed.
        """
        change = f"SET expires_at = :at, {DUE.sort} = :at"
        return self._update(request_id, change, NOT_CLOSED, {":at": encode(expires_at)})

    def cancel(self, request: Request, due_at: int) -> Request | None:
        """Flag a request so that none of its images is requeued, and make it due for the sweep.

        One that ends with its image has no row of its own: its image has one. Returns the request,
        or None if it is closed. Idempotent, so that a second call can end the images that an
        interrupted first one left waiting.
        """
        if ends_with_image(request):
            return self._update(request.id, "SET cancelled = :true", EXISTS, {":true": TRUE})
        change = f"SET cancelled = :true, {DUE.sort} = :due"
        values = {":true": TRUE, ":due": encode(due_at)}
        return self._update(request.id, change, NOT_CLOSED, values)

    def withdraw(self, request_id: str) -> Request | None:
        """Record that its owner withdrew a request's images; returns it, or None if it is gone.

        Idempotent: the first time counts.
        """
        mark = "SET withdrawn_at = if_not_exists(withdrawn_at, :now)"
        return self._update(request_id, mark, EXISTS, encode_all({"now": clock.now_ms()}))

    def reschedule(self, request: Request, due_at: int) -> None:
        """Set when the sweep next looks at a request (seconds since the epoch)."""
        self._update(request.id, f"SET {DUE.sort} = :at", NOT_CLOSED, {":at": encode(due_at)})

    def close(self, request: Request) -> None:
        """Remove an ended request from the due index; its items are deleted ``KEEP_S`` later.

        Crash window: if only some images got a TTL, the request is still due and the next sweep
        repeats the close. If the request was extended meanwhile, its items still last ``KEEP_S``.
        """
        gone = {":gone": encode(clock.now() + KEEP_S)}
        for generation_id in request.generations:
            generation = key(Kind.GENERATION, generation_id)
            self._table.try_update(generation, f"SET {TTL} = :gone", EXISTS, gone)
        self._update(request.id, f"SET {TTL} = :gone REMOVE {DUE.attributes}", NOT_CLOSED, gone)

    def keep(self, image: Generation, until: int) -> None:
        """Keep a closed request and one of its images until a time (seconds); never shorten it.

        Of a request that is still open, nothing is written: it gets its end when it is closed.
        """
        goes_before, at = f"{TTL} < :until", encode_all({"until": until})
        self._table.try_update(
            key(Kind.GENERATION, image.id), f"SET {TTL} = :until", goes_before, at
        )
        self._update(image.request_id, f"SET {TTL} = :until", goes_before, at)

    def _update(
        self, request_id: str, expression: str, condition: str, values: Item
    ) -> Request | None:
        request = key(Kind.REQUEST, request_id)
        updated = self._table.try_update(request, expression, condition, values)
        return from_item(Request, updated) if updated else None


def _request_item(request: Request) -> Item:
    if ends_with_image(request):
        ends: Item = {TTL: encode(request.expires_at + UNTOUCHED_S)}
    else:
        ends = due(Due.REQUEST, request.id, request.expires_at)
    return {**key(Kind.REQUEST, request.id), **to_item(request), **ends}


def waiting_item(generation: Generation, queue: QueueName) -> Item:
    """Return the item of an image that begins to wait in a queue."""
    item = {
        **key(Kind.GENERATION, generation.id),
        **to_item(generation),
        WAITING.partition: {"S": str(queue)},
    }
    if generation.expires_at is not None:
        item |= due(Due.IMAGE, generation.id, generation.expires_at)
    return item
