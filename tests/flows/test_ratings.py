"""Ratings: of shared requests, once, within the Horde's caps."""

from typing import Any

import pytest

from horde.rules.ruleset import IN_FORCE
from horde.store.sharing import Sharing
from tests.support.api_calls import ANONYMOUS, UNKNOWN
from tests.support.cloud import Cloud
from tests.support.numbers import COST_SHARED, FLOOR, PRICE, TAX_SHARED


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


def test_a_reward_is_at_most_the_price_without_its_tax(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=1)
    rating = {"id": ids[0], "rating": 9, "artifacts": 1}
    assert cloud.rate(request, ratings=[rating]).body["reward"] == PRICE
    assert cloud.kudos(user) == FLOOR + 1000 - TAX_SHARED


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


@pytest.mark.slow
def test_a_script_that_rates_all_its_images_never_gets_its_taxes_back(cloud: Cloud) -> None:
    """It asks for as many images as it may, rates all of them, and does it again."""
    user, key = cloud.register(kudos=1000)
    n, rounds = 20, 3
    spent = earned = 0
    worker = cloud.new_worker()
    for _ in range(rounds):
        request = cloud.generate(key, params={"n": n}, shared=True).body["id"]
        ids = cloud.draw(worker)
        spent += int(cloud.check(request).body["kudos"])
        ratings = [{"id": one, "rating": 9, "artifacts": 1} for one in ids]
        earned += int(cloud.rate(request, ratings=ratings).body["reward"])
    assert spent == rounds * n * COST_SHARED
    assert earned == spent - rounds * n * TAX_SHARED
    assert cloud.kudos(user) == FLOOR + 1000 - rounds * n * TAX_SHARED


@pytest.mark.parametrize("waived", [1, PRICE, 2 * PRICE, 2 * COST_SHARED])
def test_only_the_price_that_was_paid_can_be_earned_back(cloud: Cloud, waived: int) -> None:
    user, key = cloud.register(kudos=2 * COST_SHARED - waived)
    request, ids = finished(cloud, key, n=2)
    ratings = [{"id": one, "rating": 9, "artifacts": 1} for one in ids]
    reward = cloud.rate(request, ratings=ratings).body["reward"]
    assert reward == max(0, 2 * PRICE - waived)
    assert cloud.kudos(user) == FLOOR + reward


@pytest.mark.lengthy
def test_what_was_refunded_cannot_be_earned_back(cloud: Cloud) -> None:
    """One image is delivered, one is censored, and two are cancelled."""
    user, key = cloud.register(kudos=1000)
    request = cloud.generate(key, params={"n": 4}, shared=True).body["id"]
    worker = cloud.new_worker()
    popped = cloud.pop(worker, amount=2).body
    for job, url, state in zip(
        popped["ids"], popped["r2_uploads"], ("ok", "censored"), strict=True
    ):
        cloud.upload(url)
        assert cloud.submit(worker, job, state=state).status == 200
    cloud.cancel(request)
    rating = {"id": popped["ids"][0], "rating": 5, "artifacts": 1}
    answer = cloud.rate(request, ratings=[rating], best=popped["ids"][0])
    assert answer.body == {"reward": PRICE}
    assert cloud.kudos(user) == FLOOR + 1000 - 2 * TAX_SHARED


def withdraw(cloud: Cloud, image: str) -> None:
    shared = cloud.store.sharing.get(image)
    assert shared is not None
    cloud.store.sharing.mark_withdrawn(shared)


def test_a_withdrawn_image_earns_nothing_and_its_siblings_do(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key, n=3)
    cloud.settle_async()
    withdraw(cloud, ids[0])
    before = cloud.kudos(user)
    ratings = [{"id": one, "rating": 9, "artifacts": 1} for one in ids]
    answer = cloud.rate(request, ratings=ratings, best=ids[0])
    earned = min(2 * (IN_FORCE.per_rating + IN_FORCE.per_artifacts), 2 * PRICE)
    assert (answer.status, answer.body) == (200, {"reward": earned})
    assert cloud.kudos(user) == before + earned
    assert {row["pk"]["S"] for row in cloud.rows("RATING")} == {f"RATING#{one}" for one in ids[1:]}


def test_a_request_whose_images_were_all_withdrawn_earns_nothing(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key)
    cloud.settle_async()
    for one in ids:
        withdraw(cloud, one)
    before = cloud.kudos(user)
    rating = {"id": ids[0], "rating": 2}
    answer = cloud.rate(request, ratings=[rating], best=ids[0])
    assert (answer.status, answer.body) == (200, {"reward": 0})
    assert cloud.kudos(user) == before
    assert cloud.rows("RATING") == []


def test_an_image_that_is_withdrawn_while_it_is_rated_earns_nothing(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=1000)
    request, ids = finished(cloud, key)
    cloud.settle_async()
    before = cloud.kudos(user)
    real = Sharing.rate

    def overtaken(self: Any, *args: Any, **kwargs: Any) -> bool:
        withdraw(cloud, ids[1])
        return real(self, *args, **kwargs)

    body = {"ratings": [{"id": ids[0], "rating": 9}]}
    with monkeypatch.context() as patch:
        patch.setattr(Sharing, "rate", overtaken)
        answer = cloud.rate(request, **body)
    assert (answer.status, answer.body["rc"]) == (503, "Locked")
    assert cloud.kudos(user) == before
    assert cloud.rate(request, **body).body == {"reward": IN_FORCE.per_rating}
