"""The monthly allowance: off by default, once a month, only to accounts in good standing."""

from datetime import UTC, datetime
from typing import Any

import pytest

from horde.store.accounts import DELETED
from tests.support.cloud import Cloud

ONE = "PUT /api/v2/users/{id}"


def at(cloud: Cloud, year: int, month: int, day: int) -> None:
    cloud.clock.freeze(int(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000))


def find(cloud: Cloud, key: str) -> Any:
    return cloud.call("GET /api/v2/find_user", key=key).body


@pytest.fixture
def monthly(cloud: Cloud) -> Cloud:
    cloud.overrides["MONTHLY_KUDOS"] = "50"
    return cloud


def test_nobody_is_given_kudos_by_the_month_unless_the_operator_says_so(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    assert find(cloud, key)["monthly_kudos"] == {"amount": 0}
    cloud.generate(key)
    assert cloud.kudos(ada) == 14


def test_an_account_is_given_its_kudos_once_a_month(monthly: Cloud) -> None:
    at(monthly, 2026, 1, 31)
    ada, key = monthly.register("ada")
    assert [find(monthly, key)["kudos"] for _ in range(2)] == [64, 64]
    at(monthly, 2026, 2, 1)
    assert monthly.generate(key, dry_run=True).status == 200
    assert monthly.kudos(ada) == 64  # a dry run writes nothing
    assert monthly.generate(key).status == 202
    assert monthly.ledger(ada)[-2]["kind"] == "RECURRING"
    monthly.cancel(str(monthly.rows("REQUEST")[0]["id"]["S"]))
    assert monthly.kudos(ada) == 114
    at(monthly, 2026, 6, 1)  # months that passed unused are lost
    shown = find(monthly, key)
    assert shown["kudos"] == shown["kudos_details"]["recurring"] + 14 == 164
    assert shown["monthly_kudos"] == {"amount": 50, "last_received": "2026-06-01T00:00:00.000Z"}
    entry = monthly.ledger(ada)[-1]
    assert (entry["kind"], entry["postings"]) == ("RECURRING", {"allowances": -50})


def test_two_at_once_are_given_one_allowance(monthly: Cloud) -> None:
    ada, _ = monthly.register("ada")
    user = monthly.store.accounts.get(ada)
    assert user is not None
    # Both calls read the account before the other one wrote it.
    given = [monthly.store.accounts.give_allowance(user, 50).kudos for _ in range(2)]
    assert given == [64, 64]
    assert monthly.kudos(ada) == 64


def test_an_allowance_pays_for_the_request_that_brings_it(monthly: Cloud) -> None:
    ada, key = monthly.register("ada")
    assert monthly.generate(key, slow_workers=False).status == 202  # needs its kudos upfront
    assert 14 < monthly.kudos(ada) < 64


def test_an_admin_sets_what_one_account_is_given(monthly: Cloud) -> None:
    monthly.overrides["ADMINS"] = "1"
    (_, admins_key), (ada, key), (bob, other) = (
        monthly.register(name) for name in ("admin", "ada", "bob")
    )
    for user, amount in ((ada, 500), (bob, 0)):
        body = {"monthly_kudos": amount}
        answer = monthly.call(ONE, body, key=admins_key, id=str(user))
        assert (answer.status, answer.body) == (200, body)
    assert (find(monthly, key)["kudos"], find(monthly, other)["kudos"]) == (514, 14)


@pytest.mark.parametrize("mark", [{"flagged": True}, DELETED])
def test_an_account_in_bad_standing_is_given_nothing(monthly: Cloud, mark: dict[str, Any]) -> None:
    ada, key = monthly.register("ada")
    user = monthly.store.accounts.get(ada)
    assert user is not None
    monthly.store.accounts.change(user, mark)
    monthly.generate(key)
    find(monthly, key)
    assert monthly.kudos(ada) == 14
    # Also by the table's own condition, for a call that read the account before.
    assert monthly.store.accounts.give_allowance(user, 50).kudos == 14


def test_the_anonymous_account_is_given_nothing(monthly: Cloud) -> None:
    assert find(monthly, "0000000000")["kudos"] == -50
