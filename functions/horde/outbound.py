"""Calls to URLs from untrusted clients: webhooks and source images.

A host name is resolved once, and all its addresses must be public. The connection then goes to an
address that was checked; a second lookup could return another one (DNS rebinding). Redirects are
not followed, since their targets are not checked.
"""

import ipaddress
import socket
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, urlsplit

import urllib3

TIMEOUT = urllib3.Timeout(connect=3, read=3)
"""Seconds to connect and between two reads (horde-api.md 2: webhooks 3 s; 3.7: images 2 s)."""
PORTS = {"http": 80, "https": 443}
NAT64 = ipaddress.ip_network("64:ff9b::/96")


class OutboundError(Exception):
    """The URL must not be called, or the call failed; the message completes ``it ...``."""


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


def _open(parts: SplitResult) -> urllib3.HTTPConnectionPool:
    host, port = str(parts.hostname), parts.port or PORTS[parts.scheme]
    address = resolve(host, port)
    if parts.scheme == "https":
        # Connect to the checked address, but verify the certificate of the name.
        return urllib3.HTTPSConnectionPool(
            address, port, timeout=TIMEOUT, retries=False, server_hostname=host,
            assert_hostname=host,
        )  # fmt: skip
    return urllib3.HTTPConnectionPool(address, port, timeout=TIMEOUT, retries=False)


def _send(method: str, url: str, schemes: tuple[str, ...], **more: Any) -> Any:
    parts = parse_url(url, schemes)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Host": parts.netloc, "User-Agent": "horde-commons", **more.pop("headers", {})}
    try:
        with _open(parts) as pool:
            return pool.urlopen(
                method, path, headers=headers, redirect=False, assert_same_host=False, **more
            )
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        message = f"it does not answer ({type(error).__name__})"
        raise OutboundError(message) from None


def post_json(url: str, body: bytes) -> None:
    """POST a JSON body over https; raises OutboundError unless the status is 2xx."""
    headers = {"Content-Type": "application/json"}
    answer = _send("POST", url, ("https",), body=body, headers=headers, preload_content=False)
    answer.release_conn()
    if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        message = f"it answered {answer.status}"
        raise OutboundError(message)


def fetch(url: str, max_bytes: int) -> bytes:
    """GET a file; raises OutboundError if it is larger than ``max_bytes``, or for any failure."""
    answer = _send("GET", url, ("http", "https"), preload_content=False)
    try:
        if answer.status != HTTPStatus.OK:
            message = f"it answered {answer.status}"
            raise OutboundError(message)
        body: bytes = answer.read(max_bytes + 1, decode_content=False)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        message = f"it does not answer ({type(error).__name__})"
        raise OutboundError(message) from None
    finally:
        answer.close()
    if len(body) > max_bytes:
        message = f"it is larger than {max_bytes // 2**20} MB"
        raise OutboundError(message)
    return body
