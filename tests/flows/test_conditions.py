"""The conditions of transactions, each at its boundary, without the check that handlers make first.

Between a check and its transaction another call may change everything. So each test reads first,
lets the world change, and then writes with what it read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from horde.records import ApiKey, User
from horde.rules.dates import month_start
from horde.store.accounts import deleted
from horde.store.due import Due, due
from horde.store.items import KEEP_S, Kind, key, key_of
from horde.store.transfers import COOL_DOWN_S, IDEMPOTENCY_S, IdempotencyKey
from tests.support.clock import START_MS
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR

FLAGGED: Mapping[str, Any] = {"flagged": True}
START = START_MS // 1000


def account(cloud: Cloud, name: str, kudos: int = 0) -> User:
    """Register an account; returns it as it is now."""
    user_id, _ = cloud.register(name, kudos=kudos)
    user = cloud.store.accounts.get(user_id)
    assert user is not None
    return user


def balance(cloud: Cloud, user: User) -> int:
    found = cloud.store.accounts.get(user.id)
    assert found is not None
    return found.kudos - FLOOR


# --- transfers and awards ------------------------------------------------------------------------


def test_a_transfer_takes_no_more_than_is_above_the_floor(cloud: Cloud) -> None:
    ada, bob = account(cloud, "ada", 10), account(cloud, "bob")
    assert not cloud.store.transfers.transfer(ada, bob.id, 11, None)
    assert (balance(cloud, ada), balance(cloud, bob)) == (10, 0)
    assert cloud.store.transfers.transfer(ada, bob.id, 10, None)
    assert (balance(cloud, ada), balance(cloud, bob)) == (0, 10)


@pytest.mark.parametrize("change", [None, FLAGGED], ids=["deleted", "flagged"])
@pytest.mark.parametrize("whose", ["sender", "receiver"])
def test_a_transfer_needs_both_accounts_in_good_standing(
    cloud: Cloud, change: Mapping[str, Any] | None, whose: str
) -> None:
    ada, bob = account(cloud, "ada", 10), account(cloud, "bob")
    one = ada if whose == "sender" else bob
    assert cloud.store.accounts.change(one, change or deleted(one))
    assert not cloud.store.transfers.transfer(ada, bob.id, 1, None)
    assert (balance(cloud, ada), balance(cloud, bob)) == (10, 0)


def test_a_transfer_to_nobody_moves_nothing(cloud: Cloud) -> None:
    ada = account(cloud, "ada", 10)
    assert not cloud.store.transfers.transfer(ada, 99, 1, None)
    assert not cloud.store.transfers.award(ada.id, 99, 1, None)
    assert balance(cloud, ada) == 10


def test_kudos_go_back_a_minute_after_they_came_and_not_before(cloud: Cloud) -> None:
    ada, bob = account(cloud, "ada", 10), account(cloud, "bob", 10)
    transfers = cloud.store.transfers
    cloud.clock.freeze()
    assert transfers.transfer(ada, bob.id, 1, None)
    assert transfers.transfer(ada, bob.id, 1, None)  # the same way again: at once
    (pair,) = cloud.rows(Kind.PAIR)
    assert pair["gone_at"]["N"] == str(cloud.clock.now_ms() // 1000 + KEEP_S)
    cloud.clock.pass_seconds(COOL_DOWN_S - 1)
    assert transfers.sent_recently(ada.id, bob.id)
    assert not transfers.sent_recently(bob.id, ada.id)
    assert not transfers.transfer(bob, ada.id, 1, None)
    cloud.clock.pass_seconds(1)
    assert not transfers.sent_recently(ada.id, bob.id)
    assert transfers.transfer(bob, ada.id, 1, None)
    assert transfers.sent_recently(bob.id, ada.id)
    assert not transfers.transfer(ada, bob.id, 1, None)
    assert (balance(cloud, ada), balance(cloud, bob)) == (9, 11)


def test_the_cool_down_is_between_two_accounts_and_no_others(cloud: Cloud) -> None:
    ada, bob, eve = (account(cloud, name, 10) for name in ("ada", "bob", "eve"))
    assert cloud.store.transfers.transfer(ada, bob.id, 1, None)
    assert cloud.store.transfers.transfer(bob, eve.id, 1, None)
    assert cloud.store.transfers.transfer(eve, ada.id, 1, None)
    (first, *_) = cloud.rows(Kind.PAIR)
    assert first["pk"]["S"] == f"PAIR#{ada.id}#{bob.id}"


@pytest.mark.parametrize("call", ["transfer", "award"])
def test_an_idempotency_key_is_used_once_a_day(cloud: Cloud, call: str) -> None:
    ada, bob = account(cloud, "ada", 10), account(cloud, "bob")
    transfers, once = cloud.store.transfers, IdempotencyKey("k", "b")
    cloud.clock.freeze()

    def give(giver: User) -> bool:
        if call == "award":
            return transfers.award(giver.id, bob.id, 1, once)
        return transfers.transfer(giver, bob.id, 1, once)

    assert transfers.used_with(ada.id, "k") is None
    assert give(ada)
    assert transfers.used_with(ada.id, "k") == "b"
    assert not give(ada)
    cloud.clock.pass_seconds(IDEMPOTENCY_S - 1)
    assert transfers.used_with(ada.id, "k") == "b"
    assert not give(ada)
    assert give(account(cloud, "eve", 10))  # another account's key of that name
    cloud.clock.pass_seconds(1)
    assert transfers.used_with(ada.id, "k") is None
    assert give(ada)
    assert balance(cloud, bob) == 3


@pytest.mark.parametrize("change", [None, FLAGGED], ids=["deleted", "flagged"])
def test_an_award_needs_an_account_in_good_standing(
    cloud: Cloud, change: Mapping[str, Any] | None
) -> None:
    ada, bob = account(cloud, "ada"), account(cloud, "bob")
    assert cloud.store.transfers.award(ada.id, bob.id, 5, None)
    assert cloud.store.accounts.change(bob, change or deleted(bob))
    assert not cloud.store.transfers.award(ada.id, bob.id, 5, None)
    assert balance(cloud, bob) == 5
    assert cloud.ledger(bob.id)[-1]["reference"] == f"by {ada.id}"


# --- accounts ------------------------------------------------------------------------------------


def test_the_operator_takes_no_more_than_is_above_the_floor(cloud: Cloud) -> None:
    ada = account(cloud, "ada", 10)
    assert not cloud.store.accounts.grant(ada.id, -11)
    assert cloud.store.accounts.grant(ada.id, -10)
    assert not cloud.store.accounts.grant(99, 1)
    assert balance(cloud, ada) == 0


def test_a_change_and_its_grant_are_made_both_or_neither(cloud: Cloud) -> None:
    ada = account(cloud, "ada", 10)
    assert not cloud.store.accounts.change(ada, {"contact": "c"}, grant=-11)
    assert balance(cloud, ada) == 10
    assert cloud.store.accounts.change(ada, {"contact": "c", "trusted": True}, grant=5)
    found = cloud.store.accounts.get(ada.id)
    assert found is not None
    assert (found.contact, found.trusted, found.kudos) == ("c", True, FLOOR + 15)
    assert cloud.store.accounts.change(ada, {"contact": None, "trusted": False})
    assert cloud.store.accounts.get(ada.id) == replace(found, contact=None, trusted=False)


def test_accounts_are_numbered_by_one_counter(cloud: Cloud) -> None:
    first, second = account(cloud, "ada"), account(cloud, "bob")
    assert (first.id, second.id) == (1, 2)
    (counter,) = cloud.rows("USERS")
    assert (counter["pk"], counter["last_id"]) == ({"S": "COUNTER"}, {"N": "2"})


def test_a_worker_key_belongs_to_an_account(cloud: Cloud) -> None:
    ada = account(cloud, "ada")
    made = ApiKey(hash="h", user_id=ada.id, worker=True, created_at=START)
    assert not cloud.store.keys.add_worker_key(replace(made, user_id=99))
    assert cloud.store.keys.add_worker_key(made)
    assert not cloud.store.keys.add_worker_key(made)
    assert cloud.store.keys.get("h") == made


def test_an_allowance_is_given_once_a_month_whatever_was_read(cloud: Cloud) -> None:
    ada = account(cloud, "ada")
    first = month_start(START + 40 * 86_400)
    cloud.clock.freeze((first - 1) * 1000)
    assert cloud.store.accounts.give_allowance(ada, 7).kudos == FLOOR + 7
    assert cloud.store.accounts.give_allowance(ada, 7).kudos == FLOOR + 7
    cloud.clock.freeze(first * 1000)
    assert cloud.store.accounts.give_allowance(ada, 7).kudos == FLOOR + 14
    assert cloud.store.accounts.give_allowance(ada, 7).kudos == FLOOR + 14
    entry = cloud.ledger(ada.id)[-1]
    assert (entry["kind"], entry["reference"]) == ("RECURRING", f"month {first}")


@pytest.mark.parametrize("change", [None, FLAGGED], ids=["deleted", "flagged"])
def test_an_allowance_needs_an_account_in_good_standing(
    cloud: Cloud, change: Mapping[str, Any] | None
) -> None:
    ada = account(cloud, "ada")
    assert cloud.store.accounts.change(ada, change or deleted(ada))
    assert cloud.store.accounts.give_allowance(ada, 7).kudos == FLOOR


# --- what is due ---------------------------------------------------------------------------------


def test_what_is_due_is_found_in_every_shard_from_its_second_on(cloud: Cloud) -> None:
    ids = [f"00000000-0000-4000-8000-{number:012x}" for number in range(Due.REQUEST.shards)]
    items = [{**key(Kind.REQUEST, each), **due(Due.REQUEST, each, 100)} for each in ids]
    reward = key_of(("USER#7", "LEDGER#2026#a"))
    items.append({**reward, **due(Due.REWARD, ids[0], 99)})
    for item in items:
        cloud.store.table.put(item)
    found = list(cloud.due(100))
    assert {row.id for row in found if row.kind is Due.REQUEST} == set(ids)
    assert [(row.kind, row.id, row.user_id) for row in cloud.due(99)] == [
        (Due.REWARD, "LEDGER#2026#a", 7)
    ]
    for item in items:
        cloud.db.delete_item(TableName=cloud.table, Key={name: item[name] for name in ("pk", "sk")})
