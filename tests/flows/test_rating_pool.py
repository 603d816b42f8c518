"""The ratings API for released images: who rates what, and what that earns. Attacks are tests."""

from typing import Any

import pytest
import requests

from horde import gallery, rating_rows
from horde.records import PoolImage
from horde.rules import kudos, raters
from horde.rules.dates import DAY_S
from horde.rules.ruleset import IN_FORCE
from horde.store.audit import AuditStore
from horde.store.ledger import apply_to_balance, post
from horde.store.pool import pool_key, rating_key
from horde.store.raters import Raters, reference
from infra.operate import OperatorError, commands, image_commands, withdraw_command
from infra.operate.audit.run import audit
from tests.support.api_calls import ANONYMOUS, UNKNOWN, refused
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR, HANG_S
from tests.support.rating import (
    given,
    gold_share,
    new,
    offer,
    pooled,
    prove,
    rate,
    rate_next,
    released,
)
from tests.support.rights import held_to

PAID = IN_FORCE.per_pool_rating
SECRET = b"secret"


@pytest.fixture(autouse=True)
def no_gold() -> Any:
    """Gold is given where a test says so."""
    with gold_share(0):
        yield


def pool_image(cloud: Cloud, image_id: str) -> PoolImage:
    found = cloud.store.pool.get(image_id)
    assert found is not None
    return found


def rating_of(cloud: Cloud, key: str, image: str, rating: int, **more: Any) -> Any:
    given(cloud, key, image)
    return rate(cloud, key, image, rating, **more)


def accounts(cloud: Cloud, n: int) -> list[tuple[int, str]]:
    return [cloud.register(f"rater{i}") for i in range(n)]


def published(cloud: Cloud) -> list[Any]:
    cloud.clock.pass_seconds(61)
    return [row for page in rating_rows.ratings(cloud.store, SECRET) for row in page]


# --- what clients read ------------------------------------------------------------------------


def test_the_data_set_and_no_team_are_listed(cloud: Cloud) -> None:
    pooled(cloud, 2)
    (found,) = cloud.call("GET /api/v1/datasets").body
    assert (found["id"], found["image_count"]) == (raters.DATASET_ID, 2)
    assert found["name"]
    assert cloud.call("GET /api/v1/teams").body == []


def test_a_slash_at_the_end_is_sent_on_to_the_same_path_without_it(cloud: Cloud) -> None:
    """horde_sdk ends ``user/ratings/`` so."""
    _, key = cloud.register()
    query = {"limit": "5", "format": "json"}
    for path in ("datasets", "teams", "rating/new", "user/ratings"):
        answer = cloud.call(f"GET /api/v1/{path}/", key=key, query=query)
        assert answer.status == 308
        assert answer.headers["Location"] == f"/api/v1/{path}?limit=5&format=json"
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert cloud.call("GET /api/v1/nothing/").status == 404
    assert cloud.call("POST /api/v1/datasets/", {}).status == 404
    assert cloud.call("GET /api/v2/status/modes/").status == 404


def test_an_image_is_given_as_a_url_that_a_browser_shows(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    _, key = cloud.register()
    answer = new(cloud, key)
    assert answer.body["id"] == image
    assert answer.body["dataset_id"] == raters.DATASET_ID
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    file = requests.get(answer.body["url"], timeout=HANG_S)
    assert (file.status_code, file.headers["content-type"]) == (200, "image/webp")


def test_an_image_of_the_data_set_and_of_a_model_can_be_asked_for(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    _, key = cloud.register()
    route = "GET /api/v1/rating/new/{dataset_id}"
    ours = raters.DATASET_ID
    assert cloud.call(route, key=key, dataset_id=ours).body["id"] == image
    refused(cloud.call(route, key=key, dataset_id=UNKNOWN), "UnknownDataset", 404)
    route += "/{model_name}"
    for name, found in (("stable_diffusion", True), ("stable%5Fdiffusion", True), ("X", False)):
        answer = cloud.call(route, key=key, dataset_id=ours, model_name=name)
        assert (answer.status == 200) is found, name


def test_a_proven_rater_earns_its_reward_at_once_and_once(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    user, key = cloud.register()
    prove(cloud, user)
    answer = rate_next(cloud, key, 7, artifacts=1)
    assert (answer.status, answer.body["reward"]) == (200, PAID)
    assert str(PAID) in answer.body["message"]
    assert cloud.kudos(user) == FLOOR + PAID
    assert [entry["kind"] for entry in cloud.ledger(user)] == ["FLOOR_ADJUSTMENT", "AWARD"]
    found = pool_image(cloud, image)
    assert (found.ratings, found.rating_sum) == (1, 7)
    assert (found.artifacts, found.artifacts_sum) == (1, 1)


@pytest.mark.parametrize(("sent", "kept"), [(0, 0), (5, 5), ("FLAWLESS", 0), ("HARMFUL_FLAWS", 4)])
def test_artifacts_are_a_number_or_its_name(cloud: Cloud, sent: Any, kept: int) -> None:
    (image,) = released(cloud, ANONYMOUS)
    user, key = cloud.register()
    assert rate_next(cloud, key, 7, artifacts=sent).status == 200
    found = cloud.store.raters.rating(image, user)
    assert found is not None
    assert found.artifacts == kept


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"rating": 0},
        {"rating": 11},
        {"rating": "7"},
        {"rating": 7, "artifacts": 6},
        {"rating": 7, "artifacts": "NICE"},
        {"rating": 7, "artifacts": [1]},
    ],
)
def test_a_malformed_rating_is_named(cloud: Cloud, body: dict[str, Any]) -> None:
    _, key = cloud.register()
    answer = cloud.call("POST /api/v1/rating/{id}", body, key=key, id=UNKNOWN)
    assert answer.status == 400
    assert answer.body["errors"]


def test_without_an_account_images_are_shown_and_ratings_refused(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    for key in (None, ANONYMOUS):
        assert new(cloud, key).body["id"] == image
        refused(rate(cloud, key, image, 7), "AnonForbidden", 403)
    assert cloud.rows("RATER") == []
    assert pool_image(cloud, image).ratings == 0


def test_the_images_with_the_fewest_ratings_come_first(cloud: Cloud) -> None:
    images = pooled(cloud, 3)
    (_, first), (_, second), (_, third) = accounts(cloud, 3)
    assert rate_next(cloud, first, 5).status == 200
    assert rate_next(cloud, first, 5).status == 200
    (left,) = [one for one in images if pool_image(cloud, one).ratings == 0]
    assert new(cloud, second).body["id"] == new(cloud, third).body["id"] == left


def test_an_account_is_given_the_same_image_until_it_has_rated_it(cloud: Cloud) -> None:
    pooled(cloud, 5)
    _, key = cloud.register()
    first = new(cloud, key).body["id"]
    assert {new(cloud, key).body["id"] for _ in range(5)} == {first}
    assert rate(cloud, key, first, 5).status == 200
    assert new(cloud, key).body["id"] != first


def test_an_image_that_cannot_be_seen_is_given_for_ten_minutes_at_most(cloud: Cloud) -> None:
    pooled(cloud, 8)
    _, key = cloud.register()
    seen = set()
    for _ in range(12):
        seen.add(new(cloud, key).body["id"])
        cloud.clock.pass_seconds(raters.GIVEN_S)
    assert len(seen) > 1


def test_an_image_has_enough_after_five_ratings(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    people = accounts(cloud, raters.ENOUGH + 1)
    late = people[-1][1]
    assert new(cloud, late).body["id"] == image
    for _, key in people[:-1]:
        assert rate_next(cloud, key, 6).status == 200
    refused(rate(cloud, late, image, 6), "RatedEnough")
    refused(new(cloud, late), "NothingToRate", 404)
    assert pool_image(cloud, image).ratings == raters.ENOUGH


def test_an_image_leaves_the_pool_before_its_file_expires(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    _, key = cloud.register()
    assert new(cloud, key).status == 200
    cloud.clock.pass_seconds(raters.POOL_S)
    refused(rate(cloud, key, image, 6), "ImageNotFound", 404)
    refused(new(cloud, key), "NothingToRate", 404)
    assert cloud.store.pool.count() == 0  # the look has taken it off the list


# --- attacks ----------------------------------------------------------------------------------


@pytest.mark.lengthy
def test_a_rating_sent_again_gets_the_same_answer_and_no_second_reward(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    user, key = cloud.register()
    prove(cloud, user)
    assert rate_next(cloud, key, 7).body["reward"] == PAID
    for _ in range(3):
        assert rate(cloud, key, image.upper(), 7).body["reward"] == PAID
    refused(rate(cloud, key, image, 8), "AlreadyRated")
    assert cloud.kudos(user) == FLOOR + PAID
    assert pool_image(cloud, image).ratings == 1


@pytest.mark.lengthy
def test_of_ratings_that_overtake_each_other_one_is_taken(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32 at once: each has read that the image is unrated before the first one is stored."""
    (image,) = released(cloud, ANONYMOUS)
    user, key = cloud.register()
    prove(cloud, user)
    given(cloud, key, image)
    real, waiting = Raters.rate, [31]
    answers = []

    def overtaken(self: Raters, *what: Any) -> bool:
        if waiting[0]:
            waiting[0] -= 1
            answers.append(rate(cloud, key, image, 7))
        return real(self, *what)

    monkeypatch.setattr(Raters, "rate", overtaken)
    answers.append(rate(cloud, key, image, 7))
    assert [(one.status, one.body["reward"]) for one in answers] == [(200, PAID)] * 32
    assert cloud.kudos(user) == FLOOR + PAID
    assert len(cloud.ledger(user)) == 2


def test_the_last_place_of_an_image_is_taken_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = released(cloud, ANONYMOUS)
    people = accounts(cloud, raters.ENOUGH + 1)
    for _, key in people[:-2]:
        assert rate_next(cloud, key, 6).status == 200
    (_, first), (_, second) = people[-2:]
    given(cloud, first, image)
    given(cloud, second, image)
    real, overtaking = Raters.rate, [True]

    def overtaken(self: Raters, *what: Any) -> bool:
        if overtaking:
            overtaking.clear()
            assert rate(cloud, second, image, 6).status == 200
        return real(self, *what)

    monkeypatch.setattr(Raters, "rate", overtaken)
    refused(rate(cloud, first, image, 6), "RatedEnough")


def test_an_image_that_was_not_given_cannot_be_rated(cloud: Cloud) -> None:
    """A data set is public: scripts know the ids of all images."""
    images = pooled(cloud, 2)
    _, key = cloud.register()
    refused(rate(cloud, key, images[0], 10), "NotGiven")
    mine = new(cloud, key).body["id"]
    (other,) = set(images) - {mine}
    refused(rate(cloud, key, other, 10), "NotGiven")
    refused(rate(cloud, key, UNKNOWN, 10), "ImageNotFound", 404)
    refused(rate(cloud, key, "x", 10), "ImageNotFound", 404)


def test_nobody_rates_what_it_asked_for_or_drew(cloud: Cloud) -> None:
    author, key = cloud.register("ada", kudos=1000)
    owner, owner_key = cloud.register("owner")
    cloud.set_flags(owner, trusted=True)
    (image,) = released(cloud, key, worker=cloud.worker_key(owner))
    second = cloud.call("POST /api/v2/keys", {"name": "second"}, key=key).body["api_key"]
    for one in (key, second, owner_key):
        refused(new(cloud, one), "NothingToRate", 404)
        given(cloud, one, image)  # even if it had been given
        refused(rate(cloud, one, image, 10), "OwnImage")
    assert pool_image(cloud, image).user_id == author


def test_a_transaction_takes_no_rating_of_ones_own_whatever_was_read(cloud: Cloud) -> None:
    user, key = cloud.register("ada", kudos=1000)
    (image,) = released(cloud, key)
    given(cloud, key, image)
    account = cloud.store.accounts.get(user)
    assert account is not None
    found, rater = pool_image(cloud, image), cloud.store.raters.get(user)
    for paid in (True, False):  # one that counts, and one that does not
        decision = raters.decide(found, rater, 9, None, now=0, paid=paid)
        assert not cloud.store.raters.rate(account, found, rater, decision, 9, None)


def test_a_worker_key_and_a_shared_key_rate_nothing(cloud: Cloud, worker: str) -> None:
    (image,) = released(cloud, ANONYMOUS)
    _, key = cloud.register("ada", kudos=100)
    shared = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    refused(rate(cloud, worker, image, 7), "NotPrivileged", 403)
    refused(rate(cloud, shared, image, 7), "InvalidAPIKey", 401)


@pytest.mark.lengthy
def test_who_rates_faster_than_one_can_look_is_refused(cloud: Cloud) -> None:
    pooled(cloud, 20)
    pooled(cloud, 2)
    _, key = cloud.register()
    cloud.clock.pass_seconds(60 - cloud.clock.now_ms() // 1000 % 60)
    for _ in range(raters.PER_MINUTE):
        assert rate_next(cloud, key, 5).status == 200
    answer = rate_next(cloud, key, 5)
    assert answer.status == 429
    assert answer.headers["Retry-After"] == "60"
    cloud.clock.pass_seconds(60)
    assert rate_next(cloud, key, 5).status == 200


def test_a_day_has_so_many_ratings(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raters, "PER_DAY", 2)
    pooled(cloud, 4)
    _, key = cloud.register()
    for _ in range(2):
        assert rate_next(cloud, key, 5).status == 200
    assert rate_next(cloud, key, 5).status == 429
    cloud.clock.pass_seconds(DAY_S)
    assert rate_next(cloud, key, 5).status == 200


def gold_pool(cloud: Cloud, good: int = 8, bad: int = 8) -> list[str]:
    """Release images and know the answers of some; returns the others."""
    images = pooled(cloud, good + bad)
    for number, image in enumerate(images):
        said = image_commands.gold(cloud.store, image, 9 if number < good else 1, 0 if good else 5)
        assert "is gold now" in said
    return pooled(cloud, 4)


@pytest.mark.slow
@pytest.mark.parametrize("constant", [1, 2, 3, 5, 8, 10])
def test_a_script_that_rates_everything_alike_earns_nothing(cloud: Cloud, constant: int) -> None:
    gold_pool(cloud)
    user, key = cloud.register()
    with gold_share(1):
        answers = [rate_next(cloud, key, constant) for _ in range(14)]
        cloud.clock.pass_seconds(60)
    rater = cloud.store.raters.get(user)
    assert rater.gold_right + rater.gold_wrong == 14
    assert raters.distrusted(rater)
    assert [one.body["reward"] for one in answers] == [0] * 14
    assert cloud.kudos(user) == FLOOR


def test_who_knows_the_gold_is_paid_also_for_what_was_owed(cloud: Cloud) -> None:
    gold_pool(cloud)
    user, key = cloud.register()
    rewards = []
    with gold_share(1):
        for _ in range(4):
            image = new(cloud, key).body["id"]
            known = pool_image(cloud, image).gold
            rewards.append(rate(cloud, key, image, known).body["reward"])
    assert rewards == [0, 0, 3 * PAID, PAID]
    assert cloud.kudos(user) == FLOOR + 4 * PAID
    assert len([one for one in cloud.ledger(user) if one["kind"] == "AWARD"]) == 4


@pytest.mark.slow
def test_what_is_owed_is_bounded(cloud: Cloud) -> None:
    pooled(cloud, 20)
    pooled(cloud, 4)
    user, key = cloud.register()
    for number in range(raters.MAX_OWED + 3):
        cloud.clock.pass_seconds(60 if number % 10 == 0 else 0)
        assert rate_next(cloud, key, 5).body["reward"] == 0
    assert len(cloud.store.raters.get(user).owed) == raters.MAX_OWED
    prove(cloud, user)
    cloud.clock.pass_seconds(60)
    assert rate_next(cloud, key, 5).body["reward"] == (raters.MAX_OWED + 1) * PAID


def test_who_disagrees_with_everybody_earns_nothing_and_is_left_out(cloud: Cloud) -> None:
    images = pooled(cloud, 4)
    honest = accounts(cloud, 4)
    hater, key = cloud.register("hater")
    for image in images:
        for _, one in honest:
            assert rating_of(cloud, one, image, 8).status == 200
    rewards = [rating_of(cloud, key, image, 1).body["reward"] for image in images]
    assert rewards == [0, 0, 0, 0]
    rater = cloud.store.raters.get(hater)
    assert (rater.agreed, rater.diverged) == (0, 4)
    assert raters.distrusted(rater)
    # Those before the one too many are counted, the others are not.
    assert [pool_image(cloud, one).ratings for one in images] == [5, 5, 4, 4]
    rows = published_when_done(cloud)
    assert len(rows) == 4 * 4
    assert {row["rating"] for row in rows} == {8}


def published_when_done(cloud: Cloud) -> list[Any]:
    """Return the rows of ratings once no image is rated any more."""
    cloud.clock.pass_seconds(raters.POOL_S)
    return published(cloud)


@pytest.mark.lengthy
def test_two_accounts_that_praise_each_other_are_found_by_the_others(cloud: Cloud) -> None:
    images = pooled(cloud, 4)
    honest, pair = accounts(cloud, 3), [cloud.register("one"), cloud.register("two")]
    for image in images:
        for _, key in [*pair, *honest]:
            rating_of(cloud, key, image, 10 if (_, key) in pair else 3)
    for user, _ in pair:
        assert raters.distrusted(cloud.store.raters.get(user))
        assert cloud.kudos(user) == FLOOR
    for user, _ in honest:
        assert not raters.distrusted(cloud.store.raters.get(user))


def test_averages_are_not_shown_before_one_has_rated(cloud: Cloud) -> None:
    """Otherwise a script would echo them, and never diverge."""
    (image,) = released(cloud, ANONYMOUS)
    (_, first), (_, second) = accounts(cloud, 2)
    rate_next(cloud, first, 8)
    route = "GET /api/v1/image/ratings/{image_id}"
    refused(cloud.call(route, key=second, image_id=image), "NotRatedYet", 403)
    refused(cloud.call(route, image_id=image), "AnonForbidden", 403)
    assert published(cloud) == []  # nor are they in a release yet
    rate_next(cloud, second, 6)
    shown = cloud.call(route, key=second, image_id=image).body
    assert (shown["average"], shown["times_rated"], shown["total"]) == (7.0, 2, 2)
    assert [(one["rating"], one["artifacts"]) for one in shown["ratings"]] == [(6, None)]


def test_a_withdrawn_image_is_neither_shown_nor_rated(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    user, key = cloud.register()
    prove(cloud, user)
    url = new(cloud, key).body["url"]
    withdraw_command.withdraw(cloud.store, cloud.s3, cloud.bucket("Laion"), image)
    for _ in range(2):
        gallery.remove(cloud.store, cloud.s3, cloud.bucket("Gallery"), image)
    assert requests.get(url, timeout=HANG_S).status_code in {403, 404}
    refused(rate(cloud, key, image, 7), "ImageNotFound", 404)
    refused(new(cloud, key), "NothingToRate", 404)
    assert not offer(cloud, image)  # a release that comes late brings it not back
    assert cloud.objects_of("Gallery") == {}
    assert cloud.kudos(user) == FLOOR


def test_an_image_whose_withdrawal_died_halfway_is_neither_shown_nor_rated(cloud: Cloud) -> None:
    """It is marked, and nobody has taken it out of the pool yet."""
    (image,) = pooled(cloud, 1)
    (_, first), (user, second) = accounts(cloud, 2)
    prove(cloud, user)
    assert new(cloud, second).body["id"] == image
    shared = cloud.store.sharing.get(image)
    assert shared is not None
    cloud.store.sharing.mark_withdrawn(shared)
    for key in (None, first, second):
        refused(new(cloud, key), "NothingToRate", 404)
    refused(rate(cloud, second, image, 7), "ImageNotFound", 404)
    assert cloud.kudos(user) == FLOOR


def test_an_image_that_is_withdrawn_while_it_is_rated_earns_nothing(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = released(cloud, ANONYMOUS)
    user, key = cloud.register()
    prove(cloud, user)
    given(cloud, key, image)
    real = Raters.rate

    def overtaken(self: Raters, *what: Any) -> bool:
        with held_to("release", {"dynamodb:*"}):
            cloud.store.pool.remove(image)
        return real(self, *what)

    monkeypatch.setattr(Raters, "rate", overtaken)
    refused(rate(cloud, key, image, 7), "ImageNotFound", 404)
    assert cloud.kudos(user) == FLOOR


def test_an_offer_is_repeated_without_an_effect(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    _, key = cloud.register()
    rate_next(cloud, key, 7)
    assert offer(cloud, image)
    assert pool_image(cloud, image).ratings == 1
    assert list(cloud.objects_of("Gallery")) == [f"{image}.webp"]


@pytest.mark.parametrize("proved", [True, False])
def test_an_account_that_is_deleted_meanwhile_rates_nothing(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, *, proved: bool
) -> None:
    (image,) = released(cloud, ANONYMOUS)
    user, key = cloud.register()
    if proved:
        prove(cloud, user)
    given(cloud, key, image)
    real = Raters.rate

    def overtaken(self: Raters, *what: Any) -> bool:
        cloud.set_flags(user, deleted=True)
        return real(self, *what)

    monkeypatch.setattr(Raters, "rate", overtaken)
    refused(rate(cloud, key, image, 7), "DeletedUser", 403)
    refused(rate(cloud, key, image, 7), "DeletedUser", 403)
    assert pool_image(cloud, image).ratings == 0
    assert len(cloud.ledger(user)) == 1


def test_a_flagged_account_neither_earns_nor_counts(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    user, key = cloud.register()
    prove(cloud, user)
    cloud.set_flags(user, flagged=True)
    answer = rate_next(cloud, key, 7)
    assert (answer.status, answer.body["reward"]) == (200, 0)
    assert "flagged" in answer.body["message"]
    assert pool_image(cloud, image).ratings == 0


# --- moderators -------------------------------------------------------------------------------


@pytest.mark.lengthy
def test_moderators_see_who_rated_and_clear_a_rater(cloud: Cloud, moderator: str) -> None:
    images = pooled(cloud, 4)
    honest = accounts(cloud, 4)
    user, key = cloud.register("hater")
    for image in images:
        for _, one in [*honest, (user, key)]:
            rating_of(cloud, one, image, 1 if one == key else 8)
    shown = cloud.call(
        "GET /api/v1/image/ratings/{image_id}", key=moderator, image_id=images[0]
    ).body
    assert {one["username"] for one in shown["ratings"]} >= {f"hater#{user}"}
    route = "GET /api/v1/user/check/{user_id}"
    query = {"minutes": "60", "divergence": "3"}
    refused(cloud.call(route, key=key, query=query, user_id=str(user)), "NotModerator", 403)
    found = cloud.call(route, key=moderator, query=query, user_id=str(user)).body
    assert found == {
        "ratings_in_timeframe": 4,
        "ratings_per_minute_in_timeframe": 0.07,
        "ratings_past_three_hours": 4,
        "ratings_per_minute_for_past_three_hours": 0.02,
        "suspect_divergences": 4,
        "captchas_failed": 0,
        "distrusted": True,
        "proven": False,
    }
    route = "GET /api/v1/user/validate/{user_id}"
    refused(cloud.call(route, key=key, user_id=str(user)), "NotModerator", 403)
    refused(cloud.call(route, key=moderator, user_id="99"), "UserNotFound", 404)
    listed = cloud.call(route, key=moderator, query={"diverge": "5"}, user_id=str(user)).body
    assert listed["total"] == 4
    assert {(one["rating"], one["times_rated"]) for one in listed["ratings"]} == {(1, 5), (1, 4)}
    route = "POST /api/v1/user/clear/{user_id}"
    refused(cloud.call(route, key=key, user_id=str(user)), "NotModerator", 403)
    answer = cloud.call(route, key=moderator, user_id=str(user))
    assert answer.body == {"username": f"hater#{user}", "distrusted": False}
    assert not raters.distrusted(cloud.store.raters.get(user))
    assert {row["rating"] for row in published_when_done(cloud)} == {1, 8}


def test_a_rater_sees_its_own_ratings_and_filters_them(cloud: Cloud) -> None:
    pooled(cloud, 3)
    user, key = cloud.register()
    for rating, artifacts in ((2, 5), (6, 0), (9, 1)):
        rate_next(cloud, key, rating, artifacts=artifacts)
        cloud.clock.pass_seconds(1)

    def found(**query: str) -> list[int]:
        body = cloud.call("GET /api/v1/user/ratings", key=key, query=query).body
        return [one["rating"] for one in body["ratings"]]

    assert found() == [9, 6, 2]
    assert found(rating="6") == [9, 6]
    assert found(rating="6", rating_comparison="le") == [6, 2]
    assert found(rating="6", rating_comparison="eq") == [6]
    assert found(artifacts="1", artifacts_comparison="le") == [9, 6]
    assert found(min_ratings="2") == []
    assert found(limit="1", offset="1") == [6]
    refused(cloud.call("GET /api/v1/user/ratings", key=ANONYMOUS), "AnonForbidden", 403)
    shown = cloud.call("GET /api/v1/user/ratings", key=key, query={"format": "html"})
    assert f"ada#{user}" in shown.body
    assert shown.headers["Content-Type"].startswith("text/html")


# --- gold and the operator ----------------------------------------------------------------------


def test_only_a_clear_answer_is_gold(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    with pytest.raises(OperatorError, match="tells nobody from a script"):
        image_commands.gold(cloud.store, image, 5)
    with pytest.raises(OperatorError, match="no image"):
        image_commands.gold(cloud.store, UNKNOWN, 9)
    options = commands.parser().parse_args(["gold", image.upper(), "9", "0"])
    assert commands.run(cloud.store, options).endswith("1 good and 0 bad ones")
    assert pool_image(cloud, image).gold_artifacts == 0


def test_gold_alone_is_given_to_nobody(cloud: Cloud) -> None:
    """Else new accounts would live on known answers."""
    (image,) = released(cloud, ANONYMOUS)
    image_commands.gold(cloud.store, image, 9)
    _, key = cloud.register()
    with gold_share(1):
        refused(new(cloud, key), "NothingToRate", 404)


def test_gold_is_never_in_a_release(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    for _, key in accounts(cloud, 2):
        rate_next(cloud, key, 9)
    image_commands.gold(cloud.store, image, 9)
    assert published_when_done(cloud) == []


# --- the tables of a release --------------------------------------------------------------------


def test_an_owners_rating_joins_the_same_table_as_its_own(cloud: Cloud) -> None:
    user, key = cloud.register("ada", kudos=1000)
    request = cloud.generate(key, params={"n": 2}, shared=True).body["id"]
    ids = cloud.draw(cloud.new_worker())
    cloud.settle_async()
    earned = cloud.rate(request, ratings=[{"id": ids[0], "rating": 7}], best=ids[0]).body["reward"]
    assert earned == IN_FORCE.per_rating
    (row,) = published(cloud)
    assert row == {
        "id": ids[0],
        "rater": "",
        "rating": 7,
        "artifacts": rating_rows.NOT_RATED,
        "own": True,
        "proven": False,
        "rated_on": row["rated_on"],
    }
    listed = cloud.call("GET /api/v1/user/ratings", key=key).body
    assert listed["total"] == 0  # it is not in the pool, so there is nothing to compare it with
    assert user


def test_an_anonymous_owners_rating_is_in_the_table(cloud: Cloud) -> None:
    request = cloud.generate(params={"n": 1}).body["id"]
    ids = cloud.draw(cloud.new_worker())
    cloud.settle_async()
    cloud.rate(request, ratings=[{"id": ids[0], "rating": 7}])
    assert [(row["id"], row["rater"], row["own"]) for row in published(cloud)] == [
        (ids[0], "", True)
    ]


def test_the_tables_have_counts_means_and_hashed_raters_and_no_identity(cloud: Cloud) -> None:
    images = pooled(cloud, 2)
    people = accounts(cloud, raters.ENOUGH)
    for number, (_, key) in enumerate(people):
        rating_of(cloud, key, images[0], 4 + number, **({"artifacts": 2} if number else {}))
        rating_of(cloud, key, images[1], 5)
    rows = published(cloud)
    assert len(rows) == 2 * raters.ENOUGH
    assert len({row["rater"] for row in rows}) == raters.ENOUGH
    assert all(len(row["rater"]) == 32 for row in rows)
    means = rating_rows.Means()
    for row in rows:
        means.add(row)
    assert {row["id"]: row for row in means.rows()} == {
        images[0]: {
            "id": images[0],
            "ratings_count": 5,
            "rating": 6.0,
            "artifacts_count": 4,
            "artifacts": 2.0,
        },
        images[1]: {
            "id": images[1],
            "ratings_count": 5,
            "rating": 5.0,
            "artifacts_count": 0,
            "artifacts": -1.0,
        },
    }
    for user, key in people:
        assert not any(text in str(rows) for text in (key, f"rater#{user}", f"'{user}'"))


def test_a_raters_hash_changes_with_the_year(cloud: Cloud) -> None:
    images = pooled(cloud, 2)
    user, key = cloud.register()
    rating_of(cloud, key, images[0], 5)
    cloud.clock.pass_seconds(366 * DAY_S)
    assert cloud.store.pool.get(images[1]) is not None
    first, second = (
        rating_rows.row(found, cloud.store.raters.get(user), SECRET)
        for found in (
            cloud.store.raters.newest(user, 1)[0],
            _moved_by_a_year(cloud.store.raters.newest(user, 1)[0]),
        )
    )
    assert first["rater"] != second["rater"]


def _moved_by_a_year(one: Any) -> Any:
    from dataclasses import replace

    return replace(one, rated_at=one.rated_at + 366 * DAY_S * 1000)


def test_ratings_of_a_withdrawn_image_leave_the_tables(cloud: Cloud) -> None:
    (image,) = released(cloud, ANONYMOUS)
    for _, key in accounts(cloud, raters.ENOUGH):
        rate_next(cloud, key, 6)
    assert len(published(cloud)) == raters.ENOUGH
    withdraw_command.withdraw(cloud.store, cloud.s3, cloud.bucket("Laion"), image)
    gallery.remove(cloud.store, cloud.s3, cloud.bucket("Gallery"), image)
    assert published(cloud) == []


def test_a_period_of_ratings_is_read_page_by_page(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horde.store.raters.BATCH", 2)
    images = pooled(cloud, 5)
    _, key = cloud.register()
    times = []
    for image in images:
        times.append(cloud.clock.now_ms())
        rating_of(cloud, key, image, 5)
        cloud.clock.pass_seconds(10)
    cloud.clock.pass_seconds(raters.POOL_S)
    pages = list(rating_rows.ratings(cloud.store, SECRET))
    assert [len(page) for page in pages] == [2, 2, 1]
    some = rating_rows.ratings(cloud.store, SECRET, since=times[1], until=times[3])
    assert [row["id"] for page in some for row in page] == images[1:3]


# --- the audit ----------------------------------------------------------------------------------


def rules_of(cloud: Cloud) -> list[str]:
    report = audit(AuditStore(cloud.store.table), segments=1, pauses=(0, 0))
    return sorted({finding.rule.name for finding in report.findings})


def test_the_audit_finds_a_reward_without_its_rating_and_too_much_of_one(cloud: Cloud) -> None:
    images = pooled(cloud, 2)
    user, key = cloud.register()
    prove(cloud, user)
    rating_of(cloud, key, images[0], 7)
    assert rules_of(cloud) == []
    account = cloud.store.accounts.get(user)
    assert account is not None
    for amount, image in ((PAID, images[1]), (PAID + 1, images[0])):
        entry = kudos.award(user, amount)
        planted = post(entry, reference=reference(image, user), place=False)
        cloud.store.table.transact(planted)
        found = rules_of(cloud)
        assert "POOL_PAID" in found
        back = kudos.grant(user, -amount)
        sk = planted[1]["Put"]["Item"]
        cloud.db.delete_item(TableName=cloud.table, Key={"pk": sk["pk"], "sk": sk["sk"]})
        undo = apply_to_balance([back], place=False)
        cloud.store.table.transact([undo])
        cloud.db.update_item(
            TableName=cloud.table,
            Key={"pk": {"S": f"USER#{user}"}, "sk": {"S": "USER"}},
            UpdateExpression="ADD awarded :less, admin :more",
            ExpressionAttributeValues={":less": {"N": str(-amount)}, ":more": {"N": str(amount)}},
        )
    assert rules_of(cloud) == []


@pytest.mark.parametrize(
    ("name", "by"), [("ratings", 1), ("rating_sum", -1), ("artifacts", 1), ("artifacts_sum", 2)]
)
def test_the_audit_finds_a_wrong_count_of_an_image(cloud: Cloud, name: str, by: int) -> None:
    (image,) = pooled(cloud, 1)
    _, key = cloud.register()
    rate_next(cloud, key, 7, artifacts=1)

    def add(amount: int) -> None:
        cloud.store.table.add(
            pool_key(image, "stable_diffusion"), f"ADD {name} :by", {"by": amount}
        )

    add(by)
    assert rules_of(cloud) == ["POOLED"]
    add(-by)


def test_the_audit_finds_a_reward_that_was_not_posted(cloud: Cloud) -> None:
    (image,) = pooled(cloud, 1)
    user, key = cloud.register()
    rate_next(cloud, key, 7)
    rated = rating_key(image, user)
    cloud.store.table.add(rated, "SET pays = :pays", {"pays": frozenset({image})})
    assert rules_of(cloud) == ["POOL_PAID"]
    cloud.db.update_item(TableName=cloud.table, Key=rated, UpdateExpression="REMOVE pays")


def test_the_audit_finds_who_rated_its_own_image(cloud: Cloud) -> None:
    (image,) = pooled(cloud, 1)
    user, key = cloud.register()
    rate_next(cloud, key, 7)
    stored = pool_key(image, "stable_diffusion")
    cloud.store.table.add(stored, "SET user_id = :user", {"user": user})
    assert rules_of(cloud) == ["POOLED"]
    cloud.store.table.add(stored, "SET user_id = :user", {"user": 0})
