"""The bodies and queries of those functions that no image waits for, as ``bodies`` has the others.

They are here, since a function's start pays for each model that it imports, used or not.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, StrictStr

from horde.edge.bodies import Body
from horde.rules.accounts import MAX_NAME


class ModelQuery(Body):
    """The query of ``GET /v2/status/models``."""

    type: Literal["image", "text"] = "image"
    min_count: Annotated[int, Field(ge=0)] | None = None
    max_count: Annotated[int, Field(ge=0)] | None = None
    model_state: Literal["known", "custom", "all"] = "all"
    """``known``: the operator's models; ``custom``: models that only volunteers draw."""


class ModelStatsQuery(Body):
    """The query of ``GET /v2/stats/img/models``."""

    model_state: Literal["known", "custom", "all"] = "all"


class WorkerQuery(Body):
    """The query of ``GET /v2/workers``."""

    type: Literal["image", "text", "interrogation"] = "image"
    name: Annotated[str, Field(max_length=100)] | None = None


class ModesChange(Body):
    """The body of ``PUT /v2/status/modes``."""

    maintenance_mode: StrictBool | None = None
    invite_only_mode: StrictBool = False
    raid_mode: StrictBool = False


class WorkerChange(Body):
    """The body of ``PUT /v2/workers/{id}``."""

    maintenance: StrictBool | None = None
    maintenance_msg: Annotated[StrictStr, Field(max_length=1000)] | None = None
    paused: StrictBool | None = None
    """Moderators only."""
    info: Annotated[StrictStr, Field(max_length=1000)] | None = None
    name: Annotated[StrictStr, Field(min_length=5, max_length=100)] | None = None
    team: Annotated[StrictStr, Field(max_length=36)] | None = None
    """Refused: there are no teams here."""


class DocumentQuery(Body):
    """The query of ``GET /v2/documents/{name}``."""

    format: Literal["html", "markdown"] = "html"


def _trimmed(name: str) -> str:
    # Runs after the other checks, so every accepted name also fits the published schema.
    if not name.strip():
        message = "a name needs at least one visible character"
        raise ValueError(message)
    return name.strip()


NAME = r"^[^#\x00-\x1f]+$"


class RegisterRequest(Body):
    """The body of ``POST /api/register``."""

    username: Annotated[
        StrictStr,
        Field(min_length=1, max_length=MAX_NAME, pattern=NAME),
        AfterValidator(_trimmed),
    ]


class KeyRequest(Body):
    """The body of ``POST /v2/keys``."""

    name: Annotated[StrictStr, Field(min_length=1, max_length=100)] | None = None
    """A label, for its owner to know it by."""


class UsersQuery(Body):
    """The query of ``GET /v2/users``."""

    page: Annotated[int, Field(ge=1)] = 1
    sort: Literal["kudos", "age"] = "kudos"


class UserDeletion(Body):
    """The query of ``DELETE /v2/users/{id}``."""

    withdraw_shared: Literal["true", "false"] | None = None
    """Whether to withdraw all that the account has shared. Afterwards it cannot ask for it."""


UserName = Annotated[
    StrictStr, Field(min_length=3, max_length=100, pattern=NAME), AfterValidator(_trimmed)
]
Note = Annotated[StrictStr, Field(min_length=5, max_length=500)]


def _whole(value: object) -> object:
    # horde_sdk sends 5.0 for 5.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]


class TransferRequest(Body):
    """The body of ``POST /v2/kudos/transfer``."""

    username: Annotated[StrictStr, Field(min_length=1, max_length=100)]
    """``alias#id``, or the id of a shared key."""
    amount: Whole = 100


class AwardRequest(TransferRequest):
    """The body of ``POST /v2/kudos/award``. An award creates kudos, so the amount is bounded."""

    amount: Annotated[Whole, Field(le=1_000_000_000)] = 100


class UserChange(Body):
    """The body of ``PUT /v2/users/{id}``.

    The owner or a moderator may set ``username`` and ``contact``; a moderator ``concurrency``,
    ``trusted``, ``flagged``, ``admin_comment`` and ``undelete``; an admin ``kudos``,
    ``monthly_kudos`` and ``moderator``. The other fields are refused.
    """

    username: UserName | None = None
    contact: Note | None = None
    concurrency: Annotated[Whole, Field(ge=0, le=500)] | None = None
    trusted: StrictBool | None = None
    flagged: StrictBool | None = None
    admin_comment: Note | None = None
    undelete: StrictBool | None = None
    kudos: Annotated[Whole, Field(ge=-1_000_000_000, le=1_000_000_000)] | None = None
    """Kudos to give, or to take if negative."""
    moderator: StrictBool | None = None
    monthly_kudos: Annotated[Whole, Field(ge=0, le=1_000_000_000)] | None = None
    """Monthly allowance in kudos, instead of the operator's default."""
    public_workers: Any = None
    usage_multiplier: Any = None
    worker_invited: Any = None
    customizer: Any = None
    vpn: Any = None
    service: Any = None
    education: Any = None
    special: Any = None
    filtered: Any = None
    reset_suspicion: Any = None
    generate_proxy_passkey: Any = None

    @property
    def changes(self) -> dict[str, Any]:
        """The new values, by field; null changes nothing."""
        sent = {name: getattr(self, name) for name in self.model_fields_set}
        return {name: value for name, value in sent.items() if value is not None}


class SharedKeyChange(Body):
    """The body of ``PATCH /v2/sharedkeys/{id}``; -1 means unlimited."""

    kudos: Annotated[Whole, Field(ge=-1, le=50_000_000)] | None = None
    """Kudos that the key may spend from now on; 0 disables it."""
    expiry: Annotated[Whole, Field(ge=-1, le=36_500)] | None = None
    """Days from now."""
    name: Annotated[StrictStr, Field(min_length=3, max_length=255)] | None = None
    max_image_pixels: Annotated[Whole, Field(ge=-1, le=4_194_304)] | None = None
    max_image_steps: Annotated[Whole, Field(ge=-1, le=500)] | None = None
    max_text_tokens: Annotated[Whole, Field(ge=-1, le=500)] | None = None


class SharedKeyRequest(SharedKeyChange):
    """The body of ``PUT /v2/sharedkeys``; -1 means unlimited."""

    kudos: Annotated[Whole, Field(ge=-1, le=50_000_000)] = 5000
    expiry: Annotated[Whole, Field(ge=-1, le=36_500)] = -1
    name: Annotated[StrictStr, Field(min_length=3, max_length=255)]
    max_image_pixels: Annotated[Whole, Field(ge=-1, le=4_194_304)] = -1
    max_image_steps: Annotated[Whole, Field(ge=-1, le=500)] = -1
    max_text_tokens: Annotated[Whole, Field(ge=-1, le=500)] = -1
