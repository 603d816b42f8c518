"""What the API says about itself, and the answer to every unknown route. Touches no data."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from horde import VERSION, openapi
from horde.answers import Heartbeat, News, Newspiece
from horde.errors import MethodNotAllowed, RouteNotFound
from horde.http import Answer, ApiSettings, Call, Route, serve

NEWS = Path(__file__).parent / "horde" / "news.json"
"""What happened on this horde, newest first, kept by hand."""


class Settings(ApiSettings):
    """Nothing of its own."""


def heartbeat(_call: Call) -> Answer:
    """Say that the API answers; nothing behind it is touched."""
    return Answer(Heartbeat(message="OK", version=VERSION))


def news(_call: Call) -> Answer:
    """Say what is new, newest first."""
    return Answer(_news())


@cache
def _news() -> News:
    return News([Newspiece(**piece) for piece in json.loads(NEWS.read_text())])


def swagger(_call: Call) -> Answer:
    """Describe the API as OpenAPI 3.1."""
    return Answer(openapi.document())


def unknown(call: Call) -> Answer:
    """Refuse what no other route takes."""
    methods = openapi.methods_of(call.raw_path)
    if methods:
        raise MethodNotAllowed(", ".join(methods))
    raise RouteNotFound


ROUTES = {
    "GET /api/v2/status/heartbeat": Route(run=heartbeat, answers={200: Heartbeat}),
    "GET /api/v2/status/news": Route(run=news, answers={200: News}),
    "GET /api/swagger.json": Route(run=swagger, answers={200: "application/json"}, hidden=True),
    "$default": Route(run=unknown, answers={}, errors=(RouteNotFound, MethodNotAllowed)),
}


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry."""
    return serve(ROUTES, event)
