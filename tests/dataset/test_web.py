"""A release is read over https, and a server that misbehaves is refused in a sentence."""

import re
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from horde_dataset import download
from horde_dataset.sources import MAX_REDIRECTS
from tests.dataset import made
from tests.dataset.conftest import Run
from tests.dataset.test_download import contents


@dataclass
class Web:
    """A web server with a release, on a loopback port, and how it misbehaves."""

    folder: Path
    url: str = ""
    certificate: Path = Path()
    behaviour: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and range of each request."""
    failures: int = 0
    """So many requests of tars are answered by half of what they ask for."""


class Handler(BaseHTTPRequestHandler):
    web: Web

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        web, ranged = self.web, self.headers.get("Range", "")
        web.asked.append((self.path, ranged))
        if web.behaviour.startswith("to "):
            self._redirect(web.behaviour.removeprefix("to "))
        elif web.behaviour == "moved" and not self.path.startswith("/new"):
            self._redirect(f"/new{self.path}")
        elif web.behaviour.isdigit():
            self.send_response(int(web.behaviour))
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._file(ranged)

    def _redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, ranged: str) -> None:
        web = self.web
        path = web.folder / self.path.removeprefix("/new").removeprefix("/").partition("?")[0]
        if not path.is_file():
            self.send_error(404)
            return
        data, length, start = path.read_bytes(), None, 0
        total = len(data)
        tar = path.suffix == ".tar"
        if ranged and web.behaviour != "no ranges":
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", ranged).groups()  # type: ignore[union-attr]
            start = int(first) + (web.behaviour == "other range")
            data = data[start : int(last) + 1 if last else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{start + len(data) - 1}/{total}")
        else:
            self.send_response(200)
        if tar and web.behaviour == "too long":
            data, length = data + bytes(5000), len(data) + 5000
        if tar and web.behaviour == "lies longer":
            length = len(data) + 5000
        if tar and web.behaviour == "lies shorter":
            length = len(data) - 10
        if tar and web.failures:
            web.failures -= 1
            length, data = len(data), data[: len(data) // 2]
        if web.behaviour == "encoded":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data[:length])
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up."""

    def handle_error(self, *_: object) -> None:
        pass


@pytest.fixture
def web(pristine: made.Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    from tests.support import tls

    monkeypatch.setattr(tls, "HOST", "localhost")
    certificate, key = tls.certificate(tmp_path)
    state = Web(pristine.folder, certificate=certificate)
    handler = type("Handler", (Handler,), {"web": state})
    server = Server(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    state.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_release_is_downloaded_over_https(web: Web, tmp_path: Path, run: Run) -> None:
    assert run("download", f"{web.url}/", tmp_path / "copy")[0] == 0
    assert contents(tmp_path / "copy") == contents(web.folder)


def test_the_releases_of_a_web_server_are_its_newest(web: Web, run: Run) -> None:
    said = run("releases", web.url)[1]
    assert len(said.splitlines()) == 2
    assert web.asked == [("/manifest.json", "")]


def test_a_query_asks_for_the_bytes_of_its_images_alone(
    web: Web, pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    wanted = pristine.rows[50]
    code, _, _ = run("download", web.url, tmp_path / "copy", "--where", f"id = '{wanted['id']}'")
    assert code == 0
    of_tars = [each for each in web.asked if each[0].endswith(".tar")]
    last = wanted["offset"] + wanted["size"] - 1
    assert of_tars == [(f"/{wanted['shard']}", f"bytes={wanted['offset']}-{last}")]
    image = tmp_path / "copy" / "images" / f"{wanted['id']}.webp"
    assert image.read_bytes() == pristine.pictures[wanted["id"]]


def test_a_transfer_that_breaks_off_goes_on_from_there(web: Web, tmp_path: Path, run: Run) -> None:
    web.failures = 2
    assert run("download", web.url, tmp_path / "copy", "--jobs", 1)[0] == 0
    assert contents(tmp_path / "copy") == contents(web.folder)
    ranges = [ranged for path, ranged in web.asked if path.endswith("11-25-00000.tar")]
    size = (web.folder / "images/date=2026-11-25/part-2026-11-25-00000.tar").stat().st_size
    assert ranges == ["", f"bytes={size // 2}-", f"bytes={size // 2 + size // 4}-"]


def test_a_transfer_that_always_breaks_off_is_given_up(web: Web, tmp_path: Path, run: Run) -> None:
    web.failures = 10**6
    code, _, said = run("download", web.url, tmp_path / "copy", "--jobs", 1)
    assert (code, "ended after" in said or "broke off" in said) == (1, True)
    tars = [path for path, _ in web.asked if path.endswith(".tar")]
    assert len(tars) == download.TRIES


@pytest.mark.lengthy
def test_a_few_redirects_are_followed(web: Web, tmp_path: Path, run: Run) -> None:
    web.behaviour = "moved"
    assert run("download", web.url, tmp_path / "copy", "--where", "width = 32")[0] == 0
    assert any(path.startswith("/new/") and ranged for path, ranged in web.asked)


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("to /loop", f"more than {MAX_REDIRECTS} redirects"),
        ("to http://localhost:9/x", "a redirect away from https"),
        ("to file:///etc/passwd", "answers 302"),
        ("404", "answers 404"),
        ("403", "answers 403"),
        ("401", "answers 401"),
        ("503", "answers 503"),
        ("encoded", "encoded: refused"),
    ],
)
def test_a_server_that_does_not_answer_as_it_should_is_refused(
    web: Web, tmp_path: Path, run: Run, behaviour: str, why: str
) -> None:
    web.behaviour = behaviour
    code, said, errors = run("download", web.url, tmp_path / "copy")
    assert (code, said, errors.count("\n")) == (1, "", 1)
    assert why in errors
    assert not (tmp_path / "copy" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ("too long", "longer than the manifest's"),
        ("lies longer", "ended after|broke off|longer"),
        ("lies shorter", "ended after|broke off|sha256"),
    ],
)
def test_a_server_that_lies_about_length_gets_no_file_in(
    web: Web, tmp_path: Path, run: Run, behaviour: str, why: str
) -> None:
    web.behaviour = behaviour
    code, _, errors = run("download", web.url, tmp_path / "copy", "--jobs", 1)
    tars = list((tmp_path / "copy").rglob("*.tar"))
    if behaviour == "lies longer" and code == 0:
        # All bytes came before the connection ended: the SHA-256 says that nothing lacks.
        assert contents(tmp_path / "copy") == contents(web.folder)
    else:
        assert (code, bool(re.search(why, errors)), tars) == (1, True, [])


@pytest.mark.parametrize("behaviour", ["no ranges", "other range", "too long"])
def test_a_server_that_answers_another_range_gets_no_image_in(
    web: Web, tmp_path: Path, run: Run, behaviour: str
) -> None:
    web.behaviour = behaviour
    code, _, errors = run("download", web.url, tmp_path / "copy", "--where", "true")
    assert code == 1
    assert "Range" in errors or "longer" in errors
    assert not list((tmp_path / "copy").glob("images/*.webp"))


def test_a_certificate_of_an_unknown_authority_is_refused_at_once(
    web: Web, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    code, _, said = run("releases", web.url)
    assert (code, "certificate" in said.lower()) == (1, True)


def test_nobody_at_the_address_is_said(run: Run) -> None:
    code, _, said = run("releases", "https://localhost:9")
    assert (code, "cannot be reached" in said, said.count("\n")) == (1, True, 1)
