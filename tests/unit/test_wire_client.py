"""The thin client against a server, beside botocore's: what is sent, heard, and tried again."""

import json
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import botocore.session
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotocoreCredentials

from horde import aws
from horde.wire import retries, sockets
from horde.wire.over_botocore import BotocoreClient
from horde.wire.seam import AwsError, Client, NoAnswerError
from horde.wire.thin import ThinClient, endpoint
from tests.support.moto_aws import real_botocore
from tests.support.scripted_server import (
    CLOSE,
    HANG,
    RESET,
    THEN_CLOSE,
    ScriptedServer,
    answer,
    serving,
)

pytestmark = pytest.mark.slow
"""Slow: botocore makes a client for each test."""

KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "tok"}
KEY = {"pk": {"S": "a"}, "sk": {"S": "b"}}
GET: dict[str, Any] = {"TableName": "t", "Key": KEY}
Answered = tuple[Any, ...]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """A server that stands for all services."""
    with serving() as made, real_botocore():
        for name, value in {**KEYS, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", made.url)
        monkeypatch.delenv("AWS_CLIENT", raising=False)
        aws.clear_cache()
        yield made
        aws.clear_cache()
        while _made:
            _made.pop().close()


_made: list[Any] = []
"""Botocore's clients of a test."""


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; none is waited for."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def thin(service: str) -> Client:
    return aws._client(service)


def botocores(service: str) -> BotocoreClient:
    made = aws._botocore_client(service)
    assert isinstance(made, BotocoreClient)
    _made.append(made.botocore)
    return made


def both(service: str) -> list[Client]:
    return [thin(service), botocores(service)]


# --- what is sent --------------------------------------------------------------------------------

SENT: list[tuple[str, str, dict[str, Any]]] = [
    ("dynamodb", "get_item", {**GET, "ConsistentRead": True}),
    ("dynamodb", "put_item", {"TableName": "t", "Item": {**KEY, "text": {"S": 'ü"\n\u2028'}}}),
    ("dynamodb", "batch_get_item", {"RequestItems": {"t": {"Keys": [KEY]}}}),
    ("dynamodb", "query", {"TableName": "t", "KeyConditionExpression": "pk = :p", "Limit": 3}),
    ("dynamodb", "scan", {"TableName": "t", "Segment": 0, "TotalSegments": 2}),
    ("dynamodb", "update_item", {**GET, "UpdateExpression": "ADD n :n"}),
    ("dynamodb", "transact_write_items", {"TransactItems": [], "ClientRequestToken": "x"}),
    ("dynamodb", "describe_table", {"TableName": "t"}),
    ("sqs", "send_message", {"QueueUrl": "http://q/1/n", "MessageBody": "{}"}),
    ("sqs", "send_message_batch", {"QueueUrl": "http://q/1/n", "Entries": []}),
    (
        "sqs",
        "change_message_visibility",
        {"QueueUrl": "http://q/1/n", "ReceiptHandle": "r", "VisibilityTimeout": 3},
    ),
    ("ssm", "get_parameter", {"Name": "/a/b", "WithDecryption": True}),
    ("secretsmanager", "get_secret_value", {"SecretId": "arn"}),
    (
        "s3",
        "put_object",
        {"Bucket": "b", "Key": "a b/ü", "Body": b"x", "ContentType": "a/b"},
    ),
    (
        "lambda",
        "invoke",
        {"FunctionName": "Horde-Dispatch1A", "InvocationType": "Event", "Payload": b'{"v":1}'},
    ),
    ("s3", "delete_object", {"Bucket": "b", "Key": "uploads/a+b"}),
    ("s3", "get_object", {"Bucket": "b", "Key": "a~'()"}),
]


@pytest.mark.parametrize(("service", "method", "params"), SENT, ids=lambda one: str(one)[:24])
def test_a_call_is_what_botocore_makes_of_it_and_is_signed_as_it_signs(
    server: ScriptedServer, service: str, method: str, params: dict[str, Any]
) -> None:
    server.script(answer(b"" if service == "s3" else b"{}"))
    for client in both(service):
        found = getattr(client, method)(**params)
        if method == "get_object":
            found["Body"].read()
    ours, theirs = server.heard
    assert (ours.method, ours.path) == (theirs.method, theirs.path)
    if service == "s3":
        assert ours.body == theirs.body
    else:
        assert json.loads(ours.body) == json.loads(theirs.body)
    meant = ("x-amz-target", "x-amzn-query-mode", "x-amz-security-token", "x-amz-invocation-type")
    for name in ("content-type", *meant):
        assert ours.headers.get(name) == theirs.headers.get(name), name
    assert ours.headers["host"] == theirs.headers["host"]
    signed = ours.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    again = AWSRequest(
        ours.method,
        server.url + ours.path,
        headers={name: ours.headers[name] for name in signed.split(";")},
        data=ours.body,
    )
    kind = S3SigV4Auth if service == "s3" else SigV4Auth
    auth = kind(BotocoreCredentials(*KEYS.values()), service, "us-east-1")
    again.context["timestamp"] = ours.headers["x-amz-date"]
    text = auth.string_to_sign(again, auth.canonical_request(again))
    assert ours.headers["authorization"].endswith(f"Signature={auth.signature(text, again)}")


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("service", ["dynamodb", "sqs", "ssm", "secretsmanager", "lambda"])
@pytest.mark.parametrize("region", ["us-east-1", "ap-southeast-7", "cn-north-1", "us-gov-west-1"])
def test_an_endpoint_is_botocores(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], service: str, region: str
) -> None:
    for name, value in {**KEYS, **variables}.items():
        monkeypatch.setenv(name, value)
    made = botocore.session.Session().create_client(service, region)
    assert endpoint(service, region) == made.meta.endpoint_url


@pytest.mark.parametrize("region", ["us-iso-east-1", "us-isob-east-1", "eusc-de-east-1", ""])
def test_a_region_of_another_partition_is_left_to_botocore(
    monkeypatch: pytest.MonkeyPatch, region: str
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with pytest.raises(ValueError, match="AWS_CLIENT=botocore"):
        endpoint("dynamodb", region)


def test_one_setting_brings_botocore_back(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(aws.dynamodb(), ThinClient)
    aws.clear_cache()
    monkeypatch.setenv("AWS_CLIENT", "botocore")
    for client in (aws.dynamodb(), aws.sqs(), aws.s3(), aws.ssm(), aws.lambdas()):
        assert isinstance(client, BotocoreClient)


# --- what is heard -------------------------------------------------------------------------------

CANCELLED = json.dumps(
    {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": "cancelled",
        "CancellationReasons": [{"Code": "None"}, {"Code": "ConditionalCheckFailed"}],
    }
).encode()
GONE = b"<?xml version='1.0'?>\n<Error><Code>NoSuchKey</Code><Message>no</Message></Error>"
XML = "application/xml"
OLD_CODE = "AWS.SimpleQueueService.NonExistentQueue;Sender"
REFUSED = [
    ("dynamodb", answer(CANCELLED, 400)),
    ("dynamodb", answer(b'{"__type":"ValidationException","message":"no"}', 400)),
    ("dynamodb", answer(b'{"__type":"a.b#Broken:http://x","message":"no"}', 400)),
    ("dynamodb", answer(b"", 403)),
    ("dynamodb", answer(b"{}", 413)),
    ("dynamodb", answer(b'{"__type":"RequestTimeTooSkewed","message":"late"}', 403)),
    ("dynamodb", answer(b'{"__type":"InvalidSignatureException","message":"expired"}', 400)),
    ("sqs", answer(b'{"__type":"x#QueueDoesNotExist"}', 400, x_amzn_query_error=OLD_CODE)),
    (
        "lambda",
        answer(
            b'{"Type":"User","message":"no"}', 404, x_amzn_ErrorType="ResourceNotFoundException:"
        ),
    ),
    ("s3", answer(GONE, 404, XML)),
    ("s3", answer(GONE.replace(b"NoSuchKey", b"AccessDenied"), 403, XML)),
    ("s3", answer(b"", 404, XML)),
]


def ask(client: Client) -> Any:
    """Make a call of a client's service."""
    if client.service == "s3":
        return client.delete_object(Bucket="b", Key="k")
    if client.service == "lambda":
        return client.invoke(FunctionName="f", InvocationType="Event", Payload=b"{}")
    if client.service == "sqs":
        return client.send_message(QueueUrl="http://q/1/n", MessageBody="x")
    return client.get_item(**GET)


@pytest.mark.parametrize(("service", "said"), REFUSED, ids=str)
def test_a_refusal_is_the_same_error_from_both_clients(
    server: ScriptedServer, service: str, said: bytes, pauses: list[float]
) -> None:
    found = []
    for client in both(service):
        server.script(said)
        with pytest.raises(AwsError) as refused:
            ask(client)
        error = refused.value
        assert len(server.heard) == 1
        message = error.message if said[-1:] in b"}>" else ""  # botocore makes one up
        found.append((type(error), error.code, error.status, error.reasons, message))
    assert found[0] == found[1]
    assert pauses == []


def test_a_bucket_elsewhere_is_an_error(server: ScriptedServer) -> None:
    server.script(answer(GONE.replace(b"NoSuchKey", b"PermanentRedirect"), 301, XML))
    with pytest.raises(AwsError, match="PermanentRedirect"):
        thin("s3").get_object(Bucket="b", Key="k")


CHUNKED = (
    b'HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5;x=y\r\n{"Ite\r\n'
    b'16\r\nm":{"pk":{"S":"\xc3\xbc"}}}\n\r\n0\r\nTrailer: x\r\n\r\n'
)


@pytest.mark.parametrize(
    "body",
    [
        answer(b'{"Item":{"pk":{"S":"\xc3\xbc"}}}'),
        CHUNKED,
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b'{"Item":{"pk":{"S":"\xc3\xbc"}}}'),
    ],
    ids=["length", "chunked", "after an interim response"],
)
def test_a_body_comes_in_each_of_the_ways_of_http(server: ScriptedServer, body: bytes) -> None:
    server.script(body)
    client = thin("dynamodb")
    for _ in range(2):
        assert client.get_item(**GET) == {"Item": {"pk": {"S": "ü"}}}
    assert server.links == 1


@pytest.mark.parametrize("status", [204, 304])
def test_what_has_no_body_is_not_waited_for(server: ScriptedServer, status: int) -> None:
    server.script(f"HTTP/1.1 {status} Empty\r\nx: y\r\n\r\n".encode())
    client = thin("s3")
    if status == 204:
        assert client.delete_object(Bucket="b", Key="k") == {}
    else:
        with pytest.raises(AwsError, match="304"):
            client.get_object(Bucket="b", Key="k")
    server.script(b"HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n")
    assert client.head_object(Bucket="b", Key="k") == {}
    assert server.links == 1


MANY = b"".join(b"x%d: y\r\n" % number for number in range(102))


@pytest.mark.parametrize(
    "said",
    [
        b"not http\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffff\r\n" + THEN_CLOSE,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort" + THEN_CLOSE,
        b"HTTP/1.1 200 OK\r\n" + MANY + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 65536 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: y" + THEN_CLOSE,
        b"HTTP/1.1 200 OK\r\n\r\n{}" + THEN_CLOSE,
        b"",
    ],
    ids=lambda said: str(said[-30:]),
)
def test_what_is_no_response_is_no_answer(
    server: ScriptedServer, said: bytes, pauses: list[float]
) -> None:
    server.script(said)
    with pytest.raises(NoAnswerError):
        thin("dynamodb").get_item(**GET)
    assert len(server.heard) == retries.TRIES
    assert server.links == retries.TRIES


def test_a_body_has_a_most_length(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    monkeypatch.setattr(sockets, "MAX_BODY", 9)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    for size, good in ((9, True), (10, False)):
        body = b"{}".ljust(size)
        for said in (answer(body), head + b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)):
            server.script(said)
            if good:
                assert thin("dynamodb").get_item(**GET) == {}
                continue
            with pytest.raises(NoAnswerError, match="too large"):
                thin("dynamodb").get_item(**GET)


def test_no_header_has_a_second_line(server: ScriptedServer) -> None:
    server.script(answer())
    with pytest.raises(ValueError, match="Invalid header"):
        thin("s3").put_object(Bucket="b", Key="k", Body=b"", ContentType="a\r\nx: y")
    assert server.heard == []


# --- objects -------------------------------------------------------------------------------------


def test_of_an_object_come_the_bytes_that_were_asked_for(server: ScriptedServer) -> None:
    server.script(answer(b"picture", 206, kind="image/webp"))
    for client in both("s3"):
        found = client.get_object(Bucket="b", Key="k", Range="bytes=0-6")
        assert found["Body"].read() == b"picture"
    assert [heard.headers["range"] for heard in server.heard] == ["bytes=0-6"] * 2


def test_an_object_that_breaks_off_is_asked_for_again(
    server: ScriptedServer, pauses: list[float]
) -> None:
    broken = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort" + THEN_CLOSE
    server.script(broken, answer(b"whole"))
    assert thin("s3").get_object(Bucket="b", Key="k")["Body"].read() == b"whole"
    assert len(server.heard) == 2
    server.script(broken)
    with pytest.raises(NoAnswerError):
        thin("s3").get_object(Bucket="b", Key="k")


# --- what is tried again -------------------------------------------------------------------------


def refused(code: str, status: int = 400) -> bytes:
    return answer(json.dumps({"__type": f"x#{code}"}).encode(), status)


def in_xml(said: bytes) -> bytes:
    """Return a refusal as S3 makes it."""
    head, _, body = said.partition(b"\r\n\r\n")
    if not body.startswith(b"{"):
        return said
    if body == b"{}":
        return answer(b"", kind=XML)
    code = json.loads(body)["__type"].removeprefix("x#").encode()
    return answer(GONE.replace(b"NoSuchKey", code), int(head.split()[1]), XML)


def outcome(
    client: Client, server: ScriptedServer, script: list[bytes], pauses: list[float]
) -> Answered:
    """Return how often a call was made, its pauses, and how it ended."""
    server.script(*script)
    sockets.forget()  # a link that breaks when it is used again is another test's
    pauses.clear()
    random.seed(7)
    try:
        ask(client)
        end = ""
    except AwsError as error:
        end = error.code
    return len(server.heard), list(pauses), end


CODES = sorted({*retries.RETRYABLE, "ConditionalCheckFailedException", "AccessDenied", "Other"})
SCRIPTS: dict[str, list[bytes]] = {
    **{code: [refused(code)] for code in CODES},
    **{str(status): [answer(b"", status)] for status in (400, 403, 404, 413, 429)},
    **{str(status): [answer(b"", status)] for status in (500, 501, 502, 503, 504, 507)},
    "a code and a status": [refused("ConditionalCheckFailedException", 500)],
    "closed": [CLOSE],
    "reset": [RESET],
    "broken off": [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort" + THEN_CLOSE],
    "second try": [answer(b"", 500), answer()],
    "third try": [answer(b"", 503), refused("ThrottlingException"), answer()],
    "third try fails": [CLOSE, answer(b"", 500), refused("ValidationException")],
}


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("service", ["dynamodb", "s3"])
def test_a_call_is_made_again_as_often_and_after_the_same_pauses(
    server: ScriptedServer, pauses: list[float], service: str, part: int
) -> None:
    some = list(SCRIPTS.items())[part::2]  # all of them would use up a client's reserve

    def outcomes(client: Client) -> dict[str, Answered]:
        form = in_xml if service == "s3" else bytes
        return {
            name: outcome(client, server, list(map(form, script)), pauses) for name, script in some
        }

    ours, theirs = map(outcomes, both(service))
    assert ours == theirs


def test_an_answer_that_does_not_match_its_checksum_is_asked_for_again(
    server: ScriptedServer, pauses: list[float]
) -> None:
    good, bad = answer(b"{}", x_amz_crc32=zlib.crc32(b"{}")), answer(b"{}", x_amz_crc32=1)
    for script, calls in (([good], 1), ([bad, good], 2), ([bad], 3)):
        ours, theirs = (outcome(client, server, script, pauses) for client in both("dynamodb"))
        assert ours[0] == theirs[0] == calls
        assert ours[1] == theirs[1]
        # At the end botocore takes the wrong answer. The thin client does not.
        assert ours[2] == ("NoAnswer" if script == [bad] else "")


def test_a_client_has_as_many_retries_in_reserve_as_botocores(
    server: ScriptedServer, pauses: list[float]
) -> None:
    patterns = [[answer(b"", 500)], [answer(b"", 500), answer()], [answer()], [CLOSE]]
    chosen = random.Random(3).choices(patterns, weights=[8, 2, 1, 2], k=150)
    runs = [
        [outcome(client, server, script, pauses)[0] for script in chosen]
        for client in both("dynamodb")
    ]
    assert runs[0] == runs[1]
    assert set(runs[0]) == {1, 2, 3}
    assert set(runs[0][-60:]) == {1}


def test_a_timeout_costs_twice_the_reserve(
    server: ScriptedServer, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "READ_S", 0.05)
    for client, quota in ((thin("dynamodb"), 20), (botocores("dynamodb"), None)):
        assert outcome(client, server, [HANG], pauses)[0] == 3
        assert outcome(client, server, [HANG, answer()], pauses)[0] == 2
        if isinstance(client, ThinClient):
            assert client._quota.available_capacity == retries.QUOTA - quota  # type: ignore[operator]


def test_a_server_that_is_not_there_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, server: ScriptedServer, pauses: list[float]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    found = []
    for client in both("dynamodb"):
        pauses.clear()
        random.seed(1)
        with pytest.raises(NoAnswerError):
            client.get_item(**GET)
        found.append(list(pauses))
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_neither_client_corrects_the_clock(
    server: ScriptedServer, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Botocore for Python has no correction of a skewed clock: a refused time is an error."""
    late = answer(
        b'{"__type":"InvalidSignatureException","message":"Signature expired"}',
        400,
        date="Mon, 01 Jan 2035 00:00:00 GMT",
    )
    for client in both("dynamodb"):
        server.script(late, answer())
        with pytest.raises(AwsError, match="InvalidSignatureException"):
            ask(client)
        ask(client)
        assert [heard.headers["x-amz-date"][:4] for heard in server.heard] == [
            time.strftime("%Y", time.gmtime())
        ] * 2


# --- links ---------------------------------------------------------------------------------------


def test_calls_share_a_link(server: ScriptedServer) -> None:
    server.script(answer())
    for client in (thin("dynamodb"), thin("dynamodb"), thin("sqs")):
        ask(client)
    assert server.links == 1


def test_a_link_that_the_server_closed_is_opened_again(
    server: ScriptedServer, pauses: list[float]
) -> None:
    client = thin("dynamodb")
    server.script(answer() + THEN_CLOSE)
    for _ in range(3):
        ask(client)
        assert server.closed.acquire(timeout=60)
    assert (len(server.heard), server.links, pauses) == (3, 3, [])


def test_a_link_that_breaks_when_it_is_used_again_is_no_reason_to_wait(
    server: ScriptedServer, pauses: list[float]
) -> None:
    client = thin("dynamodb")
    server.script(answer(), RESET, answer())
    for _ in range(2):
        ask(client)
    assert (len(server.heard), server.links, pauses) == (3, 2, [])


@pytest.mark.parametrize("later", [sockets.IDLE_S + 1, -3600])
def test_a_link_is_not_used_after_a_while_or_after_the_clock_went_back(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, later: float
) -> None:
    client = thin("dynamodb")
    server.script(answer())
    ask(client)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + later)
    ask(client)
    assert server.links == 2


def test_an_answer_that_closes_its_link_is_heard(server: ScriptedServer) -> None:
    client = thin("dynamodb")
    for said in (answer(connection="close"), answer().replace(b"1.1", b"1.0")):
        server.script(said)
        before = server.links
        ask(client)
        ask(client)
        assert server.links - before >= 1


def test_no_answer_goes_to_another_thread(server: ScriptedServer) -> None:
    client = thin("dynamodb")

    def echo(number: int) -> int:
        found = client.get_item(TableName="t", Key={"pk": {"N": str(number)}})
        return int(found["Item"]["pk"]["N"])

    server.script(answer())
    real: Callable[[], bytes] = server.next_answer

    def echoed() -> bytes:
        real()
        mine = threading.current_thread().name
        heard = [one for one in server.heard if mine == f"link {one.link}"][-1]
        return answer(json.dumps({"Item": json.loads(heard.body)["Key"]}).encode())

    server.next_answer = echoed  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(echo, range(200))) == list(range(200))
    assert server.links <= 8
