"""Botocore clients, created once per process, and the settings of a Lambda.

Plain botocore, since importing boto3 adds 65 ms to every cold start for S3 transfers that nothing
here uses (lambda-performance.md 1.1). Endpoints and region come from the standard AWS variables, so
the code does not depend on which cloud it runs in.
"""

import os
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import botocore.session
from botocore.config import Config
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient


S = TypeVar("S", bound="Settings")

_CONFIG = Config(
    connect_timeout=2,
    read_timeout=8,
    retries={"mode": "standard", "total_max_attempts": 3},
    parameter_validation=False,
    tcp_keepalive=True,
)


class Settings(BaseModel):
    """A Lambda's environment variables, declared by each handler and read on first use."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    @classmethod
    def load(cls: type[S]) -> S:  # noqa: PYI019 - so that the cache's type is the caller's
        """Return the cached settings; raises ValidationError, which names a missing variable."""
        settings: S = _load(cls)
        return settings


@cache
def _load(kind: type[S]) -> S:
    return kind.model_validate({key.lower(): value for key, value in os.environ.items()})


@cache
def _session() -> botocore.session.Session:
    return botocore.session.Session()


def _client(name: str, config: Config = _CONFIG, **kwargs: Any) -> Any:
    return _session().create_client(name, config=config, **kwargs)


@cache
def dynamodb() -> "DynamoDBClient":
    """Return the DynamoDB client."""
    client: DynamoDBClient = _client("dynamodb")
    return client


@cache
def sqs() -> "SQSClient":
    """Return the SQS client."""
    client: SQSClient = _client("sqs")
    return client


@cache
def ssm() -> "SSMClient":
    """Return the SSM client."""
    client: SSMClient = _client("ssm")
    return client


@cache
def secret(arn: str) -> bytes:
    """Return a secret of Secrets Manager, which a process reads once, when it needs it."""
    text: str = _client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return text.encode()


def _s3_config() -> Config:
    """Return a config for SigV4 and the bucket's host name: presigned URLs need it in new regions.

    A bucket cannot be a subdomain of an IP address, so there it goes into the path.
    """
    host = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3", "")).hostname or ""
    numeric = host.replace(".", "").isdigit()
    return _CONFIG.merge(
        Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if numeric else "virtual"},
        )
    )


@cache
def s3() -> "S3Client":
    """Return the S3 client."""
    client: S3Client = _client("s3", _s3_config())
    return client


@cache
def s3_with_role(role_arn: str) -> "S3Client":
    """Return an S3 client that assumes a role, and refreshes its credentials by itself."""
    from botocore.credentials import (  # noqa: PLC0415 - only for a foreign bucket
        AssumeRoleCredentialFetcher,
        DeferredRefreshableCredentials,
    )

    session = botocore.session.Session()
    fetcher = AssumeRoleCredentialFetcher(
        session.create_client,
        _session().get_credentials(),
        role_arn,
        extra_args={"RoleSessionName": "horde-commons-share"},
    )
    session._credentials = DeferredRefreshableCredentials(  # type: ignore[attr-defined]  # noqa: SLF001
        refresh_using=fetcher.fetch_credentials, method="assume-role"
    )
    return session.create_client("s3", config=_s3_config())  # type: ignore[return-value]


def clear_settings() -> None:
    """Drop the cached settings, for tests that change the environment."""
    _load.cache_clear()


def clear_cache() -> None:
    """Drop the cached clients and settings, for tests that change the cloud."""
    clear_settings()
    for cached in (_session, dynamodb, sqs, ssm, secret, s3, s3_with_role):
        cached.cache_clear()
