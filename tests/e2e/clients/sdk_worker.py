"""horde_sdk's worker side, in the order of horde-worker-reGen: find_user, pop, PUT, submit."""

import asyncio
import io
from typing import Any

import aiohttp
from horde_sdk.ai_horde_api.ai_horde_clients import AIHordeAPIAsyncClientSession
from horde_sdk.ai_horde_api.apimodels import (
    FindUserRequest,
    ImageGenerateJobPopRequest,
    ImageGenerationJobSubmitRequest,
)
from PIL import Image
from yarl import URL

from tests.e2e.clients.common import PATIENCE_S, UNKNOWN_ID, UNKNOWN_KEY, encoded, report, task

given = task()


async def answer(session: Any, request: Any) -> Any:
    """Return what the SDK makes of one answer."""
    return await session.submit_request(request, request.get_default_success_response_type())


def offer(key: str = given.key) -> ImageGenerateJobPopRequest:
    """Return what a worker for one model asks for."""
    return ImageGenerateJobPopRequest(
        apikey=key,
        name="an unmodified worker",
        bridge_agent="AI Horde Worker reGen:10.1.2:https://github.com/Haidra-Org/horde-worker-reGen",
        models=[given.model],
        amount=2,
        max_pixels=512 * 512,
        nsfw=True,
        threads=1,
        require_upfront_kudos=False,
        blacklist=[],
        allow_img2img=True,
        allow_painting=True,
        allow_unsafe_ipaddr=True,
        allow_post_processing=True,
        allow_controlnet=False,
        allow_lora=False,
    )


def result(generation_id: object, **fields: Any) -> ImageGenerationJobSubmitRequest:
    """Return the word that an image was uploaded."""
    return ImageGenerationJobSubmitRequest(
        **{
            "apikey": given.key,
            "id": generation_id,
            "state": "ok",
            "generation": "R2",
            "seed": 7,
            "censored": False,
            "gen_metadata": [],
            **fields,
        }
    )


def picture(colour: str) -> bytes:
    """Return a WebP file, as reGen writes it."""
    out = io.BytesIO()
    image = Image.new("RGB", (64, 64), colour)
    image.paste("black", (16, 16, 48, 48))
    image.save(out, "WEBP", quality=95, method=6)
    return out.getvalue()


async def main() -> None:
    """Draw one request of two images, and meet each refusal."""
    async with aiohttp.ClientSession() as http, AIHordeAPIAsyncClientSession(http) as session:
        user = await answer(session, FindUserRequest(apikey=given.key))
        job = await answer(session, offer())
        drawn, uploads, submits = {}, [], []
        for generation_id, upload, colour in zip(
            job.ids, job.r2_uploads, ("teal", "orange"), strict=True
        ):
            drawn[str(generation_id)] = encoded(picture(colour))
            # Signed as it is, and without a content type.
            async with http.put(
                URL(upload, encoded=True),
                data=picture(colour),
                skip_auto_headers=["content-type"],
                timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
            ) as put:
                uploads.append(put.status)
            submits.append((await answer(session, result(generation_id))).model_dump())
        report(
            user=user.model_dump(),
            job=job.model_dump(by_alias=True),
            drawn=drawn,
            uploads=uploads,
            submits=submits,
            again=(await answer(session, result(job.ids[0]))).model_dump(),
            nothing_waits=(await answer(session, offer())).model_dump(by_alias=True),
            unknown_job=(await answer(session, result(UNKNOWN_ID))).model_dump(),
            bad_key=(await answer(session, offer(UNKNOWN_KEY))).model_dump(),
            no_worker_key=(await answer(session, offer(given.poor))).model_dump(),
        )


asyncio.run(main())
