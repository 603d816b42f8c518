"""SQS -> RunPod ``/run``: a ticket for every batch-full of a request's images.

Crash window: RunPod took a ticket but this run died before it could say so: the message comes
again and makes tickets twice, which costs an empty pop each. RunPod being down sends messages to
the DLQ after their retries; the images wait in the table, and the sweep makes new tickets.
"""

import json
from typing import Any

from horde import aws, runpod
from horde.edge.http import logger
from horde.runpod import Models


class Settings(aws.Settings):
    """Names of what this function uses."""

    models: Models
    runpod_url: str
    runpod_key_parameter: str
    images_per_ticket: int


def tickets(images: int, per_ticket: int) -> list[int]:
    """Split a request's images into batch-fulls: 10 by 4 is [4, 4, 2]."""
    return [min(per_ticket, images - start) for start in range(0, images, per_ticket)]


def dispatch(message: dict[str, Any]) -> int:
    """Send one message's tickets; returns how many. Raises RunPodError."""
    settings = Settings.load()
    model = settings.models.get(message["model"])
    if model is None or model.endpoint is None:
        return 0  # volunteers draw it: they pop by themselves
    account = runpod.connect(settings.runpod_url, settings.runpod_key_parameter)
    sizes = tickets(message["images"], settings.images_per_ticket)
    for size in sizes:
        account.run(
            model.endpoint,
            model=message["model"],
            request_id=message["request_id"],
            images=size,
        )
    return len(sizes)


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry; only the messages that failed come back."""
    failed, sent = [], 0
    for record in event["Records"]:
        try:
            sent += dispatch(json.loads(record["body"]))
        except Exception as error:  # noqa: BLE001 - the edge: logged, and tried again
            logger.warning("not dispatched", extra={"error": f"{type(error).__name__}: {error}"})
            failed.append({"itemIdentifier": record["messageId"]})
    logger.info("dispatched", extra={"tickets": sent, "failed": len(failed)})
    return {"batchItemFailures": failed}
