"""Writes that meet others on one item; tests/e2e/test_races.py has the real races."""

from typing import Any

import pytest

from horde.records import State
from horde.rules.lifecycle import SLIDE_S
from horde.store.requests import Requests
from horde.store.table import Table
from tests.support.api_calls import Reply
from tests.support.cloud import Cloud
from tests.support.conflicts import refuse_next
from tests.support.numbers import COST, FLOOR


def test_a_plain_write_that_meets_a_transaction_is_tried_again(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=100)
    worker = cloud.new_worker()
    cloud.pop(worker)  # it is known from now on
    request = cloud.generate(key, params={"n": 2}).body["id"]
    refuse_next("update_item", 5, monkeypatch)
    assert cloud.pop(worker).body["id"]
    refuse_next("update_item", 5, monkeypatch)
    assert cloud.cancel(request).status == 200
    assert cloud.kudos(user) == FLOOR + 100 - COST


def test_a_plain_write_that_meets_transactions_without_end_is_a_clear_503(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = cloud.new_worker()
    cloud.pop(worker)
    cloud.generate()
    cloud.clock.pass_seconds(SLIDE_S)  # so that the pop extends the request
    refuse_next("update_item", 1000, monkeypatch)
    answer = cloud.pop(worker)
    assert (answer.status, answer.body["rc"]) == (503, "Locked")


def test_an_image_that_loses_every_turn_to_its_siblings_is_still_refunded(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refund deducts waived kudos, so the others must decide anew."""
    user, key = cloud.register(kudos=30)
    request_id = cloud.generate(key, params={"n": 20}).body["id"]
    last, *others = cloud.store.requests.get(request_id).generations  # type: ignore[union-attr]
    real = Table.transact
    within: list[int] = []

    def end(image: str) -> bool:
        request, generation = (
            cloud.store.requests.get(request_id),
            cloud.store.requests.generation(image),
        )
        assert request is not None
        assert generation is not None
        return cloud.store.endings.end_undelivered(request, generation, State.CANCELLED)

    def a_sibling_first(self: Any, parts: list[Any]) -> None:
        if others and not within:
            within.append(1)
            assert end(others.pop())
            within.clear()
        real(self, parts)

    monkeypatch.setattr(Table, "transact", a_sibling_first)
    assert end(last)
    while others:
        assert end(others.pop())
    assert cloud.kudos(user) == FLOOR + 30


def posts_at_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, key: str, posts: int, n: int
) -> list[Reply]:
    """Post so that each call has read the account before any of them writes."""
    real = Requests.accept
    answers: list[Reply] = []
    left = [posts]

    def post() -> None:
        left[0] -= 1
        answers.append(cloud.generate(key, params={"n": n}))

    def after_the_others(self: Requests, *args: Any, **more: Any) -> None:
        if left[0]:
            post()
        real(self, *args, **more)

    monkeypatch.setattr(Requests, "accept", after_the_others)
    post()
    return answers


@pytest.mark.lengthy
def test_posts_at_once_do_not_pass_the_limit_of_waiting_images(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = cloud.register(kudos=10_000)
    answers = posts_at_once(cloud, monkeypatch, key, posts=16, n=10)
    assert sorted(answer.status for answer in answers) == [202] * 3 + [429] * 13
    assert {a.body["rc"] for a in answers if a.status == 429} == {"TooManyPrompts"}
    assert cloud.kudos(user) == FLOOR + 10_000 - 30 * COST
