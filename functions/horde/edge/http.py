"""Turn API Gateway events into calls of route functions, and their results into responses.

API Gateway has already matched the route. ``serve`` looks it up by name, counts the request against
its rate limits, calls its function and turns every HordeError into a response. A throttle by AWS is
answered 503 with ``Retry-After``. Any other exception is our bug: ``serve`` logs it and answers
with a JSON 500, since clients crash on other formats. The alarm on the API's 5xx responses then
fires.

A ``Route`` declares what its function takes and returns. The deployed routes and the OpenAPI
document are both generated from it.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from http import HTTPStatus
from typing import Any, get_args
from urllib.parse import parse_qsl

from pydantic import BaseModel
from pydantic_core import from_json

from horde import VERSION, aws
from horde.edge import auth, masks, ratelimit
from horde.edge.errors import (
    BodyTooLarge,
    MalformedBody,
    NulByteInPayload,
    PayloadError,
    RouteNotFound,
    UnsupportedMediaType,
)
from horde.edge.responses import Wire, WireList
from horde.log import logger
from horde.rules.refusals import HordeError, Throttled
from horde.throttling import is_throttle

MAX_BODY = 6_000_000
"""Largest body of a route that takes images, in bytes. A Lambda takes 6 MB with all its headers."""
MAX_PLAIN_BODY = 500_000
"""Largest body of every other route, in bytes; a pop with hundreds of models has 20 KB."""
MAX_UNKNOWN_BODY = 16_000
"""Largest body that is read before the API key is known, in bytes.

The Horde checks the schema before the key, and clients know its answers. So small bodies keep this
order. A larger one from an unknown key is refused unread, since reading it would cost seconds.
"""
MAX_VALUES = 100_000
"""Most commas and opening brackets of a JSON body, and so of its values.

Once parsed, a value of two bytes costs up to a hundred. Images in base64 have no such characters,
and the longest prompt may consist of commas alone.
"""
MAX_ANSWER = 6_000_000
"""Most bytes of an answer's body in the JSON that a Lambda returns (``wire_size``)."""
SLOW_S = 1.0
"""Seconds from which an answer is logged that would otherwise not be."""
QUIET = frozenset({"GET /api/v2/generate/check/{id}", "GET /api/v2/generate/status/{id}"})
"""Polls, which are most requests: a line for each success costs as much as its Lambda run, and API
Gateway and Lambda count them anyway. Refusals, faults and slow answers are logged as ever."""
MAX_FORM, MAX_FIELDS = 20_000, 20
"""Largest form in bytes, and its largest number of fields."""
FORM = "application/x-www-form-urlencoded"
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
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""The only way to write a NUL byte in JSON: an odd number of backslashes before ``u0000``."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, in API Gateway's payload format 2.0."""

    route: str
    path: Mapping[str, str]
    headers: Mapping[str, str]
    raw_body: str = field(repr=False)
    is_base64: bool = False
    query: Mapping[str, str] = field(default_factory=dict)
    """Without empty values: horde_sdk sends ``?type=`` for a field that its user has not set."""
    method: str = ""
    raw_path: str = ""
    ip: str = ""
    max_body: int = MAX_PLAIN_BODY
    """Largest body that its route accepts, in bytes."""

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> "Call":
        """Return the request in a Lambda event."""
        http = event.get("requestContext", {}).get("http", {})
        return cls(
            route=event["routeKey"],
            path=event.get("pathParameters") or {},
            headers={name.lower(): value for name, value in event.get("headers", {}).items()},
            raw_body=event.get("body") or "",
            is_base64=bool(event.get("isBase64Encoded")),
            query={
                name: value
                for name, value in (event.get("queryStringParameters") or {}).items()
                if value
            },
            method=http.get("method", ""),
            raw_path=event.get("rawPath") or "",
            ip=http.get("sourceIp", ""),
        )

    @property
    def api_key(self) -> str | None:
        """The API key as sent, or None."""
        return self.headers.get("apikey") or None

    def required_key(self) -> str:
        """Return the API key; raises PayloadError if the header is missing, as the Horde does."""
        if self.api_key is None:
            raise PayloadError({"apikey": MISSING_KEY})
        return self.api_key

    def json(self) -> Any:
        """Return the parsed body. It is parsed once, and bounded before that.

        Raises BodyTooLarge, UnsupportedMediaType, MalformedBody, NulByteInPayload, or PayloadError
        for more values than any request has.
        """
        if len(self.raw_body) > self.max_body:
            raise BodyTooLarge(self.max_body)
        kind = self.headers.get("content-type", "application/json").partition(";")[0].strip()
        if kind.lower() != "application/json":
            raise UnsupportedMediaType
        try:
            raw = self.raw_body.encode()
            if self.is_base64:
                raw = base64.b64decode(raw, validate=True)
        except ValueError:
            raise MalformedBody from None
        if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_VALUES:
            raise PayloadError({"": f"The body has more than {MAX_VALUES} values."})
        try:
            # Refuses lone surrogates, which DynamoDB cannot store, and more than 200 levels.
            body = from_json(raw)
        except ValueError:
            raise MalformedBody from None
        if b"\\u0000" in raw and _NUL.search(raw):
            raise NulByteInPayload
        return body

    def form(self) -> dict[str, str]:
        """Return the fields of an HTML form; the last value wins if a field is repeated.

        Raises BodyTooLarge, UnsupportedMediaType, MalformedBody or NulByteInPayload.
        """
        if len(self.raw_body) > MAX_FORM:
            raise BodyTooLarge(MAX_FORM)
        kind = self.headers.get("content-type", "").partition(";")[0].strip()
        if kind.lower() != FORM:
            what = "form"
            raise UnsupportedMediaType(what, FORM)
        try:
            raw = self.raw_body.encode()
            if self.is_base64:
                raw = base64.b64decode(raw, validate=True)
            fields = dict(
                parse_qsl(
                    raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
                )
            )
        except ValueError:
            raise MalformedBody from None
        if any("\0" in text for text in (*fields, *fields.values())):
            raise NulByteInPayload
        return fields


@dataclass(frozen=True, slots=True)
class Response:
    """A response: a model or plain JSON. A body of another ``kind`` is sent unchanged."""

    body: Any
    status: HTTPStatus = HTTPStatus.OK
    kind: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    is_base64: bool = False


class ApiSettings(aws.Settings):
    """The settings of every function behind the API; see ``edge.ratelimit``."""

    rate_limits: bool
    trusted_ips: str
    admins: str
    """Ids of the accounts that the operator made admins, comma-separated."""


class Key(StrEnum):
    """What a route does with the ``apikey`` header."""

    REQUIRED = "required"
    OPTIONAL = "optional"
    UNUSED = "unused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route's function, and what the OpenAPI document says about the route."""

    run: Callable[[Call], Response]
    responses: Mapping[int, type[Wire] | type[WireList[Any]] | str]
    """By status: a model, or the media type of a response that is not JSON."""
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    key: Key = Key.UNUSED
    errors: tuple[type[HordeError], ...] = ()
    """Refusals beyond those that follow from ``body``, ``query``, ``key`` and ``limits``."""
    limits: tuple[ratelimit.Limit, ...] = ()
    max_body: int = MAX_PLAIN_BODY
    """Largest body, in bytes."""
    tag: str = ""
    hidden: bool = False
    """Whether the route is left out of the OpenAPI document."""


def prepare(routes: Mapping[str, Route]) -> None:
    """Build the models of a function's own routes, so that its first request builds none.

    All models wait for their first use (``defer_build``): a function imports those of all others.
    """
    for route in routes.values():
        for body in (route.body, route.query):
            if body is not None:
                body.model_rebuild()
        for response in route.responses.values():
            if not isinstance(response, str):
                _build(response)


def _build(kind: Any) -> None:
    """Build a response's model, and those within it, since they are made one by one."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        if kind.model_rebuild() is None:
            return  # built before
        for named in kind.model_fields.values():
            _build(named.annotation)
    for part in get_args(kind):
        _build(part)


def serve(routes: Mapping[str, Route], event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the response to one API Gateway event, from the route that the event names."""
    began, name, call = time.monotonic(), str(event.get("routeKey")), Call.of(event)
    headers: dict[str, str] = {}
    mask: masks.Mask = {}
    try:
        route = _route(routes, name)
        caller = ratelimit.Caller(call.ip, call.api_key, f"{call.method} {call.raw_path}")
        limit = ratelimit.check(route.limits, name, caller)
        if limit is not None:
            headers |= limit.headers()
        mask = masks.parse(call.headers.get("x-fields", ""))
        if route.key is Key.REQUIRED and len(call.raw_body) > MAX_UNKNOWN_BODY:
            auth.check_known(call.required_key())
        response = route.run(replace(call, max_body=route.max_body))
    except HordeError as refusal:
        response = Response(refusal.body(), refusal.status, headers=refusal.headers)
    except Exception as error:  # noqa: BLE001 - logged, and answered
        response = _failed(name, error)
    _log(name, response, time.monotonic() - began)
    return {
        "statusCode": int(response.status),
        "headers": {
            "Content-Type": response.kind,
            "Access-Control-Expose-Headers": EXPOSED,
            "Horde-Node": NODE,
            **CORS,
            **headers,
            **response.headers,
        },
        "body": _encoded(response, mask),
        **({"isBase64Encoded": True} if response.is_base64 else {}),
    }


def _log(name: str, response: Response, seconds: float) -> None:
    """Log one line per invocation, without prompt, key or address; none of a quick poll."""
    if name in QUIET and response.status < HTTPStatus.BAD_REQUEST and seconds < SLOW_S:
        return
    rc = response.body.get("rc") if isinstance(response.body, dict) else None
    logger.info("answered", extra={"route": name, "status": int(response.status), "rc": rc})


def _failed(name: str, error: Exception) -> Response:
    """Return the response to an error that is no refusal: a throttle by AWS, or our own fault."""
    if is_throttle(error):
        refusal = Throttled()
        logger.warning("throttled", extra={"route": name, "error": str(error)[:200]})
        return Response(refusal.body(), refusal.status, headers=refusal.headers)
    logger.exception("unexpected error", extra={"route": name})
    body = {"message": "Something went wrong on our side. Please try again.", "rc": "Internal"}
    return Response(body, HTTPStatus.INTERNAL_SERVER_ERROR)


def wire_size(part: Wire) -> int:
    """Return the bytes of a part of a response in what a Lambda returns: JSON within JSON."""
    return len(_json(_json(part.dump())).encode())


def _json(body: Any) -> str:
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _encoded(response: Response, mask: masks.Mask) -> str:
    if response.kind != JSON:
        return str(response.body)
    body = response.body
    if isinstance(body, Wire | WireList):
        body = body.dump()
    if mask and response.status < HTTPStatus.BAD_REQUEST:
        body = masks.apply(mask, body)
    return _json(body)


def _route(routes: Mapping[str, Route], name: str) -> Route:
    try:
        return routes[name]
    except KeyError:
        raise RouteNotFound from None
