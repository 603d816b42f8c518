"""aihorde (pyAIHorde): polls the full status, and shares unless told otherwise."""

import asyncio
from typing import Any

from aihorde.client import AIHordeClient
from aihorde.models import GenerationInputStable, ModelGenerationInputStable, Sampler

from tests.e2e.clients.common import (
    MODEL,
    SMALL,
    UNKNOWN_ID,
    UNKNOWN_KEY,
    download,
    raised_async,
    report,
    task,
)

given = task()


def small(**params: Any) -> GenerationInputStable:
    """Return a request for two small images.

    The client sends ``params.sampler``, ``source_processing`` and ``denoising_strength`` with it.
    """
    return GenerationInputStable(
        prompt="a fox",
        params=ModelGenerationInputStable(**SMALL, n=2, sampler=Sampler.k_euler, **params),
        models=[MODEL],
    )


class Listening(AIHordeClient):  # type: ignore[misc]
    """Keeps what it polled; nothing else is changed."""

    def __init__(self, *arguments: str) -> None:
        super().__init__(*arguments)
        self.heard: list[Any] = []

    async def image_generation_status(self, request_id: str) -> Any:
        """Ask for the status."""
        status = await super().image_generation_status(request_id)
        self.heard.append(status)
        return status


async def main() -> None:
    """Do the round."""
    client = Listening(given.key, given.api)
    newcomer = AIHordeClient(given.poor, given.api)
    status = await client.generate_images(small())
    poor = small()
    poor.slow_workers = False
    unknown = await newcomer.image_generation_status(UNKNOWN_ID)
    report(
        shared=status.shared,
        # How long it sleeps between two polls.
        sleeps=[int(heard.wait_time / 1.5) for heard in client.heard if not heard.done],
        images=[download(generation.img) for generation in status.generations],
        seeds=[generation.seed for generation in status.generations],
        bad_params=await raised_async(client.generate_image_request(small(clip_skip=13))),
        bad_key=await raised_async(
            AIHordeClient(UNKNOWN_KEY, given.api).generate_image_request(small())
        ),
        too_poor=await raised_async(newcomer.generate_image_request(poor)),
        unknown_status=[unknown.done, unknown.generations],
    )


asyncio.run(main())
