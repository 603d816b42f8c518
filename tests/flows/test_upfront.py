"""What needs its kudos upfront is charged in full or refused, whatever happens meanwhile.

A balance is read before the request's transaction decides. Here it is spent in between; with
threads, tests/e2e/test_races.py does the same.
"""

from typing import Any

import pytest

from horde import images
from horde.records import ANONYMOUS_ID, Request, User
from horde.rules.refusals import KudosUpfront
from horde.store.requests import Requests
from tests.support.api_calls import Reply, refused
from tests.support.cloud import Cloud
from tests.support.conflicts import refuse_next
from tests.support.images import png_base64
from tests.support.numbers import COST, FLOOR, MAX_STEPS

LARGE: dict[str, Any] = {"params": {"width": 2048, "height": 2048, "steps": 50}}
SLOW_SOURCE: dict[str, Any] = {
    "params": {"width": 2048, "height": 2048, "steps": 100, "n": 4},
    "source_image": png_base64(),
}
AT_ONCE = 16


def cost_of(cloud: Cloud, **fields: Any) -> int:
    _, key = cloud.register("curious")
    return int(cloud.generate(key, **fields, dry_run=True).body["kudos"])


def at_once(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, keys: list[str]) -> list[Reply]:
    """Post so that every call has read the account before the first of them writes."""
    real, left, answers = Requests.accept, list(keys), list[Reply]()

    def after_all_others_have_read(*args: Any, **kwargs: Any) -> None:
        if left:
            answers.append(cloud.generate(left.pop(), **LARGE))
        real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Requests, "accept", after_all_others_have_read)
        answers.append(cloud.generate(left.pop(), **LARGE))
    return answers


def bought(cloud: Cloud) -> int:
    """Return what all requests in the table cost, in kudos."""
    rows = cloud.rows("REQUEST")
    return sum((int(r["price"]["N"]) + int(r["tax"]["N"])) * int(r["n"]["N"]) for r in rows)


@pytest.mark.parametrize("affordable", [0, 1, 3])
@pytest.mark.slow
def test_posts_that_read_one_balance_buy_exactly_what_it_pays(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, affordable: int
) -> None:
    cost = cost_of(cloud, **LARGE)
    spendable = affordable * cost + cost - 1
    user, key = cloud.register(kudos=spendable)
    answers = at_once(cloud, monkeypatch, [key] * AT_ONCE)
    taken = [answer for answer in answers if answer.status == 202]
    assert len(taken) == affordable
    for answer in answers:
        if answer not in taken:
            refused(answer, "KudosUpfront", 403)
    assert bought(cloud) == affordable * cost
    assert cloud.kudos(user) == FLOOR + spendable - affordable * cost


def test_a_shared_key_buys_no_more_upfront_than_its_owner_can_pay(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = cost_of(cloud, **LARGE)
    user, key = cloud.register(kudos=cost)
    made = cloud.call("PUT /api/v2/sharedkeys", {"name": "gift", "kudos": -1}, key=key)
    gift = made.body["id"]
    answers = at_once(cloud, monkeypatch, [key, gift, gift, key, gift])
    assert sorted(answer.status for answer in answers) == [202, 403, 403, 403, 403]
    assert bought(cloud) == cost
    assert cloud.kudos(user) == FLOOR


def test_a_balance_that_is_spent_while_a_source_image_is_fetched_buys_nothing(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = cost_of(cloud, **SLOW_SOURCE)
    user, key = cloud.register(kudos=cost)
    friend, _ = cloud.register("friend")
    real = images.source_of

    def slow(*args: Any, **kwargs: Any) -> Any:
        assert cloud.transfer(key, f"friend#{friend}", cost).status == 200
        return real(*args, **kwargs)

    monkeypatch.setattr(images, "source_of", slow)
    answer = cloud.generate(key, **SLOW_SOURCE)
    refused(answer, "KudosUpfront", 403)
    assert f"costs {cost} kudos, but this account can spend 0" in answer.body["message"]
    assert bought(cloud) == 0
    assert cloud.kudos(user) == FLOOR
    assert cloud.rows("GENERATION") == []


def test_a_balance_that_is_spent_between_two_tries_is_decided_anew(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try is refused as DynamoDB refuses it: another write held the account."""
    cost = cost_of(cloud, **LARGE)
    user, key = cloud.register(kudos=cost)
    real = Requests.accept

    def overtaken(self: Any, *args: Any, **kwargs: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Requests, "accept", real)
            assert cloud.generate(key).status == 202
        refuse_next("transact_write_items", 3, monkeypatch)
        real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Requests, "accept", overtaken)
        refused(cloud.generate(key, **LARGE), "KudosUpfront", 403)
    assert cloud.kudos(user) == FLOOR + cost - COST


def test_kudos_that_arrive_before_the_transaction_decides_are_charged(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = cost_of(cloud, **LARGE)
    user, key = cloud.register(kudos=2 * cost)
    real = Requests.accept

    def later(self: Any, request: Request, images: Any, user: User, *args: Any, **kw: Any) -> None:
        assert cloud.store.accounts.grant(user.id, -cost)
        real(self, request, images, user, *args, **kw)

    with monkeypatch.context() as patch:
        patch.setattr(Requests, "accept", later)
        assert cloud.generate(key, **LARGE).status == 202
    assert cloud.kudos(user) == FLOOR


def test_what_needs_no_kudos_upfront_is_still_waived(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=COST)
    real = Requests.accept

    def overtaken(self: Any, *args: Any, **kwargs: Any) -> None:
        assert cloud.store.accounts.grant(user, -COST)
        real(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Requests, "accept", overtaken)
        answer = cloud.generate(key, params={"steps": MAX_STEPS})
    assert answer.status == 202
    request = cloud.store.requests.get(answer.body["id"])
    assert request is not None
    assert request.waived == answer.body["kudos"]


def test_nothing_that_needs_kudos_upfront_is_accepted_for_an_account_that_pays_nothing(
    cloud: Cloud,
) -> None:
    """Whoever calls the store: an anonymous request pays nothing, so none is taken."""
    request = cloud.store.requests.get(cloud.generate().body["id"])
    nobody = cloud.store.accounts.get(ANONYMOUS_ID)
    assert request is not None
    assert nobody is not None
    images = cloud.store.requests.generations(request)
    with pytest.raises(KudosUpfront):
        cloud.store.requests.accept(request, images, nobody, upfront="it is large")
