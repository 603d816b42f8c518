"""The records of the system and the pure decisions about their states.

A *request* is what a client sent; a *generation* is one image of it. A generation is
``waiting`` -> ``processing`` (a worker holds a lease) -> ``ok`` or ``censored``; or it ends as
``cancelled``, ``expired`` or ``faulted``, refunded. A lease that runs out, and a worker that
reports a fault, put it back to ``waiting``; the third fault of one image ends its
request.
"""

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from horde import kudos
from horde.schema import Params, PopRequest

MAX_FAULTS = 3
REQUEST_LIFE_S = 20 * 60
"""A request ends this long after its last pop or submit (sliding), in seconds."""
AGEING_PER_S = 5
"""A waiting request gains this many kudos of priority per second (horde-api.md 3.5)."""
FLAGGED_LEAST, FLAGGED_STANDING = 10, -100
"""A flagged account with no more kudos than the first stands in the queue at the second."""
UNLIMITED = -1
"""A shared key's budget, end and sizes: no bound."""
USUAL_STEPS = 40
"""Accurate steps that anyone may ask for, and the most of a worker with ``limit_max_steps``."""
SLOW_PS = 500_000
"""A slower worker, in pixelsteps per second, gets no request with ``slow_workers: false``."""
SEED_BITS = 32
USER_DIGITS = 18
SEED_DIGITS = 1000
"""A longer number is read as text: Python refuses to parse numbers without bound."""


class State(StrEnum):
    """Where a generation is."""

    WAITING = "waiting"
    PROCESSING = "processing"
    OK = "ok"
    CENSORED = "censored"
    FAULTED = "faulted"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


DELIVERED = frozenset({State.OK, State.CENSORED})
OPEN = frozenset({State.WAITING, State.PROCESSING})


@dataclass(frozen=True, slots=True)
class User:
    """An account. ``kudos`` never falls under ``floor``."""

    id: int
    alias: str
    kudos: int
    floor: int
    created_at: int
    moderator: bool = False
    trusted: bool = False
    flagged: bool = False
    """Set by a moderator: last in the queue, no transfers."""
    deleted: bool = False
    concurrency: int | None = None
    """Images it may have waiting; None: what everybody may."""
    accumulated: int = 0
    """Where the balance comes from, by the Horde's ``kudos_details``: these sum to ``kudos``."""
    gifted: int = 0
    received: int = 0
    admin: int = 0
    awarded: int = 0
    recurring: int = 0
    monthly_kudos: int | None = None
    """Its own allowance; None: what the operator gives everybody."""
    allowed_at: int | None = None
    """When it last got an allowance, in seconds since the epoch."""
    requested: int = 0
    """Images it asked for."""
    used: int = 0
    """Pixelsteps of the images it asked for."""
    fulfilled: int = 0
    """Images its workers drew."""
    contributed: int = 0
    """Pixelsteps of the images its workers drew."""
    sharedkey_ids: frozenset[str] = frozenset()
    contact: str | None = None
    """How moderators reach the owner."""
    admin_comment: str | None = None
    """What moderators note about it."""

    @property
    def username(self) -> str:
        """The Horde's unique name of a user: ``alias#id``."""
        return f"{self.alias}#{self.id}"

    @property
    def standing(self) -> int:
        """What the queue counts as this account's kudos (horde-api.md 3.5)."""
        if not self.flagged:
            return self.kudos
        return round(self.kudos / 1000) if self.kudos > FLAGGED_LEAST else FLAGGED_STANDING

    @property
    def anonymous(self) -> bool:
        """Whether this is the account that nobody owns and no request writes."""
        return self.id == ANONYMOUS.id


ANONYMOUS = User(
    id=0,
    alias="Anonymous",
    kudos=kudos.FLOOR_ANONYMOUS,
    floor=kudos.FLOOR_ANONYMOUS,
    created_at=0,
)


def user_number(text: str) -> int | None:
    """Return the number of an account that a text is, None if it is none."""
    if text.isascii() and text.isdecimal() and len(text) <= USER_DIGITS:
        return int(text)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKey:
    """A key that lets others spend an account's kudos; its id is the key. Times are in s."""

    id: str
    user_id: int
    name: str
    kudos: int
    """What is left to spend; UNLIMITED; 0: nothing more."""
    created_at: int
    expires_at: int | None = None
    utilized: int = 0
    """What was spent with it, refunds taken off."""
    max_image_pixels: int = UNLIMITED
    max_image_steps: int = UNLIMITED
    max_text_tokens: int = UNLIMITED
    """Kept and shown; nothing here draws text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked for. ``created_at`` is in ms, ``expires_at`` in s, since the epoch."""

    id: str
    user_id: int
    created_at: int
    expires_at: int
    model: str
    n: int
    generations: list[str]
    payload: dict[str, Any]
    """What a worker needs to draw it, but for the seed: the Horde's pop payload."""
    price: int
    tax: int
    reward: int
    share_reason: str
    shared: bool = False
    share_flag: bool = False
    """The literal flag of the body, kept as the record of consent."""
    nsfw: bool = False
    r2: bool = False
    source_key: str | None = None
    source_processing: str | None = None
    """What is done with the source image, if there is one."""
    mask_key: str | None = None
    webhook: str | None = None
    forgiven: int = 0
    """Kudos of the charge that were forgiven and not yet taken off a refund."""
    cancelled: bool = False
    faulted: bool = False
    sharedkey_id: str | None = None
    """The shared key it was asked for with: refunds go to its budget too."""

    @property
    def pixelsteps(self) -> int:
        """The work of one image, as clients count it."""
        width, height = self.payload["width"], self.payload["height"]
        return int(width * height * self.payload["ddim_steps"])

    @property
    def anonymous(self) -> bool:
        """Whether nobody's balance is touched by this request."""
        return self.user_id == ANONYMOUS.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One image of a request."""

    id: str
    request_id: str
    index: int
    seed: int
    state: State
    model: str
    priority: int
    created_at: int
    batch_key: str
    pixels: int
    ttl: int
    """Lease of a worker, in seconds."""
    user_id: int | None = None
    """Whose it is; None in rows older than the field."""
    steps: int = 0
    """Accurate steps, rounded up."""
    nsfw: bool = False
    img2img: bool = False
    painting: bool = False
    """Only a part of the source image is painted anew: inpainting or outpainting."""
    trusted_only: bool = False
    hasty: bool = False
    """The request refuses slow workers."""
    patient: bool = False
    """The request takes extra slow workers."""
    workers: list[str] = field(default_factory=list)
    worker_blacklist: bool = False
    attempt: int = 0
    """Counts the claims; part of the image's key, so that a late worker overwrites nothing."""
    worker_id: str | None = None
    worker_name: str | None = None
    worker_user: int | None = None
    lease_until: int | None = None
    settled_at: int | None = None
    drawn_seed: int | None = None
    gen_metadata: list[dict[str, str]] = field(default_factory=list)
    shared_at: int | None = None

    @property
    def pixelsteps(self) -> int:
        """The work of drawing it: the Horde's unit of speed and statistics."""
        return self.pixels * self.steps

    @property
    def claimed_at(self) -> int:
        """When its last worker took it, in seconds since the epoch; 0 if none did."""
        return (self.lease_until or self.ttl) - self.ttl

    @property
    def faults(self) -> int:
        """How many of its claims came to nothing."""
        current = self.state is State.PROCESSING or self.state in DELIVERED
        return self.attempt - 1 if current else self.attempt

    @property
    def image_key(self) -> str:
        """Where its worker uploads the WebP file, in the outputs bucket."""
        return image_key(self.id, self.attempt)


def image_key(generation_id: str, attempt: int) -> str:
    """Return the S3 key of an image; random id first, so that keys spread over partitions."""
    return f"{generation_id}/{attempt}.webp"


def priority(balance: int, created_at: int) -> int:
    """Return the constant sort key of a waiting image, best is largest, in 1/1000 kudos.

    The Horde's order is balance + 5 per second waited; all requests age alike, so it never
    changes between two of them.
    """
    return balance * 1000 - AGEING_PER_S * created_at


def seed_of(text: str, index: int, variation: int | None) -> int:
    """Return the seed of image ``index`` (horde-api.md 1.1): 0 .. 2^32-1.

    Digits are the number itself, other text its bytes as a little-endian number, shifted right
    by 32 bits until it fits; empty means random, for each image anew.
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


def batch_key(model: str, params: Params, *, kind: str, alone: str = "") -> str:
    """Return what images must share to be drawn in one pass; ``alone`` keeps one apart.

    ``kind`` is the source processing, or empty without a source image.
    """
    parts = (
        model,
        kind,
        f"{params.width}x{params.height}",
        params.steps,
        params.sampler_name,
        params.cfg_scale,
        params.karras,
        params.clip_skip,
        params.tiling,
        params.hires_fix,
        params.denoising_strength,
        params.hires_fix_denoising_strength,
        alone,
    )
    return "|".join(str(part) for part in parts)


def why_not(  # noqa: PLR0911 - a flat list of reasons
    generation: Generation,
    worker_id: str,
    wants: PopRequest,
    *,
    trusted: bool = False,
    speed: int | None = None,
) -> str | None:
    """Return the Horde's name for why a worker cannot take an image, or None if it can.

    ``trusted`` is its owner's; ``speed`` is in pixelsteps per second, None where not yet known.
    """
    if generation.pixels > wants.max_pixels:
        return "max_pixels"
    if generation.nsfw and not wants.nsfw:
        return "nsfw"
    if generation.painting and not wants.allow_painting:
        return "painting"
    if generation.img2img and not generation.painting and not wants.allow_img2img:
        return "img2img"
    if generation.workers and (worker_id in generation.workers) is generation.worker_blacklist:
        return "worker_id"
    if generation.trusted_only and not trusted:
        return "untrusted"
    if wants.limit_max_steps and generation.steps > USUAL_STEPS:
        return "step_count"
    if wants.extra_slow_worker and not generation.patient:
        return "performance"
    if generation.hasty and speed is not None and speed < SLOW_PS:
        return "performance"
    return None


def has_word(prompt: str, words: list[str]) -> bool:
    """Say whether a prompt has one of a worker's blacklisted words in it.

    As the Horde, anywhere and in any case; what the prompt wants to avoid (after ``###``) is not
    drawn and does not count.
    """
    wanted = prompt.partition("###")[0].casefold()
    return any(word.strip() and word.casefold() in wanted for word in words)


class After(StrEnum):
    """What becomes of a generation whose worker gave up or died."""

    REQUEUE = "requeue"
    CANCEL = "cancel"
    EXPIRE = "expire"
    FAULT = "fault"


def after_fault(request: Request, generation: Generation, now: int) -> After:
    """Decide what a fault of one generation leads to; both are as they were before it.

    The third fault of one image ends the request. It is counted by image, since one worker that
    dies takes a whole batch of a request's images with it.
    """
    if request.cancelled:
        return After.CANCEL
    if request.expires_at <= now:
        return After.EXPIRE
    if request.faulted or generation.attempt >= MAX_FAULTS:
        return After.FAULT
    return After.REQUEUE


@dataclass(frozen=True, slots=True)
class Progress:
    """The counts of check and status (horde-api.md 1.2)."""

    finished: int
    processing: int
    waiting: int
    restarted: int
    done: bool
    faulted: bool
    kudos: int
    """Kudos consumed by what was delivered so far."""


def consumed(request: Request, generation: Generation) -> int:
    """Return the kudos that one image cost in the end."""
    if generation.state is State.OK:
        return request.price + request.tax
    return request.tax if generation.state is State.CENSORED else 0


def progress(request: Request, generations: list[Generation]) -> Progress:
    """Count a request's images."""
    states = [generation.state for generation in generations]
    ok, censored = states.count(State.OK), states.count(State.CENSORED)
    return Progress(
        finished=ok + censored,
        processing=states.count(State.PROCESSING),
        waiting=states.count(State.WAITING),
        restarted=sum(generation.faults for generation in generations),
        done=request.faulted or not OPEN.intersection(states),
        faulted=request.faulted,
        kudos=sum(consumed(request, generation) for generation in generations),
    )


def wait_seconds(state: Progress, *, ahead: int, own: int, speed: int, workers: int) -> int:
    """Estimate the wait in seconds, at least 2 while not done (clients divide by it).

    ``ahead`` is the pixelsteps that wait before this request's first image, ``own`` those of one
    image of its own; ``speed`` is what the model's ``workers`` draw together, in pixelsteps per
    second. What is in hand is taken as just begun, by one of them. The time in which a GPU starts
    is not in it.
    """
    if state.done:
        return 0
    work = ahead + state.waiting * own
    in_hand = own * max(1, workers) if state.processing else 0
    return max(2, -(-(work + in_hand) // max(1, speed)))


def tickets_missing(waiting: int, per_ticket: int, queued: int) -> int:
    """Return how many tickets to top up so that every waiting image has demand behind it.

    ``waiting`` counts images that wait for over a minute, ``queued`` RunPod's jobs in its queue
    and in progress (a job in progress pops until nothing waits).
    """
    return max(0, -(-waiting // per_ticket) - queued)
