"""Writes that meet others on one item; tests/e2e/test_races.py has the real races."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from horde import aws, store
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
