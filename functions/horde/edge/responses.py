"""The response bodies of the API, as pydantic models from which the OpenAPI document is generated.

Names and shapes are the AI Horde's (horde-api.md 1); horde-clients.md 1.3 lists what each client
needs. A field that is None is left out, unless a client needs the null. Those of functions that no
image waits for are in ``other_responses``.
"""

from collections.abc import Iterable, Mapping
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


SCORE = "nsfw_score="
"""How the safety score begins that our own worker sends with every image."""


def remarks_of(said: Iterable[Mapping[str, str]]) -> list[Remark]:
    """Return a worker's remarks, but for the safety score.

    A client that knows no ``information`` fails on it (horde-clients.md 2), and every image has it.
    """
    return [Remark(**remark) for remark in said if not remark.get("ref", "").startswith(SCORE)]


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
