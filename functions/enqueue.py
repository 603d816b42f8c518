"""DynamoDB stream -> who must hear of it: each new request, webhook call and CSAM mark.

A request goes to ``dispatch`` and a webhook call to ``webhook``, which Lambda runs later; a mark
goes to the queue of ``share``. The stream is the outbox of the transactions. It delivers each
record at least once, and in order per item. A record that fails comes again with those after it,
alone in the end, and ends in the DLQ; the sweep then sends the tickets of a request.
"""

import json
from typing import Any

from horde import aws, startup
from horde.log import logger
from horde.store.settlements import CsamFound, NewRequest, outbox_of


class Settings(aws.Settings):
    """The names of this function's resources."""

    dispatch_function: str
    webhook_function: str
    uploads_queue_url: str


def send(image: dict[str, Any]) -> None:
    """Tell of one new item in the stream; raises AwsError, and for an unknown item KeyError."""
    settings, found = Settings.load(), outbox_of(image)
    if found is None:
        return
    if isinstance(found, NewRequest):
        aws.hand_over(settings.dispatch_function, {"v": 1, **found._asdict()})
    elif isinstance(found, CsamFound):
        body = json.dumps(found._asdict(), separators=(",", ":"))
        aws.sqs().send_message(QueueUrl=settings.uploads_queue_url, MessageBody=body)
    else:
        aws.hand_over(settings.webhook_function, found._asdict())


startup.ready("lambda")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point; returns the first record that failed, from which the stream continues.

    The records after it are not looked at, so none is sent twice unless this run dies.
    """
    records = event["Records"]
    for record in records:
        try:
            # The filter of the event source selects only these new items.
            send(record["dynamodb"]["NewImage"])
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not enqueued")
            number = record["dynamodb"]["SequenceNumber"]
            return {"batchItemFailures": [{"itemIdentifier": number}]}
    logger.info("enqueued", extra={"records": len(records)})
    return {"batchItemFailures": []}
