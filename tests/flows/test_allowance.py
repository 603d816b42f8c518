"""The monthly allowance: off by default, once a month, only to accounts in good standing."""

from datetime import UTC, datetime

import pytest

from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR, FLOOR_ANONYMOUS

MONTHLY = 50


def at(cloud: Cloud, year: int, month: int, day: int) -> None:
    cloud.clock.set(int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000))


@pytest.fixture
def monthly(cloud: Cloud) -> Cloud:
    cloud.overrides["MONTHLY_KUDOS"] = str(MONTHLY)
    return cloud


def test_nobody_is_given_kudos_by_the_month_unless_the_operator_says_so(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    assert cloud.find_user(key)["monthly_kudos"] == {"amount": 0}
    cloud.generate(key)
    assert cloud.kudos(ada) == FLOOR


def test_an_account_is_given_its_kudos_once_a_month(monthly: Cloud) -> None:
    at(monthly, 2026, 1, 31)
    ada, key = monthly.register("ada")
    assert [monthly.find_user(key)["kudos"] for _ in range(2)] == [FLOOR + MONTHLY] * 2
    at(monthly, 2026, 2, 1)
    assert monthly.generate(key, dry_run=True).status == 200
    assert monthly.kudos(ada) == FLOOR + MONTHLY  # a dry run writes nothing
    assert monthly.generate(key).status == 202
    assert {entry["kind"] for entry in monthly.ledger(ada)[-2:]} == {"RECURRING", "GENERATION"}
    monthly.cancel(str(monthly.rows("REQUEST")[0]["id"]["S"]))
    assert monthly.kudos(ada) == FLOOR + 2 * MONTHLY
    at(monthly, 2026, 6, 1)  # months that passed unused are lost
    shown = monthly.find_user(key)
    assert shown["kudos"] == shown["kudos_details"]["recurring"] + FLOOR == FLOOR + 3 * MONTHLY
    assert shown["monthly_kudos"] == {
        "amount": MONTHLY,
        "last_received": "2026-06-01T00:00:00.000Z",
    }
    entry = monthly.ledger(ada)[-1]
    assert (entry["kind"], entry["postings"]) == ("RECURRING", {"allowances": -MONTHLY})


def test_two_at_once_are_given_one_allowance(monthly: Cloud) -> None:
    ada, _ = monthly.register("ada")
    user = monthly.store.accounts.get(ada)
    assert user is not None
    # Both calls read the account before the other one wrote it.
    given = [monthly.store.accounts.give_allowance(user, MONTHLY).kudos for _ in range(2)]
    assert given == [FLOOR + MONTHLY] * 2
    assert monthly.kudos(ada) == FLOOR + MONTHLY


def test_an_allowance_pays_for_the_request_that_brings_it(monthly: Cloud) -> None:
    ada, key = monthly.register("ada")
    assert monthly.generate(key, slow_workers=False).status == 202  # needs its kudos upfront
    assert FLOOR < monthly.kudos(ada) < FLOOR + MONTHLY


def test_an_admin_sets_what_one_account_is_given(monthly: Cloud) -> None:
    monthly.overrides["ADMINS"] = "1"
    (_, admins_key), (ada, key), (bob, other) = (
        monthly.register(name) for name in ("admin", "ada", "bob")
    )
    for user, amount in ((ada, 500), (bob, 0)):
        body = {"monthly_kudos": amount}
        answer = monthly.change_user(admins_key, user, **body)
        assert (answer.status, answer.body) == (200, body)
    assert (monthly.find_user(key)["kudos"], monthly.find_user(other)["kudos"]) == (
        FLOOR + 500,
        FLOOR,
    )


@pytest.mark.parametrize("flag", ["flagged", "deleted"])
def test_an_account_in_bad_standing_is_given_nothing(monthly: Cloud, flag: str) -> None:
    ada, key = monthly.register("ada")
    user = monthly.store.accounts.get(ada)
    assert user is not None
    monthly.set_flags(ada, **{flag: True})
    monthly.generate(key)
    monthly.call("GET /api/v2/find_user", key=key)
    assert monthly.kudos(ada) == FLOOR
    # Also by the table's own condition, for a call that read the account before.
    assert monthly.store.accounts.give_allowance(user, MONTHLY).kudos == FLOOR


def test_the_anonymous_account_is_given_nothing(monthly: Cloud) -> None:
    assert monthly.find_user(ANONYMOUS)["kudos"] == FLOOR_ANONYMOUS
