"""horde_sdk's asyncio client and session, as a chat bot would use them."""

import asyncio
import contextlib
from typing import Any

import aiohttp
from horde_sdk.ai_horde_api.ai_horde_clients import (
    AIHordeAPIAsyncClientSession,
    AIHordeAPIAsyncSimpleClient,
)
from horde_sdk.ai_horde_api.apimodels import (
    DeleteImageGenerateRequest,
    FindUserRequest,
    ImageGenerateAsyncRequest,
    ImageGenerateCheckRequest,
    ImageGenerateStatusRequest,
    ImageGenerationInputPayload,
)

from tests.e2e.clients.common import MODEL, SMALL, UNKNOWN_ID, UNKNOWN_KEY, report, task

given = task()


def small(key: str = given.key, model: str = MODEL, **fields: Any) -> ImageGenerateAsyncRequest:
    """Return a shared request for two small images."""
    return ImageGenerateAsyncRequest(
        apikey=key,
        prompt="a fox",
        params=ImageGenerationInputPayload(**SMALL, n=2, sampler_name="k_euler_a"),
        models=[model],
        shared=True,
        **fields,
    )


async def answer(session: Any, request: Any) -> dict[str, Any]:
    """Return the SDK's view of one answer; an error's ``rc`` and ``message`` are fields of it."""
    found = await session.submit_request(request, request.get_default_success_response_type())
    return {"is": type(found).__name__, **found.model_dump(by_alias=True)}


async def cancelled(http: aiohttp.ClientSession) -> str:
    """Cancel a task while its request waits: the session then cancels the request by itself."""
    waiting = asyncio.Event()
    seen = ""
    with contextlib.suppress(asyncio.CancelledError):
        async with AIHordeAPIAsyncClientSession(http) as session:
            client = AIHordeAPIAsyncSimpleClient(horde_client_session=session)
            asking = asyncio.create_task(
                client.image_generate_request(
                    small(model=given.model), check_callback=lambda _check: waiting.set()
                )
            )
            await waiting.wait()
            (_, response, _), *_ = session._pending_follow_ups
            seen = str(response.id_)
            asking.cancel()
            await asking
    return seen


async def main() -> None:
    """Do the round."""
    async with aiohttp.ClientSession() as http:
        async with AIHordeAPIAsyncClientSession(http) as session:
            client = AIHordeAPIAsyncSimpleClient(horde_client_session=session)
            dry = await client.image_generate_request_dry_run(
                small().model_copy(update={"dry_run": True})
            )
            status, _ = await client.image_generate_request(small())
            images = [
                (await client.download_image_from_generation(generation))[0]
                for generation in status.generations
            ]
            for image in images:
                image.load()
            seen = {
                "bad_key": await answer(session, small(UNKNOWN_KEY)),
                "too_poor": await answer(session, small(given.poor, slow_workers=False)),
                "unknown_check": await answer(session, ImageGenerateCheckRequest(id=UNKNOWN_ID)),
                "unknown_status": await answer(session, ImageGenerateStatusRequest(id=UNKNOWN_ID)),
                "unknown_cancel": await answer(session, DeleteImageGenerateRequest(id=UNKNOWN_ID)),
                "user": await answer(session, FindUserRequest(apikey=given.key)),
            }
        report(
            dry_run=dry.kudos,
            shared=status.shared,
            decoded=[[image.format, *image.size] for image in images],
            cancelled=await cancelled(http),
            **seen,
        )


asyncio.run(main())
