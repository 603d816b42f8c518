"""Addresses that strangers gave us: which are called, and how."""

import base64
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horde import outbound
from horde.outbound import OutboundError
from tests.support import tls


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",  # not https
        "ftp://example.org/",
        "https://",
        "https:///path",
        "https://localhost/",
        "https://printer.local/",
        "https://db.internal/",
        "https://127.0.0.1/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data",
        "https://192.168.0.1:8443/",
        "https://[::1]/",
        "https://[fe80::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::a00:1]/",
        "https://[2002:7f00:1::]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://2130706433/",
        "https://127.1/",
        "https://0x7f.0.0.1/",
        "https://example.org:99999/",
        "https://user:secret@example.org/",
        "https://example.org\\@127.0.0.1/",
        "https://exa mple.org/",
        "https://exämple.org/",
        "https://[half/",
    ],
)
def test_what_is_not_a_public_https_address_is_not_called(url: str) -> None:
    with pytest.raises(OutboundError):
        outbound.parse_url(url)


@pytest.mark.parametrize(
    "url", ["https://example.org/hook?a=b", "https://8.8.8.8/", "https://[2606:4700::1111]:8443/"]
)
def test_a_public_https_address_may_be_called(url: str) -> None:
    assert outbound.parse_url(url).scheme == "https"


def answers(*addresses: str) -> Any:
    return lambda *_, **__: [(2, 1, 6, "", (address, 443)) for address in addresses]


@pytest.mark.parametrize(
    "found", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["fd00::1"], ["::ffff:10.0.0.1"], []]
)
def test_a_name_with_any_private_address_is_not_called(
    found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers(*found))
    with pytest.raises(OutboundError):
        outbound.resolve("rebind.example.org", 443)


def test_a_name_that_nobody_knows_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "?")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(OutboundError, match="cannot be resolved"):
        outbound.resolve("nowhere.example.org", 443)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tls.Server]:
    """A server whose name is taken for a public one, with a certificate that is believed."""
    monkeypatch.setattr(outbound, "resolve", lambda *_: "127.0.0.1")
    with tls.serving(tmp_path) as made:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        yield made


def test_the_connection_goes_to_the_address_that_was_looked_at(server: tls.Server) -> None:
    outbound.post_json(server.url("/hook?x=1"), b'{"a":1}')
    ((line, agent, body),) = server.got
    assert line == f"POST {tls.HOST}:{server.port}/hook?x=1"
    assert agent == "horde-commons"
    assert body == b'{"a":1}'


def test_a_certificate_of_another_name_is_not_believed(server: tls.Server) -> None:
    with pytest.raises(OutboundError, match="does not answer"):
        outbound.post_json(server.url().replace(tls.HOST, "other.example.org"), b"{}")
    assert server.got == []


@pytest.mark.parametrize("status", [301, 404, 500])
def test_whatever_is_not_2xx_is_a_failure_and_no_redirect_is_followed(
    server: tls.Server, status: int
) -> None:
    server.status = status
    with pytest.raises(OutboundError, match=str(status)):
        outbound.post_json(server.url(), b"{}")
    assert len(server.got) == 1


def test_a_file_larger_than_asked_for_is_not_read_to_its_end(server: tls.Server) -> None:
    server.body = b"x" * 2_000_001
    assert len(outbound.fetch(server.url(), 3_000_000)) == 2_000_001
    with pytest.raises(OutboundError, match="larger"):
        outbound.fetch(server.url(), 2_000_000)


def test_a_server_that_hangs_up_is_a_failure(server: tls.Server) -> None:
    with pytest.raises(OutboundError, match="does not answer"):
        outbound.post_json(f"https://{tls.HOST}:1/", b"{}")


# --- one deadline over all of a call ---------------------------------------------------------


class Dripping:
    """A connection whose server sends a byte a second, of an answer as long as it is read."""

    def __init__(self, clock: "FakeTime", head: bytes) -> None:
        self._clock, self._left = clock, iter(head)
        self.timeouts: list[float] = []
        self.closed = False

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def sendall(self, _sent: bytes) -> None:
        pass

    def recv_into(self, buffer: Any) -> int:
        self._clock.now += 1
        buffer[0] = next(self._left, ord("x"))
        return 1

    def close(self) -> None:
        self.closed = True


class FakeTime:
    """Stands for the module ``time``."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 100 Continue\r\n\r\n" * 9, b"HTTP/1.1 200\r\n\r\n"],
    ids=["status", "header", "continue", "body"],
)
def test_a_server_that_drips_is_left_at_the_deadline(
    head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime()
    monkeypatch.setattr(outbound, "time", clock)
    dripping = Dripping(clock, head)
    monkeypatch.setattr(outbound, "_connect", lambda *_: dripping)
    with pytest.raises(OutboundError, match="TimeoutError"):
        outbound.fetch("https://slow.example.org/", 1000, outbound.Deadline(len(head) + 5))
    assert clock.now == 100 + len(head) + 5
    assert max(dripping.timeouts) <= len(head) + 5
    assert min(dripping.timeouts) == 1
    assert dripping.closed


def test_two_calls_may_share_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeTime()
    monkeypatch.setattr(outbound, "time", clock)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"
    monkeypatch.setattr(outbound, "_connect", lambda *_: Dripping(clock, answer))
    deadline = outbound.Deadline(len(answer) + 10)
    assert outbound.fetch("https://slow.example.org/", 1000, deadline) == b"x"
    with pytest.raises(OutboundError):
        outbound.fetch("https://slow.example.org/", 1000, deadline)


def test_a_lookup_that_hangs_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(outbound, "resolve", lambda *_: str(released.wait()))
    try:
        with pytest.raises(OutboundError, match="in time"):
            outbound.fetch("https://slow.example.org/", 1000, outbound.Deadline(0.01))
    finally:
        released.set()


def test_a_handshake_that_hangs_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "resolve", lambda *_: "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://slow.example.org:{silent.getsockname()[1]}/"
        with pytest.raises(OutboundError, match="TimeoutError"):
            outbound.post_json(url, b"{}", outbound.Deadline(0.05))


def test_the_source_image_and_its_mask_have_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    from horde import images
    from tests.support.images import png_base64

    whole = base64.b64decode(png_base64())
    deadlines = []

    def fetch(_url: str, _most: int, deadline: outbound.Deadline) -> bytes:
        deadlines.append(deadline)
        return whole

    monkeypatch.setattr(outbound, "fetch", fetch)
    images.source_of("https://a.example.org/", "https://b.example.org/", painting=True)
    assert len(deadlines) == 2
    assert deadlines[0] is deadlines[1]
