"""The minute's census: what waits, who draws it, and what clients are told of it."""

import json
from typing import Any

import pytest

from tests.support.cloud import Cloud
from tests.support.numbers import OVER_S, PIXELSTEPS


def census(cloud: Cloud) -> None:
    """Count the fleet, and let every process forget what it knew."""
    cloud.sweep()
    cloud.clock.pass_seconds(10)


def models(cloud: Cloud, **query: str) -> Any:
    answer = cloud.call("GET /api/v2/status/models", query=query)
    assert answer.status == 200, answer
    return answer.body


def by_name(cloud: Cloud, name: str) -> Any:
    (found,) = [row for row in models(cloud) if row["name"] == name]
    return found


def performance(cloud: Cloud) -> Any:
    return cloud.call("GET /api/v2/status/performance").body


def test_a_configured_model_is_listed_before_any_worker_came(cloud: Cloud) -> None:
    assert by_name(cloud, "SDXL 1.0") == {
        "name": "SDXL 1.0",
        "type": "image",
        "count": 0,
        "performance": 0.0,
        "queued": 0.0,
        "jobs": 0.0,
        "eta": 0,
    }


def test_a_model_that_nothing_draws_is_not_listed(cloud: Cloud) -> None:
    cloud.overrides["MODELS"] = json.dumps({"mine": {"endpoint": None}})
    assert models(cloud) == []


def test_the_census_counts_what_waits_and_who_draws(cloud: Cloud, worker: str) -> None:
    cloud.pop(worker, name="a", threads=2, models=["stable_diffusion", "rare"])
    cloud.pop(worker, name="b")
    cloud.generate(params={"n": 3})
    cloud.generate(models=["rare"])
    census(cloud)
    found = by_name(cloud, "stable_diffusion")
    assert (found["count"], found["jobs"], found["queued"]) == (3, 3, 3 * PIXELSTEPS)
    assert found["performance"] == 0  # nobody has drawn anything yet
    assert by_name(cloud, "rare")["count"] == 2
    whole = performance(cloud)
    assert (whole["worker_count"], whole["thread_count"]) == (2, 3)
    assert (whole["queued_requests"], whole["queued_megapixelsteps"]) == (4, 4 * PIXELSTEPS / 1e6)
    assert {value for name, value in whole.items() if "text" in name or "token" in name} == {0}


def test_workers_that_rest_or_went_away_do_not_count(cloud: Cloud, worker: str) -> None:
    cloud.pop(worker, name="away", models=["rare"])
    cloud.clock.pass_seconds(301)
    cloud.pop(worker, name="rests", models=["rare"])
    (worker_id,) = cloud.store.workers.seen_since(0, 10)[-1:]
    for found in cloud.store.workers.get_many(cloud.store.workers.seen_since(0, 10)):
        cloud.store.workers.change(found[0].id, maintenance=True)
    assert worker_id
    census(cloud)
    assert performance(cloud)["worker_count"] == 0
    assert [row["name"] for row in models(cloud)] == ["SDXL 1.0", "stable_diffusion"]


def test_models_can_be_asked_by_count_state_name_and_type(cloud: Cloud, worker: str) -> None:
    cloud.pop(worker, models=["rare", "a/b c"])
    census(cloud)
    assert [row["name"] for row in models(cloud, model_state="custom")] == ["a/b c", "rare"]
    assert [row["name"] for row in models(cloud, model_state="known", max_count="0")] == [
        "SDXL 1.0",
        "stable_diffusion",
    ]
    assert [row["name"] for row in models(cloud, min_count="1")] == ["a/b c", "rare"]
    assert models(cloud, type="text") == []
    for bad in ({"min_count": "many"}, {"type": "video"}, {"model_state": "x"}):
        assert cloud.call("GET /api/v2/status/models", query=bad).status == 400
    one = "GET /api/v2/status/models/{name}"
    for name in ("a/b c", "a%2Fb%20c"):
        assert [row["name"] for row in cloud.call(one, name=name).body] == ["a/b c"]
    assert cloud.call(one, name="nobody's").body == []


def test_what_is_read_is_kept_for_ten_seconds_and_believed_for_five_minutes(
    cloud: Cloud, worker: str
) -> None:
    cloud.pop(worker)
    census(cloud)
    assert by_name(cloud, "stable_diffusion")["count"] == 1
    cloud.clock.freeze()
    cloud.pop(worker, name="another")
    cloud.sweep()
    cloud.clock.pass_seconds(9)
    assert by_name(cloud, "stable_diffusion")["count"] == 1
    cloud.clock.pass_seconds(1)
    assert by_name(cloud, "stable_diffusion")["count"] == 2
    cloud.clock.pass_seconds(300)
    assert by_name(cloud, "stable_diffusion")["count"] == 0


def test_the_wait_follows_the_queue_and_the_fleet(cloud: Cloud, worker: str) -> None:
    cloud.generate(params={"n": 20, "width": 1024, "height": 1024})
    last = cloud.generate().body["id"]
    alone = cloud.check(last).body["wait_time"]
    assert alone == 21 * 6  # nothing is known: all as heavy as this one, one GPU of middling speed
    census(cloud)
    heavy = cloud.check(last).body["wait_time"]
    assert heavy > 3 * alone
    for name in ("a", "b"):
        cloud.pop(worker, name=name, max_pixels=1)
    census(cloud)
    assert cloud.check(last).body["wait_time"] == pytest.approx(heavy / 2, abs=1)


def test_a_census_that_fails_holds_nothing_else_up(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde.store.census import Censuses

    request = cloud.generate().body["id"]
    cloud.clock.pass_seconds(OVER_S)

    def broken(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(Censuses, "put", broken)
    with pytest.raises(ExceptionGroup):
        cloud.sweep()
    assert cloud.status(request).status == 404
    assert cloud.rows("GENERATION")[0]["state"]["S"] == "expired"


def test_a_census_reads_a_bounded_part_of_a_queue(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sweep

    monkeypatch.setattr(sweep, "MAX_QUEUED", 4)
    cloud.generate(params={"n": 6})
    census(cloud)
    assert by_name(cloud, "stable_diffusion")["jobs"] == 4
