"""Many writes of one account at once: how long the store tries again is enough."""

import random

import pytest

from horde.store.attempts import CONFLICT_TRIES, pause_s
from tests.support.contention import simulate, together

TIMEOUT_S = 15
"""Of the functions behind the API."""


@pytest.mark.parametrize(("calls", "transaction_s"), [(32, 0.01), (64, 0.01), (64, 0.02)])
def test_calls_of_one_account_at_once_all_get_through(calls: int, transaction_s: float) -> None:
    random.seed(1)
    runs = [simulate(together(calls), transaction_s) for _ in range(100)]
    assert sum(run.failed for run in runs) == 0
    assert max(run.lasted_s for run in runs) < TIMEOUT_S / 2


def test_a_call_gives_up_before_its_function_is_ended() -> None:
    random.seed(1)
    waits = [sum(map(pause_s, range(CONFLICT_TRIES))) for _ in range(1000)]
    assert max(waits) < TIMEOUT_S * 0.6
