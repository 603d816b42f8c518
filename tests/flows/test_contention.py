"""Writes that meet others on one item; tests/e2e/test_races.py has the real races."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from horde import aws, store
from horde.model import State
from tests.support.cloud import Cloud


def meets_a_transaction(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the next plain updates as DynamoDB does where a transaction is on the item."""
    client = aws.dynamodb()
    real, left = client.update_item, [times]

    def conflicting(**kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            answer: Any = {"Error": {"Code": "TransactionConflictException", "Message": ""}}
            raise ClientError(answer, "UpdateItem")
        return real(**kwargs)

    monkeypatch.setattr(client, "update_item", conflicting)
    monkeypatch.setattr(store, "_pause", lambda _attempt: None)


def test_a_plain_write_that_meets_a_transaction_is_tried_again(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = horde.register(kudos=100)
    worker = horde.worker_key(horde.register("owner")[0])
    horde.pop(worker)  # it is known from now on
    request = horde.generate(key, params={"n": 2}).body["id"]
    meets_a_transaction(5, monkeypatch)
    assert horde.pop(worker).body["id"]
    meets_a_transaction(5, monkeypatch)
    assert horde.cancel(request).status == 200
    assert horde.kudos(user) == 114 - 10


def test_a_plain_write_that_meets_transactions_without_end_is_a_clear_503(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = horde.worker_key(horde.register("owner")[0])
    horde.pop(worker)
    horde.generate()
    meets_a_transaction(1000, monkeypatch)
    answer = horde.pop(worker)
    assert (answer.status, answer.body["rc"]) == (503, "Locked")


def test_an_image_that_loses_every_turn_to_its_siblings_is_still_refunded(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each refund takes forgiven kudos off the request, so the others must decide anew."""
    user, key = horde.register(kudos=30)
    request_id = horde.generate(key, params={"n": 20}).body["id"]
    last, *others = horde.store.request(request_id).generations  # type: ignore[union-attr]
    real = store.Store._transact
    within: list[int] = []

    def end(image: str) -> bool:
        request, generation = horde.store.request(request_id), horde.store.generation(image)
        assert request is not None
        assert generation is not None
        return horde.store.end_undelivered(request, generation, State.CANCELLED)

    def a_sibling_first(self: store.Store, parts: list[Any]) -> None:
        if others and not within:
            within.append(1)
            assert end(others.pop())
            within.clear()
        real(self, parts)

    monkeypatch.setattr(store.Store, "_transact", a_sibling_first)
    assert end(last)
    while others:
        assert end(others.pop())
    assert horde.kudos(user) == 14 + 30
