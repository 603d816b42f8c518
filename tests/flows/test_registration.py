"""The page that opens an account: for people with a browser, without a script."""

import base64
import re
from html.parser import HTMLParser
from urllib.parse import urlencode

import pytest

from tests.support.api_calls import Reply
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR

FORM = "application/x-www-form-urlencoded"


def post(cloud: Cloud, raw: str, kind: str = FORM) -> Reply:
    return cloud.call("POST /register", raw=raw, headers={"content-type": kind})


def register(cloud: Cloud, name: str) -> Reply:
    return post(cloud, urlencode({"username": name}))


class Tags(HTMLParser):
    """Which tags a page has, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def one(self, tag: str) -> dict[str, str | None]:
        (attributes,) = [attributes for name, attributes in self.found if name == tag]
        return attributes


def test_the_form_is_a_page_without_a_script(cloud: Cloud) -> None:
    answer = cloud.call("GET /register")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    page = Tags(answer.body)
    assert "script" not in [tag for tag, _ in page.found]
    assert page.one("html")["lang"] == "en"
    assert page.one("label")["for"] == page.one("input")["id"]
    assert page.one("form") == {"method": "post", "action": "/register"}


def test_the_form_says_what_is_shared_and_under_which_licence(cloud: Cloud) -> None:
    text = cloud.call("GET /register").body
    for word in ("CC0", "LAION", "never shared", "always", "/terms", "/privacy"):
        assert word in text


def test_the_page_shows_a_key_that_works_and_only_its_hash_is_kept(cloud: Cloud) -> None:
    answer = register(cloud, "Ada Lovelace")
    assert answer.status == 201
    assert answer.headers["Cache-Control"] == "no-store"
    (key,) = re.findall(r"<code>([\w-]{22})</code>", answer.body)
    found = cloud.call("GET /api/v2/find_user", key=key).body
    assert (found["username"], found["kudos"]) == ("Ada Lovelace#1", FLOOR)
    assert "Ada Lovelace#1" in answer.body
    assert key not in str(cloud.db.scan(TableName=cloud.table))


def test_a_form_that_arrives_in_base64_is_read_like_any_other(cloud: Cloud) -> None:
    event = {
        "routeKey": "POST /register",
        "headers": {"content-type": f"{FORM}; charset=UTF-8"},
        "body": base64.b64encode(urlencode({"username": "Zoë"}).encode()).decode(),
        "isBase64Encoded": True,
    }
    answer = cloud.invoke("users", event)
    assert answer["statusCode"] == 201
    assert "Zoë#1" in answer["body"]


@pytest.mark.parametrize("name", ["", "   ", "x" * 31, "a#b", "a\nb", "a\x00b", "a\x1fb"])
def test_a_bad_name_shows_the_form_again_with_what_is_wrong(cloud: Cloud, name: str) -> None:
    answer = register(cloud, name)
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("text/html")
    page = Tags(answer.body)
    assert page.one("input")["aria-invalid"] == "true"
    assert 'role="alert"' in answer.body
    assert cloud.rows("USER") == []


@pytest.mark.parametrize("name", ['"><script>alert(1)</script>', "<b>&amp;'\"", "{0}{api_key}"])
def test_everything_a_visitor_sends_is_escaped(cloud: Cloud, name: str) -> None:
    for answer in (register(cloud, name), register(cloud, name + "#")):
        page = Tags(answer.body)
        assert {"script", "b"}.isdisjoint(tag for tag, _ in page.found)
    assert Tags(answer.body).one("input")["value"] == name + "#"


@pytest.mark.parametrize(
    ("raw", "kind", "status"),
    [
        ("username=%ff", FORM, 400),
        ("username=\ud800", FORM, 400),
        ("&".join(f"a{n}=1" for n in range(30)), FORM, 400),
        ("colour=red", FORM, 400),
        ("", FORM, 400),
        ("username=" + "x" * 30_000, FORM, 413),
        ('{"username": "ada"}', "application/json", 415),
        ("username=ada", "", 415),
    ],
)
def test_only_a_form_opens_an_account(cloud: Cloud, raw: str, kind: str, status: int) -> None:
    answer = post(cloud, raw, kind)
    assert answer.status == status
    assert Tags(answer.body).one("form")["action"] == "/register"
    assert cloud.rows("USER") == []


def test_an_address_opens_ten_accounts_a_minute(cloud: Cloud) -> None:
    cloud.overrides["RATE_LIMITS"] = "true"
    cloud.clock.freeze(cloud.clock.now_ms() // 60_000 * 60_000)
    assert [register(cloud, "ada").status for _ in range(11)] == [201] * 10 + [429]
