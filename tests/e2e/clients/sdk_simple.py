"""horde_sdk's simple client, as a script would use it."""

from typing import Any

from horde_sdk.ai_horde_api.ai_horde_clients import AIHordeAPIManualClient, AIHordeAPISimpleClient
from horde_sdk.ai_horde_api.apimodels import ImageGenerateAsyncRequest, ImageGenerationInputPayload

from tests.e2e.clients.common import (
    MODEL,
    PATIENCE_S,
    SMALL,
    UNKNOWN_ID,
    UNKNOWN_KEY,
    raised,
    report,
    task,
)

given = task()
client = AIHordeAPISimpleClient()


def small(key: str = given.key, model: str = MODEL, **params: Any) -> ImageGenerateAsyncRequest:
    """Return a shared request for two small images."""
    return ImageGenerateAsyncRequest(
        apikey=key,
        prompt="a fox ### blurry",
        params=ImageGenerationInputPayload(
            **{**SMALL, "n": 2, "sampler_name": "k_euler", "seed": "a text", **params}
        ),
        models=[model],
        shared=True,
        nsfw=False,
    )


class Interrupted(Exception):  # noqa: N818 - it is the user's Ctrl-C
    """The user has had enough."""


def interrupt(_check: object) -> None:
    """Stop after the first look at the progress."""
    raise Interrupted


manual = AIHordeAPIManualClient()


def cancel() -> None:
    """Leave a request while it waits: the SDK then cancels it by itself."""
    client.image_generate_request(small(model=given.model), check_callback=interrupt)


dry = client.image_generate_request_dry_run(small().model_copy(update={"dry_run": True}))
status, job_id = client.image_generate_request(small(), timeout=PATIENCE_S)
images = [client.download_image_from_generation(generation) for generation in status.generations]
for image in images:
    image.load()

report(
    heartbeat=client.heartbeat_request().message,
    dry_run=dry.kudos,
    id=job_id,
    shared=status.shared,
    generations=[str(generation.id_) for generation in status.generations],
    decoded=[[image.format, *image.size] for image in images],
    interrupted=raised(cancel),
    bad_sampler=raised(lambda: client.image_generate_request(small(sampler_name="k_nothing"))),
    bad_key=raised(lambda: client.image_generate_request(small(UNKNOWN_KEY))),
    too_poor=raised(lambda: client.image_generate_request(small(given.poor, steps=60))),
    unknown_check=raised(lambda: manual.get_generate_check(UNKNOWN_ID)),
    unknown_status=raised(lambda: manual.get_generate_status(UNKNOWN_ID)),
    unknown_cancel=raised(lambda: manual.delete_pending_image(UNKNOWN_ID)),
)
