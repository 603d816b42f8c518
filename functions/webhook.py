"""A finished image -> its client's webhook: one POST.

``enqueue`` hands the image over. Crash window: if this run dies after the POST, it is run again. So
a webhook is called at least once per image. If a webhook fails three times, its image's id ends in
the DLQ. Nothing else depends on it, since clients can always poll.
"""

import json
from typing import Any

from horde import aws, images, outbound, startup
from horde.edge.responses import Finished, remarks_of
from horde.log import logger
from horde.records import DELIVERED, Generation, Request, State
from horde.rules.lifecycle import consumed
from horde.store import connect


class Settings(aws.Settings):
    """The names of this function's resources."""

    table_name: str
    outputs_bucket: str


def finished(request: Request, generation: Generation) -> Finished:
    """Return the body of a webhook call about an image (horde-api.md 2, TTL)."""
    bucket, key = Settings.load().outputs_bucket, generation.delivered_key
    return Finished(
        img=images.download_url(aws.s3(), bucket, key) if key else "N/A",
        seed=str(generation.drawn_seed),
        worker_id=generation.worker_id or "",
        worker_name=generation.worker_name or "",
        model=generation.model,
        id=generation.id,
        censored=generation.state is State.CENSORED,
        gen_metadata=remarks_of(generation.gen_metadata),
        request=request.id,
        kudos=consumed(request, generation),
    )


def announce(generation_id: str) -> None:
    """Call the webhook of one image; raises OutboundError."""
    store = connect(Settings.load().table_name)
    generation = store.requests.generation(generation_id)
    if generation is None or generation.state not in DELIVERED:
        return
    request = store.requests.get(generation.request_id)
    if request is None or request.webhook is None:
        return
    body = json.dumps(finished(request, generation).dump(), separators=(",", ":"))
    outbound.post_json(request.webhook, body.encode())


startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> None:
    """Lambda's entry point; what it raises is tried again."""
    try:
        announce(event["generation_id"])
    except Exception as error:
        # Without the URL, which may contain a secret of its owner.
        logger.warning("webhook failed", extra={"error": f"{type(error).__name__}: {error}"})
        raise
    logger.info("announced", extra={"images": 1})
