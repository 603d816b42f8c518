"""The minute's census: what waits, who draws it, and what clients are told of it."""

import json
from typing import Any

import pytest

from tests.support.cloud import Cloud

PS = 512 * 512 * 30
"""The pixelsteps of a usual image."""


@pytest.fixture
def worker(horde: Cloud) -> str:
    return horde.worker_key(horde.register("owner")[0])


def census(horde: Cloud) -> None:
    """Count the fleet, and let every process forget what it knew."""
    horde.sweep()
    horde.clock.pass_seconds(10)


def models(horde: Cloud, **query: str) -> Any:
    answer = horde.call("GET /api/v2/status/models", query=query)
    assert answer.status == 200, answer
    return answer.body


def by_name(horde: Cloud, name: str) -> Any:
    (found,) = [row for row in models(horde) if row["name"] == name]
    return found


def performance(horde: Cloud) -> Any:
    return horde.call("GET /api/v2/status/performance").body


def test_a_configured_model_is_listed_before_any_worker_came(horde: Cloud) -> None:
    assert by_name(horde, "SDXL 1.0") == {
        "name": "SDXL 1.0",
        "type": "image",
        "count": 0,
        "performance": 0.0,
        "queued": 0.0,
        "jobs": 0.0,
        "eta": 0,
    }


def test_a_model_that_nothing_draws_is_not_listed(horde: Cloud) -> None:
    horde.overrides["MODELS"] = json.dumps({"mine": {"endpoint": None}})
    assert models(horde) == []


def test_the_census_counts_what_waits_and_who_draws(horde: Cloud, worker: str) -> None:
    horde.pop(worker, name="a", threads=2, models=["stable_diffusion", "rare"])
    horde.pop(worker, name="b")
    horde.generate(params={"n": 3})
    horde.generate(models=["rare"])
    census(horde)
    found = by_name(horde, "stable_diffusion")
    assert (found["count"], found["jobs"], found["queued"]) == (3, 3, 3 * PS)
    assert found["performance"] == 0  # nobody has drawn anything yet
    assert by_name(horde, "rare")["count"] == 2
    whole = performance(horde)
    assert (whole["worker_count"], whole["thread_count"]) == (2, 3)
    assert (whole["queued_requests"], whole["queued_megapixelsteps"]) == (4, 4 * PS / 1e6)
    assert {value for name, value in whole.items() if "text" in name or "token" in name} == {0}


def test_workers_that_rest_or_went_away_do_not_count(horde: Cloud, worker: str) -> None:
    horde.pop(worker, name="away", models=["rare"])
    horde.clock.pass_seconds(301)
    horde.pop(worker, name="rests", models=["rare"])
    (worker_id,) = horde.store.workers_seen(0, 10)[-1:]
    for found in horde.store.workers(horde.store.workers_seen(0, 10)):
        horde.store.change_worker(found[0].id, maintenance=True)
    assert worker_id
    census(horde)
    assert performance(horde)["worker_count"] == 0
    assert [row["name"] for row in models(horde)] == ["SDXL 1.0", "stable_diffusion"]


def test_models_can_be_asked_by_count_state_name_and_type(horde: Cloud, worker: str) -> None:
    horde.pop(worker, models=["rare", "a/b c"])
    census(horde)
    assert [row["name"] for row in models(horde, model_state="custom")] == ["a/b c", "rare"]
    assert [row["name"] for row in models(horde, model_state="known", max_count="0")] == [
        "SDXL 1.0",
        "stable_diffusion",
    ]
    assert [row["name"] for row in models(horde, min_count="1")] == ["a/b c", "rare"]
    assert models(horde, type="text") == []
    for bad in ({"min_count": "many"}, {"type": "video"}, {"model_state": "x"}):
        assert horde.call("GET /api/v2/status/models", query=bad).status == 400
    one = "GET /api/v2/status/models/{name}"
    for name in ("a/b c", "a%2Fb%20c"):
        assert [row["name"] for row in horde.call(one, name=name).body] == ["a/b c"]
    assert horde.call(one, name="nobody's").body == []


def test_what_is_read_is_kept_for_ten_seconds_and_believed_for_five_minutes(
    horde: Cloud, worker: str
) -> None:
    horde.pop(worker)
    census(horde)
    assert by_name(horde, "stable_diffusion")["count"] == 1
    horde.clock.freeze(horde.clock.now_ms())
    horde.pop(worker, name="another")
    horde.sweep()
    horde.clock.pass_seconds(9)
    assert by_name(horde, "stable_diffusion")["count"] == 1
    horde.clock.pass_seconds(1)
    assert by_name(horde, "stable_diffusion")["count"] == 2
    horde.clock.pass_seconds(300)
    assert by_name(horde, "stable_diffusion")["count"] == 0


def test_the_wait_follows_the_queue_and_the_fleet(horde: Cloud, worker: str) -> None:
    horde.generate(params={"n": 20, "width": 1024, "height": 1024})
    last = horde.generate().body["id"]
    alone = horde.check(last).body["wait_time"]
    assert alone == 21 * 6  # nothing is known: all as heavy as this one, one GPU of middling speed
    census(horde)
    heavy = horde.check(last).body["wait_time"]
    assert heavy > 3 * alone
    for name in ("a", "b"):
        horde.pop(worker, name=name, max_pixels=1)
    census(horde)
    assert horde.check(last).body["wait_time"] == pytest.approx(heavy / 2, abs=1)


def test_a_census_that_fails_holds_nothing_else_up(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    from horde.store import Store

    request = horde.generate().body["id"]
    horde.clock.pass_seconds(1201)

    def broken(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(Store, "put_census", broken)
    with pytest.raises(ExceptionGroup):
        horde.sweep()
    assert horde.status(request).status == 404
    assert horde.rows("GENERATION")[0]["state"]["S"] == "expired"


def test_a_census_reads_a_bounded_part_of_a_queue(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sweep

    monkeypatch.setattr(sweep, "MOST_QUEUED", 4)
    horde.generate(params={"n": 6})
    census(horde)
    assert by_name(horde, "stable_diffusion")["jobs"] == 4
