"""Pages, documents, news, heartbeat, the OpenAPI document and unknown routes. Reads no data."""

import base64
import json
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from horde import VERSION, startup
from horde.edge import openapi
from horde.edge.bodies import parse
from horde.edge.errors import MethodNotAllowed, RouteNotFound
from horde.edge.http import HTML, ApiSettings, Call, Response, Route, prepare, serve
from horde.edge.other_bodies import DocumentQuery
from horde.edge.other_responses import Document, Heartbeat, News, Newspiece
from horde.edge.pages import POLICY, page
from horde.rules import ruleset
from horde.rules.dates import HOUR_S
from horde.rules.sharing import PROMISED_S, TERMS_VERSION

HOME = """<h1>Horde Commons</h1>
<p>A serverless AI Horde. Use this address as the base URL of any AI Horde client. Images that their
authors share become an open data set for LAION. The tax on a shared image is {tax_shared} kudos
instead of {tax_private}. Anonymous text-to-image is always shared.</p>
<ul>
<li><a href="/register">Open an account</a></li>
<li><a href="/api/">API documentation</a> and <a href="/api/swagger.json">OpenAPI document</a></li>
<li><a href="/terms">Terms of service</a> and <a href="/privacy">privacy policy</a></li>
</ul>
"""
DOCS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Horde Commons API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/api/swagger-ui.css"></head>
<body><div id="swagger-ui"><p>This page needs JavaScript. The
<a href="/api/swagger.json">OpenAPI document</a> does not.</p></div>
<script src="/api/swagger-ui-bundle.js"></script><script src="/api/swagger-ui-init.js"></script>
</body></html>
"""
INIT = """SwaggerUIBundle({url: "/api/swagger.json", dom_id: "#swagger-ui", deepLinking: true});
"""
RATINGS = "/api/v1/"
A_DAY = {"Cache-Control": "public, max-age=86400"}


class Settings(ApiSettings):
    """How to reach the operator."""

    contact: str


def heartbeat(_call: Call) -> Response:
    """Return that the API is up; reads nothing behind it."""
    return Response(Heartbeat(message="OK", version=VERSION))


def news(_call: Call) -> Response:
    """Return the news, newest first."""
    return Response(_news())


@cache
def _news() -> News:
    text = (files("horde") / "edge" / "news.json").read_text()
    return News([Newspiece(**piece) for piece in json.loads(ruleset.fill(text))])


def swagger(_call: Call) -> Response:
    """Return the OpenAPI 3.1 document."""
    return Response(openapi.document())


def terms(call: Call) -> Response:
    """Show the terms of service."""
    return _document("terms", call)


def privacy(call: Call) -> Response:
    """Show the privacy policy."""
    return _document("privacy", call)


def _document(name: str, call: Call) -> Response:
    query = parse(DocumentQuery, dict(call.query))
    if query.format == "markdown":
        return Response(Document(markdown=markdown(name)))
    return Response(Document(html=html(name)))


def markdown(name: str) -> str:
    """Return a document of ``edge/documents`` with the numbers in force and the contact."""
    contact = Settings.load().contact
    who = (
        f"Operated by {contact}."
        if contact
        else "To contact the operator, ask whoever gave you this address."
    )
    path = files("horde").joinpath("edge", "documents", f"{name}.md")
    text = ruleset.fill(path.read_text("utf-8"))
    known = {
        "terms_version": TERMS_VERSION,
        "operator": who,
        "promised_hours": str(PROMISED_S // HOUR_S),
    }
    for placeholder, value in known.items():
        text = text.replace(f"{{{placeholder}}}", value)
    return text


@cache
def html(name: str) -> str:
    """Return a document as HTML; HTML inside the Markdown is escaped."""
    from markdown_it import MarkdownIt  # noqa: PLC0415 - for these two pages alone

    return str(MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(name)))


def _asset(name: str, kind: str) -> Response:
    """Return a file of Swagger UI from the layer, which has it compressed."""
    body = files("swagger_ui").joinpath(f"{name}.gz").read_bytes()
    headers = {**A_DAY, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(base64.b64encode(body).decode(), kind=kind, headers=headers, is_base64=True)


PAGES: dict[str, Callable[[], Response]] = {
    "": lambda: page("Horde Commons", ruleset.fill(HOME)),
    "/terms": lambda: page("Terms of service", html("terms")),
    "/privacy": lambda: page("Privacy policy", html("privacy")),
    "/api": lambda: Response(DOCS, kind=HTML, headers=POLICY),
    "/api/swagger-ui.css": lambda: _asset("swagger-ui.css", "text/css"),
    "/api/swagger-ui-bundle.js": lambda: _asset("swagger-ui-bundle.js", "text/javascript"),
    "/api/swagger-ui-init.js": lambda: Response(INIT, kind="text/javascript", headers=A_DAY),
}
"""Pages for browsers, with or without a trailing slash; not part of the API."""


def unknown(call: Call) -> Response:
    """Show a page, or refuse a path or method that no route has.

    Clients of the ratings API end some of its paths with a slash. API Gateway takes such a path for
    another one, and has no routes that end so: they are sent on, with their method and body.
    """
    page = PAGES.get(call.raw_path.rstrip("/"))
    methods = ["GET", "HEAD"] if page else openapi.methods_of(call.raw_path)
    if page and call.method in methods:
        return page()
    bare = call.raw_path.rstrip("/")
    slashed = bare != call.raw_path and bare.startswith(RATINGS)
    if slashed and call.method in openapi.methods_of(bare):
        query = f"?{urlencode(call.query)}" if call.query else ""
        return Response({}, HTTPStatus.PERMANENT_REDIRECT, headers={"Location": f"{bare}{query}"})
    if methods:
        raise MethodNotAllowed(", ".join(methods))
    raise RouteNotFound


ROUTES = {
    "GET /api/v2/status/heartbeat": Route(run=heartbeat, responses={200: Heartbeat}),
    "GET /api/v2/status/news": Route(run=news, responses={200: News}),
    "GET /api/v2/documents/terms": Route(run=terms, query=DocumentQuery, responses={200: Document}),
    "GET /api/v2/documents/privacy": Route(
        run=privacy, query=DocumentQuery, responses={200: Document}
    ),
    "GET /api/swagger.json": Route(run=swagger, responses={200: "application/json"}, hidden=True),
    "$default": Route(run=unknown, responses={}, errors=(RouteNotFound, MethodNotAllowed)),
}
prepare(ROUTES)
startup.ready()


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)
