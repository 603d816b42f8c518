"""Every entry of the ledger, whole: its kind, its amount and what stands against it.

The names are stored, so they are those of deployed tables.
"""

from collections.abc import Callable

import pytest

from horde.records import User
from horde.rules import kudos
from horde.rules.kudos import Entry


@pytest.mark.parametrize(
    ("entry", "kind", "amount", "postings", "waived"),
    [
        (
            lambda: kudos.accept(7, balance=100, floor=10, price=5, tax=3, n=4),
            *("GENERATION", -32, {"price": 20, "tax": 12}, 0),
        ),
        (
            lambda: kudos.accept(7, balance=15, floor=10, price=5, tax=3, n=4),
            *("GENERATION", -5, {"price": 20, "tax": 12, "waiver": -27}, 27),
        ),
        (
            lambda: kudos.accept(7, balance=8, floor=10, price=5, tax=3, n=1),
            *("GENERATION", 0, {"price": 5, "tax": 3, "waiver": -8}, 8),
        ),
        (
            lambda: kudos.accept(7, balance=18, floor=10, price=5, tax=3, n=1),
            *("GENERATION", -8, {"price": 5, "tax": 3}, 0),
        ),
        (
            lambda: kudos.refund(7, price=5, tax=3, waived_left=0),
            *("REFUND", 8, {"price": -5, "tax": -3}, 0),
        ),
        (
            lambda: kudos.refund(7, price=5, tax=3, waived_left=2),
            *("REFUND", 6, {"price": -5, "tax": -3, "waiver": 2}, 2),
        ),
        (
            lambda: kudos.refund(7, price=5, tax=3, waived_left=9),
            *("REFUND", 0, {"price": -5, "tax": -3, "waiver": 8}, 8),
        ),
        (lambda: kudos.reward(7, 5), "REWARD", 5, {"rewards": -5}, 0),
        (lambda: kudos.award(7, 5), "AWARD", 5, {"awards": -5}, 0),
        (lambda: kudos.allowance(7, 5), "RECURRING", 5, {"allowances": -5}, 0),
        (lambda: kudos.grant(7, 5), "ADMIN_ADJUSTMENT", 5, {"grants": -5}, 0),
        (lambda: kudos.grant(7, -5), "ADMIN_ADJUSTMENT", -5, {"grants": 5}, 0),
        (lambda: kudos.transfer(7, 8, 5)[0], "TRANSFER", -5, {"transfers": 5}, 0),
        (
            lambda: kudos.opening(User(7, "a", 14, 14, 0)),
            "FLOOR_ADJUSTMENT",
            14,
            {"waiver": -14},
            0,
        ),
    ],
)
def test_an_entry_has_its_kind_its_amount_and_its_postings(
    entry: Callable[[], Entry],
    kind: str,
    amount: int,
    postings: dict[str, int],
    waived: int,
) -> None:
    assert entry() == Entry(kudos.Kind(kind), 7, amount, postings, waived)


def test_a_transfer_is_two_entries() -> None:
    _, got = kudos.transfer(7, 8, 5)
    assert got == Entry(kudos.Kind.TRANSFER, 8, 5, {"transfers": -5})


@pytest.mark.parametrize("amount", [1, -1])
def test_what_does_not_sum_to_zero_is_no_entry(amount: int) -> None:
    with pytest.raises(ValueError, match="must sum to zero"):
        Entry(kudos.Kind.GRANT, 7, amount, {})


@pytest.mark.parametrize(
    ("kind", "amount", "field"),
    [
        (kudos.Kind.TRANSFER, -1, "gifted"),
        (kudos.Kind.TRANSFER, 1, "received"),
        (kudos.Kind.AWARD, 1, "awarded"),
        (kudos.Kind.ALLOWANCE, 1, "recurring"),
        (kudos.Kind.GRANT, -1, "admin"),
        (kudos.Kind.FLOOR, 1, "admin"),
        (kudos.Kind.ACCEPT, -1, "accumulated"),
        (kudos.Kind.REFUND, 1, "accumulated"),
        (kudos.Kind.REWARD, 1, "accumulated"),
    ],
)
def test_an_entry_counts_in_one_field_of_the_kudos_details(
    kind: kudos.Kind, amount: int, field: str
) -> None:
    assert kudos.detail(kind, amount) == field
