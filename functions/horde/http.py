"""The edge: API Gateway events in, the Horde's answers out.

API Gateway has matched the route already; ``serve`` looks its name up, calls the function and
turns every HordeError into its answer. Anything else is our fault: logged, and answered as a
JSON 500, since clients crash on anything else. The alarm on the API's 5xx answers hears of it.
"""

import base64
import binascii
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from aws_lambda_powertools import Logger

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

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> "Call":
        """Read a Lambda event."""
        return cls(
            route=event["routeKey"],
            path=event.get("pathParameters") or {},
            headers={name.lower(): value for name, value in event.get("headers", {}).items()},
            raw_body=event.get("body") or "",
            is_base64=bool(event.get("isBase64Encoded")),
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
    """A JSON answer."""

    body: Any
    status: HTTPStatus = HTTPStatus.OK


Route = Callable[[Call], Answer]


def serve(routes: Mapping[str, Route], event: Mapping[str, Any]) -> dict[str, Any]:
    """Answer one API Gateway event by the route it names."""
    route = str(event.get("routeKey"))
    try:
        answer = _route(routes, route)(Call.of(event))
    except HordeError as refusal:
        answer = Answer(refusal.body(), refusal.status)
    except Exception:
        logger.exception("our fault", extra={"route": route})
        body = {"message": "Something went wrong on our side. Please try again.", "rc": "Internal"}
        answer = Answer(body, HTTPStatus.INTERNAL_SERVER_ERROR)
    # One line per invocation, and no prompt, key or address in it.
    rc = answer.body.get("rc") if isinstance(answer.body, dict) else None
    logger.info("answered", extra={"route": route, "status": int(answer.status), "rc": rc})
    return {
        "statusCode": int(answer.status),
        "headers": {"Content-Type": "application/json; charset=utf-8", **CORS},
        "body": json.dumps(answer.body, ensure_ascii=False, separators=(",", ":")),
    }


def _route(routes: Mapping[str, Route], route: str) -> Route:
    try:
        return routes[route]
    except KeyError:
        raise RouteNotFound from None
