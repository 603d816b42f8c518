"""DynamoDB stream -> SQS: a message for every new request, and for every webhook to be called.

The stream is the outbox of the transactions: a record comes at least once and in order per
item. A record that fails is retried alone and ends in the DLQ; the sweep tops up its tickets.
"""

import json
from typing import Any

from horde import aws
from horde.http import logger


class Settings(aws.Settings):
    """Names of what this function uses."""

    tickets_queue_url: str
    webhooks_queue_url: str


def message_of(image: dict[str, Any]) -> tuple[str, str]:
    """Return the queue and its message for a new item's stream image."""
    settings = Settings.load()
    if image["sk"]["S"] == "WEBHOOK":
        call = {"generation_id": image["generation_id"]["S"]}
        return settings.webhooks_queue_url, json.dumps(call, separators=(",", ":"))
    body = {
        "v": 1,
        "request_id": image["id"]["S"],
        "model": image["model"]["S"],
        "images": int(image["n"]["N"]),
    }
    return settings.tickets_queue_url, json.dumps(body, separators=(",", ":"))


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry; answers which records failed, and the stream goes on from the first."""
    records = event["Records"]
    for record in records:
        try:
            # The event source's filter lets only new requests and webhooks through.
            url, body = message_of(record["dynamodb"]["NewImage"])
            aws.sqs().send_message(QueueUrl=url, MessageBody=body)
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not enqueued")
            return {"batchItemFailures": [{"itemIdentifier": record["dynamodb"]["SequenceNumber"]}]}
    logger.info("enqueued", extra={"records": len(records)})
    return {"batchItemFailures": []}
