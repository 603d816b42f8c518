"""The order of the queue, and the images that a worker may claim.

The sources are horde-api.md 1.1 (seeds), 2 (pop) and 3.5 (priority).
"""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from horde.records import Generation, Offer, User, WorkerContext
from horde.rules.features import CONTROLS
from horde.rules.needs import CONTROL, POST, REASONS, needs, unmet
from horde.rules.standing import held_limit

AGEING_PER_S = 5
"""A waiting request gains this many kudos of priority per second (horde-api.md 3.5)."""
FLAGGED_MIN, FLAGGED_KUDOS = 10, -100
"""A flagged account with at most ``FLAGGED_MIN`` kudos counts as one with ``FLAGGED_KUDOS``."""
SEED_BITS = 32
MAX_SEED_DIGITS = 1000
"""A longer number is read as text, since Python limits the length of numbers it parses."""
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
"""Fields of the payload in which all images of a batch must agree."""
RARE = ("loras", "control_type", "image_is_control", "return_control_map")
"""More of them, which few payloads have. Textual inversions belong to a prompt, and post-processors
follow the drawing, so batch mates may differ in them."""


def effective_kudos(user: User) -> int:
    """Return the kudos that an account's priority is computed from (horde-api.md 3.5)."""
    if not user.flagged:
        return user.kudos
    return round(user.kudos / 1000) if user.kudos > FLAGGED_MIN else FLAGGED_KUDOS


def priority(kudos: int, created_at: int) -> int:
    """Return the constant sort key of a waiting image, of which the largest is served first.

    The Horde orders by kudos + 5 per second waited. All requests age at the same rate, so the order
    of two requests never changes. ``created_at`` is in ms, the result in 1/1000 kudos.
    """
    return kudos * 1000 - AGEING_PER_S * created_at


def seed_of(text: str, index: int, variation: int | None) -> int:
    """Return the seed of image ``index``, from 0 to 2^32 - 1 (horde-api.md 1.1).

    Digits are read as a number, other text as the little-endian number of its bytes. A larger
    number is shifted right by 32 bits until it fits. An empty text gives each image a random seed.
    """
    if not text:
        return secrets.randbits(SEED_BITS)
    if text.isascii() and text.isdigit() and len(text) <= MAX_SEED_DIGITS:
        seed = int(text)
    else:
        seed = int.from_bytes(text.encode(), "little")
    while seed >> SEED_BITS:
        seed >>= SEED_BITS
    return (seed + index * (variation or 1)) % (1 << SEED_BITS)


def batch_key(model: str, payload: Mapping[str, Any], *, kind: str = "", alone: str = "") -> str:
    """Return the key that images must share to be drawn in one batch.

    ``kind`` is the source processing, or empty without a source image. A request id as ``alone``
    keeps the request's images out of other batches.
    """
    parts = (model, kind, *(payload.get(name) for name in BATCHED), alone)
    parts += tuple(f"{name}={payload[name]}" for name in RARE if payload.get(name))
    return "|".join("" if part is None else str(part) for part in parts)


def has_faulted(generation: Generation, worker_id: str, owner: User) -> bool:
    """Return whether an image is refused to a worker, since it faulted it before.

    An owner who is not trusted may have several workers that fault, so each of them is refused. The
    operator's own workers may try again. The condition of ``store.queue.claim`` is the same.
    """
    if owner.fleet:
        return False
    return worker_id in generation.faulted_by or (
        not owner.trusted and owner.id in generation.faulted_by
    )


def skip_reason(generation: Generation, worker: WorkerContext, offer: Offer) -> str | None:
    """Return the Horde's name of the reason why a worker cannot take an image, or None if it can.

    ``offer`` is that of its present pop.
    """
    worker_id = worker.worker.id
    too_large = generation.pixels > offer.max_pixels
    reason = "max_pixels" if too_large else unmet(needs(generation), worker, offer)
    if reason or (reason := _lacking(generation, offer)):
        return reason
    if generation.workers and (worker_id in generation.workers) is generation.worker_blacklist:
        return "worker_id"
    if offer.require_upfront_kudos and not generation.paid:
        return "kudos"
    if has_faulted(generation, worker_id, worker.owner):
        return "worker_id"
    limit = held_limit(worker.stats, worker.owner, generation)
    if limit is not None and len(worker.stats.held) >= limit:
        return "performance"
    return None


def _lacking(generation: Generation, offer: Offer) -> str | None:
    """Return the Horde's name of the reason if a worker lacks a post-processor or ControlNet."""
    lacking = next((name for name in generation.features if name in offer.unable), None)
    return lacking and REASONS[CONTROL if lacking in CONTROLS else POST]


def has_blacklisted_word(prompt: str, blacklist: Iterable[str]) -> bool:
    """Return whether a prompt contains one of a worker's blacklisted words.

    As in the Horde, a word matches anywhere, ignoring case. The negative prompt (after ``###``)
    does not count.
    """
    positive = prompt.partition("###")[0].casefold()
    return any(word.strip() and word.casefold() in positive for word in blacklist)


def same_batch(lead: Generation, other: Generation, offer: Offer) -> bool:
    """Return whether two images fit into one batch of a worker.

    Without ``mixed_batch`` in its offer, a worker takes images of one request at a time.
    """
    return other.batch_key == lead.batch_key and (
        offer.mixed_batch or other.request_id == lead.request_id
    )
