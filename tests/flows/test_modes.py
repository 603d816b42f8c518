"""Maintenance: no new requests; what waits is drawn. And the news."""

import re
from typing import Any

import pytest

from tests.support.cloud import ANONYMOUS, Cloud, Reply

PUT = "PUT /api/v2/status/modes"
GET = "GET /api/v2/status/modes"


@pytest.fixture
def admin(horde: Cloud) -> str:
    user_id, key = horde.register("admin")
    horde.overrides["ADMINS"] = f"{user_id}"
    return key


def switch(horde: Cloud, key: str | None, **modes: Any) -> Reply:
    answer = horde.call(PUT, modes, key=key)
    horde.clock.pass_seconds(10)
    return answer


def test_in_maintenance_new_requests_are_answered_503_and_not_charged(
    horde: Cloud, admin: str
) -> None:
    user, key = horde.register(kudos=100)
    assert switch(horde, admin, maintenance_mode=True).body == {
        "maintenance_mode": True,
        "invite_only_mode": False,
        "raid_mode": False,
    }
    for sender, fields in ((key, {}), (ANONYMOUS, {}), (key, {"dry_run": True})):
        answer = horde.generate(sender, **fields)
        assert (answer.status, answer.body["rc"]) == (503, "MaintenanceMode")
        assert answer.headers["Retry-After"] == "60"
    assert horde.generate(key, n="many", params={"n": "many"}).status == 400
    assert horde.kudos(user) == 114
    assert horde.rows("REQUEST") == []
    assert horde.call(GET).body["maintenance_mode"] is True
    switch(horde, admin, maintenance_mode=False)
    assert horde.generate(key).status == 202


def test_in_maintenance_what_waits_is_drawn_paid_and_shown(horde: Cloud, admin: str) -> None:
    owner, _ = horde.register("owner")
    worker = horde.worker_key(owner)
    request = horde.generate().body["id"]
    switch(horde, admin, maintenance_mode=True)
    horde.draw(worker)
    assert horde.status(request).body["finished"] == 1
    assert horde.kudos(owner) == 14 + 7


def test_maintenance_is_heard_of_within_ten_seconds(horde: Cloud, admin: str) -> None:
    horde.generate()
    horde.clock.freeze(horde.clock.now_ms())
    horde.call(PUT, {"maintenance_mode": True}, key=admin)
    horde.clock.pass_seconds(9)
    assert horde.generate().status == 202
    horde.clock.pass_seconds(1)
    assert horde.generate().status == 503


def test_the_census_leaves_maintenance_alone(horde: Cloud, admin: str) -> None:
    switch(horde, admin, maintenance_mode=True)
    horde.sweep()
    horde.clock.pass_seconds(10)
    assert horde.call(GET).body["maintenance_mode"] is True


def test_only_admins_switch_modes_and_only_those_there_are(horde: Cloud, admin: str) -> None:
    _, key = horde.register()
    for who in (key, ANONYMOUS):
        answer = switch(horde, who, maintenance_mode=True)
        assert (answer.status, answer.body["rc"]) == (403, "NotAdmin")
    assert switch(horde, None, maintenance_mode=True).status == 400
    for mode in ("invite_only_mode", "raid_mode"):
        answer = switch(horde, admin, **{mode: True}, maintenance_mode=True)
        assert (answer.status, answer.body["rc"]) == (400, "BadRequest")
        assert mode.partition("_")[0] in answer.body["message"]
    assert switch(horde, admin).body["rc"] == "NoHordeModSelected"
    assert horde.call(GET).body == {
        "maintenance_mode": False,
        "invite_only_mode": False,
        "raid_mode": False,
    }


def test_the_news_are_the_hordes_shape_newest_first(horde: Cloud) -> None:
    news = horde.call("GET /api/v2/status/news").body
    dates = [piece["date_published"] for piece in news]
    assert dates == sorted(dates, reverse=True)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates)
    assert "sharing" in news[0]["tags"]
    assert set(news[0]) == {
        "date_published",
        "newspiece",
        "importance",
        "tags",
        "title",
        "more_info_urls",
    }
