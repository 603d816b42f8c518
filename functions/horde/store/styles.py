"""Styles: presets of requests that accounts make for themselves and for others.

A style's name belongs to its author: an item of the name, for each author that has one of it. The
author's account lists the ids, which bounds how many there are. The count of a style's images is an
item of its own, since ``payouts`` writes it at any time, whatever happens to the style. Public ones
are in two lists: by their making, and by their counts.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from horde.records import Style
from horde.store.items import (
    LISTED,
    PK,
    SK,
    Item,
    Kind,
    Row,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    key_of,
    listed,
    partition,
    stats_key,
    to_item,
)
from horde.store.table import Table
from horde.store.transaction import EXISTS, delete, new, sets, update

STYLES = "STYLES"
"""The list of the public styles, by the time of their making."""
STYLE_USES = "STYLEUSES"
"""The list of the counts of public styles, by how many images were drawn with them."""
MAX_NAMESAKES = 50
"""Most styles of one name that are looked at."""


class Styles:
    """The styles of all accounts."""

    def __init__(self, table: Table) -> None:
        self._table = table

    # --- read -------------------------------------------------------------------------------

    def get(self, style_id: str) -> Style | None:
        """Read a style."""
        item = self._table.get(key(Kind.STYLE, style_id))
        return from_item(Style, item) if item else None

    def get_many(self, ids: Iterable[str]) -> list[Style]:
        """Read styles, in the order of their ids; those that are gone are left out."""
        wanted = list(dict.fromkeys(ids))
        items = self._table.batch(key(Kind.STYLE, one) for one in wanted)
        found = {id_of(item): from_item(Style, item) for item in items}
        return [found[one] for one in wanted if one in found]

    def uses(self, ids: Iterable[str]) -> dict[str, int]:
        """Read how many images were drawn with styles, by their ids."""
        items = self._table.batch(stats_key(Kind.STYLE, one) for one in ids)
        return {id_of(item): int(item[LISTED.sort]["N"]) for item in items}

    def named(self, name: str, user_id: int | None = None) -> list[str]:
        """Return the ids of the styles of a name, of one author or of all."""
        query = {"name": partition(Kind.STYLENAME, _plain(name))}
        condition = f"{PK} = :name"
        if user_id is not None:
            condition += f" AND {SK} = :user"
            query["user"] = partition(Kind.STYLENAME, user_id)
        answer = self._table.query(condition, query, Limit=MAX_NAMESAKES)
        return [item["style_id"]["S"] for item in answer["Items"]]

    def ids(self, *, popular: bool, limit: int) -> list[str]:
        """Return the ids of public styles, up to ``limit``: the most used first, or the newest."""
        name = STYLE_USES if popular else STYLES
        return [id_of(item) for item in self._table.read_list(name, limit, last_first=True)]

    # --- write ------------------------------------------------------------------------------

    def add(self, style: Style, limit: int) -> bool:
        """Add a style.

        Returns False if its author is gone, has ``limit`` styles, or one of this name.
        """
        room = "attribute_not_exists(style_ids) OR size(style_ids) < :limit"
        parts = [
            new({**key(Kind.STYLE, style.id), **to_item(style), **_place(style)}),
            new({**_name_key(style.name, style.user_id), "style_id": {"S": style.id}}),
            new({**stats_key(Kind.STYLE, style.id), **_count(style)}),
            update(
                key(Kind.USER, style.user_id),
                "ADD style_ids :style",
                f"{EXISTS} AND attribute_not_exists(deleted) AND ({room})",
                {":style": {"SS": [style.id]}, ":limit": encode(limit)},
            ),
        ]
        return self._table.try_transact(parts)

    def change(self, style: Style, changes: Mapping[str, Any]) -> bool:
        """Change fields of a style as it was read.

        Returns False if it has changed since, or if its author has another style of the new name.
        """
        name, public = changes.get("name", style.name), changes.get("public", style.public)
        placed: dict[str, Any] = {
            LISTED.partition: STYLES if public else None,
            LISTED.sort: style.created_at if public else None,
        }
        expression, names, values = sets({**changes, **placed, "revision": style.revision + 1})
        values[":seen"] = encode(style.revision)
        same = f"{EXISTS} AND revision = :seen"
        parts = [update(key(Kind.STYLE, style.id), expression, same, values, names)]
        if public != style.public:
            expression, names, values = sets({LISTED.partition: STYLE_USES if public else None})
            parts.append(update(stats_key(Kind.STYLE, style.id), expression, EXISTS, values, names))
        if _plain(name) != _plain(style.name):
            parts += [
                new({**_name_key(name, style.user_id), "style_id": {"S": style.id}}),
                delete(_name_key(style.name, style.user_id)),
            ]
        return self._table.try_transact(parts)

    def remove(self, style: Style) -> bool:
        """Delete a style; returns False if it is gone. Requests made with it are still drawn."""
        parts = [
            delete(key(Kind.STYLE, style.id), EXISTS),
            delete(_name_key(style.name, style.user_id)),
            delete(stats_key(Kind.STYLE, style.id)),
            update(
                key(Kind.USER, style.user_id),
                "DELETE style_ids :style",
                EXISTS,
                {":style": {"SS": [style.id]}},
            ),
        ]
        return self._table.try_transact(parts)


def _plain(name: str) -> str:
    """Return a name as styles are found by it: in any case."""
    return name.casefold()


def _name_key(name: str, user_id: int) -> Item:
    return key_of(Row(partition(Kind.STYLENAME, _plain(name)), partition(Kind.STYLENAME, user_id)))


def _place(style: Style) -> Item:
    return listed(STYLES, style.created_at) if style.public else {}


def _count(style: Style) -> Item:
    counted = listed(STYLE_USES, 0)
    return counted if style.public else {LISTED.sort: counted[LISTED.sort]}


def style_used(style_id: str, images: int) -> Item:
    """Return the part that counts images drawn with a style, which may be gone by now."""
    values = encode_all({"images": images})
    return update(stats_key(Kind.STYLE, style_id), f"ADD {LISTED.sort} :images", "", values)
