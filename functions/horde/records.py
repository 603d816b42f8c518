"""The records of the system: what is stored, read and passed around. No behaviour but arithmetic.

A *request* is what a client sent; a *generation* is one image of it. A generation goes from
``waiting`` to ``processing`` (a worker holds a lease) to ``ok`` or ``censored``; or it ends as
``cancelled``, ``expired`` or ``faulted`` and is refunded. A lease that runs out, and a worker that
reports a fault, put it back to ``waiting``; too many faults of one image end its request
(``rules.lifecycle``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

ANONYMOUS_ID = 0
"""The account of everybody without one. It is never written and not in the table."""
UNLIMITED = -1
"""A shared key's budget, expiry and sizes: no bound."""
ONLINE_S = 5 * 60
"""A worker that popped this recently is online, in seconds."""
FIRST_RULESET = "2026-11"
"""The ruleset of a request that names none (``rules.ruleset``)."""


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
    """An account. Times are in seconds since the epoch; ``kudos`` never falls below ``floor``."""

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
    """Images it may have waiting; None: the limit for everybody."""
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
    """When it last received an allowance."""
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
    def anonymous(self) -> bool:
        """Whether this is the account that nobody owns and no request writes."""
        return self.id == ANONYMOUS_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKey:
    """A key that lets others spend an account's kudos; its id is the key. Times are in seconds."""

    id: str
    user_id: int
    name: str
    kudos: int
    """What is left to spend; UNLIMITED; 0: nothing more."""
    created_at: int
    expires_at: int | None = None
    utilized: int = 0
    """Kudos spent with it, less refunds."""
    max_image_pixels: int = UNLIMITED
    max_image_steps: int = UNLIMITED
    max_text_tokens: int = UNLIMITED
    """Stored and shown; this horde generates no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """What price, limits and lease depend on: the size of the work, and who may do it."""

    width: int
    """In pixels, as is ``height``."""
    height: int
    steps: int
    sampler_name: str
    n: int = 1
    """Images of this kind."""
    denoising_strength: float | None = None
    img2img: bool = False
    """Whether there is a source image, painted over in part or as a whole."""
    slow_workers: bool = True
    """Whether slow workers may draw it."""
    extra_slow_workers: bool = False
    """Whether very slow workers may draw it, with a longer lease."""
    worker_blacklist: bool = False
    """Whether the request names workers that must not draw it."""

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


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
    """What a worker needs to draw it, except the seed: the Horde's pop payload."""
    price: int
    """Kudos of one image, without tax."""
    tax: int
    """Kudos of one image."""
    reward: int
    """Kudos its worker earns for one image."""
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
    waived: int = 0
    """Kudos of the charge that were waived and not yet deducted from a refund."""
    cancelled: bool = False
    faulted: bool = False
    sharedkey_id: str | None = None
    """The shared key that paid: refunds go to its budget too."""
    ruleset: str = FIRST_RULESET
    """The rules under which it was accepted (``rules.ruleset``)."""

    @property
    def pixelsteps(self) -> int:
        """The work of one image, as clients count it."""
        width, height = self.payload["width"], self.payload["height"]
        return int(width * height * self.payload["ddim_steps"])

    @property
    def anonymous(self) -> bool:
        """Whether nobody's balance is touched by this request."""
        return self.user_id == ANONYMOUS_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One image of a request. ``created_at`` and ``settled_at`` are in ms, leases in seconds."""

    id: str
    request_id: str
    index: int
    seed: int
    state: State
    model: str
    priority: int
    created_at: int
    batch_key: str
    """Images with the same key can be drawn in one pass."""
    pixels: int
    ttl: int
    """Length of a worker's lease, in seconds."""
    user_id: int
    """Who asked for it."""
    steps: int = 0
    """Accurate steps, rounded up."""
    nsfw: bool = False
    img2img: bool = False
    painting: bool = False
    """Only a part of the source image is painted anew: inpainting or outpainting."""
    trusted_only: bool = False
    slow_workers: bool = False
    """Whether slow workers may draw it."""
    extra_slow_workers: bool = False
    """Whether very slow workers may draw it."""
    workers: list[str] = field(default_factory=list)
    worker_blacklist: bool = False
    attempt: int = 0
    """Counts the claims; part of the image's key, so that a late worker overwrites nothing."""
    worker_id: str | None = None
    worker_name: str | None = None
    worker_user: int | None = None
    """The account that owns the worker and is paid."""
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
    """Return the S3 key of an image; the random id first, so that keys spread over partitions."""
    return f"{generation_id}/{attempt}.webp"


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared image: its object in the data set, and the user who can withdraw it."""

    generation_id: str
    user_id: int
    object_key: str
    withdrawn_at: int | None = None
    """In ms since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What somebody thinks of one image: ``rating`` from 1 to 10, ``artifacts`` from 0 to 5."""

    generation_id: str
    rating: int
    artifacts: int | None = None


# --- the fleet ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a worker says in its pop: what it can draw, and whose images it prefers."""

    bridge_agent: str
    models: list[str]
    max_pixels: int
    threads: int
    nsfw: bool
    img2img: bool
    painting: bool
    post_processing: bool
    lora: bool
    controlnet: bool
    sdxl_controlnet: bool
    extra_slow: bool
    limit_max_steps: bool = False
    """It draws no more steps than anybody may ask for."""
    amount: int = 1
    """Images it takes at once, at most."""
    mixed_batch: bool = False
    """It takes images of several requests at once."""
    blacklist: tuple[str, ...] = ()
    """Words it refuses to draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker, as of its last pop. Times are in seconds since the epoch."""

    id: str
    name: str
    user_id: int
    created_at: int
    seen_at: int
    gone_at: int
    uptime: int = 0
    """Seconds it was seen at work."""
    bridge_agent: str = ""
    models: list[str] = field(default_factory=list)
    max_pixels: int = 0
    threads: int = 1
    nsfw: bool = False
    img2img: bool = False
    painting: bool = False
    post_processing: bool = False
    lora: bool = False
    controlnet: bool = False
    sdxl_controlnet: bool = False
    extra_slow: bool = False
    maintenance: bool = False
    maintenance_msg: str = ""
    paused: bool = False
    """By a moderator."""
    info: str = ""

    @property
    def resting(self) -> bool:
        """Whether it gets nothing to draw for now."""
        return self.maintenance or self.paused

    def online(self, now: int) -> bool:
        """Say whether it popped in the last minutes."""
        return self.seen_at > now - ONLINE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """What a worker has done so far, or the anonymous account; an item that is only added to.

    The anonymous account has ``requests`` and ``asked_images``; its ``images`` are those it got.
    """

    images: int = 0
    """Delivered."""
    pixelsteps: int = 0
    kudos: int = 0
    """Earned by them."""
    faults: int = 0
    """Claims that came to nothing."""
    recent_ps: int = 0
    """A worker's last images, each weighing less than the next one: their pixelsteps."""
    recent_ms: int = 0
    """The milliseconds in which the worker had any of them in hand, weighted alike."""
    settled_at: int = 0
    """The last settlement that was measured, in ms since the epoch."""
    requests: int = 0
    asked_images: int = 0
    taxes: int = 0
    """Kudos that were burned for delivered images."""

    @property
    def speed(self) -> int | None:
        """A worker's measured speed in pixelsteps per second, None before its first image."""
        return self.recent_ps * 1000 // self.recent_ms if self.recent_ms else None


NO_STATS = WorkerStats()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """Who pops: a worker, its statistics and its owner."""

    worker: Worker
    stats: WorkerStats
    owner: User


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSize:
    """What waits for a model."""

    images: int = 0
    requests: int = 0
    pixelsteps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(QueueSize):
    """What waits for a model, and who draws it."""

    workers: int = 0
    threads: int = 0
    measured: int = 0
    """Workers whose speed is known."""
    speed: int = 0
    """The sum of their speeds, in pixelsteps per second."""


IDLE = Load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The fleet at one moment, in seconds since the epoch."""

    at: int = 0
    workers: int = 0
    threads: int = 0
    models: Mapping[str, Load] = field(default_factory=dict)

    def load(self, model: str) -> Load:
        """Return what waits for a model and who draws it."""
        return self.models.get(model, IDLE)


# --- what is counted and paid ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A delivered image, and the reward that its worker's owner is owed.

    ``settle`` writes it as a pending entry of the owner's ledger; ``payouts`` posts it: pays the
    reward and counts the image. Times are in ms since the epoch, amounts in kudos.
    """

    entry_id: str
    """Its place in the owner's ledger."""
    owner_id: int
    """The account that is paid."""
    worker_id: str
    user_id: int
    """Who asked for the image."""
    generation_id: str
    model: str
    pixelsteps: int
    claimed_at: int
    settled_at: int
    reward: int
    tax: int
    """What the request's owner paid and nobody gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnonymousRequest:
    """A request of the anonymous account, which counts its own; others count in their balance."""

    request_id: str
    images: int


Event = Settlement | AnonymousRequest
"""What the table's stream tells ``payouts``."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Images and their pixelsteps."""

    images: int = 0
    pixelsteps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What was drawn.

    In the last full minute, in the 60 minutes until now, on this day (UTC), on this day and the
    thirty before it, and ever.
    """

    minute: Amount
    hour: Amount
    day: Amount
    month: Amount
    total: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounts:
    """Images by model: on this day (UTC), on this day and the thirty before it, and ever."""

    day: dict[str, int]
    month: dict[str, int]
    total: dict[str, int]
