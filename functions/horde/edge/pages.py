"""HTML pages with one style, no inline script and nothing from other hosts."""

from collections.abc import Mapping
from html import escape
from http import HTTPStatus

from horde.edge.http import HTML, Response

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem }}
td, th {{ border: 1px solid; padding: .3rem .5rem; text-align: left }} table {{ border-collapse: collapse }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #ddd }} a {{ color: #8cf }} }}
</style></head><body>
"""  # noqa: E501 - one line for a rule
POLICY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
}


def page(
    title: str,
    body: str,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a page. ``body`` is HTML and not escaped; the title is plain text and escaped here."""
    text = HEAD.format(title=escape(title)) + body
    return Response(text, status, kind=HTML, headers={**POLICY, **(headers or {})})
