"""DynamoDB stream -> rewards and counters: pending rewards are posted, statistics counted.

A record comes at least once, maybe twice, and from parallel shards in any order: what is posted is
flagged in the transaction that posts it. Crash windows: a batch that is cut comes again, and what
was posted of it is not posted again. A record that cannot be posted ends in the DLQ. The sweep
posts a settlement that was lost this way; for an anonymous request the statistics stay too small.
"""

from typing import Any

from horde import aws
from horde.edge.http import logger
from horde.store import connect
from horde.store.settlements import event_of

AT_ONCE = 40
"""Records posted in one transaction at most; DynamoDB takes 100 items."""


class Settings(aws.Settings):
    """Names of what this function uses."""

    table_name: str


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry; returns from which record on the stream is to come again."""
    store = connect(Settings.load().table_name)
    records, posted = event["Records"], 0
    for start in range(0, len(records), AT_ONCE):
        batch = records[start : start + AT_ONCE]
        events, unread = [], None
        for record in batch:
            try:
                found = event_of(record["dynamodb"]["NewImage"])
            except (KeyError, ValueError):
                logger.exception("not read")
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
