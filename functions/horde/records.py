"""The records of the system, which are stored, read and passed around.

A *request* comes from a client; a *generation* is one of its images. A generation goes from
``waiting`` to ``processing`` (a worker has a lease) to ``ok`` or ``censored``. Or it ends as
``cancelled``, ``expired`` or ``faulted`` and is refunded. If its lease expires or its worker
reports a fault, it goes back to ``waiting``. Too many faults of one image end its request
(``rules.lifecycle``).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

ANONYMOUS_ID = 0
"""The anonymous account, for users without one. The table has no account of it, only counts."""
ANONYMOUS_PARTS = 8
"""Parts of the anonymous account: what it has waiting and posts is counted by part, each by an item
of its own, so that none becomes hot and no address takes all places."""
HELD_DAYS = 30
"""Days after which an image that is still held back from the data set is deleted."""
SHARED_DAYS = 16
"""Days for which a delivered, shared file can still be copied: more than a dead letter is kept."""
GALLERY_DAYS = 120
"""Days after which a file is deleted that raters were shown (``rules.raters.POOL_S``)."""
UNLIMITED = -1
"""No limit, for a shared key's budget, expiry and sizes."""
KEY_ID_DIGITS = 12
"""Hexadecimal digits of an API key's hash that name it: 48 bits, of no use to who wants the key."""
ONLINE_S = 5 * 60
"""Seconds since its last pop for which a worker is online."""
FIRST_RULESET = "2026-11"
"""The ruleset of a request or an account that names none (``rules.ruleset``)."""


class State(StrEnum):
    """The state of a generation."""

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
    fleet: bool = False
    """Whether its workers are the operator's own endpoints."""
    flagged: bool = False
    """Set by a moderator: last in the queue, no transfers."""
    deleted: bool = False
    concurrency: int | None = None
    """Images that it may have waiting; None for the default."""
    part: int | None = None
    """Of the anonymous account as a request sees it: the part whose the next four are."""
    open_images: frozenset[str] = frozenset()
    """The short ids of its images that have not ended (``store.counts``)."""
    opened_at: int = 0
    """When ``open_images`` last grew."""
    posted_at: int = 0
    """The second of its last accepted request."""
    posted: int = 0
    """Its accepted requests in that second."""
    registrations: int = 0
    """Workers that it has ever registered, those of the operator's own endpoints excepted."""
    accumulated: int = 0
    """This and the next six are the Horde's ``kudos_details``; they sum to ``kudos``."""
    gifted: int = 0
    received: int = 0
    admin: int = 0
    awarded: int = 0
    recurring: int = 0
    styled: int = 0
    monthly_kudos: int | None = None
    """Its own monthly allowance; None for the operator's default."""
    allowed_at: int | None = None
    """When it last received an allowance."""
    placed_at: int = 0
    """When its place in the list of users was last set (``store.ledger``)."""
    requested: int = 0
    """Images that it requested."""
    used: int = 0
    """Pixelsteps of the images that it requested."""
    fulfilled: int = 0
    """Images that its workers drew."""
    contributed: int = 0
    """Pixelsteps of the images that its workers drew."""
    sharedkey_ids: frozenset[str] = frozenset()
    style_ids: frozenset[str] = frozenset()
    account_keys: int = 1
    """Its API keys that are not worker keys. Each account is opened with one."""
    contact: str | None = None
    """How moderators reach the owner."""
    admin_comment: str | None = None
    """Moderators' note about the account."""
    withdrawn_before: int | None = None
    """Nothing that it requested until then is published, in ms: it withdrew all it had shared."""
    ruleset: str = FIRST_RULESET
    """The version of the rules under which it was opened; they set its floor."""

    @property
    def username(self) -> str:
        """The Horde's unique name of a user: ``alias#id``."""
        return f"{self.alias}#{self.id}"

    @property
    def anonymous(self) -> bool:
        """Whether this is the anonymous account."""
        return self.id == ANONYMOUS_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key as the table has it: never the key, only its hash.

    A worker key pops and submits; an account key does everything else. Times are in seconds.
    """

    hash: str
    """SHA-256 in hexadecimal."""
    user_id: int
    worker: bool = False
    created_at: int = 0
    """0 for a key made before this was recorded."""
    name: str | None = None
    """The owner's label."""

    @property
    def id(self) -> str:
        """The public name of the key, among its owner's keys: the start of its hash."""
        return self.hash[:KEY_ID_DIGITS]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedKey:
    """A key that lets others spend an account's kudos; its id is the key. Times are in seconds."""

    id: str
    user_id: int
    name: str
    kudos: int
    """Kudos left to spend, or UNLIMITED."""
    created_at: int
    expires_at: int | None = None
    utilized: int = 0
    """Kudos spent with it, minus refunds."""
    revision: int = 0
    """How often its owner has set ``kudos``. A refund lifts only the budget that paid."""
    granted: int | None = None
    """Of a limited key: ``kudos`` and ``utilized`` together, as its owner and transfers to it have
    allowed; None in keys from before it was kept."""
    in_ledger: bool = False
    """Whether every charge and refund of its requests names it in the ledger."""
    max_image_pixels: int = UNLIMITED
    max_image_steps: int = UNLIMITED
    max_text_tokens: int = UNLIMITED
    """Stored and shown; this horde generates no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """A preset of a request: a template of its prompt, its parameters and its models."""

    id: str
    user_id: int
    """Its author."""
    creator: str
    """The author's name when it was made or last changed, as ``alias#id``."""
    name: str
    created_at: int
    """In seconds since the epoch."""
    prompt: str
    """``{p}`` stands for a request's prompt, ``{np}`` for its negative prompt."""
    models: list[str]
    params: dict[str, Any] = field(default_factory=dict)
    """Those of the Horde's ``params`` that it sets."""
    info: str = ""
    public: bool = False
    """Whether it is listed. Who knows its id or name may use any."""
    nsfw: bool = False
    tags: list[str] = field(default_factory=list)
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Its example images by id: each has a ``url``, and ``primary``."""
    revision: int = 0
    """How often it was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """The values that price, limits and lease depend on: the work, and which workers may do it."""

    width: int
    """In pixels, as is ``height``."""
    height: int
    steps: int
    sampler_name: str
    n: int = 1
    """Number of images."""
    denoising_strength: float | None = None
    img2img: bool = False
    """Whether there is a source image, repainted in part or in full."""
    hires_fix: bool = False
    """Whether a first, smaller pass is asked for; ``rules.pricing`` says when there is one."""
    loras: int = 0
    """Number of LoRAs."""
    tis: bool = False
    """Whether there are textual inversions."""
    control_type: str | None = None
    return_control_map: bool = False
    """Whether the map of the ControlNet is all that is asked for."""
    post_processing: tuple[str, ...] = ()
    """The post-processors, by the Horde's names."""
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
    """A client's request. ``created_at`` is in ms since the epoch, ``expires_at`` in seconds."""

    id: str
    user_id: int
    created_at: int
    expires_at: int
    model: str
    n: int
    generations: list[str]
    payload: dict[str, Any]
    """The Horde's pop payload, without seed and count."""
    price: int
    """Kudos per image, without tax."""
    tax: int
    """Kudos per image."""
    reward: int
    """Kudos that a worker earns per image."""
    share_reason: str
    shared: bool = False
    share_flag: bool = False
    """The flag in the body as sent, kept as the record of consent."""
    nsfw: bool = False
    r2: bool = False
    source_key: str | None = None
    source_processing: str | None = None
    """The Horde's ``source_processing``, if there is a source image."""
    mask_key: str | None = None
    webhook: str | None = None
    no_tickets: bool = False
    """Whether the endpoint of its model cannot draw it, so that no GPU is started for it."""
    waived: int = 0
    """Waived kudos of the charge that are not yet deducted from a refund."""
    cancelled: bool = False
    faulted: bool = False
    csam: bool = False
    """Whether a worker marked one of its images as CSAM; none of them is published."""
    withdrawn_at: int | None = None
    """When its owner withdrew its images from the data set, in ms; none of them is published."""
    style_id: str | None = None
    """The style that it was made with."""
    style_owner: int | None = None
    """The account that this style is by, if each image that is delivered rewards it."""
    sharedkey_id: str | None = None
    """The shared key that paid; refunds also go to its budget."""
    sharedkey_revision: int = 0
    """That key's ``revision`` when it paid."""
    ruleset: str = FIRST_RULESET
    """The version of the rules under which it was accepted (``rules.ruleset``)."""
    baseline: str | None = None
    """The model's family as priced, empty if unknown; None in requests from before it was kept."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Width and height of its images in pixels; an upscaler enlarges them then."""
        return self.payload["width"], self.payload["height"]

    @property
    def pixelsteps(self) -> int:
        """Pixelsteps per image, with the steps as requested."""
        width, height = self.image_size
        return int(width * height * self.payload["ddim_steps"])

    @property
    def anonymous(self) -> bool:
        """Whether the request is anonymous and moves no balance."""
        return self.user_id == ANONYMOUS_ID


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One image of a request.

    ``created_at`` and ``settled_at`` are in ms, ``lease_until`` in seconds.
    """

    id: str
    request_id: str
    index: int
    seed: int
    state: State
    model: str
    priority: int
    created_at: int
    batch_key: str
    """Images with the same key can be drawn in one batch."""
    pixels: int
    ttl: int
    """Length of a worker's lease, in seconds."""
    user_id: int
    """The account that requested it."""
    steps: int = 0
    """Accurate steps, rounded up."""
    max_steps: int | None = None
    """Accurate steps up to which workers with ``limit_max_steps`` draw it, if its models have a
    limit of their own."""
    nsfw: bool = False
    img2img: bool = False
    painting: bool = False
    """Whether only part of the source image is repainted: inpainting or outpainting."""
    trusted_only: bool = False
    features: list[str] = field(default_factory=list)
    """What it asks for that not every worker does (``rules.features``)."""
    models: list[str] = field(default_factory=list)
    """The models that may draw it, if its request names several. ``model`` is then the first of
    them, and from a claim on the one that draws it."""
    unpaid: bool = False
    """Whether its account could not pay its request in full, so that the rest was waived."""
    any_model: bool = False
    """Whether any model may draw it, since its request names none."""
    slow_workers: bool = False
    """Whether slow workers may draw it."""
    extra_slow_workers: bool = False
    """Whether very slow workers may draw it."""
    workers: list[str] = field(default_factory=list)
    worker_blacklist: bool = False
    attempt: int = 0
    """Number of claims; part of the image's key, so that a late worker overwrites nothing."""
    part: int | None = None
    """Of an anonymous image: the part of the anonymous account that asked for it; never changes."""
    expires_at: int | None = None
    """When it and its request expire, in seconds, if the request ends with this image; else the
    request says so."""
    held: bool = False
    """Whether its worker's statistics list it among the images that the worker holds."""
    preferred: bool = False
    """Whether the pop that claimed it preferred its owner's images."""
    faulted_by: list[int | str] = field(default_factory=list)
    """The ids of the workers that faulted it, and of their owners."""
    worker_id: str | None = None
    worker_name: str | None = None
    worker_user: int | None = None
    """The account that owns the worker and gets the reward."""
    lease_until: int | None = None
    settled_at: int | None = None
    drawn_seed: int | None = None
    gen_metadata: list[dict[str, str]] = field(default_factory=list)
    sha256: str | None = None
    """SHA-256 of the delivered file, in hexadecimal."""
    size: int | None = None
    """Length of the delivered file in bytes."""
    screened: str | None = None
    """The verdict on the delivered file (``rules.sharing``); without one it is not published."""
    shareable: bool = False
    """Whether it was delivered uncensored for a shared request: where its file lies."""

    @property
    def paid(self) -> bool:
        """Whether its request was paid in full; an anonymous one never is."""
        return not self.unpaid and self.user_id != ANONYMOUS_ID

    @property
    def pixelsteps(self) -> int:
        """The work of drawing it, in the Horde's unit of speed and statistics."""
        return self.pixels * self.steps

    @property
    def claimed_at(self) -> int:
        """When its last worker claimed it, in seconds since the epoch; 0 if none did."""
        return (self.lease_until or self.ttl) - self.ttl

    @property
    def faults(self) -> int:
        """The number of its failed claims."""
        current = self.state is State.PROCESSING or self.state in DELIVERED
        return self.attempt - 1 if current else self.attempt

    @property
    def image_key(self) -> str:
        """The key in the outputs bucket to which its worker uploads the WebP file."""
        return f"{UPLOADS}{self.id}/{self.attempt}.webp"

    @property
    def delivered_key(self) -> str | None:
        """The key in the outputs bucket of the delivered file, or None if there is none."""
        if self.sha256 is None:
            return None
        return delivered_key(self.id, self.sha256, shareable=self.shareable)


UPLOADS, SHARED, PRIVATE = "uploads/", "shared/", "private/"
"""Prefixes in the outputs bucket: what workers upload, and what is delivered. ``share`` hears of
``shared/`` alone, and ``recover`` looks through it."""


def delivered_key(generation_id: str, sha256: str, *, shareable: bool) -> str:
    """Return the S3 key of a delivered file. It names the content, so nothing overwrites it."""
    return f"{SHARED if shareable else PRIVATE}{generation_id}/{sha256}.webp"


def parse_shared_key(key: str) -> tuple[str, str] | None:
    """Return the generation id and SHA-256 in a key below ``shared/``; None for another key."""
    match key.split("/"):
        case ["shared", generation_id, name] if name.endswith(".webp"):
            return generation_id, name.removesuffix(".webp")
    return None


OLD_ENDING = ".webp"
"""How keys in the data set end that were written before an image and its row were one object."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A shared image: its object in the data set, and the user who may withdraw it."""

    generation_id: str
    user_id: int
    object_key: str
    worker_user: int | None = None
    """The account whose worker drew it."""
    withdrawn_at: int | None = None
    """In ms since the epoch."""
    kept_back: str | None = None
    """Why screening kept it back from a release."""
    request_id: str = ""
    shared_at: int | None = None
    """When it was copied into the data set, in ms since the epoch."""

    @property
    def date(self) -> str:
        """The day of its delivery: the date of its partition."""
        return self.object_key.partition("date=")[2].partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An image that waits to be published until its worker's owner is trusted."""

    generation_id: str
    request_id: str
    user_id: int
    """The account that requested it."""
    worker_user: int
    """The account whose worker drew it."""
    requested_at: int | None = None
    """When its request was accepted, in ms; None if an earlier version held it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CsamMark:
    """A worker's mark that an image is CSAM, for the operator; ``marked_at`` is in ms."""

    generation_id: str
    request_id: str
    user_id: int
    """The account that requested the image."""
    worker_id: str
    worker_name: str
    worker_user: int
    """The account that owns the worker."""
    marked_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """A rating of one image: ``rating`` from 1 to 10, ``artifacts`` from 0 to 5."""

    generation_id: str
    rating: int
    artifacts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolImage:
    """A released image that accounts may rate. Times are in seconds since the epoch.

    ``ratings`` and the next three are about what counts: ratings of raters who are not distrusted.
    Of a gold image, whose answer the operator knows, any number of ratings is taken.
    """

    id: str
    model: str
    user_id: int
    """The account that requested it: it never rates it."""
    worker_user: int
    """The account whose worker drew it: it never rates it either."""
    offered_at: int
    ratings: int = 0
    rating_sum: int = 0
    """The sum of the ratings."""
    artifacts: int = 0
    """How many of them rate the artifacts, too."""
    artifacts_sum: int = 0
    votes: list[str] = field(default_factory=list)
    """The ratings that count, in their order, as ``account:rating``; none of a gold image."""
    gold: int | None = None
    """The known rating, from 1 to 10."""
    gold_artifacts: int | None = None
    """The known artifacts, from 0 to 5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rater:
    """What an account has rated, and how well. Times are in seconds since the epoch."""

    user_id: int
    given: str | None = None
    """The image that it was given to rate, until it has rated it."""
    given_at: int = 0
    ratings: int = 0
    minute: int = 0
    """The minute of its last rating, since the epoch."""
    in_minute: int = 0
    """Its ratings in that minute."""
    day: int = 0
    """The day of its last rating, since the epoch."""
    in_day: int = 0
    gold_right: int = 0
    gold_wrong: int = 0
    agreed: int = 0
    """Its ratings that other raters bore out."""
    diverged: int = 0
    """Its ratings that are far from those of all others."""
    owed: frozenset[str] = frozenset()
    """The images whose rewards wait until the rater is proven."""
    revision: int = 0
    """Grows with each write, so that a decision holds for what was read."""
    cleared: int = 0
    """How often a moderator has cleared it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenRating:
    """A stored rating of one image by one account; ``rated_at`` is in ms since the epoch."""

    image_id: str
    user_id: int
    rated_at: int
    model: str = ""
    rating: int | None = None
    """None if the owner only named the image as the best of its request."""
    artifacts: int | None = None
    own: bool = False
    """Whether it came by the id of the image's request, which its owner has."""
    gold: bool = False
    """Whether the image was gold when it was rated."""
    counted: bool = False
    """Whether it is among the ratings that the image's counts are made of."""
    reward: int = 0
    """Kudos that were posted with it."""
    pays: frozenset[str] = frozenset()
    """The images whose ratings these kudos are for; others than this one were owed."""
    ruleset: str = FIRST_RULESET


# --- the fleet ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A worker's offer in a pop: which images it can draw."""

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
    """Whether it refuses more accurate steps than its model usually takes: by the operator's
    setting, or else those that need no kudos upfront."""
    require_upfront_kudos: bool = False
    """Whether it draws only what was paid in full."""
    amount: int = 1
    """Most images per pop."""
    mixed_batch: bool = False
    """Whether it accepts images of several requests in one pop."""
    unable: list[str] = field(default_factory=list)
    """Post-processors and control types that it lacks, although it has others."""
    blacklist: tuple[str, ...] = ()
    """Words in prompts that it refuses to draw."""


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
    """Seconds for which it was online."""
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
    unable: list[str] = field(default_factory=list)
    """Post-processors and control types that it lacks, although it has others."""
    extra_slow: bool = False
    limit_max_steps: bool = False
    require_upfront_kudos: bool = False
    maintenance: bool = False
    maintenance_msg: str = ""
    paused: bool = False
    """Set by a moderator."""
    info: str = ""

    @property
    def resting(self) -> bool:
        """Whether it is in maintenance or paused."""
        return self.maintenance or self.paused

    def online(self, now: int) -> bool:
        """Return whether it popped within the last ``ONLINE_S``; ``now`` is in seconds."""
        return self.seen_at > now - ONLINE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """The statistics of a worker, or of the anonymous account.

    For the anonymous account, ``requests`` and ``asked_images`` count what it requested, and
    ``images`` counts the images delivered to it.
    """

    images: int = 0
    """Delivered images."""
    pixelsteps: int = 0
    kudos: int = 0
    """Kudos that a worker earned."""
    faults: int = 0
    """A worker's failed claims."""
    recent_ps: int = 0
    """Pixelsteps of a worker's images, with decaying weights (``rules.estimates``)."""
    recent_ms: int = 0
    """Milliseconds in which the worker drew them, with the same weights."""
    settled_at: int = 0
    """Time of the last settlement in ``recent_ms``, in ms since the epoch."""
    requests: int = 0
    asked_images: int = 0
    taxes: int = 0
    """Kudos burned for delivered images."""
    held: frozenset[str] = frozenset()
    """The ids of the images that a worker holds; empty for the operator's own workers."""

    @property
    def speed(self) -> int | None:
        """A worker's measured speed in pixelsteps per second; None before its first image."""
        return self.recent_ps * 1000 // self.recent_ms if self.recent_ms else None


NO_STATS = WorkerStats()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Images that workers dropped in this hour: faulted, let expire, or refused at submission."""

    by_worker: int = 0
    by_owner: int = 0
    """By all workers of its owner, deleted ones included."""


NOTHING_DROPPED = Dropped()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerContext:
    """A worker that pops, its statistics and its owner."""

    worker: Worker
    stats: WorkerStats
    owner: User
    dropped: Dropped = NOTHING_DROPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSize:
    """The waiting images of a model, their requests and their work."""

    images: int = 0
    requests: int = 0
    pixelsteps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load(QueueSize):
    """A model's queue and its workers."""

    workers: int = 0
    threads: int = 0
    measured: int = 0
    """Workers with a measured speed."""
    speed: int = 0
    """The sum of their speeds, in pixelsteps per second."""


IDLE = Load()


class Drawer(NamedTuple):
    """An online worker as the census has it: which images it can draw."""

    id: str
    max_pixels: int
    lacks: str
    """The letters of the needs that it does not meet (``rules.needs``), and of what else it refuses
    (``rules.drawing``)."""
    fleet: bool
    """Whether it is one of the operator's own."""
    models: int
    """Its models, a bit for each of the census, in their order there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """A count of workers and queues; ``at`` is in seconds since the epoch."""

    at: int = 0
    workers: int = 0
    threads: int = 0
    models: Mapping[str, Load] = field(default_factory=dict)
    drawers: tuple[Drawer, ...] | None = None
    """The workers; None in a census from before they were recorded."""

    def load(self, model: str) -> Load:
        """Return a model's queue and workers."""
        return self.models.get(model, IDLE)

    def bits(self, models: Iterable[str]) -> int:
        """Return the bits of these models in ``Drawer.models``; those not counted have none."""
        wanted = set(models)
        return sum(1 << place for place, name in enumerate(self.models) if name in wanted)


# --- rewards and statistics -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """A delivered image, and the reward due to its worker's owner.

    ``settle`` writes it as a pending entry of the owner's ledger. ``payouts`` posts it: it pays the
    reward and counts the image. Times are in ms since the epoch, amounts in kudos.
    """

    entry_id: str
    """The sort key of its entry in the owner's ledger."""
    owner_id: int
    """The account that gets the reward."""
    worker_id: str
    user_id: int
    """The account that requested the image."""
    generation_id: str
    model: str
    pixelsteps: int
    claimed_at: int
    settled_at: int
    reward: int
    tax: int
    """Kudos per image that the request's owner paid and that were burned."""
    part: int | None = None
    """Of an anonymous image: the part of the anonymous account that asked for it."""
    style_id: str | None = None
    """The style that it was made with."""
    style_owner: int | None = None
    """The account that this style is by, if it is rewarded for this image."""
    style_reward: int | None = None
    """What it gets, in kudos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnonymousRequest:
    """An anonymous request, to be counted; ``accept`` counts other requests with the balance."""

    request_id: str
    images: int


Event = Settlement | AnonymousRequest
"""An event that ``payouts`` posts."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of images, and their pixelsteps."""

    images: int = 0
    pixelsteps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Drawn images and their work.

    The periods are the last full minute, the last 60 minutes, this day (UTC), this day and the
    thirty days before it, and all time.
    """

    minute: Amount
    hour: Amount
    day: Amount
    month: Amount
    total: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounts:
    """Drawn images by model: this day (UTC), this day and the thirty before it, and all time."""

    day: dict[str, int]
    month: dict[str, int]
    total: dict[str, int]
