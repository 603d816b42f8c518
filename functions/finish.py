"""The sweep -> what is due: work off one shard of the due index, of which it found too much.

An event names a kind and a shard. The sweep hands them over every minute for as long as there is
too much, so one of some minutes ago, which Lambda could not run at once, has been replaced. Crash
window: if this run dies, what is left is still due, and the next sweep asks for it again.
"""

from typing import Any

from horde import clock, overdue, startup
from horde.log import logger
from horde.store import connect
from horde.store.due import Due

WORKED_S = 45
"""Seconds that a run works; the last row may take some more."""
STALE_S = 120
"""Age of an event, in seconds, from which the sweep has asked again."""


class Settings(overdue.Settings):
    """The names of this function's resources."""

    table_name: str


startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> None:
    """Lambda's entry point. Rows that fail do not stop the others, but raise the alarm."""
    store, now = connect(Settings.load().table_name), clock.now()
    if event["at"] <= now - STALE_S:
        return
    kind, shard = Due(event["kind"]), event["shard"]
    rows = store.due.of_shard(kind, shard, now)
    done, errors = overdue.work_off(store, rows, now + WORKED_S)
    counts = {"kind": kind, "shard": shard, "done": done, "errors": len(errors)}
    logger.info("finished", extra=counts)
    if errors:
        message = "some rows were not finished"
        raise ExceptionGroup(message, errors)
