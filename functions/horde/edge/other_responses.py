"""The response bodies of those functions that no image waits for, as ``responses`` has the others.

They are here, since a function's start pays for each model that it imports, used or not.
"""

from typing import Literal

from pydantic import Field

from horde.edge.responses import Count, Kudos, Uuid, Wire, WireList


class Registered(Wire):
    """A new account. Only this response shows its API key."""

    id: int
    username: str
    kudos: Kudos
    api_key: str


class KeyDetails(Wire):
    """One of an account's API keys, but not the key itself."""

    id: str
    """The start of the key's SHA-256."""
    name: str | None = None
    worker: bool
    """Whether it is a worker key, which pops and submits only."""
    fleet: bool
    """Whether it is a worker key of the operator's own endpoints."""
    created_at: str | None = None
    """UTC; unknown for a key made before it was recorded."""


class KeyList(WireList[KeyDetails]):
    """The API keys of an account, the oldest first."""


class KeyMade(KeyDetails):
    """A new API key. Only this response shows it."""

    api_key: str


class KudosDetails(Wire):
    """The sources of a balance, which sum to it. Kudos given away are negative."""

    accumulated: Kudos
    """Earned by drawing images, minus spent on images."""
    gifted: Kudos
    received: Kudos
    admin: Kudos
    """Granted by the operator or an admin, or when the account was opened."""
    awarded: Kudos
    recurring: Kudos
    """Monthly allowances."""
    donated: Kudos = 0
    """Always 0: there are no education accounts to donate to."""
    styled: Kudos = 0
    """Earned by images that others drew with the account's styles."""


class Usage(Wire):
    """The images that an account requested."""

    megapixelsteps: float
    requests: Count


class Contributions(Wire):
    """The images that an account's workers drew."""

    megapixelsteps: float
    fulfillments: Count


class ThingRecords(Wire):
    """An amount of work. ``tokens`` is always 0: this horde generates no text."""

    megapixelsteps: float
    tokens: Count = 0


class AmountRecords(Wire):
    """A number of images. The others are always 0: this horde draws images only."""

    image: Count
    text: Count = 0
    interrogation: Count = 0


class UserRecords(Wire):
    """The counts of ``usage`` and ``contributions`` again, in the form that newer clients read."""

    usage: ThingRecords
    contribution: ThingRecords
    request: AmountRecords
    fulfillment: AmountRecords
    style: AmountRecords
    """Always 0: styles count their images themselves (``use_count``)."""


class ActiveGenerations(Wire):
    """The ids of an account's requests, finished or not, until they expire, newest first.

    A client that lost an id finds it here.
    """

    image: list[Uuid]
    text: list[Uuid] = Field(default=[])
    alchemy: list[Uuid] = Field(default=[])
    """Always empty: this horde draws images only."""


class MonthlyKudos(Wire):
    """An account's monthly allowance, and when it last received one (UTC)."""

    amount: Kudos
    last_received: str | None = None


class StyleNamed(Wire):
    """A style of an account."""

    name: str
    id: Uuid
    type: Literal["image"] = "image"


class UserDetails(Wire):
    """An account. Some fields are for its owner and moderators only, some are left out of lists.

    The anonymous account is never written, so it has no counts.
    """

    username: str
    id: int
    kudos: Kudos
    kudos_details: KudosDetails | None = None
    pseudonymous: bool
    moderator: bool
    trusted: bool
    flagged: bool
    deleted: bool
    service: bool = False
    education: bool = False
    customizer: bool = False
    """Always false, as ``service`` and ``education``: this horde has no such roles."""
    concurrency: Count
    account_age: Count | None = None
    """In seconds."""
    usage: Usage | None = None
    contributions: Contributions | None = None
    records: UserRecords | None = None
    styles: list[StyleNamed] = Field(default=[])
    """Those that are public; all, for their author. Left out of lists."""
    worker_count: Count | None = None
    """At most 100; left out of lists."""
    worker_ids: list[Uuid] | None = None
    active_generations: ActiveGenerations | None = None
    sharedkey_ids: list[Uuid] | None = None
    contact: str | None = None
    admin_comment: str | None = None
    monthly_kudos: MonthlyKudos | None = None


class UserList(WireList[UserDetails]):
    """Accounts, 25 per page."""


class UserChanged(Wire):
    """The changed fields of an account."""

    new_kudos: Kudos | None = None
    """The new balance."""
    username: str | None = None
    contact: str | None = None
    concurrency: Count | None = None
    moderator: bool | None = None
    trusted: bool | None = None
    flagged: bool | None = None
    deleted: bool | None = None
    admin_comment: str | None = None
    monthly_kudos: Kudos | None = None


class WorkerKudos(Wire):
    """The kudos that a worker earned, by reason."""

    generated: Kudos
    uptime: Kudos


class WorkerDetails(Wire):
    """A worker. ``uptime`` is in seconds."""

    type: Literal["image"]
    name: str
    id: Uuid
    online: bool
    requests_fulfilled: Count
    kudos_rewards: Kudos
    kudos_details: WorkerKudos
    performance: str
    threads: Count
    uptime: Count
    maintenance_mode: bool
    maintenance_msg: str | None = None
    """Shown to its owner and moderators only."""
    paused: bool | None = None
    """Shown to moderators only."""
    info: str | None = None
    nsfw: bool
    owner: str | None = None
    """``alias#id``; shown to the owner and moderators only."""
    trusted: bool
    flagged: bool
    uncompleted_jobs: Count
    models: list[str]
    team: dict[str, str]
    """Always empty: there are no teams."""
    bridge_agent: str
    max_pixels: Count
    megapixelsteps_generated: float
    img2img: bool
    painting: bool
    post_processing: bool = Field(alias="post-processing")
    lora: bool
    controlnet: bool
    sdxl_controlnet: bool


class WorkerList(WireList[WorkerDetails]):
    """Workers."""


class WorkerChanged(Wire):
    """The changed fields of a worker."""

    maintenance: bool | None = None
    maintenance_msg: str | None = None
    paused: bool | None = None
    info: str | None = None
    name: str | None = None


class WorkerDeleted(Wire):
    """The worker that was deleted."""

    deleted_id: Uuid
    deleted_name: str


class ActiveModel(Wire):
    """A model, its workers and its queue."""

    name: str
    type: Literal["image"]
    count: Count
    """Threads that draw the model."""
    performance: float
    """Average measured speed of its workers, in pixelsteps per second; 0 if unknown."""
    queued: float
    """Waiting pixelsteps."""
    jobs: float
    """Waiting images."""
    eta: int
    """Seconds until all of them are drawn; 10000 if no worker draws the model."""


class ModelList(WireList[ActiveModel]):
    """Models."""


class Performance(Wire):
    """The whole fleet as of the last census. There are no text or alchemy workers."""

    queued_requests: Count
    """Waiting images."""
    queued_text_requests: Count
    worker_count: Count
    text_worker_count: Count
    thread_count: Count
    text_thread_count: Count
    queued_megapixelsteps: float
    past_minute_megapixelsteps: float
    queued_forms: Count
    interrogator_count: Count
    interrogator_thread_count: Count
    queued_tokens: Count
    past_minute_tokens: Count


class ImageAmount(Wire):
    """A number of images, and their pixelsteps."""

    images: Count
    ps: Count


class AnonymousAmount(Wire):
    """Anonymous requests and their delivered images; ``taxes`` are the kudos burned for these."""

    requests: Count
    images_requested: Count
    images: Count
    taxes: Kudos


class ImageTotals(Wire):
    """Drawn images: in the last full minute, the last hour, this UTC day, 31 days, and in all."""

    minute: ImageAmount
    hour: ImageAmount
    day: ImageAmount
    month: ImageAmount
    total: ImageAmount
    anonymous: AnonymousAmount
    """Extension: in all."""


class ImageModels(Wire):
    """Drawn images by model: on this UTC day, in 31 days, and in all."""

    day: dict[str, Count]
    month: dict[str, Count]
    total: dict[str, Count]


class TextAmount(Wire):
    """A number of text requests, and their tokens; always 0."""

    requests: Count
    tokens: Count


class TextTotals(Wire):
    """Written texts, by the same periods as drawn images: this horde draws images only."""

    minute: TextAmount
    hour: TextAmount
    day: TextAmount
    month: TextAmount
    total: TextAmount


class TextModels(Wire):
    """Written texts by model; always empty."""

    day: dict[str, Count]
    month: dict[str, Count]
    total: dict[str, Count]


class Team(Wire):
    """A team of workers."""

    id: Uuid
    name: str


class WorkerTeams(WireList[Team]):
    """Always empty: there are no teams."""


class WorkerMessage(Wire):
    """A moderator's message to workers."""

    id: Uuid
    message: str


class WorkerMessages(WireList[WorkerMessage]):
    """Always empty: nobody can send workers a message."""


class Modes(Wire):
    """The horde's modes. Invite-only mode and raid mode are always off."""

    maintenance_mode: bool
    invite_only_mode: bool
    raid_mode: bool


class Newspiece(Wire):
    """One item of news."""

    date_published: str
    title: str
    newspiece: str
    importance: str
    tags: list[str]
    more_info_urls: list[str]


class News(WireList[Newspiece]):
    """News, newest first."""


class Document(Wire):
    """A document in the requested format."""

    html: str | None = None
    markdown: str | None = None


class KudosTransferred(Wire):
    """The kudos that were transferred."""

    transferred: Kudos


class KudosAwarded(Wire):
    """The kudos that were awarded."""

    awarded: Kudos


class SharedKeyDetails(Wire):
    """A shared key; -1 means unlimited, and a key without ``expiry`` never expires."""

    id: Uuid
    username: str
    name: str
    kudos: Kudos
    """Kudos left to spend."""
    expiry: str | None = None
    """RFC 822."""
    utilized: Kudos
    """Kudos spent with the key, minus refunds."""
    max_image_pixels: int
    max_image_steps: int
    max_text_tokens: int


class Done(Wire):
    """The call succeeded."""

    message: Literal["OK"] = "OK"


class SharedImage(Wire):
    """Where a shared image is. Times are in UTC.

    ``waiting`` is before its release, ``kept back`` is by the screening. A withdrawn one leaves the
    data set until ``gone_by``.
    """

    id: Uuid
    state: Literal["waiting", "released", "kept back", "withdrawn"]
    withdrawn_at: str | None = None
    gone_by: str | None = None


class Withdrawn(Wire):
    """A withdrawal that was recorded: the data set is without the images until ``gone_by``, UTC."""

    message: str
    gone_by: str
    hours: Count
    """What the terms promise, from the withdrawal on."""


class Deleted(Done):
    """The account is deleted."""

    shared_withdrawn: bool | None = None
    """Whether what it had shared is withdrawn with it, if the call has chosen."""


class Heartbeat(Wire):
    """The API is up."""

    message: Literal["OK"]
    version: str
