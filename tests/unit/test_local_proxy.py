"""The proxy changes the address and nothing else."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from infra.local.api_client import Client
from infra.local.proxy import Proxy


class Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(418)
        self.send_header("Content-Type", "text/plain")
        self.send_header("X-Seen", f"{self.command} {self.path} {self.headers['apikey']}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.lengthy
def test_method_path_query_headers_status_and_body_pass(upstream: str) -> None:
    with Proxy() as proxy:
        proxy.target = f"{upstream}/_aws/execute-api/id/$default"
        body = b"\x00\xff" * 1_000_000
        answer = Client(proxy.url, "key").call("POST", "/api/a%2Fb?x=1&y=%20", raw=body)
    assert answer.status == 418
    assert answer.headers["x-seen"] == "POST /_aws/execute-api/id/$default/api/a%2Fb?x=1&y=%20 key"
    assert answer.data == body


@pytest.mark.parametrize("target", [None, "http://127.0.0.1:9"])
def test_a_cloud_that_is_not_there_is_a_502_in_json(target: str | None) -> None:
    with Proxy() as proxy:
        proxy.target = target
        answer = Client(proxy.url).call("GET", "/api/v2/find_user")
    assert answer.status == 502
    assert answer.json["rc"] == "BadGateway"
    assert answer.headers["content-type"].startswith("application/json")


def test_a_taken_port_is_an_error() -> None:
    with Proxy() as proxy, pytest.raises(OSError, match="in use"):
        Proxy(proxy.port).__enter__()
