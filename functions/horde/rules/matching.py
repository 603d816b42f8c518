"""What waits in which order, and what a worker's pop may claim.

The sources are horde-api.md 1.1 (seeds), 2 (pop) and 3.5 (priority).
"""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from horde.records import Generation, Offer, User
from horde.rules import ruleset

AGEING_PER_S = 5
"""A waiting request gains this many kudos of priority per second (horde-api.md 3.5)."""
FLAGGED_MIN, FLAGGED_KUDOS = 10, -100
"""A flagged account with no more kudos than the first counts as one with the second."""
SLOW_PS = 500_000
"""A slower worker, in pixelsteps per second, gets no request with ``slow_workers: false``."""
SEED_BITS = 32
SEED_DIGITS = 1000
"""A longer number is read as text: Python refuses to parse numbers without bound."""
BATCHED = (
    "width",
    "height",
    "ddim_steps",
    "sampler_name",
    "cfg_scale",
    "karras",
    "clip_skip",
    "tiling",
    "hires_fix",
    "denoising_strength",
    "hires_fix_denoising_strength",
)
"""Fields of the payload that images drawn in one pass have in common."""


def effective_kudos(user: User) -> int:
    """Return what the queue counts as an account's kudos (horde-api.md 3.5)."""
    if not user.flagged:
        return user.kudos
    return round(user.kudos / 1000) if user.kudos > FLAGGED_MIN else FLAGGED_KUDOS


def priority(kudos: int, created_at: int) -> int:
    """Return the constant sort key of a waiting image: the largest is served first.

    The Horde's order is kudos + 5 per second waited. All requests age alike, so the order of two
    of them never changes. ``created_at`` is in ms, the result in 1/1000 kudos.
    """
    return kudos * 1000 - AGEING_PER_S * created_at


def seed_of(text: str, index: int, variation: int | None) -> int:
    """Return the seed of image ``index`` (horde-api.md 1.1): 0 .. 2^32-1.

    Digits are the number itself, other text its bytes as a little-endian number, shifted right
    by 32 bits until it fits. An empty text means a random seed for each image.
    """
    if not text:
        return secrets.randbits(SEED_BITS)
    if text.isascii() and text.isdigit() and len(text) <= SEED_DIGITS:
        seed = int(text)
    else:
        seed = int.from_bytes(text.encode(), "little")
    while seed >> SEED_BITS:
        seed >>= SEED_BITS
    return (seed + index * (variation or 1)) % (1 << SEED_BITS)


def batch_key(model: str, payload: Mapping[str, Any], *, kind: str = "", alone: str = "") -> str:
    """Return what images must share to be drawn in one pass; ``alone`` keeps one apart.

    ``kind`` is the source processing, or empty without a source image.
    """
    parts = (model, kind, *(payload.get(name) for name in BATCHED), alone)
    return "|".join(str(part) for part in parts)


def why_not(  # noqa: PLR0911 - a flat list of reasons
    generation: Generation,
    worker_id: str,
    offer: Offer,
    *,
    trusted: bool = False,
    speed: int | None = None,
) -> str | None:
    """Return the Horde's name for why a worker cannot take an image, or None if it can.

    ``trusted`` is its owner's; ``speed`` is in pixelsteps per second, None where not yet known.
    """
    if generation.pixels > offer.max_pixels:
        return "max_pixels"
    if generation.nsfw and not offer.nsfw:
        return "nsfw"
    if generation.painting and not offer.painting:
        return "painting"
    if generation.img2img and not generation.painting and not offer.img2img:
        return "img2img"
    if generation.workers and (worker_id in generation.workers) is generation.worker_blacklist:
        return "worker_id"
    if generation.trusted_only and not trusted:
        return "untrusted"
    if offer.limit_max_steps and generation.steps > ruleset.IN_FORCE.max_steps:
        return "step_count"
    if offer.extra_slow and not generation.extra_slow_workers:
        return "performance"
    if not generation.slow_workers and speed is not None and speed < SLOW_PS:
        return "performance"
    return None


def has_word(prompt: str, words: Iterable[str]) -> bool:
    """Say whether a prompt has one of a worker's blacklisted words in it.

    As in the Horde: anywhere, in any case. What the prompt wants to avoid (after ``###``) is not
    drawn and does not count.
    """
    wanted = prompt.partition("###")[0].casefold()
    return any(word.strip() and word.casefold() in wanted for word in words)


def together(lead: Generation, other: Generation, offer: Offer) -> bool:
    """Say whether two images fit one pass; a plain horde worker takes one request at a time."""
    return other.batch_key == lead.batch_key and (
        offer.mixed_batch or other.request_id == lead.request_id
    )
