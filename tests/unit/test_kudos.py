"""Postings: every event sums to zero, no refund returns more than was paid."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.records import User
from horde.rules import kudos
from tests.support.numbers import FLOOR, TAX, TAX_SHARED

USER = User(id=1, alias="ada", kudos=FLOOR, floor=FLOOR, created_at=0)

amounts = st.integers(0, 10_000)


@given(balance=st.integers(FLOOR, FLOOR + 10_000), price=amounts, tax=amounts, n=st.integers(1, 20))
def test_a_charge_stops_at_the_floor_and_waives_the_rest(
    balance: int, price: int, tax: int, n: int
) -> None:
    entry = kudos.accept(1, balance=balance, floor=FLOOR, price=price, tax=tax, n=n)
    assert balance + entry.amount >= FLOOR
    assert -entry.amount + entry.waived == (price + tax) * n
    assert entry.amount + sum(entry.postings.values()) == 0


@given(
    balance=st.integers(FLOOR, FLOOR + 500),
    price=st.integers(1, 50),
    tax=st.sampled_from([TAX_SHARED, TAX]),
    n=st.integers(1, 20),
    back=st.lists(st.booleans(), max_size=20),
)
def test_refunds_of_all_images_return_exactly_what_was_paid_and_never_more(
    balance: int, price: int, tax: int, n: int, back: list[bool]
) -> None:
    charge = kudos.accept(1, balance=balance, floor=FLOOR, price=price, tax=tax, n=n)
    left, returned = charge.waived, 0
    for censored in (*back[:n], *[False] * (n - len(back[:n]))):
        entry = kudos.refund(1, price=price, tax=0 if censored else tax, waived_left=left)
        left -= entry.waived
        returned += entry.amount
        assert entry.amount >= 0
        assert left >= 0
        assert returned <= -charge.amount
    if not any(back[:n]):
        assert returned == -charge.amount


def test_waived_kudos_come_off_refunds_first() -> None:
    charge = kudos.accept(1, balance=FLOOR + 15, floor=FLOOR, price=7, tax=3, n=3)
    assert (charge.amount, charge.waived) == (-15, 15)
    first = kudos.refund(1, price=7, tax=3, waived_left=15)
    second = kudos.refund(1, price=7, tax=3, waived_left=5)
    third = kudos.refund(1, price=7, tax=3, waived_left=0)
    assert [first.amount, second.amount, third.amount] == [0, 5, 10]


@pytest.mark.parametrize(
    "entry", [kudos.reward(1, 7), kudos.grant(1, -3), kudos.grant(1, 3), kudos.opening(USER)]
)
def test_every_entry_names_the_system_account_it_stands_against(entry: kudos.Entry) -> None:
    assert entry.amount + sum(entry.postings.values()) == 0
    assert len(entry.postings) == 1


def test_an_entry_that_mints_kudos_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="sum to zero"):
        kudos.Entry(kudos.Kind.GRANT, 1, 5, {"grants": -4})
