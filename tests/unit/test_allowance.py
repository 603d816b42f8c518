"""Who is due how much of an allowance, and when."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import ANONYMOUS_ID, User
from horde.rules import allowance
from horde.rules.dates import month_start

USER = User(id=7, alias="u", kudos=0, floor=0, created_at=0)
NOW = 1_795_412_520
"""2026-11-23T05:42:00Z."""
FIRST = month_start(NOW)


@pytest.mark.parametrize(
    ("fields", "kudos"),
    [
        ({}, 9),
        ({"monthly_kudos": 5}, 5),
        ({"monthly_kudos": 0}, 0),
        ({"id": ANONYMOUS_ID}, 0),
        ({"deleted": True}, 0),
        ({"flagged": True}, 0),
        ({"flagged": True, "monthly_kudos": 5}, 0),
    ],
)
def test_an_account_in_good_standing_gets_its_own_amount_or_the_default(
    fields: dict[str, Any], kudos: int
) -> None:
    assert allowance.amount(replace(USER, **fields), 9) == kudos


@pytest.mark.parametrize(("allowed_at", "kudos"), [(None, 9), (FIRST - 1, 9), (FIRST, 0), (NOW, 0)])
def test_it_is_due_once_in_a_month_from_its_first_second_on(
    allowed_at: int | None, kudos: int
) -> None:
    assert allowance.due(replace(USER, allowed_at=allowed_at), 9, NOW) == kudos
