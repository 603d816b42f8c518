"""The parts that post an entry: what they write, and under which conditions."""

import re

import pytest

from horde import clock
from horde.rules import kudos
from horde.store import ledger
from horde.store.transaction import EXISTS

AT_MS = 1_795_412_527_007
"""2026-11-23T05:42:07.007Z."""


@pytest.fixture(autouse=True)
def _at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now_ms", lambda: AT_MS)


@pytest.mark.parametrize(
    ("condition", "expression", "values"),
    [
        (
            ledger.IN_GOOD_STANDING,
            "attribute_not_exists(deleted) AND attribute_not_exists(flagged)",
            {},
        ),
        (ledger.balance_is(7), "kudos = :seen", {"seen": 7}),
        (ledger.balance_at_least(7), "kudos >= :minimum", {"minimum": 7}),
        (
            ledger.no_allowance_since(7),
            "(attribute_not_exists(allowed_at) OR allowed_at < :month)",
            {"month": 7},
        ),
    ],
)
def test_a_condition_says_what_it_holds_and_of_which_values(
    condition: ledger.Condition, expression: str, values: dict[str, int]
) -> None:
    assert condition == (expression, values)


def test_an_entry_and_its_balance_are_two_parts_of_one_transaction() -> None:
    entry = kudos.accept(7, balance=100, floor=14, price=5, tax=3, n=1)
    balance, appended = ledger.post(
        entry,
        ledger.balance_at_least(22),
        ledger.IN_GOOD_STANDING,
        reference="r",
        place=False,
        counts={"requested": 1},
        changes={"allowed_at": 9, "contact": None},
    )
    assert balance == {
        "Update": {
            "Key": {"pk": {"S": "USER#7"}, "sk": {"S": "USER"}},
            "UpdateExpression": (
                "SET #allowed_at = :allowed_at REMOVE #contact "
                "ADD kudos :amount, requested :requested, accumulated :accumulated"
            ),
            "ConditionExpression": (
                f"{EXISTS} AND kudos >= :minimum AND "
                "attribute_not_exists(deleted) AND attribute_not_exists(flagged)"
            ),
            "ExpressionAttributeNames": {"#allowed_at": "allowed_at", "#contact": "contact"},
            "ExpressionAttributeValues": {
                ":amount": {"N": "-8"},
                ":requested": {"N": "1"},
                ":accumulated": {"N": "-8"},
                ":allowed_at": {"N": "9"},
                ":minimum": {"N": "22"},
            },
        }
    }
    item = appended["Put"]["Item"]
    assert item["pk"] == {"S": "USER#7"}
    assert re.fullmatch(r"LEDGER#2026-11-23T05:42:07\.007Z#[0-9a-f-]{36}", item["sk"]["S"])
    assert {name: value for name, value in item.items() if name not in {"pk", "sk"}} == {
        "kind": {"S": "GENERATION"},
        "amount": {"N": "-8"},
        "postings": {"M": {"price": {"N": "5"}, "tax": {"N": "3"}}},
        "reference": {"S": "r"},
    }
    assert appended["Put"]["ConditionExpression"] == "attribute_not_exists(pk)"


def test_entries_of_one_account_move_its_balance_at_once() -> None:
    entries = [kudos.reward(7, 5), kudos.reward(7, 4), kudos.award(7, 2)]
    part = ledger.apply_to_balance(entries, place=False, counts={"accumulated": 1})["Update"]
    assert part["ConditionExpression"] == EXISTS
    assert part["ExpressionAttributeValues"] == {
        ":amount": {"N": "11"},
        ":accumulated": {"N": "10"},
        ":awarded": {"N": "2"},
    }
    assert part["UpdateExpression"].strip() == (
        "ADD kudos :amount, accumulated :accumulated, awarded :awarded"
    )


def test_a_new_place_in_the_list_is_the_balance_after_the_write() -> None:
    part = ledger.apply_to_balance([kudos.reward(7, 5)], place=True)["Update"]
    assert part["UpdateExpression"] == (
        "SET listed_at = kudos + :amount, #placed_at = :placed_at  "
        "ADD kudos :amount, accumulated :accumulated"
    )
    assert part["ExpressionAttributeValues"][":placed_at"] == {"N": str(clock.now())}


def test_a_reward_has_attributes_of_its_own() -> None:
    part = ledger.append_entry(kudos.reward(7, 5), reference="r", more={"due_at": {"N": "1"}})
    assert part["Put"]["Item"]["due_at"] == {"N": "1"}
