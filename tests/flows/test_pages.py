"""The pages and documents that people read."""

import base64
import gzip
import sys
from typing import Any

import pytest

import about
from horde.sharing import TERMS_VERSION
from tests.support.cloud import Cloud
from tests.support.template import ROOT


def page(horde: Cloud, path: str, method: str = "GET") -> Any:
    event = {
        "routeKey": "$default",
        "rawPath": path,
        "requestContext": {"http": {"method": method, "sourceIp": "203.0.113.7"}},
        "headers": {},
    }
    return horde.invoke("about", event)


@pytest.mark.parametrize("path", ["/", "/api", "/api/", "/terms", "/privacy"])
def test_every_page_is_html_that_loads_nothing_from_elsewhere(horde: Cloud, path: str) -> None:
    answer = page(horde, path)
    assert answer["statusCode"] == 200
    assert answer["headers"]["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer["headers"]["Content-Security-Policy"]
    assert "https://unpkg" not in answer["body"]
    assert answer["body"].startswith("<!doctype html>")


def test_the_documentation_page_has_all_it_loads(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = ROOT / "build" / "layer" / "host" / "python"
    monkeypatch.setattr(sys, "path", [*sys.path, str(layer)])
    for path in ("/api/swagger-ui.css", "/api/swagger-ui-bundle.js"):
        assert path in page(horde, "/api/")["body"]
        answer = page(horde, path)
        assert answer["headers"]["Content-Encoding"] == "gzip"
        assert len(gzip.decompress(base64.b64decode(answer["body"]))) > 100_000
    assert "/api/swagger.json" in page(horde, "/api/swagger-ui-init.js")["body"]


def test_a_page_is_only_read(horde: Cloud) -> None:
    assert page(horde, "/terms", "POST")["statusCode"] == 405
    assert page(horde, "/terms", "HEAD")["statusCode"] == 200


@pytest.mark.parametrize("name", ["terms", "privacy"])
def test_the_documents_say_what_is_shared_under_which_licence(horde: Cloud, name: str) -> None:
    route = f"GET /api/v2/documents/{name}"
    text = horde.call(route, query={"format": "markdown"}).body["markdown"]
    assert "Anonymous text-to-image" in text
    assert "never image-to-image" in text or "Image-to-image, inpainting" in text
    assert "CC0" in text
    assert TERMS_VERSION in text
    assert "{" not in text
    answer = horde.call(route).body
    assert list(answer) == ["html"]
    assert "<h1>" in answer["html"]


def test_the_documents_name_the_operator(horde: Cloud) -> None:
    horde.overrides["CONTACT"] = "<b>us@example.org</b>"
    about.html.cache_clear()
    try:
        shown = horde.call("GET /api/v2/documents/terms").body["html"]
    finally:
        about.html.cache_clear()
    assert "&lt;b&gt;us@example.org" in shown


def test_a_document_has_no_other_format(horde: Cloud) -> None:
    answer = horde.call("GET /api/v2/documents/terms", query={"format": "pdf"})
    assert answer.status == 400
    assert list(answer.body["errors"]) == ["format"]
