"""HTTP over kept-alive connections: a request, and its response.

``http.client`` speaks; this module keeps its connections, called links, and bounds what it reads. A
link belongs to one call at a time, so threads may call at once.
"""

import os
import socket
import time
from collections import defaultdict
from contextlib import suppress
from functools import cache
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ssl import SSLContext, create_default_context
from typing import Any, NamedTuple

from horde.wire.seam import NoAnswerError

CONNECT_S, READ_S = 2.0, 8.0
IDLE_S = 20.0
"""Seconds after which a link is not used again. AWS closes links that are idle for longer."""
MAX_BODY = 64 * 1024 * 1024
"""Most bytes of a body. ``http.client`` takes 100 headers, each of 64 KiB."""


class Request(NamedTuple):
    """A request to an ``origin``, as ``https://name:port``.

    Its headers have lower-case names, and ``path`` includes the query.
    """

    origin: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class Response(NamedTuple):
    """A response that came whole; its headers are found by a name in any case."""

    status: int
    headers: Any
    body: bytes


_idle: defaultdict[str, list[tuple[float, HTTPConnection]]] = defaultdict(list)
"""Links, and when each was last read from, in seconds."""


def forget() -> None:
    """Close all idle links: those of a snapshot are dead, those of a parent are the parent's."""
    while _idle:
        for _, link in _idle.popitem()[1]:
            link.close()


os.register_at_fork(after_in_child=forget)


def connect(origin: str) -> None:
    """Open a link for a later call; raises OSError."""
    _idle[origin].append((time.time(), _opened(_link(origin))))


@cache
def _tls(bundle: str | None) -> SSLContext:
    """Return the settings of TLS, made once, since reading the roots costs milliseconds."""
    return create_default_context(cafile=bundle or None)


def _link(origin: str) -> HTTPConnection:
    """Return the idle link that was used last, or one that is not open yet."""
    with suppress(IndexError):
        while True:
            used, link = _idle[origin].pop()
            if 0 <= time.time() - used < IDLE_S:
                return link
            link.close()
    scheme, _, server = origin.partition("://")
    if scheme == "http":
        return HTTPConnection(server, timeout=CONNECT_S)
    tls = _tls(os.environ.get("AWS_CA_BUNDLE"))
    return HTTPSConnection(server, timeout=CONNECT_S, context=tls)


def _opened(link: HTTPConnection) -> HTTPConnection:
    if link.sock:
        return link
    # For a text, Python imports a codec: 3 ms.
    link.host = link.host.encode("ascii")  # type: ignore[assignment]
    link.connect()
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    link.sock.settimeout(READ_S)
    return link


def exchange(request: Request) -> Response:
    """Send a request and return its response; raises NoAnswerError."""
    origin, method, path, headers, body = request
    link = _link(origin)
    reused = link.sock is not None
    try:
        headers = {**headers, "user-agent": "horde-commons"}
        _opened(link).request(method, path, body, headers)
        with link.getresponse() as answer:
            found = Response(answer.status, answer.headers, _whole(answer))
    except Exception as error:
        link.close()
        if not isinstance(error, OSError | HTTPException):
            raise
        timed_out = isinstance(error, TimeoutError)
        if reused and not timed_out:
            return exchange(request)  # the server had closed the link: no reason to wait
        raise NoAnswerError(repr(error), timed_out=timed_out) from error
    if link.sock:  # else the server closes it
        _idle[origin].append((time.time(), link))
    return found


def _whole(answer: HTTPResponse) -> bytes:
    """Return a body, whose length must be known or come in chunks."""
    if answer.chunked or (answer.length is not None and answer.length <= MAX_BODY):
        body = answer.read(MAX_BODY + 1)
        if not answer.length and len(body) <= MAX_BODY:
            return body
    raise HTTPException("the body is too large, breaks off, or says not where it ends")
