"""stablehordeapi-py: a class that draws and saves to files in one call."""

import asyncio
from pathlib import Path
from typing import Any

from stablehorde_api import StableHordeAPI

from tests.e2e.clients.common import (
    MODEL,
    SMALL,
    UNKNOWN_ID,
    UNKNOWN_KEY,
    encoded,
    raised_async,
    report,
    task,
)

given = task()


def small(**params: Any) -> dict[str, Any]:
    """Return a shared request for two small images; only a dict can say ``shared``."""
    return {
        "prompt": "a fox",
        "params": {**SMALL, "n": 2, "sampler_name": "k_euler", **params},
        "models": [MODEL],
        "r2": True,
        "shared": True,
    }


async def main() -> dict[str, Any]:
    """Do the round; returns what was seen."""
    api = StableHordeAPI(given.key, f"{given.api}/v2")
    stranger = StableHordeAPI(UNKNOWN_KEY, f"{given.api}/v2", session=api._session)
    newcomer = StableHordeAPI(given.poor, f"{given.api}/v2", session=api._session)
    drawn = await api.generate_from_txt(small(), "drawn")
    waiting = await api.txt2img_request({**small(), "models": [given.model], "r2": False})
    seen = {
        "files": drawn["images"],
        "finished": drawn["img_status"].finished,
        "seeds": [generation.seed for generation in drawn["img_status"].generations],
        "message": waiting.message,
        "bad_sampler": await raised_async(api.txt2img_request(small(sampler_name="k_nothing"))),
        "bad_key": await raised_async(stranger.txt2img_request(small())),
        "too_poor": await raised_async(newcomer.txt2img_request(small(steps=60))),
        "unknown_check": await raised_async(api.generate_check(UNKNOWN_ID)),
        "unknown_status": await raised_async(api.generate_status(UNKNOWN_ID)),
    }
    await api._session.close()
    return seen


seen = asyncio.run(main())
report(images=[encoded(Path(name).read_bytes()) for name in seen["files"]], **seen)
