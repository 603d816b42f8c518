"""Kudos between accounts, new kudos by award, and what a client wants done once."""

from dataclasses import dataclass
from uuid import uuid4

from horde import clock
from horde.records import SharedKey, User
from horde.rules import kudos
from horde.rules.dates import DAY_S
from horde.store import sharedkeys
from horde.store.items import KEEP_S, TTL, Item, Kind, encode, encode_all, key
from horde.store.ledger import IN_GOOD_STANDING, balance_at_least, post
from horde.store.table import Table
from horde.store.transaction import ABSENT, new, update

IDEMPOTENCY_S = DAY_S
"""How long an ``Idempotency-Key`` is remembered, in seconds."""
COOL_DOWN_S = 60
"""Who was given kudos may send some back after this many seconds."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """What a client wants done once: its ``Idempotency-Key`` and its body, both hashed."""

    key: str
    body: str


class Transfers:
    """Transfers and awards."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def transfer(
        self,
        sender: User,
        receiver_id: int,
        amount: int,
        once: IdempotencyKey | None,
        shared: SharedKey | None = None,
    ) -> bool:
        """Move kudos from one user to another, both entries or neither.

        With a shared key of the receiver's, its budget grows by as much. The rules are conditions
        here: enough above the sender's floor, both in good standing, nothing just came the other
        way, and this idempotency key is unused. False if one of them does not hold; the caller
        reads anew and says which.
        """
        sent, got = kudos.transfer(sender.id, receiver_id, amount)
        reference = str(uuid4())
        enough = balance_at_least(sender.floor + amount)
        parts = [
            *post(sent, enough, IN_GOOD_STANDING, reference=reference),
            *post(got, IN_GOOD_STANDING, reference=reference),
            _cool_down(sender.id, receiver_id),
            *_use(sender.id, once),
            *([] if shared is None else [sharedkeys.raise_budget(shared, amount)]),
        ]
        return self._table.try_transact(parts)

    def award(
        self, giver_id: int, receiver_id: int, amount: int, once: IdempotencyKey | None
    ) -> bool:
        """Give new kudos to a user in good standing; False if it is not, or ``once`` is used."""
        entry = kudos.award(receiver_id, amount)
        parts = [
            *post(entry, IN_GOOD_STANDING, reference=f"by {giver_id}"),
            *_use(giver_id, once),
        ]
        return self._table.try_transact(parts)

    def used_with(self, user_id: int, idempotency_key: str) -> str | None:
        """Return the hash of the body that an ``Idempotency-Key`` was used with, if it was."""
        item = self._table.get(key(Kind.IDEMPOTENCY, f"{user_id}#{idempotency_key}"))
        if item is None or int(item[TTL]["N"]) <= clock.now():
            return None
        return str(item["body"]["S"])

    def sent_recently(self, giver: int, receiver: int) -> bool:
        """Say whether one user sent kudos to another within the last minute."""
        item = self._table.get(key(Kind.PAIR, _pair(giver, receiver)))
        return (
            item is not None
            and int(item["giver"]["N"]) == giver
            and int(item["sent_at"]["N"]) > clock.now() - COOL_DOWN_S
        )


def _pair(one: int, other: int) -> str:
    return f"{min(one, other)}#{max(one, other)}"


def _cool_down(giver: int, receiver: int) -> Item:
    now = clock.now()
    nothing_just_came_back = f"{ABSENT} OR giver = :giver OR sent_at <= :before"
    values = {"giver": giver, "before": now - COOL_DOWN_S, "now": now, "gone": now + KEEP_S}
    return update(
        key(Kind.PAIR, _pair(giver, receiver)),
        f"SET giver = :giver, sent_at = :now, {TTL} = :gone",
        nothing_just_came_back,
        encode_all(values),
    )


def _use(user_id: int, once: IdempotencyKey | None) -> list[Item]:
    if once is None:
        return []
    now = clock.now()
    item = {
        **key(Kind.IDEMPOTENCY, f"{user_id}#{once.key}"),
        "body": {"S": once.body},
        TTL: encode(now + IDEMPOTENCY_S),
    }
    unused = f"{ABSENT} OR {TTL} <= :now"
    return [new(item, unused, now=now)]
