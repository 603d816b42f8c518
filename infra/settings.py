"""The operator's settings: the keys of ``settings/<stage>.json``, their defaults and their checks.

``infra/stages.py`` reads the files.
"""

import json
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

from infra.endpoint_settings import EndpointSettings
from infra.models import MAX_MODELS, ModelSettings
from infra.values import (
    WORDS,
    BucketName,
    Email,
    ExternalId,
    ModelName,
    Network,
    ParameterName,
    Reader,
    Region,
    RoleArn,
    matching,
    one_of,
)

API_FUNCTIONS = (
    "about",
    "browse",
    "generate",
    "keys",
    "manage",
    "rate",
    "status",
    "styles",
    "transfer",
    "users",
    "withdraw",
    "worker",
)
"""The functions behind the API, which a client waits for."""
MAX_VARIABLE = 2_000
"""Most bytes of a setting in the environment of a function: Lambda gives all of it 4 KB."""
MAX_BATCH = 20
"""The largest ``MAX_BATCH`` of gpu_worker."""


AccountId = Annotated[int, Field(ge=1)]


class StackSettings(EndpointSettings, BaseModel):
    """The operator's settings. Every field is a key of ``settings/<stage>.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    models: Annotated[dict[ModelName, ModelSettings], Field(min_length=1, max_length=MAX_MODELS)]
    """The models that this horde draws, by the Horde's names."""
    images_per_ticket: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 4
    """Images per RunPod job, which should be the worker's ``MAX_BATCH``."""
    runpod_key_parameter: ParameterName = "/horde-commons/runpod-api-key"
    """The SSM SecureString that holds RunPod's API key."""
    laion_bucket: BucketName | None = None
    """The bucket for the open data set, maybe in another account; None for the stack's own."""
    laion_region: Region | None = None
    """The region of that bucket; None for the stack's."""
    laion_role: RoleArn | None = None
    """The role that may write that bucket; None for the functions' own."""
    laion_external_id: ExternalId | None = None
    """What the trust policy of that role asks for, so that nobody else has us assume it."""
    laion_readers: list[Reader] = []
    """Accounts, roles and users that may read the releases in the stack's own bucket."""
    laion_requester_pays: bool = False
    """Whether those readers pay for what they ask of S3."""
    alarm_email: Email | None = None
    """The address that gets the alarms."""
    rate_limits: bool = True
    """Whether rate limits are enforced."""
    trusted_ips: list[Network] = []
    """Addresses and networks with higher rate limits."""
    admins: list[AccountId] = []
    """Ids of the accounts that are admins."""
    hold_hours: Annotated[int, Field(ge=1, le=24 * 14)] = 24
    """Hours from an image's delivery until it may be in a release."""
    detector: Annotated[
        str, matching(r"opennsfw|https://\S+|[\w.]+:\w+", "opennsfw, https://… or module:function")
    ] = "opennsfw"
    """What scores the nudity of images before they are published: ``opennsfw``, an https service
    or a Python function of your own."""
    nsfw_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The score from which an image is kept back from the data set, 0 to 1."""
    screening_words: list[Annotated[str, Field(min_length=2, max_length=100)]] = list(WORDS)
    """Words and phrases; an image whose prompt has one is kept back from the data set."""
    aesthetic_scorer: (
        Annotated[str, matching(r"lists/[\w.-]{1,100}", "lists/ and the name of a file")] | None
    ) = None
    """The scorer that gives released images their ``aesthetic_score``, as ``bin/operator scorer``
    has uploaded it; None for no scores."""
    hold_volunteers: bool = True
    """Whether shared images of untrusted volunteers are held back until they are trusted."""
    trusted_after_images: Annotated[int, Field(ge=1)] | None = None
    """Drawn images after which a volunteer's week-old account is trusted; None for never."""
    account_keys_pop: bool = False
    """Whether an account's own key may run its workers, and not only a worker key of yours."""
    monthly_kudos: Annotated[int, Field(ge=0)] = 0
    """Kudos that an account in good standing gets in each month in which it is used."""
    snap_start: list[Annotated[str, one_of(API_FUNCTIONS, "a function behind the API")]] = []
    """Functions that start from a snapshot of their memory (Lambda SnapStart), which costs."""
    contact: str = ""
    """How to reach the operator, in Markdown; shown in the terms and the privacy policy."""
    aws_client: Literal["thin", "botocore"] = "thin"
    """How the functions call AWS: by their own thin client, or by botocore."""
    layer: str = "build/layer/lambda"
    """The folder of the wheels layer."""
    more_layers: bool = True
    """Whether functions with large dependencies have layers of their own, beside ``layer``."""
    functions: str = "build/functions/lambda"
    """The folder of the functions with their bytecode."""

    @field_validator("screening_words")
    @classmethod
    def _are_few(cls, words: list[str]) -> list[str]:
        _check_size(json.dumps(words), "; lists/words.txt in the work bucket takes any number")
        return words

    @field_validator("laion_region", "laion_role")
    @classmethod
    def _needs_bucket(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("laion_bucket", "") is None:
            raise ValueError(
                "needs laion_bucket: the stack's own bucket is in its account and region"
            )
        return value

    @field_validator("laion_external_id")
    @classmethod
    def _needs_role(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("laion_role", "") is None:
            raise ValueError("needs laion_role: it is for the role's trust policy")
        return value

    @field_validator("laion_readers")
    @classmethod
    def _of_our_bucket(cls, readers: list[str], info: ValidationInfo) -> list[str]:
        if readers and info.data.get("laion_bucket"):
            raise ValueError("is for the stack's own bucket: laion_bucket's owner lets readers in")
        return readers

    @field_validator("laion_requester_pays")
    @classmethod
    def _needs_readers(cls, pays: bool, info: ValidationInfo) -> bool:  # noqa: FBT001 - pydantic's
        if pays and info.data.get("laion_readers") == []:
            raise ValueError("needs laion_readers: nobody else may read the stack's own bucket")
        return pays


def _check_size(text: str, hint: str) -> None:
    size = len(text.encode())
    if size > MAX_VARIABLE:
        message = f"takes {size} bytes, and its functions have room for {MAX_VARIABLE}{hint}"
        raise ValueError(message)
