"""Ratings: of shared requests, once, within the Horde's caps."""

from typing import Any

import pytest

from tests.support.api_calls import ANONYMOUS, Reply
from tests.support.cloud import Cloud
from tests.support.numbers import PRICE

NOBODY = "11111111-2222-4333-8444-555555555555"


def finished(cloud: Cloud, key: str, n: int = 2, **fields: Any) -> tuple[str, list[str]]:
    request = cloud.generate(key, params={"n": n}, shared=True, **fields).body["id"]
    ids = cloud.draw(cloud.worker_key(cloud.register("owner")[0]))
    return request, ids


def rate(cloud: Cloud, request: str, **body: Any) -> Reply:
    return cloud.call("POST /api/v2/generate/rate/{id}", body, id=request)


def test_a_rating_earns_the_owner_5_and_5_more_with_artifacts(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=4)
    before = cloud.kudos(user)
    ratings = [{"id": ids[0], "rating": 7}, {"id": ids[1].upper(), "rating": 3, "artifacts": 0}]
    answer = rate(cloud, request, ratings=ratings)
    assert (answer.status, answer.body) == (200, {"reward": 15})
    assert cloud.kudos(user) == before + 15
    assert cloud.ledger(user)[-1]["kind"] == "AWARD"


def test_choosing_the_best_earns_15(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=4)
    before = cloud.kudos(user)
    assert rate(cloud, request, best=ids[0]).body == {"reward": 15}
    assert cloud.kudos(user) == before + 15


def test_a_reward_is_always_less_than_the_request_cost(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=1)
    rating = {"id": ids[0], "rating": 9, "artifacts": 1}
    assert rate(cloud, request, ratings=[rating]).body["reward"] == PRICE + 1 - 1
    assert cloud.kudos(user) == 1014 - 1


def test_what_was_forgiven_is_not_earned_back(cloud: Cloud) -> None:
    user, key = cloud.register()  # everything is waived
    request, ids = finished(cloud, key, n=2)
    assert rate(cloud, request, best=ids[0]).body == {"reward": 0}
    assert cloud.kudos(user) == 14


def test_a_request_is_rated_once(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key)
    assert rate(cloud, request, best=ids[0]).status == 200
    paid = cloud.kudos(user)
    again = rate(cloud, request, ratings=[{"id": ids[1], "rating": 9}])
    assert (again.status, again.body["rc"]) == (400, "AestheticsAlreadyExist")
    assert cloud.kudos(user) == paid
    assert len(cloud.rows("RATING")) == 1


def test_anonymous_raters_are_told_that_they_earn_nothing(cloud: Cloud) -> None:
    request, ids = finished(cloud, ANONYMOUS)
    answer = rate(cloud, request, best=ids[0])
    assert answer.body["reward"] == 0
    assert "earn no kudos" in answer.body["message"]


def test_ratings_are_kept(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key)
    rate(cloud, request, ratings=[{"id": ids[0], "rating": 7, "artifacts": 2}], best=ids[1])
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
        (request, {"best": NOBODY}, "ProcGenNotFound"),
        (request, {"ratings": [{"id": NOBODY, "rating": 5}]}, "ProcGenNotFound"),
        (request, {"ratings": [low, low]}, "AestheticsDuplicate"),
        (request, {"ratings": [low, high], "best": ids[0]}, "AestheticsConfused"),
        (private, {"best": ids[0]}, "AestheticsNotPublic"),
        (waiting, {"best": ids[0]}, "AestheticsNotCompleted"),
    ]
    for target, body, rc in refused:
        answer = rate(cloud, target, **body)
        assert (answer.status, answer.body.get("rc")) == (400, rc), answer
    assert rate(cloud, NOBODY, best=ids[0]).status == 404
    assert cloud.kudos(user) == before


def test_one_image_has_no_best(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=1)
    assert rate(cloud, request, best=ids[0]).body["rc"] == "AestheticsSolo"


@pytest.mark.parametrize(
    "rating",
    [
        {"rating": 5},
        {"id": NOBODY, "rating": 0},
        {"id": NOBODY, "rating": 11},
        {"id": NOBODY, "rating": "9"},
        {"id": NOBODY, "rating": 5, "artifacts": 6},
        {"id": "x", "rating": 5},
    ],
)
def test_a_rating_that_fits_no_schema_is_named(cloud: Cloud, rating: dict[str, Any]) -> None:
    answer = rate(cloud, NOBODY, ratings=[rating])
    assert answer.status == 400
    assert next(iter(answer.body["errors"])).startswith("ratings.0.")


def test_a_censored_image_is_not_rated(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=1000)
    request = cloud.generate(key, params={"n": 2}, shared=True).body["id"]
    worker = cloud.worker_key(cloud.register("owner")[0])
    popped = cloud.pop(worker, amount=2).body
    for job, url, state in zip(
        popped["ids"], popped["r2_uploads"], ("ok", "censored"), strict=True
    ):
        cloud.upload(url)
        assert cloud.submit(worker, job, state=state).status == 200
    first, second = popped["ids"]
    answer = rate(cloud, request, ratings=[{"id": second, "rating": 7}])
    assert (answer.status, answer.body["rc"]) == (400, "ProcGenNotFound")
    assert rate(cloud, request, ratings=[{"id": first, "rating": 7}]).status == 200
