"""The operator's settings: the keys of ``settings/<stage>.json``, their defaults and their checks.

``infra/stages.py`` reads the files.
"""

import difflib
import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)

BASELINES = (
    "stable_diffusion_1",
    "stable_diffusion_2",
    "stable_diffusion_2_512",
    "stable_diffusion_2_768",
    "stable_diffusion_xl",
    "stable_cascade",
    "flux_1",
    "qwen_image",
    "z_image_turbo",
)
"""The AI Horde's names of the model families; price, lease and free size depend on the family."""
API_FUNCTIONS = (
    "about",
    "browse",
    "generate",
    "keys",
    "manage",
    "status",
    "transfer",
    "users",
    "worker",
)
"""The functions behind the API, which a client waits for."""
MAX_BATCH = 20
"""The largest ``MAX_BATCH`` of gpu_worker."""
S3_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
S3_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
"""Prefixes and suffixes that S3 reserves (S3 user guide, bucket naming rules)."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class SecretError(ValueError):
    """The value is wrong, and may be a secret that must not be shown."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint for a message about an unknown word; empty if no known word is similar."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _matching(pattern: str, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            message = f"is not {what}"
            raise ValueError(message)
        return text

    return AfterValidator(check)


def _known_baseline(text: str) -> str:
    if text not in BASELINES:
        message = f"is not a model family{did_you_mean(text, BASELINES)}"
        raise ValueError(message)
    return text


def _api_function(text: str) -> str:
    if text not in API_FUNCTIONS:
        meant = did_you_mean(text, API_FUNCTIONS)
        message = f"is not a function behind the API{meant}"
        raise ValueError(message)
    return text


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        try:
            network = ipaddress.ip_network(text, strict=False)
            message = f"has host bits set (did you mean '{network}'?)"
        except ValueError:
            message = "is not an IP address or network"
        raise ValueError(message) from None
    return text


def _bucket_name(text: str) -> str:
    """Check a bucket's name by S3's rules for general purpose buckets (S3 user guide)."""
    good = re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text)
    if not good or ".." in text or re.fullmatch(r"\d+(\.\d+){3}", text):
        raise ValueError("is not the name of an S3 bucket")
    if text.startswith(S3_PREFIXES) or text.endswith(S3_SUFFIXES):
        raise ValueError("is not the name of an S3 bucket: AWS keeps such names to itself")
    return text


def _parameter_name(text: str) -> str:
    """Check a parameter's name by Systems Manager's rules (PutParameter, API reference)."""
    if text.startswith("rpa_"):
        raise SecretError("is a RunPod API key: store it in SSM, and name the parameter here")
    if not re.fullmatch(r"[\w.-]+|(/[\w.-]+){1,15}", text, re.ASCII):
        raise ValueError("is not the name of an SSM parameter, such as '/horde-commons/runpod'")
    if re.match(r"/?(aws|ssm)", text, re.IGNORECASE):
        raise ValueError("is not the name of an SSM parameter: AWS keeps 'aws' and 'ssm' to itself")
    return text


EndpointId = Annotated[
    str,
    _matching(
        r"[a-z0-9][a-z0-9-]{0,62}",
        "the id of a RunPod endpoint: lower-case letters, digits and hyphens, no address",
    ),
]
ModelName = Annotated[str, _matching(r"\S(.{0,253}\S)?", "a model's name")]
RoleArn = Annotated[
    str,
    _matching(
        r"arn:aws(-[a-z-]+)?:iam::\d{12}:role/[\w+=,.@/-]{1,576}",
        "the ARN of a role, such as 'arn:aws:iam::123456789012:role/name'",
    ),
]
Email = Annotated[str, _matching(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+", "an e-mail address")]
AccountId = Annotated[int, Field(ge=1)]


class ModelSettings(BaseModel):
    """The settings of one of the Horde's models."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    endpoint: EndpointId | None
    """The RunPod endpoint that draws it; None if only volunteers do."""
    baseline: Annotated[str, AfterValidator(_known_baseline)]
    """Its model family."""


class StackSettings(BaseModel):
    """The operator's settings. Every field is a key of ``settings/<stage>.json``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    models: Annotated[dict[ModelName, ModelSettings], Field(min_length=1)]
    """The models that this horde draws, by the Horde's names."""
    images_per_ticket: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 4
    """Images per RunPod job, which should be the worker's ``MAX_BATCH``."""
    endpoint_url: str | None = None
    """The address of the local cloud; None for AWS itself."""
    runpod_url: str = "https://api.runpod.ai/v2"
    runpod_key_parameter: Annotated[str, AfterValidator(_parameter_name)] = (
        "/horde-commons/runpod-api-key"
    )
    """The SSM SecureString that holds RunPod's API key."""
    laion_bucket: Annotated[str, AfterValidator(_bucket_name)] | None = None
    """The bucket for the open data set, maybe in another account; None for the stack's own."""
    laion_role: RoleArn | None = None
    """The role that may write that bucket; None for the function's own."""
    alarm_email: Email | None = None
    """The address that gets the alarms."""
    rate_limits: bool = True
    """Whether rate limits are enforced."""
    trusted_ips: list[Annotated[str, AfterValidator(_network)]] = []
    """Addresses and networks with higher rate limits."""
    admins: list[AccountId] = []
    """Ids of the accounts that are admins."""
    hold_volunteers: bool = True
    """Whether shared images of untrusted volunteers are held back until they are trusted."""
    trusted_after_images: Annotated[int, Field(ge=1)] | None = None
    """Drawn images after which a volunteer's week-old account is trusted; None for never."""
    monthly_kudos: Annotated[int, Field(ge=0)] = 0
    """Kudos that an account in good standing gets in each month in which it is used."""
    snap_start: list[Annotated[str, AfterValidator(_api_function)]] = []
    """Functions that start from a snapshot of their memory (Lambda SnapStart), which costs."""
    contact: str = ""
    """How to reach the operator, in Markdown; shown in the terms and the privacy policy."""
    aws_client: Literal["thin", "botocore"] = "thin"
    """How the functions call AWS: by their own thin client, or by botocore."""
    layer: str = "build/layer/lambda"
    """The folder of the wheels layer."""
    functions: str = "build/functions/lambda"
    """The folder of the functions with their bytecode."""

    @field_validator("endpoint_url")
    @classmethod
    def _is_loopback(cls, url: str | None) -> str | None:
        if url is not None and not _is_local(url):
            raise ValueError("is not the local cloud: http on 127.0.0.1")
        return url

    @field_validator("runpod_url")
    @classmethod
    def _is_https(cls, url: str, info: ValidationInfo) -> str:
        parts = urlsplit(url)
        at_home = bool(info.data.get("endpoint_url")) and _is_local(url)
        if not at_home and (parts.scheme != "https" or not parts.hostname):
            raise ValueError("is not an https address; plain http is for the local cloud alone")
        if parts.query or parts.fragment or parts.username:
            raise ValueError("has more than a host and a path")
        return url.rstrip("/")

    @field_validator("laion_role")
    @classmethod
    def _needs_bucket(cls, role: str | None, info: ValidationInfo) -> str | None:
        if role and info.data.get("laion_bucket", "") is None:
            raise ValueError("needs laion_bucket: the stack's own bucket is written without a role")
        return role


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in LOOPBACK
