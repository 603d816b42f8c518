"""The pages and documents that people read."""

import base64
import gzip
import sys
from typing import Any

import pytest

import about
from horde.rules.sharing import TERMS_VERSION
from tests.support.cloud import Cloud
from tests.support.template import ROOT


def page(cloud: Cloud, path: str, method: str = "GET") -> Any:
    event = {
        "routeKey": "$default",
        "rawPath": path,
        "requestContext": {"http": {"method": method, "sourceIp": "203.0.113.7"}},
        "headers": {},
    }
    return cloud.invoke("about", event)


@pytest.mark.parametrize("path", ["/", "/api", "/api/", "/terms", "/privacy"])
def test_every_page_is_html_that_loads_nothing_from_elsewhere(cloud: Cloud, path: str) -> None:
    answer = page(cloud, path)
    assert answer["statusCode"] == 200
    assert answer["headers"]["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer["headers"]["Content-Security-Policy"]
    assert "https://unpkg" not in answer["body"]
    assert answer["body"].startswith("<!doctype html>")


def test_the_documentation_page_has_all_it_loads(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = ROOT / "build" / "layer" / "host" / "python"
    monkeypatch.setattr(sys, "path", [*sys.path, str(layer)])
    for path in ("/api/swagger-ui.css", "/api/swagger-ui-bundle.js"):
        assert path in page(cloud, "/api/")["body"]
        answer = page(cloud, path)
        assert answer["headers"]["Content-Encoding"] == "gzip"
        assert len(gzip.decompress(base64.b64decode(answer["body"]))) > 100_000
    assert "/api/swagger.json" in page(cloud, "/api/swagger-ui-init.js")["body"]


def test_a_page_is_only_read(cloud: Cloud) -> None:
    assert page(cloud, "/terms", "POST")["statusCode"] == 405
    assert page(cloud, "/terms", "HEAD")["statusCode"] == 200


@pytest.mark.parametrize("name", ["terms", "privacy"])
def test_the_documents_say_what_is_shared_under_which_licence(cloud: Cloud, name: str) -> None:
    route = f"GET /api/v2/documents/{name}"
    text = cloud.call(route, query={"format": "markdown"}).body["markdown"]
    assert "Anonymous text-to-image" in text
    assert "never image-to-image" in text or "Image-to-image, inpainting" in text
    assert "CC0" in text
    assert TERMS_VERSION in text
    assert "{" not in text
    answer = cloud.call(route).body
    assert list(answer) == ["html"]
    assert "<h1>" in answer["html"]


def test_the_documents_name_the_operator(cloud: Cloud) -> None:
    cloud.overrides["CONTACT"] = "<b>us@example.org</b>"
    about.html.cache_clear()
    try:
        shown = cloud.call("GET /api/v2/documents/terms").body["html"]
    finally:
        about.html.cache_clear()
    assert "&lt;b&gt;us@example.org" in shown


def test_a_document_has_no_other_format(cloud: Cloud) -> None:
    answer = cloud.call("GET /api/v2/documents/terms", query={"format": "pdf"})
    assert answer.status == 400
    assert list(answer.body["errors"]) == ["format"]
