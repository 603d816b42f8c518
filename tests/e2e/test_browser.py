"""What a page in a browser does: other clients ignore CORS, ArtBot and stable-ui stand on it.

A browser asks first (OPTIONS) wherever a key, an agent or JSON is sent or a request is cancelled,
and hides every answer from its page that does not allow the page's origin, errors included.
"""

import io
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from infra.local.api_client import Client, Response
from tests.e2e.conftest import OperatedCloud, small

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ORIGIN = {"Origin": "https://page.example"}
SENT = ("apikey", "client-agent", "content-type", "x-fields")
NOBODY = str(uuid.uuid4())
V2 = "/api/v2"
ROUTES = [
    ("POST", "/api/register"),
    ("GET", f"{V2}/find_user"),
    ("POST", f"{V2}/generate/async"),
    ("GET", f"{V2}/generate/check/{NOBODY}"),
    ("GET", f"{V2}/generate/status/{NOBODY}"),
    ("DELETE", f"{V2}/generate/status/{NOBODY}"),
    ("POST", f"{V2}/generate/pop"),
    ("POST", f"{V2}/generate/submit"),
    ("PUT", f"{V2}/not/there/yet"),
    ("PATCH", f"{V2}/not/there/yet"),
]


def names(header: str) -> set[str]:
    return {name.strip().lower() for name in header.split(",")}


def allows_the_page(answer: Response) -> bool:
    # The whole header: two of them arrive as "*, *", and a browser takes that for a refusal.
    return answer.headers.get("access-control-allow-origin") == "*"


def ask_first(client: Client, url: str, method: str, headers: tuple[str, ...] = ()) -> Response:
    asked = {**ORIGIN, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = ",".join(headers)
    return client.fetch("OPTIONS", url, headers=asked)


@dataclass
class Page:
    """A script of a page, with its user's key."""

    client: Client
    accepted: Response
    status: dict[str, Any]

    def fetch(self, method: str, path: str, body: Any = None, **more: Any) -> Response:
        return self.client.call(method, path, body, headers={**ORIGIN, **more.pop("headers", {})})

    @property
    def images(self) -> list[str]:
        return [generation["img"] for generation in self.status["generations"]]


@pytest.fixture(scope="module")
def page(cloud: OperatedCloud) -> Page:
    client = cloud.user()
    body = small("a window", n=2, shared=True)
    accepted = client.call("POST", f"{V2}/generate/async", body, headers=ORIGIN)
    assert accepted.status == 202
    return Page(client, accepted, cloud.done(client, accepted.json["id"]))


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_browser_may_ask_before_any_request(cloud: OperatedCloud, method: str, path: str) -> None:
    answer = ask_first(cloud.anonymous, cloud.local.url + path, method, SENT)
    assert answer.status in {200, 204}
    assert allows_the_page(answer)
    assert method.lower() in names(answer.headers["access-control-allow-methods"])
    assert set(SENT) <= names(answer.headers["access-control-allow-headers"])


def test_a_page_reads_every_success(cloud: OperatedCloud, page: Page) -> None:
    request_id = page.accepted.json["id"]
    answers = {
        "async": page.accepted,
        "check": page.fetch("GET", f"{V2}/generate/check/{request_id}"),
        "status": page.fetch("GET", f"{V2}/generate/status/{request_id}"),
        "cancel": page.fetch("DELETE", f"{V2}/generate/status/{request_id}"),
        "user": page.fetch("GET", f"{V2}/find_user"),
        "dry run": page.fetch("POST", f"{V2}/generate/async", small(dry_run=True)),
        "register": page.fetch("POST", "/api/register", {"username": "somebody"}),
        "heartbeat": page.fetch("GET", f"{V2}/status/heartbeat"),
    }
    assert {name: answer.status for name, answer in answers.items()} == {
        **dict.fromkeys(answers, 200),
        "async": 202,
        "register": 201,
    }
    for answer in answers.values():
        assert allows_the_page(answer)
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.json


def test_a_page_reads_every_refusal(cloud: OperatedCloud, page: Page) -> None:
    generate = f"{V2}/generate/async"
    bad = small()
    bad["params"]["sampler_name"] = "k_nothing"
    newcomer = cloud.local.client(cloud.local.client().register("newcomer")["api_key"])
    stranger = cloud.local.client("x" * 22)
    keyless = cloud.local.client(None)
    refusals = [
        (400, page.fetch("POST", generate, bad)),
        (400, page.client.call("POST", generate, raw=b'{"prompt": ', headers=ORIGIN)),
        (400, keyless.call("POST", generate, small(), headers=ORIGIN)),
        (401, stranger.call("POST", generate, small(), headers=ORIGIN)),
        (401, keyless.call("GET", f"{V2}/find_user", headers=ORIGIN)),
        (403, newcomer.call("POST", generate, small(slow_workers=False), headers=ORIGIN)),
        (404, page.fetch("GET", f"{V2}/generate/check/{NOBODY}")),
        (404, page.fetch("GET", f"{V2}/generate/status/{NOBODY}")),
        (404, page.fetch("DELETE", f"{V2}/generate/status/{NOBODY}")),
        # What a form sends without asking first.
        (415, page.fetch("POST", generate, small(), headers={"Content-Type": "text/plain"})),
    ]
    for status, answer in refusals:
        assert answer.status == status
        assert allows_the_page(answer)
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.json["message"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/api/v2", "/api/v2/", f"{V2}/generate", "/index.html"])
def test_an_unknown_route_is_a_json_404_and_no_redirect(page: Page, method: str, path: str) -> None:
    answer = page.fetch(method, path)
    assert (answer.status, answer.json["rc"]) == (404, "NotFound")
    assert answer.json["message"]
    assert allows_the_page(answer)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "async"), ("PUT", "async"), ("POST", "check/1")]
)
def test_a_wrong_method_is_refused_in_json(page: Page, method: str, path: str) -> None:
    answer = page.fetch(method, f"{V2}/generate/{path}")
    assert answer.status == 405
    assert answer.json["message"]
    assert allows_the_page(answer)


def test_a_page_downloads_a_shared_request_as_webp(page: Page) -> None:
    assert page.status["shared"] is True
    assert len(set(page.images)) == 2
    for url in page.images:
        answer = page.client.fetch("GET", url, headers=ORIGIN)
        assert answer.status == 200
        assert allows_the_page(answer)
        assert answer.headers["content-type"] == "image/webp"
        with Image.open(io.BytesIO(answer.data)) as image:
            image.load()
            assert (image.format, image.size) == ("WEBP", (64, 64))


def test_a_browser_may_ask_before_it_downloads(page: Page) -> None:
    answer = ask_first(page.client, page.images[0], "GET", ("range",))
    assert answer.status in {200, 204}
    assert allows_the_page(answer)
    assert "get" in names(answer.headers["access-control-allow-methods"])


def test_a_browser_may_only_read_images(page: Page) -> None:
    for method in ("PUT", "DELETE", "POST"):
        assert ask_first(page.client, page.images[0], method).status == 403


def test_a_link_that_was_tampered_with_shows_nothing(page: Page) -> None:
    mine, other = page.images
    signature = "X-Amz-Signature="
    forged = mine.partition(signature)[0] + signature + other.partition(signature)[2]
    answer = page.client.fetch("GET", forged, headers=ORIGIN)
    assert answer.status == 403
    assert b"WEBP" not in answer.data


@pytest.mark.parametrize("path", ["/", "/api", "/api/", "/terms", "/privacy"])
def test_people_find_a_page(page: Page, path: str) -> None:
    answer = page.fetch("GET", path)
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert page.fetch("PUT", path).status == 405


def test_the_documentation_page_is_served_whole(page: Page) -> None:
    for path, kind in (
        ("/api/swagger-ui-bundle.js", "text/javascript"),
        ("/api/swagger-ui.css", "text/css"),
        ("/api/swagger-ui-init.js", "text/javascript"),
        ("/api/swagger.json", "application/json"),
    ):
        answer = page.fetch("GET", path)
        assert answer.status == 200, path
        assert answer.headers["content-type"].startswith(kind)
