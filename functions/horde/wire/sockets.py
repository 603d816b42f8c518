"""HTTP/1.1 over kept-alive sockets: a request, and its response (RFC 9112).

Not ``http.client``, which costs more than the rest of a call together (docs/decisions.md). A link
belongs to one call at a time, so threads may call at once.
"""

import os
import select
import socket
import time
from collections import defaultdict
from functools import cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from horde.wire.seam import NoAnswerError

CONNECT_S, READ_S = 2.0, 8.0
IDLE_S = 20.0
"""Seconds after which a link is not used again. AWS closes links that are idle for longer, and a
function that was frozen meanwhile does not hear of it."""
MAX_LINE, MAX_HEADERS, MAX_BODY = 64 * 1024, 100, 64 * 1024 * 1024
"""Most bytes of a line, most headers, and most bytes of a body."""
USUAL_PORT = {"http": 80, "https": 443}


class Origin(NamedTuple):
    """A server, as a URL begins."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        """Return the server of a URL, whatever its path."""
        parts = urlsplit(url)
        return cls(parts.scheme, parts.hostname or "", parts.port or USUAL_PORT[parts.scheme])

    @property
    def authority(self) -> str:
        """The server as a ``Host`` header names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == USUAL_PORT[self.scheme] else f"{host}:{self.port}"


class Request(NamedTuple):
    """A request; its headers have lower-case names, and ``path`` includes the query."""

    origin: Origin
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""


class Link:
    """A connection to a server; ``used`` is when, in seconds, a response was last read from it."""

    def __init__(self, origin: Origin) -> None:
        name: Any = origin.host.encode("ascii")  # for a text, Python imports a codec: 3 ms
        sock = socket.create_connection((name, origin.port), timeout=CONNECT_S)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if origin.scheme == "https":
                context = _tls(os.environ.get("AWS_CA_BUNDLE") or None)
                sock = context.wrap_socket(sock, server_hostname=name)
        except BaseException:
            sock.close()
            raise
        sock.settimeout(READ_S)
        self.origin, self.sock, self.file = origin, sock, sock.makefile("rb")
        self.used = time.time()

    def is_open(self) -> bool:
        """Return whether the server has sent nothing, not even that it closed the connection."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(0):
            return True
        self.sock.settimeout(0)  # TLS may have sent a ticket, in which there is nothing to read
        try:
            self.sock.recv(1)
        except OSError as error:
            self.sock.settimeout(READ_S)
            return type(error).__name__ in {"BlockingIOError", "SSLWantReadError"}
        return False

    def close(self) -> None:
        """Close it, whatever the server still sends."""
        self.file.close()
        self.sock.close()


@cache
def _tls(bundle: str | None) -> Any:
    """Return the settings of TLS, made once, since reading the roots costs milliseconds."""
    import ssl  # noqa: PLC0415 - the local cloud needs none

    return ssl.create_default_context(cafile=bundle)


_idle: defaultdict[Origin, list[Link]] = defaultdict(list)


def forget() -> None:
    """Close all idle links: those of a snapshot are dead, those of a parent are the parent's."""
    while _idle:
        for link in _idle.popitem()[1]:
            link.close()


os.register_at_fork(after_in_child=forget)


def connect(origin: Origin) -> None:
    """Open a link for a later call; raises OSError."""
    _idle[origin].append(Link(origin))


def _take(origin: Origin) -> Link | None:
    """Return an idle link, the last used first."""
    while True:
        try:
            link = _idle[origin].pop()
        except IndexError:
            return None
        if 0 <= time.time() - link.used < IDLE_S and link.is_open():
            return link
        link.close()


class Response:
    """A response, whose body is read once or given up; its headers have lower-case names."""

    def __init__(self, link: Link, method: str) -> None:
        self._link, self._ended, self.status = link, False, 0
        while self.status < 200:  # noqa: PLR2004 - interim responses come before the real one
            version, status, *_ = self._line().split(" ", 2)
            self.status, self.headers = int(status), dict[str, str]()
            while line := self._line():
                name, _, value = line.partition(":")
                self.headers[name.lower()] = value.strip()
                if len(self.headers) > MAX_HEADERS:
                    raise ValueError("too many headers")
        self._kept = version == "HTTP/1.1" and self.headers.get("connection", "").lower() != "close"
        self._empty = method == "HEAD" or self.status in {204, 304}

    def read(self) -> bytes:
        """Return the body, once; raises NoAnswerError if it does not come whole."""
        try:
            body = b"" if self._ended else self._body()
        except (OSError, ValueError) as error:
            self.close()
            raise _no_answer(error) from error
        if self._kept and not self._ended:
            self._ended, self._link.used = True, time.time()
            _idle[self._link.origin].append(self._link)
        self.close()
        return body

    def close(self) -> None:
        """Give up what is left of the body, and its link with it."""
        if not self._ended:
            self._ended = True
            self._link.close()

    def _body(self) -> bytes:
        length = self.headers.get("content-length")
        if self._empty:
            return b""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return b"".join(self._chunks())
        if length is not None:
            return self._exactly(int(length), MAX_BODY)
        self._kept, body = False, self._link.file.read(MAX_BODY + 1)
        if len(body) > MAX_BODY:
            raise ValueError("the body is too large")
        return body

    def _chunks(self) -> list[bytes]:
        found, left = list[bytes](), MAX_BODY
        while size := int(self._line().partition(";")[0], 16):
            found.append(self._exactly(size, left))
            left -= size
            self._line()
        while self._line():
            pass  # trailers
        return found

    def _line(self) -> str:
        line = self._link.file.readline(MAX_LINE)
        if not line.endswith(b"\r\n"):
            raise ValueError("the response ends within a line, or the line is too long")
        return line[:-2].decode("latin-1")

    def _exactly(self, size: int, most: int) -> bytes:
        if not 0 <= size <= most:
            raise ValueError("the body is too large")
        body = self._link.file.read(size)
        if len(body) < size:
            raise ValueError("the response ends within its body")
        return body


def exchange(request: Request) -> Response:
    """Send a request and return its response; raises NoAnswerError."""
    origin, method, path, headers, body = request
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers)]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    if head.count("\n") != len(lines) + 2:
        raise ValueError("a header has more than one line")
    link = _take(origin)
    reused = link is not None
    try:
        link = link or Link(origin)
        link.sock.sendall(head.encode("latin-1") + body)
        return Response(link, method)
    except (OSError, ValueError) as error:
        if link:
            link.close()
        raise _no_answer(error, reused=reused) from error


def _no_answer(error: Exception, *, reused: bool = False) -> NoAnswerError:
    timed_out = isinstance(error, TimeoutError)
    return NoAnswerError(f"{type(error).__name__}: {error}", timed_out=timed_out, reused=reused)
