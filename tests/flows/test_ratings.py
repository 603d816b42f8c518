"""Ratings: of shared requests, once, within the Horde's caps."""

from typing import Any

import pytest

from horde.rules.ruleset import IN_FORCE
from tests.support.api_calls import ANONYMOUS, UNKNOWN
from tests.support.cloud import Cloud
from tests.support.numbers import COST_SHARED, FLOOR


def finished(cloud: Cloud, key: str, n: int = 2, **fields: Any) -> tuple[str, list[str]]:
    request = cloud.generate(key, params={"n": n}, shared=True, **fields).body["id"]
    ids = cloud.draw(cloud.new_worker())
    return request, ids


def test_a_rating_earns_its_reward_and_more_with_artifacts(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=4)
    before = cloud.kudos(user)
    ratings = [{"id": ids[0], "rating": 7}, {"id": ids[1].upper(), "rating": 3, "artifacts": 0}]
    answer = cloud.rate(request, ratings=ratings)
    earned = 2 * IN_FORCE.per_rating + IN_FORCE.per_artifacts
    assert (answer.status, answer.body) == (200, {"reward": earned})
    assert cloud.kudos(user) == before + earned
    assert cloud.ledger(user)[-1]["kind"] == "AWARD"


def test_choosing_the_best_earns_its_reward(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=4)
    before = cloud.kudos(user)
    assert cloud.rate(request, best=ids[0]).body == {"reward": IN_FORCE.best_alone}
    assert cloud.kudos(user) == before + IN_FORCE.best_alone


def test_a_reward_is_always_less_than_the_request_cost(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=1)
    rating = {"id": ids[0], "rating": 9, "artifacts": 1}
    assert cloud.rate(request, ratings=[rating]).body["reward"] == COST_SHARED - 1
    assert cloud.kudos(user) == FLOOR + 1000 - 1


def test_what_was_waived_is_not_earned_back(cloud: Cloud) -> None:
    user, key = cloud.register()  # everything is waived
    request, ids = finished(cloud, key, n=2)
    assert cloud.rate(request, best=ids[0]).body == {"reward": 0}
    assert cloud.kudos(user) == FLOOR


def test_a_request_is_rated_once(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key)
    assert cloud.rate(request, best=ids[0]).status == 200
    paid = cloud.kudos(user)
    again = cloud.rate(request, ratings=[{"id": ids[1], "rating": 9}])
    assert (again.status, again.body["rc"]) == (400, "AestheticsAlreadyExist")
    assert cloud.kudos(user) == paid
    assert len(cloud.rows("RATING")) == 1


def test_anonymous_raters_are_told_that_they_earn_nothing(cloud: Cloud) -> None:
    request, ids = finished(cloud, ANONYMOUS)
    answer = cloud.rate(request, best=ids[0])
    assert answer.body["reward"] == 0
    assert "earn no kudos" in answer.body["message"]


def test_ratings_are_kept(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key)
    cloud.rate(request, ratings=[{"id": ids[0], "rating": 7, "artifacts": 2}], best=ids[1])
    kept = {row["pk"]["S"]: row for row in cloud.rows("RATING")}
    assert kept[f"RATING#{ids[0]}"]["rating"] == {"N": "7"}
    assert kept[f"RATING#{ids[0]}"]["artifacts"] == {"N": "2"}
    assert kept[f"RATING#{ids[1]}"]["best"] == {"BOOL": True}
    assert all("gone_at" not in row for row in kept.values())


def test_what_cannot_be_rated_is_refused_and_earns_nothing(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key)
    private = cloud.generate(key).body["id"]
    waiting = cloud.generate(key, shared=True).body["id"]
    before = cloud.kudos(user)
    low, high = {"id": ids[0], "rating": 2}, {"id": ids[1], "rating": 9}
    refused: list[tuple[str, dict[str, Any], str]] = [
        (request, {}, "AestheticsMissing"),
        (request, {"ratings": []}, "AestheticsMissing"),
        (request, {"best": UNKNOWN}, "ProcGenNotFound"),
        (request, {"ratings": [{"id": UNKNOWN, "rating": 5}]}, "ProcGenNotFound"),
        (request, {"ratings": [low, low]}, "AestheticsDuplicate"),
        (request, {"ratings": [low, high], "best": ids[0]}, "AestheticsConfused"),
        (private, {"best": ids[0]}, "AestheticsNotPublic"),
        (waiting, {"best": ids[0]}, "AestheticsNotCompleted"),
    ]
    for target, body, rc in refused:
        answer = cloud.rate(target, **body)
        assert (answer.status, answer.body.get("rc")) == (400, rc), answer
    assert cloud.rate(UNKNOWN, best=ids[0]).status == 404
    assert cloud.kudos(user) == before


def test_one_image_has_no_best(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=1)
    assert cloud.rate(request, best=ids[0]).body["rc"] == "AestheticsSolo"


@pytest.mark.parametrize(
    "rating",
    [
        {"rating": 5},
        {"id": UNKNOWN, "rating": 0},
        {"id": UNKNOWN, "rating": 11},
        {"id": UNKNOWN, "rating": "9"},
        {"id": UNKNOWN, "rating": 5, "artifacts": 6},
        {"id": "x", "rating": 5},
    ],
)
def test_a_malformed_rating_is_named(cloud: Cloud, rating: dict[str, Any]) -> None:
    answer = cloud.rate(UNKNOWN, ratings=[rating])
    assert answer.status == 400
    assert next(iter(answer.body["errors"])).startswith("ratings.0.")


def test_a_censored_image_is_not_rated(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=1000)
    request = cloud.generate(key, params={"n": 2}, shared=True).body["id"]
    worker = cloud.new_worker()
    popped = cloud.pop(worker, amount=2).body
    for job, url, state in zip(
        popped["ids"], popped["r2_uploads"], ("ok", "censored"), strict=True
    ):
        cloud.upload(url)
        assert cloud.submit(worker, job, state=state).status == 200
    first, second = popped["ids"]
    answer = cloud.rate(request, ratings=[{"id": second, "rating": 7}])
    assert (answer.status, answer.body["rc"]) == (400, "ProcGenNotFound")
    assert cloud.rate(request, ratings=[{"id": first, "rating": 7}]).status == 200
