"""Runs the functions on the thin client, as production does: what moto holds answers over HTTP.

It is the moto of this process, so tests look at the world as ever.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders
from moto.core.models import botocore_stubber

from horde import aws, store
from tests.support.cloud import Cloud, cloud_of
from tests.support.moto_aws import REGION, hand_over


class _Handler(BaseHTTPRequestHandler):
    """Answers as moto does: a request's signature names its service, and S3's may have none."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        """Log nothing."""

    def _any(self) -> None:
        signed = self.headers.get("authorization", "")
        scope = re.search(r"/([a-z0-9]+)/aws4_request", signed)
        service = scope[1] if scope else "s3"
        url = f"https://{service}.{REGION}.amazonaws.com{self.path}"
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = HTTPHeaders()
        for name, value in self.headers.items():
            if name.lower() != "host":
                headers[name] = value
        if service == "lambda":
            hand_over(self.path.split("/")[3], body)
            self.send_response(202)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        asked = AWSPreparedRequest(self.command, url, headers, body, stream_output=False)
        answered = botocore_stubber.process_request(asked)
        assert answered is not None, url
        status, given, text = answered
        content = text.encode() if isinstance(text, str) else text
        self.send_response(status)
        for name, value in given.items():
            if name.lower() not in {"content-length", "connection", "server", "date"}:
                self.send_header(name, str(value))
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any  # noqa: N815 - as the base class has it


@contextmanager
def moto_over_http() -> Iterator[str]:
    """Serve what moto holds on a loopback port; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ThinCloud(Cloud):
    """A cloud whose functions speak HTTP."""

    endpoint = ""

    def environment(self, file: str) -> dict[str, str]:
        """Return a function's environment, as in the local cloud."""
        urls = dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), self.endpoint)
        return {**super().environment(file), **urls, "AWS_CLIENT": "thin"}


@contextmanager
def thin_cloud(
    template: dict[str, Any], clients: dict[str, Any], endpoint: str
) -> Iterator[ThinCloud]:
    """Make a cloud for one test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ThinCloud, "endpoint", endpoint)
        _new_clients()
        try:
            with cloud_of(ThinCloud, template, clients) as made:
                yield made
        finally:
            _new_clients()


def _new_clients() -> None:
    aws.clear_cache()
    store._connected.cache_clear()
