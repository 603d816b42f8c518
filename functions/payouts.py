"""DynamoDB stream -> rewards and counters: post pending rewards and count statistics.

The stream delivers each record at least once, and those of parallel shards in any order. The
transaction that posts an event also flags it. So after a crash the batch is delivered again, and
nothing is posted twice. A record that cannot be posted ends in the DLQ. The sweep posts its
settlement later; an anonymous request then stays uncounted.
"""

from typing import Any

from horde import aws, startup
from horde.log import logger
from horde.store import connect
from horde.store.settlements import event_of

MAX_RECORDS = 40
"""Most records in one transaction, which may have 100 items in DynamoDB."""


class Settings(aws.Settings):
    """The names of this function's resources."""

    table_name: str


startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point; returns the record from which the stream must continue."""
    store = connect(Settings.load().table_name)
    records, posted = event["Records"], 0
    for start in range(0, len(records), MAX_RECORDS):
        batch = records[start : start + MAX_RECORDS]
        events, unread = [], None
        for record in batch:
            try:
                found = event_of(record["dynamodb"]["NewImage"])
            except (KeyError, ValueError):
                logger.exception("unreadable record")
                unread = record
                break
            if found is not None:
                events.append(found)
        try:
            posted += store.payouts.post(events)
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not posted")
            return _from(batch[0])
        if unread is not None:
            return _from(unread)
    logger.info("posted", extra={"records": len(records), "posted": posted})
    return {"batchItemFailures": []}


def _from(record: dict[str, Any]) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
