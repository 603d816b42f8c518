"""Withdrawals of many images at once: of all that an account shared, or of a request.

Who asks knows no list of the images, and the table has none: it would cost a write for each shared
image. So a withdrawal is one record, which the next steps heed. ``share`` and ``pack`` read it
before they publish. A release finds what is published already by the hashes in its tables
(``user_hash`` and ``set``), compares it with the private records of the images, and marks each as
withdrawn; then it takes the withdrawal off its list. The record stays, since images that wait or
are kept back are not in any table.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from horde import clock
from horde.records import ANONYMOUS_ID, Shared, User
from horde.rules.dates import DAY_S
from horde.rules.sharing import Removal, withdrawn_with_all
from horde.store.items import (
    LISTED,
    TTL,
    WITHDRAWALS,
    Item,
    Kind,
    encode,
    encode_all,
    id_of,
    key,
    listed,
)
from horde.store.table import Table
from horde.store.transaction import EXISTS, update

KEPT_DAYS = 60
"""Days after which a request's withdrawal is forgotten that was worked off: what is held or kept
back is gone after half of them."""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Who withdrew what: ``request_id`` is empty for all of the account; ``before`` is in ms."""

    user_id: int
    request_id: str
    before: int
    reason: Removal

    @property
    def name(self) -> str:
        """The id of its record: nobody's replaces that of another account."""
        return f"{self.request_id}.{self.user_id}" if self.request_id else str(self.user_id)

    def has(self, shared: Shared) -> bool:
        """Return whether an image is among those that were withdrawn."""
        if shared.user_id != self.user_id:
            return False
        if self.request_id:
            return shared.request_id == self.request_id
        return withdrawn_with_all(shared, self.before)


class Withdrawals:
    """The withdrawals of many images."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def of_account(self, user: User, reason: Removal) -> int:
        """Withdraw all that an account has shared, or asked for, until now; returns now, in ms.

        The account's mark, which ``share`` reads, and the record for the releases are written in
        one transaction. Asked again, the later time counts, and the next release looks again.
        """
        now = clock.now_ms()
        mark = update(
            key(Kind.USER, user.id), "SET withdrawn_before = :now", EXISTS, encode_all({"now": now})
        )
        found = Withdrawal(user.id, "", now, reason)
        self._table.transact([mark, {"Put": {"Item": _item(found)}}])
        return now

    def of_request(self, request_id: str, user_id: int, reason: Removal) -> int:
        """Withdraw the images of a request, known or forgotten, that are its owner's.

        Returns now, in ms. Nobody can say here whether such a request ever was: the release that
        works this off compares it with the images' records.
        """
        now = clock.now_ms()
        self._table.put(_item(Withdrawal(user_id, request_id, now, reason)))
        return now

    def is_withdrawn(self, request_id: str, user_id: int) -> bool:
        """Return whether the owner of a request withdrew its images."""
        name = Withdrawal(user_id, request_id, 0, Removal.OWNER).name
        return self._table.get(key(Kind.WITHDRAWAL, name)) is not None

    def pending(self, limit: int) -> list[Withdrawal]:
        """Return withdrawals that no release has worked off, the oldest first."""
        rows = self._table.read_list(WITHDRAWALS, limit)
        items = self._table.batch(key(Kind.WITHDRAWAL, id_of(row)) for row in rows)
        found = {id_of(item): _withdrawal(item) for item in items if LISTED.partition in item}
        return [found[id_of(row)] for row in rows if id_of(row) in found]

    def among(self, images: Iterable[Shared]) -> Iterator[tuple[Shared, Withdrawal]]:
        """Yield those of these images that were withdrawn with others, whenever that was."""
        images = list(images)
        names = dict.fromkeys(name for image in images for name in _names(image))
        items = self._table.batch(key(Kind.WITHDRAWAL, name) for name in names)
        found = {id_of(item): _withdrawal(item) for item in items}
        for image in images:
            theirs = (found[name] for name in _names(image) if name in found)
            hit = next((one for one in theirs if one.has(image)), None)
            if hit is not None:
                yield image, hit

    def done(self, withdrawal: Withdrawal) -> None:
        """Take a withdrawal off the list, unless it was asked for again meanwhile. Idempotent."""
        gone, values = "", {"before": withdrawal.before}
        if withdrawal.request_id:
            gone, values["gone"] = f"SET {TTL} = :gone ", clock.now() + KEPT_DAYS * DAY_S
        self._table.try_update(
            key(Kind.WITHDRAWAL, withdrawal.name),
            f"{gone}REMOVE {LISTED.attributes}",
            f"{EXISTS} AND asked_at = :before",
            encode_all(values),
        )


def _names(image: Shared) -> list[str]:
    """Return the ids of the withdrawals that may have an image."""
    mine = [] if image.user_id == ANONYMOUS_ID else [str(image.user_id)]
    return [*mine, *([f"{image.request_id}.{image.user_id}"] if image.request_id else [])]


def _item(withdrawal: Withdrawal) -> Item:
    return {
        **key(Kind.WITHDRAWAL, withdrawal.name),
        "user_id": encode(withdrawal.user_id),
        "asked_at": encode(withdrawal.before),
        "reason": {"S": withdrawal.reason},
        **listed(WITHDRAWALS, withdrawal.before),
    }


def _withdrawal(item: Item) -> Withdrawal:
    return Withdrawal(
        int(item["user_id"]["N"]),
        id_of(item).rpartition(".")[0],
        int(item["asked_at"]["N"]),
        Removal(item["reason"]["S"]),
    )
