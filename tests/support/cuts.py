"""Cutting a run: every call of a function to AWS, to RunPod or to a webhook goes through one hook.

A flow is run once to record its calls, then once for each of its crash points: the same run, cut
at one call in one way. Nothing lists the calls by hand: a new call is seen when it is made.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

import pytest
import urllib3
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ReadTimeoutError
from urllib3.connectionpool import HTTPConnectionPool

from horde import outbound
from tests.support import direct

READS = ("Get", "BatchGet", "Query", "Scan", "Head", "List", "Describe", "Receive", "GET", "HEAD")
"""How the names of operations begin that change nothing."""
THROUGHPUT = "ProvisionedThroughputExceededException"
WAITS_FOREVER = 10_000
"""Calls of one flow; more is a loop."""


class Dead(BaseException):
    """The process died; nothing in it catches this."""


class Mode(StrEnum):
    """How a call is cut."""

    DIES_BEFORE = "dies before"
    DIES_AFTER = "dies after"
    FAILS = "fails"
    LOST = "answer lost"
    """It was made, and every answer to it was lost."""
    TWICE = "made twice"
    """It was made, its answer was lost, and the SDK asked again: the second answer counts."""
    THROTTLED = "throttled"
    """It was refused for the rate of calls, and so was every later one of the same run."""


@dataclass(frozen=True, slots=True)
class Made:
    """One call as it was recorded: who made it, which it was, and whether it may change anything.

    ``again`` says that its client makes it again by itself if no answer comes.
    """

    by: str
    name: str
    changes: bool
    again: bool

    def __str__(self) -> str:
        """Return it for the report."""
        return f"{self.name} in {self.by}"


@dataclass(frozen=True, slots=True)
class Point:
    """A crash point: the number of a call, from 0, and what happens to it."""

    number: int
    mode: Mode


def points(made: list[Made]) -> list[Point]:
    """Return all crash points of a flow's calls.

    A call that changes nothing leaves the same world whether it was made or not: losing its answer
    is its failing, and dying after it is dying before the next one.
    """
    found = []
    for number, call in enumerate(made):
        modes = [Mode.DIES_BEFORE, Mode.FAILS]
        if call.changes:
            modes += [Mode.DIES_AFTER, Mode.LOST]
        if call.changes and call.again:
            modes.append(Mode.TWICE)
        if call.again:
            modes.append(Mode.THROTTLED)
        found += [Point(number, mode) for mode in modes]
    return found


@dataclass
class Wire:
    """The hook. ``by`` is the function that runs; between functions calls are not ours."""

    made: list[Made] = field(default_factory=list)
    point: Point | None = None
    armed: bool = False
    by: str = ""
    dead: bool = False
    throttled: bool = False
    tokens: set[str] = field(default_factory=set)
    """Transactions that were written: DynamoDB answers those that come again, and writes none."""

    def record(self, point: Point | None) -> None:
        """Begin a run; it is cut at ``point``."""
        self.made, self.point, self.armed = [], point, True

    @contextmanager
    def inside(self, by: str) -> Iterator[None]:
        """Run one function, as a process of its own."""
        outer, self.by, self.dead, self.throttled = self.by, by, False, False
        try:
            yield
        finally:
            self.by = outer

    def call(  # noqa: C901 - a flat list of modes
        self, made: Made, make: Callable[[], Any], errors: "Errors"
    ) -> Any:
        """Make one call, or cut it."""
        if self.dead:
            raise Dead
        if not self.armed:
            return make()
        number = len(self.made)
        assert number < WAITS_FOREVER, "a loop"
        self.made.append(made)
        if self.throttled and made.again:
            raise errors.throttled()
        if self.point is None or self.point.number != number:
            return make()
        match self.point.mode:
            case Mode.DIES_BEFORE:
                self.die()
            case Mode.DIES_AFTER:
                _tried(make)
                self.die()
            case Mode.FAILS:
                raise errors.failed()
            case Mode.LOST:
                _tried(make)
                raise errors.lost()
            case Mode.TWICE:
                _tried(make)
            case Mode.THROTTLED:
                self.throttled = True
                raise errors.throttled()
        return make()

    def die(self) -> None:
        """End the process that runs."""
        self.dead = True
        raise Dead

    def aws(self, client: Any, operation: str, params: dict[str, Any]) -> Any:
        """Make one call to AWS."""
        model = client.meta.service_model.operation_model(operation)
        for member in model.idempotent_members:  # the SDK asks again with the same token
            params.setdefault(member, str(uuid.uuid4()))
        token = params.get("ClientRequestToken", "")

        def make() -> Any:
            if token and token in self.tokens:
                return {"ResponseMetadata": {"HTTPStatusCode": 200}}
            service = model.service_model.service_name
            if service == "dynamodb":
                answer = direct.dynamodb(operation, params)
            elif service == "lambda":
                answer = direct.handed_over(operation, params)
            else:
                answer = REAL_AWS(client, operation, dict(params))  # it reads bodies to their end
            if token:
                self.tokens.add(token)
            return answer

        if not self.by:
            return make()
        name = f"{model.service_model.service_name}.{operation}"
        made = Made(self.by, name, changes=not operation.startswith(READS), again=True)
        return self.call(made, make, AwsErrors(operation, model.service_model.service_name))


def _tried(make: Callable[[], Any]) -> None:
    """Make a call whose answer nobody hears."""
    with suppress(ClientError, urllib3.exceptions.HTTPError, OSError):
        make()


class Errors:
    """What a caller gets instead of an answer."""

    def failed(self) -> Exception:
        """The call was not made."""
        raise NotImplementedError

    def lost(self) -> Exception:
        """It was made."""
        raise NotImplementedError

    def throttled(self) -> Exception:
        """It was refused for the rate of calls."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class AwsErrors(Errors):
    """Those of the SDK, after all its tries."""

    operation: str
    service: str

    def failed(self) -> Exception:
        said: Any = {
            "Error": {"Code": "InternalServerError", "Message": "cut"},
            "ResponseMetadata": {"HTTPStatusCode": 500},
        }
        return ClientError(said, self.operation)

    def lost(self) -> Exception:
        return ReadTimeoutError(endpoint_url="https://cut.invalid")

    def throttled(self) -> Exception:
        codes = {"s3": "SlowDown", "sqs": "RequestThrottled", "dynamodb": THROUGHPUT}
        codes["lambda"] = "TooManyRequestsException"
        said: Any = {
            "Error": {"Code": codes.get(self.service, "ThrottlingException"), "Message": "cut"},
            "ResponseMetadata": {"HTTPStatusCode": 503 if self.service == "s3" else 400},
        }
        if self.operation == "TransactWriteItems":
            said["Error"]["Code"] = "TransactionCanceledException"
            said["CancellationReasons"] = [{"Code": "None"}, {"Code": "ThrottlingError"}]
        return ClientError(said, self.operation)


@dataclass(frozen=True, slots=True)
class HttpErrors(Errors):
    """Those of urllib3."""

    pool: Any

    def failed(self) -> Exception:
        return urllib3.exceptions.NewConnectionError(self.pool, "cut")

    def lost(self) -> Exception:
        return urllib3.exceptions.ReadTimeoutError(self.pool, "", "cut")


class WebhookErrors(Errors):
    """Those of ``horde.outbound``."""

    def failed(self) -> Exception:
        return outbound.OutboundError("cut")

    def lost(self) -> Exception:
        return outbound.OutboundError("cut")


REAL_AWS = BaseClient._make_api_call  # type: ignore[attr-defined]
REAL_HTTP = HTTPConnectionPool.urlopen


@contextmanager
def hooked(wire: Wire, called: Callable[[str, bytes], None]) -> Any:
    """Put a hook on the wire; also make ids the same in each run, see ``seed``.

    ``called`` takes what a webhook is sent (URL, body). Other calls over HTTP are made.
    """

    def aws(client: Any, operation: str, params: dict[str, Any]) -> Any:
        return wire.aws(client, operation, params)

    def http(pool: Any, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        def make() -> Any:
            return REAL_HTTP(pool, method, url, *args, **kwargs)

        if not wire.by:
            return make()
        name = f"{method} {url.rpartition('/')[2]}"
        made = Made(wire.by, name, changes=method not in READS, again=False)
        return wire.call(made, make, HttpErrors(pool))

    def webhook(url: str, body: bytes, _deadline: Any = None) -> None:
        made = Made(wire.by, f"POST {url.rpartition('/')[2]}", changes=True, again=False)
        wire.call(made, lambda: called(url, body), WebhookErrors())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", aws)
        patch.setattr(HTTPConnectionPool, "urlopen", http)
        patch.setattr(outbound, "post_json", webhook)
        yield


@contextmanager
def seeded(random: Random) -> Iterator[None]:
    """Draw new ids and keys from ``random``, so that two runs of one flow name things alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=random.getrandbits(128), version=4))
        patch.setattr("secrets.token_urlsafe", lambda n: random.randbytes(n).hex()[:22])
        patch.setattr("secrets.randbits", random.getrandbits)
        yield
