"""How an image leaves its state: settled, refunded, or requeued. Each is one transaction."""

from collections.abc import Iterable, Mapping
from typing import Any

from horde import clock
from horde.records import DELIVERED, Generation, Request, State
from horde.rules import kudos, lifecycle, ruleset, sharing
from horde.rules.refusals import Busy
from horde.store import counts, sharedkeys
from horde.store.csam import mark
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
    json_text,
    key,
    waiting_list,
)
from horde.store.ledger import post
from horde.store.registry import Registry
from horde.store.requests import Requests
from horde.store.settlements import pending, webhook_due
from horde.store.sharedkeys import SharedKeys
from horde.store.table import DECISION_TRIES, ConditionFailed, Table
from horde.store.transaction import EXISTS, check, update


class Endings:
    """The ends of a generation."""

    def __init__(
        self, table: Table, requests: Requests, shared: SharedKeys, registry: Registry
    ) -> None:
        self._table = table
        self._registry = registry
        self._requests = requests
        self._sharedkeys = shared

    def settle(
        self,
        request: Request,
        generation: Generation,
        *,
        state: State,
        seed: int,
        gen_metadata: list[dict[str, str]],
        sha256: str,
        size: int,
        csam: bool = False,
    ) -> bool:
        """Record a delivered image and its worker's pending reward.

        A request that is over with it (``lifecycle.ends_with``) is closed, so that no sweep looks
        at it again.

        ``sha256`` (hexadecimal) and ``size`` (bytes) are those of the accepted file, which is
        stored by now: from here on they say what was delivered. Exactly one settlement of a
        generation succeeds, and only under the lease that it was read with; else returns False. A
        censored image refunds its price, but not its tax. The reward stays pending until
        ``payouts`` posts it: one account often owns a whole fleet, and its item would become hot.
        ``csam`` also marks the image and its request for the operator.
        """
        settled_at = clock.now_ms()
        changes = {
            "settled_at": encode(settled_at),
            "drawn_seed": encode(seed),
            "gen_metadata": {"S": json_text(gen_metadata)},
            "sha256": encode(sha256),
            "size": encode(size),
            "screened": encode(sharing.ACCEPTED),
        }
        if sharing.shareable(request, state):
            changes["shareable"] = {"BOOL": True}
        back = (request.price, 0) if state is State.CENSORED else None
        more = [webhook_due(generation)] if request.webhook else []
        if generation.worker_user is not None:
            more.append(pending(request, generation, state, settled_at))
        if csam:
            more.append(mark(request, generation, settled_at))
        return self._end(request, generation, state, back, csam=csam, changes=changes, more=more)

    def end_undelivered(
        self, request: Request, generation: Generation, state: State, *, last_fault: bool = False
    ) -> bool:
        """End an image that was not delivered and refund its price and tax, both or neither.

        ``last_fault`` also marks the request faulted and due for the sweep, in the same
        transaction. Returns False if the image has changed since it was read.
        """
        back = (request.price, request.tax)
        return self._end(request, generation, state, back, last_fault=last_fault)

    def _end(
        self,
        request: Request,
        generation: Generation,
        state: State,
        back: tuple[int, int] | None,
        *,
        last_fault: bool = False,
        csam: bool = False,
        changes: Item | None = None,
        more: Iterable[Item] = (),
    ) -> bool:
        gone = {TTL: encode(clock.now() + KEEP_S)} if lifecycle.ends_with(request) else {}
        changes = {"state": encode(state), **gone, **(changes or {})}
        assigned = [f"#{name} = :{name}" for name in changes]
        indexed = f"{WAITING.partition}, {DUE.attributes}, {LISTED.attributes}"
        ended = _transition(
            generation,
            f"SET {', '.join(assigned)} REMOVE {indexed}, held",
            {},
            {f":{name}": value for name, value in changes.items()},
            changes,
        )
        if generation.state is State.PROCESSING:
            dropped = state not in DELIVERED
            more = [*more, *counts.hold_no_more(generation, dropped=dropped)]
        if request.anonymous:
            more = [*more, *counts.ended_anonymously(generation)]
        for _ in range(DECISION_TRIES):
            refund, waived, to_key = list[Item](), 0, list[Item]()
            if back is not None and not request.anonymous:
                price, tax = back
                entry = kudos.refund(
                    request.user_id, price=price, tax=tax, waived_left=request.waived
                )
                refund = post(
                    entry,
                    reference=generation.id,
                    place=False,
                    counts=counts.ended_waiting(generation),
                    sharedkey_id=request.sharedkey_id,
                )
                waived = entry.waived
                to_key = self._back_to_key(request, entry.amount)
            touched = _touch_request(
                request, waived, last_fault=last_fault, csam=csam, delivered=state in DELIVERED
            )
            try:
                self._table.transact([ended, *to_key, *refund, *touched, *more])
            except ConditionFailed as failed:
                if 0 in failed.which:
                    return False  # another run ended it
                if to_key and 1 in failed.which:
                    continue  # the shared key was changed or removed: read it again
                fresh = self._requests.get(request.id)
                if fresh is None or fresh.waived == request.waived:
                    raise
                request = fresh  # another refund deducted waived kudos: decide again
                continue
            return True
        raise Busy

    def _back_to_key(self, request: Request, amount: int) -> list[Item]:
        """Return the part that refunds the shared key that paid, if it still exists."""
        if not request.sharedkey_id or not amount:
            return []
        shared = self._sharedkeys.get(request.sharedkey_id)
        if shared is None:
            return []
        return [sharedkeys.give_back(shared, amount, request.sharedkey_revision)]

    def requeue(self, request: Request, generation: Generation) -> bool:
        """Put an image whose worker failed back into the queue; returns whether it was.

        A condition of the write keeps a cancelled or faulted request from being revived.
        """
        again = lifecycle.waiting_again(generation)
        queue = self._registry.enter(again)
        still_wanted = (
            f"{EXISTS} AND attribute_not_exists(cancelled) AND attribute_not_exists(faulted)"
        )
        parts = [
            _transition(
                generation,
                f"SET #state = :state, {WAITING.partition} = :queue, {LISTED.partition} = :list, "
                f"{LISTED.sort} = created_at, faulted_by = :faulted_by, model = :model "
                f"REMOVE {DUE.attributes}, lease_until, held, preferred",
                {
                    "state": State.WAITING,
                    "queue": str(queue),
                    "list": waiting_list(again.user_id, again.part),
                    "faulted_by": again.faulted_by,
                    "model": again.model,
                },
            ),
            check(key(Kind.REQUEST, request.id), still_wanted),
            *({"Put": {"Item": copy}} for copy in copies(again, self._registry)),
            *counts.hold_no_more(generation, dropped=True),
            *counts.waiting_again(generation),
        ]
        return self._table.try_transact(parts)


def _touch_request(
    request: Request, waived: int, *, last_fault: bool, csam: bool, delivered: bool
) -> list[Item]:
    """Return the part that deducts ``waived`` kudos, and marks or closes the request, if needed."""
    changes: list[str] = []
    removed: list[str] = []
    values: dict[str, Any] = {}
    if lifecycle.ends_with(request):
        changes.append(f"{TTL} = :gone")
        removed = [DUE.attributes, LISTED.attributes]
        values["gone"] = clock.now() + KEEP_S
        if delivered:  # the client has a whole life to fetch the image
            changes.append("expires_at = :until")
            values["until"] = clock.now() + ruleset.IN_FORCE.request_life_s
    elif last_fault:
        changes.append(f"{DUE.sort} = :due")
        removed = [LISTED.attributes]
        values["due"] = clock.now()
    if waived:
        changes += ["waived = :left"]
        values |= {"seen": request.waived, "left": request.waived - waived}
    if last_fault:
        changes.append("faulted = :true")
        values["true"] = True
    if csam:
        changes.append("csam = :true")
        values["true"] = True
    if not changes:
        return []
    removal = f" REMOVE {', '.join(removed)}" if removed else ""
    nobody_refunded_meanwhile = "waived = :seen" if waived else EXISTS
    return [
        update(
            key(Kind.REQUEST, request.id),
            "SET " + ", ".join(changes) + removal,
            nobody_refunded_meanwhile,
            encode_all(values),
        )
    ]


def _transition(
    generation: Generation,
    expression: str,
    values: Mapping[str, Any],
    encoded: Item | None = None,
    names: Iterable[str] = ("state",),
) -> Item:
    same_state_and_lease = "#state = :seen AND attempt = :attempt"
    seen = {"seen": generation.state, "attempt": generation.attempt}
    return update(
        key(Kind.GENERATION, generation.id),
        expression,
        same_state_and_lease,
        encode_all({**seen, **values}) | (encoded or {}),
        {f"#{name}": name for name in names},  # some are words of DynamoDB's own
    )
