"""The client of the data set's bucket, which may be in another region or of another account."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse

from horde import aws, dataset, laion
from horde.wire import sockets
from horde.wire.over_botocore import over
from horde.wire.seam import AwsError
from horde.wire.thin_s3 import ThinS3, listed, regional
from infra.operate import commands, deployed
from tests.support.moto_aws import real_botocore

pytestmark = pytest.mark.slow
"""Slow: botocore makes clients."""

HOME, AWAY = "us-east-1", "eu-west-1"
ROLE = "arn:aws:iam::999999999999:role/horde-writer"
BUCKET = "laion-art"
KINDS = ("thin", "botocore")


@dataclass
class TwoRegions:
    """Doubles S3 and STS: a bucket in one region, to which the others answer by a redirect.

    S3's own rule (S3 user guide, "Making requests"): a region knows the buckets of others, and
    answers 301 with the region in ``x-amz-bucket-region``.
    """

    heard: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Host, body and headers of each request."""
    stored: set[str] = field(default_factory=set)
    status: int = 301

    def answer(self, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        host = urlsplit(url).hostname or ""
        self.heard.append((host, body.decode("latin-1"), headers))
        if host.startswith("sts."):
            return 200, {}, STS_ANSWER
        if host != f"{BUCKET}.s3.{AWAY}.amazonaws.com":
            xml = b"<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>"
            return self.status, {"x-amz-bucket-region": AWAY}, xml
        self.stored.add(urlsplit(url).path)
        return 200, {}, b""

    def hosts(self) -> list[str]:
        return [host for host, _, _ in self.heard]


STS_ANSWER = b"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s
</SecretAccessKey><SessionToken>of-the-role</SessionToken><Expiration>2099-01-01T00:00:00Z
</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"""


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoRegions]:
    """Two regions, and a function of a stack in the other one than the bucket's."""
    made = TwoRegions()

    def exchange(request: sockets.Request) -> sockets.Response:
        url = request.origin + request.path
        return sockets.Response(*made.answer(url, request.body, dict(request.headers)))

    def send(_self: Any, request: Any) -> AWSResponse:
        body = request.body or b""
        body = body.read() if hasattr(body, "read") else body
        body = body.encode() if isinstance(body, str) else body
        headers = {
            key: value.decode() if isinstance(value, bytes) else value
            for key, value in request.headers.items()
        }
        status, given, content = made.answer(request.url, body, headers)
        return AWSResponse(request.url, status, given, Raw(content))

    variables = {
        "AWS_ACCESS_KEY_ID": "AKID",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": HOME,
        "AWS_ENDPOINT_URL_S3": f"https://s3.{HOME}.amazonaws.com",
        "LAION_BUCKET": BUCKET,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ENDPOINT_URL", "LAION_REGION", "LAION_ROLE", "LAION_EXTERNAL_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sockets, "exchange", exchange)
    monkeypatch.setattr("botocore.httpsession.URLLib3Session.send", send)
    with real_botocore():
        aws.clear_cache()
        yield made
        aws.clear_cache()


class Raw:
    """The body of an answer, as urllib3 gives it."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.content

    def read(self, *_: object, **__: object) -> bytes:
        content, self.content = self.content, b""
        return content


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_CLIENT", request.param)
    return str(request.param)


Put = Callable[[], None]


@pytest.fixture
def put() -> Put:
    def write() -> None:
        bucket = laion.Settings.load().laion_bucket
        dataset.write(laion.client(), bucket, "incoming/a.tar", b"archive")

    return write


@pytest.mark.parametrize("status", [301, 307])
def test_a_bucket_of_another_region_is_never_written_at_the_stacks_own_endpoint(
    world: TwoRegions, kind: str, put: Put, status: int
) -> None:
    """Without ``laion_region`` every try fails, as it did with any setting before there was one."""
    world.status = status
    for _ in range(3):
        with pytest.raises(AwsError, match="PermanentRedirect"):
            put()
    assert set(world.hosts()) == {f"{BUCKET}.s3.{HOME}.amazonaws.com"}
    assert world.stored == set()


def test_a_bucket_of_another_region_is_written_at_that_regions_endpoint(
    world: TwoRegions, kind: str, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAION_REGION", AWAY)
    put()
    assert world.hosts() == [f"{BUCKET}.s3.{AWAY}.amazonaws.com"]
    assert world.stored == {"/incoming/a.tar"}
    headers = {name.lower(): value for name, value in world.heard[0][2].items()}
    assert f"/{AWAY}/s3/aws4_request" in headers["authorization"]


def test_what_is_presigned_still_names_the_stacks_own_region(
    world: TwoRegions, kind: str, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde import images

    monkeypatch.setenv("LAION_REGION", AWAY)
    put()
    url = images.upload_url(aws.s3(), "outputs", "k")
    assert url.startswith(f"https://outputs.s3.{HOME}.amazonaws.com/k?")


def test_a_bucket_of_the_stacks_own_region_and_account_needs_no_other_client(
    world: TwoRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert laion.client() is aws.s3()
    aws.clear_cache()
    monkeypatch.setenv("LAION_REGION", HOME)
    assert laion.client() is aws.s3()


def test_laions_role_is_assumed_with_its_external_id_and_writes_in_the_buckets_region(
    world: TwoRegions, kind: str, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"REGION": AWAY, "ROLE": ROLE, "EXTERNAL_ID": "horde:7@laion"}.items():
        monkeypatch.setenv(f"LAION_{name}", value)
    put()
    put()
    assert world.hosts() == [f"sts.{HOME}.amazonaws.com"] + 2 * [
        f"{BUCKET}.s3.{AWAY}.amazonaws.com"
    ]
    asked = parse_qs(world.heard[0][1])
    assert asked["RoleArn"] == [ROLE]
    assert asked["ExternalId"] == ["horde:7@laion"]
    headers = {name.lower(): value for name, value in world.heard[1][2].items()}
    assert headers["x-amz-security-token"] == "of-the-role"
    assert re.search(rf"Credential=ASIAROLE/\d+/{AWAY}/s3", headers["authorization"])


def test_a_role_without_an_external_id_is_asked_for_without_one(
    world: TwoRegions, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"REGION": AWAY, "ROLE": ROLE}.items():
        monkeypatch.setenv(f"LAION_{name}", value)
    put()
    assert "ExternalId" not in parse_qs(world.heard[0][1])


def test_a_foreign_bucket_is_written_with_a_role_that_renews_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", HOME)
    aws.clear_cache()
    with mock_aws():
        client = aws.s3_elsewhere(HOME, ROLE, "horde-7")
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="a", Body=b"x")
        assert client.get_object(Bucket=BUCKET, Key="a")["Body"].read() == b"x"
        credentials = client.botocore._request_signer._credentials  # type: ignore[attr-defined]
        assert credentials.method == "assume-role"
    aws.clear_cache()


def test_the_local_cloud_stands_for_every_region(
    world: TwoRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:4566")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:4566")
    monkeypatch.setenv("LAION_REGION", AWAY)
    for kind in KINDS:
        monkeypatch.setenv("AWS_CLIENT", kind)
        aws.clear_cache()
        world.heard.clear()
        with pytest.raises(AwsError):
            laion.client().put_object(Bucket=BUCKET, Key="a", Body=b"x")
        assert set(world.hosts()) == {"127.0.0.1"}


@pytest.mark.parametrize("region", ["us-west-2", "ap-southeast-7", "cn-north-1", "us-gov-west-1"])
def test_a_regions_endpoint_is_botocores(region: str) -> None:
    made = botocore.session.Session().create_client(
        "s3", region, aws_access_key_id="a", aws_secret_access_key="b"
    )
    assert regional(region) == made.meta.endpoint_url


def test_a_region_of_another_partition_is_left_to_botocore() -> None:
    with pytest.raises(ValueError, match="AWS_CLIENT=botocore"):
        regional("us-iso-east-1")


# --- the operator's command -----------------------------------------------------------------------

OUTPUTS = {
    "TableName": "t",
    "LaionBucket": BUCKET,
    "LaionRegion": AWAY,
    "LaionRole": ROLE,
    "LaionOperatorRole": "arn:aws:iam::123456789012:role/HordeCommons-us-east-1-operator",
    "LaionExternalId": "horde-7",
}


def test_the_operator_comes_to_laions_bucket_through_the_stacks_role_for_operators(
    world: TwoRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    client = deployed.laion_client(boto3.Session(region_name=HOME), OUTPUTS)
    dataset.delete(over(client), BUCKET, "incoming/a.tar")
    assert world.hosts() == 2 * [f"sts.{HOME}.amazonaws.com"] + [
        f"{BUCKET}.s3.{AWAY}.amazonaws.com"
    ]
    first, second = (parse_qs(body) for _, body, _ in world.heard[:2])
    assert first["RoleArn"] == [OUTPUTS["LaionOperatorRole"]]
    assert "ExternalId" not in first
    assert (second["RoleArn"], second["ExternalId"]) == ([ROLE], ["horde-7"])
    by = [headers["Authorization"].partition("Credential=")[2] for _, _, headers in world.heard]
    assert [one.partition("/")[0] for one in by] == ["AKID", "ASIAROLE", "ASIAROLE"]


def test_the_operator_comes_to_the_stacks_own_bucket_as_themselves(
    world: TwoRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    client = deployed.laion_client(boto3.Session(region_name=AWAY), {"LaionBucket": BUCKET})
    dataset.delete(over(client), BUCKET, "incoming/a.tar")
    assert world.hosts() == [f"{BUCKET}.s3.{AWAY}.amazonaws.com"]
    assert "AKID/" in world.heard[0][2]["Authorization"]


@pytest.mark.parametrize(
    "command", [["withdraw", "ada#7"], ["undo-worker", "ada#7"], ["audit", "--bucket"]]
)
def test_every_command_that_touches_the_bucket_takes_that_client(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    made: list[object] = []

    def laion_client(_session: object, outputs: dict[str, str], **_: object) -> object:
        made.append(object())
        assert outputs is OUTPUTS
        return made[-1]

    def run(_: object, __: object, bucket: str = "", client: object = None, *_more: object) -> str:
        assert (bucket, client) == (BUCKET, made[-1])
        return "done"

    def print_audit(_store: object, _segments: int, bucket: Any = None) -> bool:
        assert (bucket._name, bucket._client) == (BUCKET, made[-1])
        return True

    monkeypatch.setenv("AWS_DEFAULT_REGION", HOME)
    monkeypatch.setattr(deployed, "outputs_of", lambda *_: OUTPUTS)
    monkeypatch.setattr(deployed, "laion_client", laion_client)
    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(commands, "print_audit", print_audit)
    with suppress(SystemExit):
        commands.main(command)
    assert len(made) == 1


# --- lists ----------------------------------------------------------------------------------------


def test_a_page_of_a_list_is_what_botocore_makes_of_it(
    world: TwoRegions, monkeypatch: pytest.MonkeyPatch
) -> None:
    xml = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>outputs</Name>
<Prefix>shared/</Prefix><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys>
<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>
<Contents><Key>shared/a&amp;b/1.webp</Key><LastModified>2027-01-15T08:00:00.000Z</LastModified>
<ETag>&quot;e&quot;</ETag><Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>
<Contents><Key>shared/b/2.webp</Key><LastModified>2027-01-15T08:00:01.000Z</LastModified>
<Size>0</Size></Contents></ListBucketResult>"""
    asked: list[str] = []

    def answer(url: str, *_: object) -> tuple[int, Any, bytes]:
        asked.append(url)
        return 200, {}, xml

    monkeypatch.setattr(world, "answer", answer)
    found: list[Any] = []
    for kind in KINDS:
        monkeypatch.setenv("AWS_CLIENT", kind)
        aws.clear_cache()
        found.append(
            aws.s3().list_objects_v2(Bucket="outputs", Prefix="shared/", StartAfter="shared/a b")
        )
    thin, theirs = found
    assert thin["IsTruncated"] is theirs["IsTruncated"] is True
    names = ("Key", "Size", "LastModified")
    assert thin["Contents"] == [{n: one[n] for n in names} for one in theirs["Contents"]]
    ours, other = (urlsplit(url) for url in asked)
    assert (ours.netloc, ours.path) == (other.netloc, other.path)
    query = parse_qs(other.query)
    query.pop("encoding-type")  # what S3 may escape: our keys have nothing of it
    assert parse_qs(ours.query) == query


def test_an_empty_list_has_no_objects() -> None:
    xml = "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    assert listed(xml) == {"IsTruncated": False, "Contents": []}


def test_a_thin_client_of_another_region_is_one_of_s3(world: TwoRegions) -> None:
    assert isinstance(ThinS3.elsewhere(AWAY, aws._credentials()), ThinS3)
