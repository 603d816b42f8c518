"""Kinds of values in the settings, each with the check that its service would make much later."""

import difflib
import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

S3_PREFIXES = ("xn--", "sthree-", "amzn-s3-demo-")
S3_SUFFIXES = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
"""Prefixes and suffixes that S3 reserves (S3 user guide, bucket naming rules)."""


class SecretError(ValueError):
    """The value is wrong, and may be a secret that must not be shown."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint for a message about an unknown word; empty if no known word is similar."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def matching(pattern: str, what: str) -> AfterValidator:
    """Return the check of a text by a whole pattern; ``what`` it should be is for the message."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            message = f"is not {what}"
            raise ValueError(message)
        return text

    return AfterValidator(check)


def one_of(known: Iterable[str], what: str) -> AfterValidator:
    """Return the check of a text by the words that are known; ``what`` they are is for messages."""
    words = tuple(known)

    def check(text: str) -> str:
        if text not in words:
            message = f"is not {what}{did_you_mean(text, words)}"
            raise ValueError(message)
        return text

    return AfterValidator(check)


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
    matching(
        r"[a-z0-9][a-z0-9-]{0,62}",
        "the id of a RunPod endpoint: lower-case letters, digits and hyphens, no address",
    ),
]
ModelName = Annotated[str, matching(r"\S(.{0,253}\S)?", "a model's name")]
RoleArn = Annotated[
    str,
    matching(
        r"arn:aws(-[a-z-]+)?:iam::\d{12}:role/[\w+=,.@/-]{1,576}",
        "the ARN of a role, such as 'arn:aws:iam::123456789012:role/name'",
    ),
]
Email = Annotated[str, matching(r"[^@\s]{1,64}@[^@\s.]+(\.[^@\s.]+)+", "an e-mail address")]
BucketName = Annotated[str, AfterValidator(_bucket_name)]
ParameterName = Annotated[str, AfterValidator(_parameter_name)]
Network = Annotated[str, AfterValidator(_network)]
Region = Annotated[
    str, matching(r"[a-z]{2,4}(-[a-z]+){1,2}-\d{1,2}", "an AWS region, such as 'eu-west-1'")
]
ExternalId = Annotated[
    str,
    matching(
        r"[A-Za-z0-9_+=,.@:/-]{2,1224}",
        "an external id: 2 to 1224 letters, digits and any of _+=,.@:/-",
    ),
]
Reader = Annotated[
    str,
    matching(
        r"\d{12}|arn:aws(-[a-z-]+)?:iam::\d{12}:(role|user)/[\w+=,.@/-]{1,576}",
        "an account's 12 digits or the ARN of a role or user",
    ),
]


WORDS = (
    "child porn",
    "childporn",
    "kiddie porn",
    "loli",
    "lolicon",
    "pedo",
    "pedophile",
    "preteen",
    "shota",
    "shotacon",
    "underage",
)
"""The default of ``screening_words``."""
