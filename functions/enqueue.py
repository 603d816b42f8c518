"""DynamoDB stream -> SQS: a message for every new request, webhook call and CSAM mark.

The stream is the outbox of the transactions. It delivers each record at least once, and in order
per item. A record that fails comes again with those after it, alone in the end, and ends in the
DLQ; the sweep then sends the tickets of a request.
"""

import json
from typing import Any

from horde import aws, startup
from horde.log import logger
from horde.store.settlements import CsamFound, NewRequest, outbox_of

BATCH = 10
"""Messages that SQS takes in one call."""


class Settings(aws.Settings):
    """The names of this function's resources."""

    tickets_queue_url: str
    webhooks_queue_url: str
    uploads_queue_url: str


def message_of(image: dict[str, Any]) -> tuple[str, str]:
    """Return the queue and the message for a new item in the stream."""
    settings = Settings.load()
    found = outbox_of(image)
    if isinstance(found, NewRequest):
        url, body = settings.tickets_queue_url, {"v": 1, **found._asdict()}
    elif isinstance(found, CsamFound):
        url, body = settings.uploads_queue_url, found._asdict()
    else:
        url, body = settings.webhooks_queue_url, found._asdict()
    return url, json.dumps(body, separators=(",", ":"))


startup.ready("sqs")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point; returns the first record that failed, from which the stream continues.

    Messages are sent ten records at a time, so at most nine later ones are sent twice.
    """
    records = event["Records"]
    for start in range(0, len(records), BATCH):
        batch = records[start : start + BATCH]
        failed = send(batch)
        if failed is not None:
            number = batch[failed]["dynamodb"]["SequenceNumber"]
            return {"batchItemFailures": [{"itemIdentifier": number}]}
    logger.info("enqueued", extra={"records": len(records)})
    return {"batchItemFailures": []}


def send(records: list[dict[str, Any]]) -> int | None:
    """Send the messages of up to ``BATCH`` records; returns the index of the first that failed."""
    queues: dict[str, list[tuple[int, str]]] = {}
    failed: list[int] = []
    for index, record in enumerate(records):
        try:
            # The filter of the event source selects only these new items.
            url, body = message_of(record["dynamodb"]["NewImage"])
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not enqueued")
            failed.append(index)
            break  # what comes before it must not wait for it
        queues.setdefault(url, []).append((index, body))
    for url, messages in queues.items():
        failed += _unsent(url, messages)
    return min(failed, default=None)


def _unsent(url: str, messages: list[tuple[int, str]]) -> list[int]:
    """Send messages to one queue in one call; returns the indexes of those that failed."""
    entries: Any = [{"Id": str(index), "MessageBody": body} for index, body in messages]
    try:
        answer = aws.sqs().send_message_batch(QueueUrl=url, Entries=entries)
    except Exception:  # noqa: BLE001 - the edge: logged, and tried again
        logger.exception("not enqueued")
        return [index for index, _ in messages]
    for refused in answer.get("Failed", []):
        logger.warning("not enqueued", extra={"code": refused["Code"]})
    return [int(refused["Id"]) for refused in answer.get("Failed", [])]
