"""DynamoDB stream -> rewards and counters: owners are paid, statistics and records counted.

A record comes at least once, maybe twice, and from parallel shards in any order: what is counted
and paid is flagged in the transaction that does it. Crash windows: a batch that is cut comes again,
and what of it was counted is not counted again. A record that cannot be counted ends in the DLQ;
the sweep counts and pays a settlement that was lost so, of an anonymous request a number stays too
small.
"""

from typing import Any

from horde import aws, statistics, store
from horde.http import logger

AT_ONCE = 40
"""Records counted in one transaction at the most; DynamoDB takes 100 items."""


class Settings(aws.Settings):
    """Names of what this function uses."""

    table_name: str


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry; answers from which record on the stream is to come again."""
    table = store.connect(Settings.load().table_name)
    records, counted = event["Records"], 0
    for start in range(0, len(records), AT_ONCE):
        batch = records[start : start + AT_ONCE]
        events, unread = [], None
        for record in batch:
            try:
                found = statistics.read(record["dynamodb"]["NewImage"])
            except (KeyError, ValueError):
                logger.exception("not read")
                unread = record
                break
            if found is not None:
                events.append(found)
        try:
            counted += table.tally(events)
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not counted")
            return _from(batch[0])
        if unread is not None:
            return _from(unread)
    logger.info("counted", extra={"records": len(records), "counted": counted})
    return {"batchItemFailures": []}


def _from(record: dict[str, Any]) -> dict[str, Any]:
    return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
