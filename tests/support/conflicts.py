"""Doubles what DynamoDB does and moto does not: refusing a write that meets a transaction."""

from typing import Any

import pytest

from horde import aws
from horde.store import attempts
from horde.wire.seam import AwsError

REASONS = {"CancellationReasons": [{"Code": "TransactionConflict"}, {"Code": "None"}]}
ANSWERS = {
    "update_item": AwsError("TransactionConflictException"),
    "transact_write_items": AwsError("TransactionCanceledException", body=REASONS),
}
"""What a write hears that meets a transaction on one of its items, by the client's method."""


def refuse_next(method: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse the next writes of a kind; the store tries them again without a pause."""
    client = aws.dynamodb()
    real, left = getattr(client, method), [times]

    def conflicting(**kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise ANSWERS[method]
        return real(**kwargs)

    monkeypatch.setattr(client, method, conflicting)
    monkeypatch.setattr(attempts, "pause", lambda _attempt: None)
