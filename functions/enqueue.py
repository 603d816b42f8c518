"""DynamoDB stream -> SQS: one message for every new request.

The stream is the outbox of the accept transaction: a record comes at least once and in order per
request. A record that fails is retried alone and ends in the DLQ; the sweep tops up its tickets.
"""

import json
from typing import Any

from horde import aws
from horde.http import logger


class Settings(aws.Settings):
    """Names of what this function uses."""

    tickets_queue_url: str


def message_of(image: dict[str, Any]) -> str:
    """Return the queue's message for a new request's stream image."""
    body = {
        "v": 1,
        "request_id": image["id"]["S"],
        "model": image["model"]["S"],
        "images": int(image["n"]["N"]),
    }
    return json.dumps(body, separators=(",", ":"))


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry; answers which records failed, and the stream goes on from the first."""
    url = Settings.load().tickets_queue_url
    records = event["Records"]
    for record in records:
        try:
            # The event source's filter lets only new requests through.
            aws.sqs().send_message(
                QueueUrl=url, MessageBody=message_of(record["dynamodb"]["NewImage"])
            )
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not enqueued")
            return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
    logger.info("enqueued", extra={"requests": len(records)})
    return {"batchItemFailures": []}
