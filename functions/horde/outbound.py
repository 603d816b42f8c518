"""Calls to URLs from untrusted clients: webhooks and source images.

A host name is resolved once, and all its addresses must be public. The connection then goes to an
address that was checked; a second lookup could return another one (DNS rebinding). Redirects are
not followed, since their targets are not checked.

A call has one deadline over all of it: lookup, connection, TLS, headers and body. Timeouts of each
step would let a server hold a function for as long as it sends a byte now and then.
"""

import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    import http.client

SECONDS = 5.0
"""Until a call's deadline. The Horde gives a webhook 3 s and an image 2 s for each of their steps
(horde-api.md 2 and 3.7)."""
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class OutboundError(Exception):
    """The URL must not be called, or the call failed; the message completes ``it ...``."""


class Deadline:
    """The end of one call, or of several that belong together, on the monotonic clock."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left; raises TimeoutError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def parse_url(url: str, schemes: tuple[str, ...] = ("https",)) -> SplitResult:
    """Return the parts of a URL; raises OutboundError if it must not be called.

    Host names are not resolved here. So a URL can be checked when a request arrives.
    """
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise OutboundError("it is not a URL") from None
    if parts.scheme not in schemes:
        message = f"it does not start with {' or '.join(schemes)}://"
        raise OutboundError(message)
    if not host or parts.username is not None or not url.isascii() or set(url) & set(" \r\n\t\\"):
        raise OutboundError("it is not a plain URL with a host")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        if "." not in host or host.endswith((".local", ".internal", ".localhost")):
            raise OutboundError("its host is not public") from None
        if host.rpartition(".")[2].isdigit():
            raise OutboundError("its host is neither a name nor an address") from None
    else:
        if not is_public(str(literal)):
            raise OutboundError("its host is not public")
    return parts


def is_public(address: str) -> bool:
    """Return whether an IP address is a public unicast address."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is not None:
            return is_public(str(inner))
        if found in NAT64 or found.teredo is not None:
            return False
    return found.is_global and not found.is_multicast


def resolve(host: str, port: int) -> str:
    """Return an IP address of a host; raises OutboundError unless all its addresses are public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        raise OutboundError("its host cannot be resolved") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise OutboundError("its host is not public")
    return addresses[0]


def _resolve_in_time(host: str, port: int, deadline: Deadline) -> str:
    """Resolve a host in a thread, since a lookup has no timeout of its own.

    A lookup that takes too long is left behind; it ends when the resolver gives up.
    """
    found: queue.SimpleQueue[str | Exception] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put(resolve(host, port))
        except Exception as error:  # noqa: BLE001 - raised by the caller
            found.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        result = found.get(timeout=deadline.left())
    except (queue.Empty, TimeoutError):
        raise OutboundError("its host cannot be resolved in time") from None
    if isinstance(result, Exception):
        raise result
    return result


class _TimedSocket(io.RawIOBase):
    """The receiving end of a socket, where each read may take what is left until a deadline."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes; raises TimeoutError at the deadline."""
        self._connection.settimeout(self._deadline.left())
        return self._connection.recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the stream that http.client reads a response from."""
        return io.BufferedReader(self)


def _connect(parts: SplitResult, deadline: Deadline) -> socket.socket:
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    address = _resolve_in_time(host, port, deadline)
    connection = socket.create_connection((address, port), timeout=deadline.left())
    if parts.scheme != "https":
        return connection
    try:
        # Connected to the checked address, but the certificate must be the name's. The timeout
        # holds for the whole handshake.
        connection.settimeout(deadline.left())
        context = ssl.create_default_context()
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


@contextmanager
def _answer(
    method: str, url: str, schemes: tuple[str, ...], deadline: Deadline, **sent: Any
) -> Iterator["http.client.HTTPResponse"]:
    """Send a request and yield its response, whose body is read in the ``with`` block.

    Raises OutboundError for any failure, there as well.
    """
    import http.client  # noqa: PLC0415 - 6 ms, and most requests call nobody

    parts = parse_url(url, schemes)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {
        "Host": parts.netloc,
        "User-Agent": "horde-commons",
        "Connection": "close",
        **sent.pop("headers", {}),
    }
    try:
        with closing(_connect(parts, deadline)) as connection:
            client = http.client.HTTPConnection(str(parts.hostname))
            client.sock = connection
            connection.settimeout(deadline.left())
            client.request(method, path, headers=headers, **sent)
            timed: Any = _TimedSocket(connection, deadline)
            with closing(http.client.HTTPResponse(timed, method=method)) as answer:
                answer.begin()
                yield answer
    except (http.client.HTTPException, OSError, ValueError) as error:
        message = f"it does not answer ({type(error).__name__})"
        raise OutboundError(message) from None


def post_json(url: str, body: bytes, deadline: Deadline | None = None) -> None:
    """POST a JSON body over https; raises OutboundError unless the status is 2xx."""
    headers = {"Content-Type": "application/json"}
    sent = {"body": body, "headers": headers}
    with _answer("POST", url, ("https",), deadline or Deadline(), **sent) as answer:
        if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            message = f"it answered {answer.status}"
            raise OutboundError(message)


def post(
    url: str, body: bytes, *, kind: str, max_bytes: int, deadline: Deadline | None = None
) -> bytes:
    """POST a body of a content type over https, and return the answer's; raises OutboundError."""
    sent = {"body": body, "headers": {"Content-Type": kind}}
    with _answer("POST", url, ("https",), deadline or Deadline(), **sent) as answer:
        if answer.status != HTTPStatus.OK:
            message = f"it answered {answer.status}"
            raise OutboundError(message)
        found = answer.read(max_bytes + 1)
    if len(found) > max_bytes:
        raise OutboundError("its answer is too long")
    return found


def fetch(url: str, max_bytes: int, deadline: Deadline | None = None) -> bytes:
    """GET a file; raises OutboundError if it is larger than ``max_bytes``, or for any failure."""
    with _answer("GET", url, ("http", "https"), deadline or Deadline()) as answer:
        if answer.status != HTTPStatus.OK:
            message = f"it answered {answer.status}"
            raise OutboundError(message)
        body = answer.read(max_bytes + 1)
    if len(body) > max_bytes:
        message = f"it is larger than {max_bytes // 2**20} MB"
        raise OutboundError(message)
    return body
