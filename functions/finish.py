"""SQS -> what is due: work off one shard of the due index, of which the sweep found too much.

A message names a kind and a shard. The sweep sends them every minute for as long as there is too
much, so a message of some minutes ago has been replaced. Crash window: if this run dies, what is
left is still due, and the next sweep asks for it again.
"""

import json
from typing import Any

from horde import clock, overdue, startup
from horde.log import logger
from horde.store import connect
from horde.store.due import Due

WORKED_S = 45
"""Seconds that a run works; the last row may take some more."""
STALE_S = 120
"""Age of a message, in seconds, from which the sweep has asked again."""


class Settings(overdue.Settings):
    """The names of this function's resources."""

    table_name: str


startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point. Rows that fail do not stop the others, but raise the alarm."""
    store, failed = connect(Settings.load().table_name), list[Exception]()
    for record in event["Records"]:
        message, now = json.loads(record["body"]), clock.now()
        if message["at"] <= now - STALE_S:
            continue
        kind = Due(message["kind"])
        rows = store.due.of_shard(kind, message["shard"], now)
        done, errors = overdue.work_off(store, rows, now + WORKED_S)
        shard = {"kind": kind, "shard": message["shard"]}
        logger.info("finished", extra={**shard, "done": done, "errors": len(errors)})
        failed += errors
    if failed:
        message = "some rows were not finished"
        raise ExceptionGroup(message, failed)
    return {"batchItemFailures": []}
