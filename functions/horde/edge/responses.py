"""What the API answers, as pydantic models; the OpenAPI is made of these.

Names and shapes are the AI Horde's (horde-api.md 1; horde-clients.md 1.3 says which client breaks
on what). A field that is None is left out, unless a client needs the null.
"""

from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, RootModel

Uuid = Annotated[str, Field(json_schema_extra={"format": "uuid"})]
Count = Annotated[int, Field(ge=0)]
Kudos = int


class Wire(BaseModel):
    """A response's body."""

    model_config = ConfigDict(populate_by_name=True, extra="forbid")
    nulls: ClassVar[frozenset[str]] = frozenset()
    """Fields that are sent as null where they are None."""

    def dump(self) -> Any:
        """Return the JSON value that goes out."""
        body = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {**dict.fromkeys(self.nulls), **body} if self.nulls else body


W = TypeVar("W", bound=Wire)


class WireList(RootModel[list[W]], Generic[W]):
    """A response's body that is a list."""

    def dump(self) -> Any:
        """Return the JSON value that goes out."""
        return [row.dump() for row in self.root]


class RequestError(Wire):
    """A refusal: what is wrong, and the Horde's code for it."""

    message: str
    rc: str


class PlainError(Wire):
    """A refusal without a code: malformed bodies, rate limits, unknown methods."""

    message: str


class SchemaError(Wire):
    """The body does not fit the schema: every error at once, by dotted path."""

    errors: dict[str, str]
    message: Literal["Input payload validation failed"]


class Warned(Wire):
    """Something the client may want to know."""

    code: Literal["NoAvailableWorker"]
    message: str


class RequestAccepted(Wire):
    """A request that was taken. ``kudos`` is what was charged for all its images, tax included."""

    id: Uuid
    kudos: Kudos
    message: str | None = None
    warnings: list[Warned] | None = None


class RequestCost(Wire):
    """What a request would be charged, for all its images, tax included."""

    kudos: Kudos


class RequestCheck(Wire):
    """How far a request is. ``wait_time`` is in seconds, at least 2 while not done."""

    finished: Count
    processing: Count
    restarted: Count
    waiting: Count
    done: bool
    faulted: bool
    wait_time: Count
    queue_position: Count
    kudos: Kudos
    """Consumed by what was delivered so far."""
    is_possible: bool


class Remark(Wire):
    """What a worker says about an image."""

    type: str
    value: str
    ref: str | None = None


class GeneratedImage(Wire):
    """A delivered image. ``img`` is a URL for half an hour, or the WebP file in base64."""

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
    """Whether this image is in the open data set, or about to be."""


class Finished(Wire):
    """What a webhook is told of one finished image. ``kudos`` is what the image cost."""

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
    """How far a request is, and what is done of it."""

    shared: bool
    generations: list[GeneratedImage]


class Job(Wire):
    """One image for a worker to draw. ``ttl`` is its lease in seconds."""

    id: Uuid
    model: str
    ttl: int
    payload: dict[str, Any]
    r2_upload: str
    shared: bool
    source_image: str | None = None
    source_processing: str | None = None
    source_mask: str | None = None


class Popped(Wire):
    """What a worker got: the images of one request, or none (``id`` is null then)."""

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
    """All of them, also of other requests: for workers that ask with ``mixed_batch``."""


class Submitted(Wire):
    """What a worker earned."""

    reward: Kudos


class Rated(Wire):
    """What a rating earned the owner of the request."""

    reward: Kudos
    message: str | None = None


class Registered(Wire):
    """A new account. This response is the only place that ever shows its key."""

    id: int
    username: str
    kudos: Kudos
    api_key: str


class KudosDetails(Wire):
    """Where a balance comes from: these sum to it. Kudos given away count below zero."""

    accumulated: Kudos
    """Earned by drawing images, less what was spent on them."""
    gifted: Kudos
    received: Kudos
    admin: Kudos
    """Given by the operator or by opening the account."""
    awarded: Kudos
    recurring: Kudos
    """The allowance of each month."""
    donated: Kudos = 0
    """There are no education accounts to donate to."""
    styled: Kudos = 0
    """There are no styles."""


class Usage(Wire):
    """Images an account asked for."""

    megapixelsteps: float
    requests: Count


class Contributions(Wire):
    """Images an account's workers drew."""

    megapixelsteps: float
    fulfillments: Count


class ThingRecords(Wire):
    """An amount of work. There is no text here, so no tokens."""

    megapixelsteps: float
    tokens: Count = 0


class AmountRecords(Wire):
    """A number of images. There is no text and no interrogation here."""

    image: Count
    text: Count = 0
    interrogation: Count = 0


class UserRecords(Wire):
    """The same counts once more, as newer clients read them."""

    usage: ThingRecords
    contribution: ThingRecords
    request: AmountRecords
    fulfillment: AmountRecords
    style: AmountRecords
    """There are no styles."""


class ActiveGenerations(Wire):
    """The ids of an account's requests until they expire, done or not, newest first.

    A client that lost an id finds its images again.
    """

    image: list[Uuid]
    text: list[Uuid] = []
    alchemy: list[Uuid] = []
    """Only images are drawn here."""


class MonthlyKudos(Wire):
    """What an account is given each month, and when it last was (UTC)."""

    amount: Kudos
    last_received: str | None = None


class UserDetails(Wire):
    """An account; some fields only for its owner and moderators, some only for one at a time.

    The anonymous account is never written, so nothing of it is counted.
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
    """Nobody has these roles here, nor the special one."""
    concurrency: Count
    account_age: Count | None = None
    """In seconds."""
    usage: Usage | None = None
    contributions: Contributions | None = None
    records: UserRecords | None = None
    styles: list[str] = []
    worker_count: Count | None = None
    """Up to 100; not in a list of accounts."""
    worker_ids: list[Uuid] | None = None
    active_generations: ActiveGenerations | None = None
    sharedkey_ids: list[Uuid] | None = None
    contact: str | None = None
    admin_comment: str | None = None
    monthly_kudos: MonthlyKudos | None = None


class UserList(WireList[UserDetails]):
    """Accounts, 25 a page."""


class UserChanged(Wire):
    """What was changed."""

    new_kudos: Kudos | None = None
    """The balance."""
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
    """What a worker earned, by what for."""

    generated: Kudos
    uptime: Kudos


class WorkerDetails(Wire):
    """A worker, as the Horde shows it. ``uptime`` is in seconds."""

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
    paused: bool | None = None
    """For moderators."""
    info: str | None = None
    nsfw: bool
    owner: str | None = None
    """``alias#id``, for the owner and moderators."""
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
    """What a worker is now, as far as it was changed."""

    maintenance: bool | None = None
    maintenance_msg: str | None = None
    paused: bool | None = None
    info: str | None = None
    name: str | None = None


class WorkerDeleted(Wire):
    """A worker that is no more."""

    deleted_id: Uuid
    deleted_name: str


class ActiveModel(Wire):
    """A model: who draws it and what waits for it."""

    name: str
    type: Literal["image"]
    count: Count
    """Threads that draw it."""
    performance: float
    """A worker's measured speed on average in pixelsteps per second; 0 while nobody knows."""
    queued: float
    """Pixelsteps that wait."""
    jobs: float
    """Images that wait."""
    eta: int
    """Seconds until all of them are drawn; 10000 where nobody draws it."""


class ModelList(WireList[ActiveModel]):
    """Models."""


class Performance(Wire):
    """The whole fleet, as of the last census. There are no text and alchemy workers."""

    queued_requests: Count
    """Images that wait."""
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
    """Images, and their pixelsteps."""

    images: Count
    ps: Count


class AnonymousAmount(Wire):
    """What was asked for without an account, and got: ``taxes`` are the kudos burned for it."""

    requests: Count
    images_requested: Count
    images: Count
    taxes: Kudos


class ImageTotals(Wire):
    """What was drawn: in the last full minute, the last hour, this UTC day, 31 days, and ever."""

    minute: ImageAmount
    hour: ImageAmount
    day: ImageAmount
    month: ImageAmount
    total: ImageAmount
    anonymous: AnonymousAmount
    """Extension: ever."""


class ImageModels(Wire):
    """Images by model: this UTC day, 31 days, and ever."""

    day: dict[str, Count]
    month: dict[str, Count]
    total: dict[str, Count]


class Modes(Wire):
    """How the horde is run. There is no invite-only mode and no raid mode here."""

    maintenance_mode: bool
    invite_only_mode: bool
    raid_mode: bool


class Newspiece(Wire):
    """Something new."""

    date_published: str
    title: str
    newspiece: str
    importance: str
    tags: list[str]
    more_info_urls: list[str]


class News(WireList[Newspiece]):
    """What is new."""


class Document(Wire):
    """A document, in the format that was asked for."""

    html: str | None = None
    markdown: str | None = None


class KudosTransferred(Wire):
    """What was moved."""

    transferred: Kudos


class KudosAwarded(Wire):
    """What was awarded."""

    awarded: Kudos


class SharedKeyDetails(Wire):
    """A shared key; -1 means without bound, no ``expiry`` that it never runs out."""

    id: Uuid
    username: str
    name: str
    kudos: Kudos
    """What is left to spend."""
    expiry: str | None = None
    """RFC 822."""
    utilized: Kudos
    """What was spent with it."""
    max_image_pixels: int
    max_image_steps: int
    max_text_tokens: int


class Done(Wire):
    """It is done."""

    message: Literal["OK"] = "OK"


class Heartbeat(Wire):
    """The API answers."""

    message: Literal["OK"]
    version: str
