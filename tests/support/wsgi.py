"""Doubles API Gateway for tools that speak HTTP: the handlers behind WSGI.

It finds routes by itself; throttling is not doubled, and size limits are (``lambda_limits``).
"""

import base64
import json
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from tests.support import lambda_limits
from tests.support.cloud import Cloud

Start = Callable[[str, list[tuple[str, str]]], object]


class Gateway:
    """API Gateway's part: finding the route, and events in payload format 2.0."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._routes = [
            (route, re.compile(_pattern(route.partition(" ")[2])))
            for route in sorted(cloud.routes, key=lambda route: route.count("{"))
            if " " in route
        ]

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        route, found = "$default", None
        for name, pattern in self._routes:
            if name.startswith(f"{method} ") and (found := pattern.fullmatch(path)):
                route = name
                break
        headers = {
            name[5:].replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        if environ.get("CONTENT_TYPE"):
            headers["content-type"] = environ["CONTENT_TYPE"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        event = {
            "version": "2.0",
            "routeKey": route,
            "rawPath": path,
            "requestContext": {"http": {"method": method, "sourceIp": "203.0.113.7"}},
            "headers": headers,
            "queryStringParameters": _query(environ.get("QUERY_STRING", "")),
            "pathParameters": found.groupdict() if found else None,
            "body": base64.b64encode(body).decode() if body else None,
            "isBase64Encoded": bool(body),
        }
        if lambda_limits.too_large(event):
            start("413 Request Entity Too Large", [("Content-Type", "application/json")])
            return [json.dumps(lambda_limits.TOO_LARGE).encode()]
        answer = self._cloud.invoke(self._cloud.routes[route], event)
        status = HTTPStatus(answer["statusCode"])
        start(f"{int(status)} {status.phrase}", list(answer["headers"].items()))
        raw = answer["body"]
        return [base64.b64decode(raw) if answer.get("isBase64Encoded") else raw.encode()]


def _pattern(path: str) -> str:
    return re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path))


def _query(text: str) -> dict[str, str] | None:
    return dict(parse_qsl(text, keep_blank_values=True)) or None
