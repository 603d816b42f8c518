"""Accounts: registration, changes, deletion, grants and the monthly allowance."""

import heapq
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from horde import clock
from horde.records import ANONYMOUS_ID, ApiKey, User
from horde.rules import accounts, allowance, kudos, ruleset
from horde.rules.dates import month_start
from horde.store.apikeys import new_key
from horde.store.counts import OPEN_IMAGES, open_key, opened
from horde.store.due import Due, due_shard
from horde.store.items import (
    DUE,
    LISTED,
    USER_SHARDS,
    Kind,
    decode,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    key_of,
    listed,
    to_item,
    users_list,
)
from horde.store.ledger import (
    IN_GOOD_STANDING,
    append_entry,
    balance_at_least,
    no_allowance_since,
    post,
)
from horde.store.table import Table
from horde.store.transaction import EXISTS, new

_LAST_ID = (Kind.COUNTER, "USERS")
_OF_A_PART = (OPEN_IMAGES, "opened_at", "posted", "posted_at")
"""What the anonymous account has by part."""


def deleted(user: User) -> dict[str, Any]:
    """Return the changes that delete an account.

    It leaves the list of users, and is due for the sweep until its requests have ended.
    """
    due = {DUE.partition: due_shard(Due.ACCOUNT, user.id), DUE.sort: clock.now()}
    return {"deleted": True, LISTED.partition: None, **due}


def undeleted(user: User) -> dict[str, Any]:
    """Return the changes that undo an account's deletion."""
    not_due = {DUE.partition: None, DUE.sort: None}
    return {"deleted": None, LISTED.partition: users_list(user.id), **not_due}


class Accounts:
    """Accounts, their balances and their fields."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, user_id: int) -> User | None:
        """Read an account. The anonymous account is not in the table, but is returned too."""
        if user_id == ANONYMOUS_ID:
            return accounts.anonymous()
        item = self._table.get(key(Kind.USER, user_id))
        return from_item(User, item) if item else None

    def anonymous(self, part: int) -> User:
        """Return the anonymous account with what one of its parts has."""
        item = self._table.get(open_key(ANONYMOUS_ID, part)) or {}
        own: dict[str, Any] = {name: decode(item[name]) for name in _OF_A_PART if name in item}
        return replace(accounts.anonymous(), part=part, **own)

    def forget_ended(self, user: User, still_open: Iterable[str]) -> User:
        """Take all but ``still_open`` out of an account's open images; returns it as it is then.

        ``still_open`` are ids of images. Of the anonymous account it is a part.
        """
        left = opened(still_open).get(OPEN_IMAGES, frozenset())
        ended = user.open_images - left
        if ended:
            self._table.try_update(
                open_key(user.id, user.part),
                f"DELETE {OPEN_IMAGES} :ended",
                EXISTS,
                encode_all({"ended": ended}),
            )
        return replace(user, open_images=user.open_images & left)

    def again(self, user: User) -> User | None:
        """Read an account, or a part of the anonymous one, as it is now."""
        return self.get(user.id) if user.part is None else self.anonymous(user.part)

    def get_many(self, ids: Iterable[int]) -> dict[int, User]:
        """Read accounts; returns those that exist, by id."""
        items = self._table.batch(key(Kind.USER, user_id) for user_id in dict.fromkeys(ids))
        return {user.id: user for user in (from_item(User, item) for item in items)}

    def top_by_kudos(self, limit: int) -> list[int]:
        """Return the ids of the ``limit`` accounts with the most kudos, richest first.

        Deleted accounts are left out. The index is eventually consistent, and an account's place in
        it is up to an hour old (``ledger.PLACE_EVERY_S``).
        """
        shards = [self._top_of(shard, limit) for shard in range(USER_SHARDS)]
        merged = heapq.merge(*shards)
        return [user_id for _, user_id in itertools.islice(merged, limit)]

    def _top_of(self, shard: int, limit: int) -> list[tuple[int, int]]:
        found = self._table.read_list(users_list(shard), limit, last_first=True)
        return sorted((-int(item[LISTED.sort]["N"]), int(id_of(item))) for item in found)

    def change(self, user: User, changes: Mapping[str, Any], grant: int = 0) -> bool:
        """Set an account's fields and grant it kudos, both or neither.

        None or False removes a field. ``grant`` may be negative. Returns False if the account is
        gone or would fall below its floor.
        """
        if not grant:
            return self._table.change(key(Kind.USER, user.id), changes) is not None
        return self._grant(user, grant, "admin", changes)

    def grant(self, user_id: int, amount: int) -> bool:
        """Grant kudos for the operator, or take them if ``amount`` is negative.

        Returns False if there is no such user or the balance would fall below its floor.
        """
        user = self.get(user_id)
        return user is not None and self._grant(user, amount, "operator")

    def _grant(
        self, user: User, amount: int, by: str, changes: Mapping[str, Any] | None = None
    ) -> bool:
        stays_above_floor = [balance_at_least(user.floor - amount)] if amount < 0 else []
        entry = kudos.grant(user.id, amount)
        return self._table.try_transact(
            post(entry, *stays_above_floor, reference=by, changes=changes)
        )

    def register(self, alias: str, key_hash: str) -> User:
        """Open an account with one API key, its balance at its floor.

        Crash window: a crash between the counter and the account only skips a number.
        """
        answer = self._table.add(key_of(_LAST_ID), "ADD last_id :one", {"one": 1})
        floor = ruleset.IN_FORCE.floor
        user = User(
            id=int(answer["last_id"]["N"]),
            alias=alias,
            kudos=floor,
            floor=floor,
            created_at=clock.now(),
            admin=floor,
            placed_at=clock.now(),
            ruleset=ruleset.IN_FORCE.version,
        )
        in_list = listed(users_list(user.id), user.kudos)
        self._table.transact(
            [
                new({**key(Kind.USER, user.id), **to_item(user), **in_list}),
                new_key(ApiKey(hash=key_hash, user_id=user.id, created_at=user.created_at)),
                append_entry(kudos.opening(user), reference="registration"),
            ]
        )
        return user

    def end_deletion(self, user_id: int, deleted_before: int) -> None:
        """Take an account off the due index if it became due by a time (seconds)."""
        self._table.try_update(
            key(Kind.USER, user_id),
            f"REMOVE {DUE.attributes}",
            f"{DUE.sort} <= :before",
            {":before": encode(deleted_before)},
        )

    def give_allowance(self, user: User, default: int) -> User:
        """Give an account this month's allowance once, and return the account as it is afterwards.

        ``default`` is the amount, in kudos, of accounts that have none of their own. The month is a
        condition of the transaction. So there is no crash window, and concurrent calls give once.
        """
        now = clock.now()
        amount = allowance.due(user, default, now)
        if not amount:
            return user
        month = month_start(now)
        parts = post(
            kudos.allowance(user.id, amount),
            no_allowance_since(month),
            IN_GOOD_STANDING,
            reference=f"month {month}",
            changes={"allowed_at": now},
        )
        self._table.try_transact(parts)  # False: a concurrent call gave this month's allowance
        return self.get(user.id) or user
