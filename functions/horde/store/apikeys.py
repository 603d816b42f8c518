"""API keys: by their hash for each call, and by account for their owner and the operator.

A key is read with strong consistency at each call and cached nowhere. So a key that was revoked is
refused from the next call on. The list of an account's keys is eventually consistent: it may lack a
key that was made a moment ago. It never shows one that is gone, since the items are read again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from horde import clock
from horde.records import ApiKey
from horde.store.items import (
    LISTED,
    SK,
    Item,
    Kind,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    keys_list,
    listed,
    to_item,
)
from horde.store.table import Table
from horde.store.transaction import EXISTS, check, delete, new, update


class ApiKeys:
    """The keys of accounts and of their workers."""

    def __init__(self, table: Table) -> None:
        self._table = table

    # --- read -------------------------------------------------------------------------------

    def get(self, key_hash: str) -> ApiKey | None:
        """Look up an API key by its hash."""
        item = self._table.get(key(Kind.KEY, key_hash))
        return key_of_item(item) if item else None

    def of_user(self, user_id: int, known: Iterable[str] = ()) -> list[ApiKey]:
        """Return an account's keys, the oldest first.

        ``known`` are hashes of keys that may be missing from the list: made a moment ago, or made
        before there was a list.
        """
        pages = self._table.list_pages(keys_list(user_id))
        hashes = dict.fromkeys([*known, *(id_of(item) for page in pages for item in page)])
        items = self._table.batch(key(Kind.KEY, one) for one in hashes)
        found = [one for one in map(key_of_item, items) if one.user_id == user_id]
        return sorted(found, key=lambda one: (one.created_at, one.hash))

    def unlisted(self) -> Iterator[ApiKey]:
        """Yield the keys that no list has, made before there was one. Scans the whole table."""
        pages = self._table.scan(
            FilterExpression=f"{SK} = :key AND attribute_not_exists({LISTED.partition})",
            ExpressionAttributeValues=encode_all({"key": Kind.KEY.value}),
        )
        return (key_of_item(item) for page in pages for item in page)

    # --- change -----------------------------------------------------------------------------

    def add(self, made: ApiKey, limit: int) -> bool:
        """Add an account key; returns False if the account is gone or has ``limit`` of them."""
        room_for_one_more = "(attribute_not_exists(account_keys) OR account_keys < :limit)"
        parts = [
            new_key(made),
            update(
                key(Kind.USER, made.user_id),
                "SET account_keys = if_not_exists(account_keys, :one) + :one",
                f"{EXISTS} AND attribute_not_exists(deleted) AND {room_for_one_more}",
                encode_all({"one": 1, "limit": limit}),
            ),
        ]
        return self._table.try_transact(parts)

    def add_worker_key(self, made: ApiKey, *, fleet: bool = False) -> bool:
        """Add a worker key; returns False if there is no such account.

        ``fleet`` marks the account in the same transaction: its workers are the operator's own
        endpoints, and trusted.
        """
        account = key(Kind.USER, made.user_id)
        marked = update(
            account, "SET fleet = :true, trusted = :true", EXISTS, {":true": encode(value=True)}
        )
        parts = [new_key(made), marked if fleet else check(account, EXISTS)]
        return self._table.try_transact(parts)

    def rotate(self, old: ApiKey, new_hash: str) -> ApiKey | None:
        """Replace a key by a new one of the same kind and name, both or neither.

        Returns the new key, or None if the old one is gone. Of two concurrent calls one succeeds.
        """
        made = replace(old, hash=new_hash, created_at=clock.now())
        return made if self._table.try_transact([_removed(old), new_key(made)]) else None

    def revoke(self, old: ApiKey) -> bool:
        """Delete a key; returns False if it is gone, or the account's last one.

        A worker key may always be revoked.
        """
        parts = [_removed(old)]
        if not old.worker:
            one_is_left = "account_keys > :one"
            fewer = "SET account_keys = account_keys - :one"
            account = key(Kind.USER, old.user_id)
            parts.append(update(account, fewer, one_is_left, encode_all({"one": 1})))
        return self._table.try_transact(parts)

    def adopt(self, old: ApiKey) -> None:
        """Put a key into its owner's list, unless it is gone or has a list."""
        attributes = listed(keys_list(old.user_id), old.created_at)
        self._table.try_update(
            key(Kind.KEY, old.hash),
            f"SET {LISTED.partition} = :list, {LISTED.sort} = :at",
            f"{EXISTS} AND attribute_not_exists({LISTED.partition})",
            {":list": attributes[LISTED.partition], ":at": attributes[LISTED.sort]},
        )


def new_key(made: ApiKey) -> Item:
    """Return the part that writes a key."""
    attributes = to_item(made)
    del attributes["hash"]  # it is the partition key
    in_list = listed(keys_list(made.user_id), made.created_at)
    return new({**key(Kind.KEY, made.hash), **attributes, "worker": encode(made.worker), **in_list})


def _removed(old: ApiKey) -> Item:
    same_owner = f"{EXISTS} AND user_id = :user"
    return delete(key(Kind.KEY, old.hash), same_owner, encode_all({"user": old.user_id}))


def key_of_item(item: Item) -> ApiKey:
    """Return an item as an API key."""
    return from_item(ApiKey, {**item, "hash": {"S": id_of(item)}})
