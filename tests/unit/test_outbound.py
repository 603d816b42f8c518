"""Addresses that strangers gave us: which are called, and how."""

import socket
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
