"""The edge: API Gateway events in, the Horde's answers out.

API Gateway has matched the route already; ``serve`` looks its name up, counts the request against
the route's limits, calls the function and turns every HordeError into its answer. Anything else is
our fault: logged, and answered as a JSON 500, since clients crash on anything else. The alarm on
the API's 5xx answers hears of it.

A ``Route`` says what its function takes and answers; the deployed routes and the OpenAPI are both
read from there.
"""

import base64
import binascii
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools import Logger
from pydantic import BaseModel

from horde import VERSION, aws, masks, rates
from horde.answers import Wire, WireList
from horde.errors import (
    BodyTooLarge,
    HordeError,
    MalformedBody,
    NulByteInPayload,
    PayloadError,
    RouteNotFound,
    UnsupportedMediaType,
)

logger = Logger(service="horde-commons", use_rfc3339=True)

MAX_BODY = 6_000_000
"""Bytes of a body; a Lambda takes 6 MB."""
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET, OPTIONS, PUT, DELETE, PATCH",
    "Access-Control-Allow-Headers": (
        "Accept, Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, apikey, "
        "Client-Agent, X-Fields, X-Forwarded-For, Proxied-For, Proxy-Authorization"
    ),
}
EXPOSED = "X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, Retry-After, Horde-Node"
NODE = f"horde-commons:aws:{VERSION}"
JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"
MISSING_KEY = (
    "The API Key corresponding to a registered user. Missing required parameter in the HTTP headers"
)


def is_uuid(text: str) -> bool:
    """Say whether a text is a UUID in its usual form."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, of API Gateway's payload format 2.0."""

    route: str
    path: Mapping[str, str]
    headers: Mapping[str, str]
    raw_body: str = field(repr=False)
    is_base64: bool = False
    query: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    raw_path: str = ""
    ip: str = ""

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> "Call":
        """Read a Lambda event."""
        http = event.get("requestContext", {}).get("http", {})
        return cls(
            route=event["routeKey"],
            path=event.get("pathParameters") or {},
            headers={name.lower(): value for name, value in event.get("headers", {}).items()},
            raw_body=event.get("body") or "",
            is_base64=bool(event.get("isBase64Encoded")),
            query=event.get("queryStringParameters") or {},
            method=http.get("method", ""),
            raw_path=event.get("rawPath") or "",
            ip=http.get("sourceIp", ""),
        )

    @property
    def api_key(self) -> str | None:
        """The key as sent, or None."""
        return self.headers.get("apikey") or None

    def required_key(self) -> str:
        """Return the key; raises PayloadError where the header is missing, as the Horde does."""
        if self.api_key is None:
            raise PayloadError({"apikey": MISSING_KEY})
        return self.api_key

    def json(self) -> Any:
        """Return the parsed body.

        Raises BodyTooLarge, UnsupportedMediaType, MalformedBody or NulByteInPayload.
        """
        if len(self.raw_body) > MAX_BODY:
            raise BodyTooLarge
        kind = self.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind.lower() != "application/json":
            raise UnsupportedMediaType
        try:
            raw: str | bytes = self.raw_body
            if self.is_base64:
                raw = base64.b64decode(self.raw_body, validate=True)
            body = json.loads(raw)
        except (ValueError, binascii.Error, RecursionError):
            raise MalformedBody from None
        if not isinstance(body, dict):
            return body
        try:
            text = json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # a lone surrogate: no store takes it
            raise MalformedBody from None
        if b"\\u0000" in text:
            raise NulByteInPayload
        return body


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: a model or plain JSON; text of another ``kind`` goes out as it is."""

    body: Any
    status: HTTPStatus = HTTPStatus.OK
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    is_base64: bool = False


class ApiSettings(aws.Settings):
    """What every function behind the API is told; see ``horde.rates``."""

    rate_limits: bool
    trusted_ips: str
    admins: str
    """Ids of the accounts the operator named, by commas."""


class Key(StrEnum):
    """What a route does with the ``apikey`` header."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What answers a route, and all that its description says."""

    run: Callable[[Call], Answer]
    answers: Mapping[int, type[Wire] | type[WireList[Any]] | str]
    """By status: a model, or the media type of what is no JSON."""
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    key: Key = Key.UNUSED
    errors: tuple[type[HordeError], ...] = ()
    """What else it may refuse with; what body, key and limits bring is known."""
    limits: tuple[rates.Limit, ...] = ()
    tag: str = ""
    hidden: bool = False
    """Left out of the OpenAPI."""


def serve(routes: Mapping[str, Route], event: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one API Gateway event by the route it names."""
    name, call = str(event.get("routeKey")), Call.of(event)
    headers: dict[str, str] = {}
    mask: masks.Mask = {}
    try:
        route = _route(routes, name)
        caller = rates.Caller(call.ip, call.api_key, f"{call.method} {call.raw_path}")
        standing = rates.check(route.limits, name, caller)
        if standing is not None:
            headers |= standing.headers()
        mask = masks.parse(call.headers.get("x-fields", ""))
        answer = route.run(call)
    except HordeError as refusal:
        answer = Answer(refusal.body(), refusal.status, headers=refusal.headers)
    except Exception:
        logger.exception("our fault", extra={"route": name})
        body = {"message": "Something went wrong on our side. Please try again.", "rc": "Internal"}
        answer = Answer(body, HTTPStatus.INTERNAL_SERVER_ERROR)
    # One line per invocation, and no prompt, key or address in it.
    rc = answer.body.get("rc") if isinstance(answer.body, dict) else None
    logger.info("answered", extra={"route": name, "status": int(answer.status), "rc": rc})
    return {
        "statusCode": int(answer.status),
        "headers": {
            "Content-Type": answer.kind,
            "Access-Control-Expose-Headers": EXPOSED,
            "Horde-Node": NODE,
            **CORS,
            **headers,
            **answer.headers,
        },
        "body": _written(answer, mask),
        **({"isBase64Encoded": True} if answer.is_base64 else {}),
    }


def _written(answer: Answer, mask: masks.Mask) -> str:
    if answer.kind != JSON:
        return str(answer.body)
    body = answer.body.dump() if isinstance(answer.body, Wire | WireList) else answer.body
    if mask and answer.status < HTTPStatus.BAD_REQUEST:
        body = masks.apply(mask, body)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _route(routes: Mapping[str, Route], name: str) -> Route:
    try:
        return routes[name]
    except KeyError:
        raise RouteNotFound from None
