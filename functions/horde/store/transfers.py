"""Transfers of kudos between accounts, awards of new kudos, and idempotency keys."""

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
"""Seconds for which an ``Idempotency-Key`` is remembered."""
COOL_DOWN_S = 60
"""Seconds after which the receiver of a transfer may send kudos back (horde-api.md 1.5)."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A call that must take effect once: its ``Idempotency-Key`` and its body, both hashed."""

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
        idempotency: IdempotencyKey | None,
        shared: SharedKey | None = None,
    ) -> bool:
        """Move kudos from one user to another, with both entries or neither.

        ``shared`` is a shared key of the receiver, whose budget grows by the amount. Returns False
        if a condition fails: enough above the sender's floor, both accounts in good standing, no
        transfer in the other direction within ``COOL_DOWN_S``, idempotency key unused. The caller
        then reads again to find out which.
        """
        sent, got = kudos.transfer(sender.id, receiver_id, amount)
        reference = str(uuid4())
        enough = balance_at_least(sender.floor + amount)
        parts = [
            *post(sent, enough, IN_GOOD_STANDING, reference=reference),
            *post(got, IN_GOOD_STANDING, reference=reference),
            _cool_down(sender.id, receiver_id),
            *_use(sender.id, idempotency),
            *([] if shared is None else [sharedkeys.raise_budget(shared, amount)]),
        ]
        return self._table.try_transact(parts)

    def award(
        self, giver_id: int, receiver_id: int, amount: int, idempotency: IdempotencyKey | None
    ) -> bool:
        """Give new kudos to a user.

        Returns False if the user is not in good standing or the idempotency key has been used.
        """
        entry = kudos.award(receiver_id, amount)
        parts = [
            *post(entry, IN_GOOD_STANDING, reference=f"by {giver_id}"),
            *_use(giver_id, idempotency),
        ]
        return self._table.try_transact(parts)

    def used_with(self, user_id: int, idempotency_key: str) -> str | None:
        """Return the hash of the body that an ``Idempotency-Key`` was used with, or None."""
        item = self._table.get(key(Kind.IDEMPOTENCY, f"{user_id}#{idempotency_key}"))
        if item is None or int(item[TTL]["N"]) <= clock.now():
            return None
        return str(item["body"]["S"])

    def sent_recently(self, giver: int, receiver: int) -> bool:
        """Return whether one user sent kudos to another within the last ``COOL_DOWN_S``."""
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
    no_recent_transfer_back = f"{ABSENT} OR giver = :giver OR sent_at <= :before"
    values = {"giver": giver, "before": now - COOL_DOWN_S, "now": now, "gone": now + KEEP_S}
    return update(
        key(Kind.PAIR, _pair(giver, receiver)),
        f"SET giver = :giver, sent_at = :now, {TTL} = :gone",
        no_recent_transfer_back,
        encode_all(values),
    )


def _use(user_id: int, idempotency: IdempotencyKey | None) -> list[Item]:
    if idempotency is None:
        return []
    now = clock.now()
    item = {
        **key(Kind.IDEMPOTENCY, f"{user_id}#{idempotency.key}"),
        "body": {"S": idempotency.body},
        TTL: encode(now + IDEMPOTENCY_S),
    }
    unused = f"{ABSENT} OR {TTL} <= :now"
    return [new(item, unused, now=now)]
