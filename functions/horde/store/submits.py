"""What a submit must know, in two reads: who sends which image, and whose and what it is."""

from horde.records import ApiKey, Generation, Request, User
from horde.store.apikeys import key_of_item
from horde.store.items import Item, Kind, by_kind, from_item, key
from horde.store.table import Table


class Submits:
    """The reads of a submit."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def key_and_image(
        self, key_hash: str, generation_id: str | None
    ) -> tuple[ApiKey | None, Generation | None]:
        """Read an API key and, if it is named, an image; a missing one is None."""
        keys = [key(Kind.KEY, key_hash)]
        keys += [key(Kind.GENERATION, generation_id)] if generation_id is not None else []
        found = self._read(keys)
        made, image = found.get(Kind.KEY), found.get(Kind.GENERATION)
        return (
            key_of_item(made) if made else None,
            from_item(Generation, image) if image else None,
        )

    def owner_and_request(
        self, user_id: int, request_id: str | None
    ) -> tuple[User | None, Request | None]:
        """Read an account and, if it is named, a request; a missing one is None."""
        keys = [key(Kind.USER, user_id)]
        keys += [key(Kind.REQUEST, request_id)] if request_id is not None else []
        found = self._read(keys)
        user, request = found.get(Kind.USER), found.get(Kind.REQUEST)
        return from_item(User, user) if user else None, (
            from_item(Request, request) if request else None
        )

    def _read(self, keys: list[Item]) -> dict[str, Item]:
        return by_kind(self._table.batch(keys))
