"""DynamoDB stream -> who must hear of it: new requests, webhook calls and CSAM marks.

New requests go to ``dispatch``, all of one model in a batch together: a hundred requests of one
image need as many tickets as one request of a hundred, not a GPU for each two of them. A webhook
call goes to ``webhook``, and a mark to the queue of ``share``. Lambda runs the first two later. The
stream is the outbox of the transactions. It delivers each record at least once, and in order per
item. A record that fails comes again with those after it, alone in the end, and ends in the DLQ;
the sweep then sends the tickets of a request.
"""

import json
from dataclasses import dataclass
from typing import Any

from horde import aws, startup
from horde.log import logger
from horde.store.settlements import CsamFound, NewRequest, WebhookDue, outbox_of


class Settings(aws.Settings):
    """The names of this function's resources."""

    dispatch_function: str
    webhook_function: str
    uploads_queue_url: str


MOST_TOGETHER = 100
"""Images of requests that are handed over together: ``dispatch`` calls RunPod once for each ticket,
25 times at most by default, and has 30 seconds."""


@dataclass(slots=True)
class Call:
    """One thing to tell, and the number of the first record that asks for it."""

    number: str
    what: NewRequest | WebhookDue | CsamFound


def calls(records: list[dict[str, Any]]) -> tuple[list[Call], str | None]:
    """Return what records ask for, in their order, and the number of one that cannot be read.

    Those after it are not looked at. The requests of a model are one call, as if they were one
    request with the id of the first: a ticket carries demand, and its id says where it came from.
    """
    found: list[Call] = []
    together: dict[str, tuple[Call, NewRequest]] = {}
    for record in records:
        number = record["dynamodb"]["SequenceNumber"]
        try:
            # The filter of the event source selects only these new items.
            what = outbox_of(record["dynamodb"]["NewImage"])
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not enqueued")
            return found, number
        if what is None:
            continue
        if not isinstance(what, NewRequest):
            found.append(Call(number, what))
            continue
        call, before = together.get(what.model, (None, what))
        if call is None or before.images + what.images > MOST_TOGETHER:
            call = Call(number, what)
            found.append(call)
        else:
            call.what = what = before._replace(
                images=before.images + what.images, pixelsteps=before.pixelsteps + what.pixelsteps
            )
        together[what.model] = call, what
    return found, None


def send(found: NewRequest | WebhookDue | CsamFound) -> None:
    """Tell of something; raises AwsError."""
    settings = Settings.load()
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

    What comes after it is not sent, so nothing is sent twice unless this run dies; but of a model's
    later requests, which were sent with its first one, more tickets are made, and find no work.
    """
    found, unread = calls(event["Records"])
    for call in found:
        try:
            send(call.what)
        except Exception:  # noqa: BLE001 - the edge: logged, and tried again
            logger.exception("not enqueued")
            return {"batchItemFailures": [{"itemIdentifier": call.number}]}
    logger.info("enqueued", extra={"records": len(event["Records"]), "calls": len(found)})
    return {"batchItemFailures": [{"itemIdentifier": unread}] if unread else []}
