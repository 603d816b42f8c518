"""Maintenance: no new requests; what waits is drawn. And the news."""

import re
from typing import Any

from tests.support.api_calls import ANONYMOUS, Reply
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR, REWARD

PUT = "PUT /api/v2/status/modes"
GET = "GET /api/v2/status/modes"


def switch(cloud: Cloud, key: str | None, **modes: Any) -> Reply:
    answer = cloud.call(PUT, modes, key=key)
    cloud.clock.pass_seconds(10)
    return answer


def test_in_maintenance_new_requests_are_answered_503_and_not_charged(
    cloud: Cloud, admin: str
) -> None:
    user, key = cloud.register(kudos=100)
    assert switch(cloud, admin, maintenance_mode=True).body == {
        "maintenance_mode": True,
        "invite_only_mode": False,
        "raid_mode": False,
    }
    for sender, fields in ((key, {}), (ANONYMOUS, {}), (key, {"dry_run": True})):
        answer = cloud.generate(sender, **fields)
        assert (answer.status, answer.body["rc"]) == (503, "MaintenanceMode")
        assert answer.headers["Retry-After"] == "60"
    assert cloud.generate(key, n="many", params={"n": "many"}).status == 400
    assert cloud.kudos(user) == FLOOR + 100
    assert cloud.rows("REQUEST") == []
    assert cloud.call(GET).body["maintenance_mode"] is True
    switch(cloud, admin, maintenance_mode=False)
    assert cloud.generate(key).status == 202


def test_in_maintenance_what_waits_is_drawn_paid_and_shown(cloud: Cloud, admin: str) -> None:
    owner, _ = cloud.register("owner")
    worker = cloud.worker_key(owner)
    request = cloud.generate().body["id"]
    switch(cloud, admin, maintenance_mode=True)
    cloud.draw(worker)
    assert cloud.status(request).body["finished"] == 1
    assert cloud.kudos(owner) == FLOOR + REWARD


def test_maintenance_is_heard_of_within_ten_seconds(cloud: Cloud, admin: str) -> None:
    cloud.generate()
    cloud.clock.freeze()
    cloud.call(PUT, {"maintenance_mode": True}, key=admin)
    cloud.clock.pass_seconds(9)
    assert cloud.generate().status == 202
    cloud.clock.pass_seconds(1)
    assert cloud.generate().status == 503


def test_the_census_leaves_maintenance_alone(cloud: Cloud, admin: str) -> None:
    switch(cloud, admin, maintenance_mode=True)
    cloud.sweep()
    cloud.clock.pass_seconds(10)
    assert cloud.call(GET).body["maintenance_mode"] is True


def test_only_admins_switch_modes_and_only_those_there_are(cloud: Cloud, admin: str) -> None:
    _, key = cloud.register()
    for who in (key, ANONYMOUS):
        answer = switch(cloud, who, maintenance_mode=True)
        assert (answer.status, answer.body["rc"]) == (403, "NotAdmin")
    assert switch(cloud, None, maintenance_mode=True).status == 400
    for mode in ("invite_only_mode", "raid_mode"):
        answer = switch(cloud, admin, **{mode: True}, maintenance_mode=True)
        assert (answer.status, answer.body["rc"]) == (400, "BadRequest")
        assert mode.partition("_")[0] in answer.body["message"]
    assert switch(cloud, admin).body["rc"] == "NoHordeModSelected"
    assert cloud.call(GET).body == {
        "maintenance_mode": False,
        "invite_only_mode": False,
        "raid_mode": False,
    }


def test_the_news_are_the_hordes_shape_newest_first(cloud: Cloud) -> None:
    news = cloud.call("GET /api/v2/status/news").body
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
