"""Signatures: of AWS's own examples, and the same bytes as botocore's for anything else."""

import calendar
import datetime as dt
from typing import Any
from urllib.parse import parse_qsl, quote

import botocore.session
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.client import Config
from botocore.credentials import Credentials as BotocoreCredentials
from hypothesis import given
from hypothesis import strategies as st

from horde.wire.signing import Credentials, Signer
from horde.wire.sockets import Request
from horde.wire.thin_s3 import ThinS3, presigned_url

pytestmark = pytest.mark.slow
"""Slow: botocore makes a client for each test."""

EXAMPLE = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
S3_EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = dt.datetime(2026, 11, 26, 17, 5, 9, tzinfo=dt.UTC)
REGIONS = ("us-east-1", "eu-west-1", "cn-north-1", "us-gov-west-1")


def at(*moment: int) -> float:
    return calendar.timegm((*moment, 0, 0, 0)[:6])


def signature(request: Request) -> str:
    return request.headers["authorization"].rpartition("Signature=")[2]


# --- the examples of AWS -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", "/", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            "GET",
            "/?Param1=value1&Param2=value2",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ],
)
def test_the_vectors_of_the_signing_process(method: str, path: str, expected: str) -> None:
    signer = Signer("service", "us-east-1", EXAMPLE, at(2015, 8, 30, 12, 36, 0))
    origin = "https://example.amazonaws.com"
    assert signature(signer.signed(Request(origin, method, path, {}))) == expected


S3 = "https://examplebucket.s3.amazonaws.com"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (
            Request(S3, "GET", "/test.txt", {"range": "bytes=0-9"}),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            Request(
                S3,
                "PUT",
                "/test%24file.text",
                {
                    "date": "Fri, 24 May 2013 00:00:00 GMT",
                    "x-amz-storage-class": "REDUCED_REDUNDANCY",
                },
                b"Welcome to Amazon S3.",
            ),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
    ],
)
def test_the_examples_of_s3(request_: Request, expected: str) -> None:
    signer = Signer("s3", "us-east-1", S3_EXAMPLE, at(2013, 5, 24))
    assert signature(signer.signed(request_)) == expected


def test_the_example_of_a_presigned_url() -> None:
    signer = Signer("s3", "us-east-1", S3_EXAMPLE, at(2013, 5, 24))
    url = presigned_url(signer, "GET", S3, "/test.txt", {}, 86400)
    assert url.endswith(
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


# --- botocore's ----------------------------------------------------------------------------------

TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
NAMES = st.from_regex(r"x-[a-z]{1,12}", fullmatch=True)
PATHS = st.text(max_size=12).map(lambda text: "/" + quote(text.encode("utf-8", "replace")))


@given(
    service=st.sampled_from(["dynamodb", "sqs", "secretsmanager", "s3"]),
    region=st.sampled_from(REGIONS),
    token=st.one_of(st.none(), st.text("abc/+=", min_size=1, max_size=40)),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    key=PATHS,
    headers=st.dictionaries(NAMES, TEXT, max_size=4),
    body=st.binary(max_size=64),
    port=st.sampled_from([443, 8443]),
)
def test_any_request_has_the_headers_that_botocore_signs_it_with(
    service: str,
    region: str,
    token: str | None,
    method: str,
    key: str,
    headers: dict[str, str],
    body: bytes,
    port: int,
) -> None:
    path = key if service == "s3" else "/"
    keys = Credentials("AKID", "secret/+", token)
    authority = "host.example.com" if port == 443 else f"host.example.com:{port}"
    origin = f"https://{authority}"
    ours = Signer(service, region, keys, NOW.timestamp()).signed(
        Request(origin, method, path, headers, body)
    )
    theirs = AWSRequest(method, f"{origin}{path}", headers=dict(headers), data=body)
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.auth.get_current_datetime", lambda: NOW.replace(tzinfo=None))
        kind(BotocoreCredentials(*keys), service, region).add_auth(theirs)
    assert ours.headers.pop("host") == authority
    assert ours.headers == {name.lower(): value for name, value in theirs.headers.items()}


# --- what lets others read and write objects -----------------------------------------------------


def both(
    patch: pytest.MonkeyPatch, region: str, endpoint: str | None, token: str | None
) -> tuple[ThinS3, Any]:
    """Return the thin client of S3 and botocore's, at one moment and with the same keys."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        patch.delenv(name, raising=False)
    if endpoint:
        patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    moment = NOW.replace(tzinfo=None)
    for module in ("auth", "signers"):
        patch.setattr(f"botocore.{module}.get_current_datetime", lambda: moment)
    patch.setattr("horde.wire.signing.time.time", NOW.timestamp)
    style = "path" if endpoint and "127.0.0.1" in endpoint else "virtual"
    theirs = botocore.session.Session().create_client(
        "s3",
        region,
        aws_access_key_id="AKID",
        aws_secret_access_key="secret",
        aws_session_token=token,
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),  # type: ignore[arg-type]
    )
    return ThinS3("s3", region, lambda: Credentials("AKID", "secret", token)), theirs


PLACES = [
    ("us-east-1", "https://s3.us-east-1.amazonaws.com"),
    ("eu-central-1", None),
    ("cn-north-1", None),
    ("us-gov-west-1", None),
    ("us-east-1", "http://127.0.0.1:4566"),
    ("us-east-1", "http://s3.example.com:9000"),
]


@pytest.mark.parametrize("token", [None, "a/token+="])
@pytest.mark.parametrize("bucket", ["outputs", "laion.art"])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_presigned_url_is_botocores(
    monkeypatch: pytest.MonkeyPatch, place: tuple[str, str | None], bucket: str, token: str | None
) -> None:
    ours, theirs = both(monkeypatch, *place, token)
    for key in ("uploads/a.webp", "a b+c%~/ü'(.webp"):
        asked = {"Bucket": bucket, "Key": key}
        shown = {**asked, "ResponseContentType": "image/webp"}
        for name, params in (("put_object", asked), ("get_object", asked), ("get_object", shown)):
            url = ours.generate_presigned_url(name, Params=params, ExpiresIn=1800)
            other = theirs.generate_presigned_url(name, Params=params, ExpiresIn=1800)
            assert url.partition("?")[0] == other.partition("?")[0]
            given, others = (sorted(parse_qsl(one.partition("?")[2])) for one in (url, other))
            assert given == others


@pytest.mark.parametrize("token", [None, "a/token+="])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_form_of_an_upload_is_botocores(
    monkeypatch: pytest.MonkeyPatch, place: tuple[str, str | None], token: str | None
) -> None:
    ours, theirs = both(monkeypatch, *place, token)
    kind = {"Content-Type": "image/webp"}
    more: Any = {
        "Fields": kind,
        "Conditions": [kind, ["content-length-range", 1, 99]],
        "ExpiresIn": 1800,
    }
    made = ours.generate_presigned_post("outputs", "uploads/a.webp", **more)
    assert made == theirs.generate_presigned_post("outputs", "uploads/a.webp", **more)
    assert list(made["fields"]) == list(
        theirs.generate_presigned_post("outputs", "uploads/a.webp", **more)["fields"]
    )
