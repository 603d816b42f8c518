"""The response bodies of the API, as pydantic models from which the OpenAPI document is generated.

Names and shapes are the AI Horde's (horde-api.md 1); horde-clients.md 1.3 lists what each client
needs. A field that is None is left out, unless a client needs the null.
"""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

Uuid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Count = Annotated[int, Field(ge=0)]
Kudos = int


class Wire(BaseModel):
    """A response's body."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid", defer_build=True)
    nulls: ClassVar[frozenset[str]] = frozenset()
    """Fields that are sent as null if they are None."""

    def dump(self) -> Any:
        """Return the JSON value to send."""
        body = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {**dict.fromkeys(self.nulls), **body} if self.nulls else body


W = TypeVar("W", bound=Wire)


class WireList(RootModel[list[W]], Generic[W]):
    """A response's body that is a list."""

    model_config = ConfigDict(defer_build=True)

    def dump(self) -> Any:
        """Return the JSON value to send."""
        return [row.dump() for row in self.root]


class RequestError(Wire):
    """A refusal: its message and the Horde's code for it."""

    message: str
    rc: str


class PlainError(Wire):
    """A refusal without a code: a malformed body, a rate limit or an unknown method."""

    message: str


class SchemaError(Wire):
    """The body does not fit the schema: all errors, by dotted path."""

    errors: dict[str, str]
    message: Literal["Input payload validation failed"]


class Warned(Wire):
    """A warning about an accepted request."""

    code: Literal["NoAvailableWorker"]
    message: str


class RequestAccepted(Wire):
    """An accepted request. ``kudos`` is the charge for all its images, including tax."""

    id: Uuid
    kudos: Kudos
    message: str | None = None
    warnings: list[Warned] | None = None


class RequestCost(Wire):
    """The charge that a request would cause, for all its images, including tax."""

    kudos: Kudos


class RequestCheck(Wire):
    """The progress of a request. ``wait_time`` is in seconds, and at least 2 until it is done."""

    finished: Count
    processing: Count
    restarted: Count
    waiting: Count
    done: bool
    faulted: bool
    wait_time: Count
    queue_position: Count
    kudos: Kudos
    """Kudos consumed by the images delivered so far."""
    is_possible: bool


class Remark(Wire):
    """A worker's remark about an image."""

    type: str
    value: str
    ref: str | None = None


class GeneratedImage(Wire):
    """A delivered image. ``img`` is a URL valid for half an hour, or the WebP file in base64."""

    img: str
    seed: str
    id: Uuid
    censored: bool
    gen_metadata: list[Remark]
    worker_id: str
    worker_name: str
    model: str
    state: Literal["ok", "censored"]
    shared: bool
    """Whether this image is in the open data set or will be."""


class Finished(Wire):
    """The body of a webhook call about one finished image. ``kudos`` is what the image cost."""

    img: str
    seed: str
    worker_id: str
    worker_name: str
    model: str
    id: Uuid
    censored: bool
    gen_metadata: list[Remark]
    request: Uuid
    kudos: Kudos


class RequestStatus(RequestCheck):
    """The progress of a request, and its delivered images."""

    shared: bool
    generations: list[GeneratedImage]


class UploadForm(Wire):
    """A form that uploads a WebP file to ``url`` by POST: ``fields`` first, then ``file``."""

    url: str
    fields: dict[str, str]


class Job(Wire):
    """One image for a worker to draw. ``ttl`` is the length of its lease in seconds."""

    id: Uuid
    model: str
    ttl: int
    payload: dict[str, Any]
    r2_upload: str
    shared: bool
    r2_post: UploadForm | None = None
    """Uploads instead of ``r2_upload``: the length is signed, so S3 refuses what is too long."""
    source_image: str | None = None
    source_processing: str | None = None
    source_mask: str | None = None


class Popped(Wire):
    """The images of one request for a worker to draw, or none (``id`` is then null)."""

    nulls = frozenset({"id"})

    id: Uuid | None
    ids: list[Uuid]
    payload: dict[str, Any]
    skipped: dict[str, int]
    messages: list[str]
    model: str | None = None
    ttl: int | None = None
    r2_upload: str | None = None
    r2_uploads: list[str] | None = None
    shared: bool | None = None
    source_image: str | None = None
    source_processing: str | None = None
    source_mask: str | None = None
    jobs: list[Job] | None = None
    """All claimed images, including those of other requests, if the pop set ``mixed_batch``."""


class Submitted(Wire):
    """The kudos that a worker earned."""

    reward: Kudos


class Rated(Wire):
    """The kudos that a rating earned for the request's owner."""

    reward: Kudos
    message: str | None = None


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
    """Always 0: there are no styles."""


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
    """Always 0: there are no styles."""


class ActiveGenerations(Wire):
    """The ids of an account's requests, finished or not, until they expire, newest first.

    A client that lost an id finds it here.
    """

    image: list[Uuid]
    text: list[Uuid] = []
    alchemy: list[Uuid] = []
    """Always empty: this horde draws images only."""


class MonthlyKudos(Wire):
    """An account's monthly allowance, and when it last received one (UTC)."""

    amount: Kudos
    last_received: str | None = None


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
    styles: list[str] = []
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


class Heartbeat(Wire):
    """The API is up."""

    message: Literal["OK"]
    version: str
