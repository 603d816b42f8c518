"""How an image leaves its state: settled, refunded, or requeued. Each is one transaction."""

from collections.abc import Iterable, Mapping
from typing import Any

from horde import clock
from horde.records import ANONYMOUS_ID, DELIVERED, Generation, Request, State
from horde.rules import kudos, lifecycle, sharing
from horde.rules.refusals import Busy
from horde.store import counts, sharedkeys
from horde.store.csam import mark
from horde.store.due import Due, due_shard
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
    json_text,
    key,
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

        A request that ends with it is over, and its client has a whole life to fetch the image.

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
        until = lifecycle.extended(generation, settled_at // 1000)
        if until is not None:
            changes["expires_at"] = encode(until)
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

        ``last_fault`` also marks the request faulted and, if it has other images, due for the
        sweep, in the same transaction. Returns False if the image has changed since it was read.
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
        alone = generation.expires_at is not None
        gone = {TTL: encode(clock.now() + KEEP_S)} if alone else {}
        changes = {"state": encode(state), **gone, **(changes or {})}
        assigned = [f"#{name} = :{name}" for name in changes]
        indexed = f"{WAITING.partition}, {DUE.attributes}"
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
        taken = counts.opened([generation.id]) if state not in DELIVERED else None
        if taken and request.anonymous and generation.part is not None:
            ended_id = [generation.id]
            more = [*more, counts.no_longer_open(ANONYMOUS_ID, generation.part, ended_id)]
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
                    taken=taken,
                    sharedkey_id=request.sharedkey_id,
                )
                waived = entry.waived
                to_key = self._back_to_key(request, entry.amount)
            touched = _touch_request(request, waived, faulted=last_fault, due=not alone, csam=csam)
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
        waits: dict[str, Any] = {
            "state": State.WAITING,
            "queue": str(queue),
            "faulted_by": again.faulted_by,
            "model": again.model,
        }
        expression = (
            f"SET #state = :state, {WAITING.partition} = :queue, faulted_by = :faulted_by, "
            "model = :model"
        )
        gone = "lease_until, held, preferred"
        if again.expires_at is None:
            gone += f", {DUE.attributes}"
        else:
            expression += f", {DUE.partition} = :shard, {DUE.sort} = :until"
            waits |= {"shard": due_shard(Due.IMAGE, again.id), "until": again.expires_at}
        parts = [
            _transition(generation, f"{expression} REMOVE {gone}", waits),
            check(key(Kind.REQUEST, request.id), still_wanted),
            *({"Put": {"Item": copy}} for copy in copies(again, self._registry)),
            *counts.hold_no_more(generation, dropped=True),
        ]
        return self._table.try_transact(parts)


def _touch_request(
    request: Request, waived: int, *, faulted: bool, due: bool, csam: bool
) -> list[Item]:
    """Return the part that deducts ``waived`` kudos and marks the request, if needed.

    ``due``: a faulted request is also due for the sweep, since other images of it may wait.
    """
    changes: list[str] = []
    values: dict[str, Any] = {}
    if waived:
        changes.append("waived = :left")
        values |= {"seen": request.waived, "left": request.waived - waived}
    if faulted and due:
        changes.append(f"{DUE.sort} = :due")
        values["due"] = clock.now()
    for name in [name for name, is_so in (("faulted", faulted), ("csam", csam)) if is_so]:
        changes.append(f"{name} = :true")
        values["true"] = True
    if not changes:
        return []
    nobody_refunded_meanwhile = "waived = :seen" if waived else EXISTS
    return [
        update(
            key(Kind.REQUEST, request.id),
            "SET " + ", ".join(changes),
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
