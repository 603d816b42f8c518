"""Images that are held back from the data set until their worker's owner is trusted.

An account with held images is in the list of holders, which the sweep reads. Crash window: the
holder is written with its first image and removed an hour after its last one, so an image that is
held meanwhile cannot be forgotten.
"""

from collections.abc import Iterator

from horde import clock
from horde.records import ANONYMOUS_ID, HELD_DAYS, Held
from horde.rules.dates import DAY_S, HOUR_S
from horde.store.items import (
    HOLDERS,
    LISTED,
    TTL,
    Item,
    Kind,
    encode,
    encode_all,
    from_item,
    held_list,
    id_of,
    key,
    listed,
    to_item,
)
from horde.store.table import Table
from horde.store.transaction import check, delete


class HeldImages:
    """The images that are held back."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def add(self, image: Held) -> bool:
        """Hold an image back; returns False if it may not be published at all. Idempotent."""
        now = clock.now()
        gone = {TTL: encode(now + HELD_DAYS * DAY_S)}
        holder = {**key(Kind.HOLDER, image.worker_user), **listed(HOLDERS, now), **gone}
        item = {
            **key(Kind.HELD, image.generation_id),
            **to_item(image),
            **listed(held_list(image.worker_user), now),
            **gone,
        }
        return self._table.try_transact(
            [{"Put": {"Item": item}}, {"Put": {"Item": holder}}, *may_publish(image)]
        )

    def get(self, generation_id: str) -> Held | None:
        """Read a held image."""
        item = self._table.get(key(Kind.HELD, generation_id))
        if item is None or int(item[TTL]["N"]) <= clock.now():
            return None
        return from_item(Held, item)

    def holders(self, limit: int) -> list[int]:
        """Return the accounts whose workers drew held images, up to ``limit``."""
        return [int(id_of(item)) for item in self._table.read_list(HOLDERS, limit)]

    def ids_of(self, worker_user: int, limit: int) -> list[str]:
        """Return the ids of an account's held images, oldest first."""
        return [id_of(item) for item in self._table.read_list(held_list(worker_user), limit)]

    def all_of(self, worker_user: int) -> Iterator[str]:
        """Yield the ids of all of an account's held images."""
        for page in self._table.list_pages(held_list(worker_user)):
            yield from map(id_of, page)

    def remove(self, generation_id: str) -> None:
        """Forget a held image. Idempotent."""
        self._table.transact([delete(key(Kind.HELD, generation_id))])

    def forget_holder(self, worker_user: int) -> None:
        """Take an account without held images off the list, unless it got one within the hour.

        Its item goes by TTL: the sweep may delete nothing from the table.
        """
        long_ago = f"{LISTED.sort} < :before"
        before = encode_all({"before": clock.now() - HOUR_S})
        holder = key(Kind.HOLDER, worker_user)
        self._table.try_update(holder, f"REMOVE {LISTED.attributes}", long_ago, before)


def may_publish(image: Held) -> list[Item]:
    """Return the parts that hold for an image that may be published.

    Its request is not marked as CSAM, its author's account is not deleted, and its worker's owner
    is not flagged.
    """
    conditions: dict[int, list[str]] = {}
    if image.user_id != ANONYMOUS_ID:
        conditions.setdefault(image.user_id, []).append("attribute_not_exists(deleted)")
    conditions.setdefault(image.worker_user, []).append("attribute_not_exists(flagged)")
    return [
        check(key(Kind.REQUEST, image.request_id), "attribute_not_exists(csam)"),
        *(check(key(Kind.USER, one), " AND ".join(all_of)) for one, all_of in conditions.items()),
    ]
