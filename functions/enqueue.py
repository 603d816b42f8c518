"""DynamoDB stream -> SQS: a message for every new request, webhook call and CSAM mark.

The stream is the outbox of the transactions. It delivers each record at least once, and in order
per item. A record that fails is retried alone and ends in the DLQ; the sweep then sends the tickets
of a request.
"""

import json
from typing import Any

from horde import aws, startup
from horde.log import logger
from horde.store.settlements import CsamFound, NewRequest, outbox_of


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
    """Lambda's entry point; returns the record that failed, from which the stream continues."""
    records = event["Records"]
    for record in records:
        try:
            # The filter of the event source selects only these new items.
            url, body = message_of(record["dynamodb"]["NewImage"])
            aws.sqs().send_message(QueueUrl=url, MessageBody=body)
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not enqueued")
            return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
    logger.info("enqueued", extra={"records": len(records)})
    return {"batchItemFailures": []}
