"""A new request -> RunPod ``/run``: one ticket for every batch of its images.

``enqueue`` hands the request over, and Lambda may run this twice for it. Crash window: if this run
dies after RunPod took a ticket, it is run again. Its tickets are then sent twice, which costs one
empty pop each. If RunPod is down, the request ends in the DLQ after three tries. Its images still
wait in the table, and the sweep sends new tickets.
"""

from typing import Any

from horde import aws, runpod, startup
from horde.log import logger
from horde.runpod import Models


class Settings(aws.Settings):
    """The names of this function's resources."""

    models: Models
    runpod_url: str
    runpod_key_parameter: str
    images_per_ticket: int


def tickets(images: int, per_ticket: int) -> list[int]:
    """Split a request's images into batches: 10 images at 4 per ticket are [4, 4, 2]."""
    return [min(per_ticket, images - start) for start in range(0, images, per_ticket)]


def dispatch(message: dict[str, Any]) -> int:
    """Send one request's tickets and return how many they are; raises RunPodError."""
    settings = Settings.load()
    model = settings.models.get(message["model"])
    if model is None or model.endpoint is None:
        return 0  # only volunteers draw the model, and they pop without tickets
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


startup.ready("ssm")


def handler(event: dict[str, Any], _context: object) -> None:
    """Lambda's entry point; what it raises is tried again."""
    try:
        sent = dispatch(event)
    except Exception as error:
        logger.warning("not dispatched", extra={"error": f"{type(error).__name__}: {error}"})
        raise
    logger.info("dispatched", extra={"tickets": sent})
