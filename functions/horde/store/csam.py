"""The images that workers marked as CSAM, for the operator.

``settle`` writes a mark in its transaction, and the table's stream delivers it to ``share``. The
mark stays until the operator clears it.
"""

from horde.records import CsamMark, Generation, Request
from horde.store.items import (
    CSAM_MARKS,
    Item,
    Kind,
    from_item,
    id_of,
    key,
    listed,
    to_item,
)
from horde.store.table import Table
from horde.store.transaction import EXISTS, delete, new


class CsamMarks:
    """The marks."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def newest(self, limit: int) -> list[CsamMark]:
        """Return the marks, newest first, up to ``limit``."""
        rows = self._table.read_list(CSAM_MARKS, limit, last_first=True)
        items = self._table.batch(key(Kind.CSAM, id_of(row)) for row in rows)
        found = [from_item(CsamMark, item) for item in items]
        return sorted(found, key=lambda mark: -mark.marked_at)

    def clear(self, generation_id: str) -> bool:
        """Remove a mark from the operator's list; returns False if there is none.

        Its request stays unpublished.
        """
        return self._table.try_transact([delete(key(Kind.CSAM, generation_id), EXISTS)])


def mark(request: Request, generation: Generation, marked_at: int) -> Item:
    """Return the part that marks an image as CSAM; ``marked_at`` is in ms."""
    found = CsamMark(
        generation_id=generation.id,
        request_id=request.id,
        user_id=request.user_id,
        worker_id=generation.worker_id or "",
        worker_name=generation.worker_name or "",
        worker_user=generation.worker_user or 0,
        marked_at=marked_at,
    )
    return new(
        {
            **key(Kind.CSAM, generation.id),
            **to_item(found),
            **listed(CSAM_MARKS, marked_at),
        }
    )
