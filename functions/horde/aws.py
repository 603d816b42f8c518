"""The clients of AWS, made once per process, and the settings of a Lambda.

They are thin (``horde.wire``), since botocore was 91 % of the CPU of an accepted request. The
setting ``AWS_CLIENT=botocore`` brings botocore's back. Endpoints, region and credentials come from
the standard AWS variables, so the code does not depend on which cloud it runs in.
"""

import json
import os
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

from horde.wire import credentials, sockets
from horde.wire.seam import Client
from horde.wire.thin import ThinClient
from horde.wire.thin_lambda import ThinLambda
from horde.wire.thin_s3 import ThinS3

if TYPE_CHECKING:
    import botocore.session
    from botocore.config import Config
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_ssm import SSMClient


S = TypeVar("S", bound="Settings")
KINDS: dict[str, type[ThinClient]] = {"s3": ThinS3, "lambda": ThinLambda}
"""The thin clients of services that do not speak JSON with targets."""


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


def _client(name: str) -> Client:
    if os.environ.get("AWS_CLIENT", "thin") == "botocore":
        return _botocore_client(name)
    return KINDS.get(name, ThinClient)(name, _region(), _credentials())


_credentials = cache(credentials.find)


def warm(name: str) -> None:
    """Open a connection to a service, for its first call; raises OSError.

    Botocore opens one for itself at the first call. Of S3 each bucket is a server of its own.
    """
    made = {"dynamodb": dynamodb, "s3": s3, "sqs": sqs, "ssm": ssm, "lambda": lambdas}
    client: object = made[name]() if name in made else _client(name)
    if isinstance(client, ThinClient) and name != "s3":
        client.warm()


@cache
def dynamodb() -> "DynamoDBClient":
    """Return the DynamoDB client."""
    return cast("DynamoDBClient", _client("dynamodb"))


@cache
def sqs() -> "SQSClient":
    """Return the SQS client."""
    return cast("SQSClient", _client("sqs"))


@cache
def ssm() -> "SSMClient":
    """Return the SSM client."""
    return cast("SSMClient", _client("ssm"))


@cache
def s3() -> "S3Client":
    """Return the S3 client."""
    return cast("S3Client", _client("s3"))


@cache
def lambdas() -> Client:
    """Return the client of Lambda."""
    return _client("lambda")


def hand_over(function: str, event: dict[str, Any]) -> None:
    """Have another function run later with an event, at least once; raises AwsError.

    Lambda keeps the event, tries again, and leaves a dead letter if it always fails.
    """
    payload = json.dumps(event, separators=(",", ":")).encode()
    lambdas().invoke(FunctionName=function, InvocationType="Event", Payload=payload)


@cache
def secret(arn: str) -> bytes:
    """Return a secret of Secrets Manager, which a process reads once, when it needs it."""
    text: str = _client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return text.encode()


@cache
def s3_elsewhere(
    region: str = "", role: str = "", external_id: str = "", *, full: bool = False
) -> "S3Client":
    """Return the client of a bucket that may be in another region or of another account.

    ``region`` is the bucket's, empty for this process's own. A ``role`` is assumed, and its
    credentials are renewed before they end. A ``full`` client knows all of S3's operations, which
    only releases of the data set need.
    """
    own = _region()
    region = region or own
    if role:
        session = assume(_botocore_session(), role, external_id)
        return cast("S3Client", _botocore_client("s3", session, region))
    if region == own:
        return cast("S3Client", _botocore_client("s3")) if full else s3()
    if full or os.environ.get("AWS_CLIENT", "thin") == "botocore":
        return cast("S3Client", _botocore_client("s3", None, region))
    return cast("S3Client", ThinS3.elsewhere(region, _credentials()))


def _region() -> str:
    return os.environ.get("AWS_DEFAULT_REGION") or os.environ["AWS_REGION"]


# --- botocore -------------------------------------------------------------------------------


def assume(
    session: "botocore.session.Session", role: str, external_id: str = ""
) -> "botocore.session.Session":
    """Return a session that has assumed a role with another session's credentials.

    Its credentials come with the first call, and are renewed before they end. STS is asked in the
    session's own region, which works on while others do not.
    """
    from botocore.credentials import (  # noqa: PLC0415 - only for a foreign bucket
        AssumeRoleCredentialFetcher,
        DeferredRefreshableCredentials,
    )

    session.set_config_variable("sts_regional_endpoints", "regional")
    name = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "horde-commons")
    fetcher = AssumeRoleCredentialFetcher(
        session.create_client,
        session.get_credentials(),
        role,
        extra_args={"RoleSessionName": name[-64:]}
        | ({"ExternalId": external_id} if external_id else {}),
    )
    assumed = _botocore_session()
    assumed.set_config_variable("region", session.get_config_variable("region"))
    assumed._credentials = DeferredRefreshableCredentials(  # type: ignore[attr-defined]  # noqa: SLF001
        refresh_using=fetcher.fetch_credentials, method="assume-role"
    )
    return assumed


def _botocore_session() -> "botocore.session.Session":
    import botocore.session  # noqa: PLC0415 - half of a cold start

    return botocore.session.Session()


def _botocore_client(
    name: str, session: "botocore.session.Session | None" = None, region: str | None = None
) -> Client:
    from horde.wire.over_botocore import BotocoreClient  # noqa: PLC0415 - it imports botocore

    config = _config(name, regional=region is not None)
    made = (session or _botocore_session()).create_client(name, region, config=config)
    return BotocoreClient(made)


def _config(name: str, *, regional: bool = False) -> "Config":
    """Return botocore's settings.

    For S3: SigV4 and the bucket's host name, since presigned URLs need it in new regions. A bucket
    cannot be a subdomain of an IP address, so there it goes into the path. ``regional``: at the
    region's own endpoint, and not at ``AWS_ENDPOINT_URL_S3``, which names the stack's; but the
    local cloud has no others.
    """
    from botocore.config import Config  # noqa: PLC0415 - half of a cold start

    config = Config(
        connect_timeout=sockets.CONNECT_S,
        read_timeout=sockets.READ_S,
        retries={"mode": "standard", "total_max_attempts": 3},
        parameter_validation=False,
        tcp_keepalive=True,
        ignore_configured_endpoint_urls=regional and "AWS_ENDPOINT_URL" not in os.environ,  # type: ignore[call-arg]
    )
    if name != "s3":
        return config
    host = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3", "")).hostname or ""
    numeric = host.replace(".", "").isdigit()
    return config.merge(
        Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if numeric else "virtual"},
        )
    )


def clear_settings() -> None:
    """Drop the cached settings, for tests that change the environment."""
    _load.cache_clear()


def clear_cache() -> None:
    """Drop the cached clients and settings, for tests that change the cloud."""
    clear_settings()
    sockets.forget()
    for cached in (_credentials, dynamodb, sqs, ssm, lambdas, secret, s3, s3_elsewhere):
        cached.cache_clear()
