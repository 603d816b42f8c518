"""Kudos between accounts: what may move, and that it moves once."""

import json
from typing import Any

import pytest

from horde.store.transfers import Transfers
from tests.support.api_calls import ANONYMOUS, refused
from tests.support.cloud import Cloud
from tests.support.numbers import COST, FLOOR

TRANSFER, AWARD = "POST /api/v2/kudos/transfer", "POST /api/v2/kudos/award"


def test_a_transfer_moves_kudos_and_makes_none(cloud: Cloud) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    answer = cloud.transfer(key, f"bob#{bob}", 30)
    assert (answer.status, answer.body) == (200, {"transferred": 30})
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 70, FLOOR + 30)
    sent, got = cloud.ledger(ada)[-1], cloud.ledger(bob)[-1]
    assert (sent["kind"], sent["amount"], sent["postings"]) == ("TRANSFER", -30, {"transfers": 30})
    assert (got["kind"], got["amount"], got["postings"]) == ("TRANSFER", 30, {"transfers": -30})
    assert sent["reference"] == got["reference"]


def test_an_amount_left_out_is_100(cloud: Cloud) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    answer = cloud.call(TRANSFER, {"username": f"bob#{bob}"}, key=key)
    assert (answer.status, answer.body) == (200, {"transferred": 100})
    assert cloud.kudos(ada) == FLOOR


def test_a_whole_amount_may_be_written_as_a_float(cloud: Cloud) -> None:
    (_, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    assert cloud.transfer(key, f"bob#{bob}", 5.0).body == {"transferred": 5}


def test_the_floor_cannot_be_given_away(cloud: Cloud) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=6), cloud.register("bob")
    refused(cloud.transfer(key, f"bob#{bob}", 7), "KudosTransferNotEnough")
    assert cloud.transfer(key, f"bob#{bob}", 6).status == 200
    refused(cloud.transfer(key, f"bob#{bob}", 1), "KudosTransferNotEnough")
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR, FLOOR + 6)


@pytest.mark.parametrize(
    ("amount", "rc"),
    [
        (-1, "NegativeKudosTransfer"),
        (-(10**40), "NegativeKudosTransfer"),
        (0, "InvalidKudosTransferAmount"),
        (10**40, "KudosTransferNotEnough"),
        (1e300, "KudosTransferNotEnough"),
    ],
)
def test_an_amount_that_cannot_be_moved_is_refused(cloud: Cloud, amount: Any, rc: str) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    refused(cloud.transfer(key, f"bob#{bob}", amount), rc)
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 100, FLOOR)


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", "1.5", '"7"', "true", "[1]"])
def test_an_amount_that_is_not_whole_is_a_schema_error(cloud: Cloud, raw: str) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    answer = cloud.call(TRANSFER, raw=f'{{"username": "bob#{bob}", "amount": {raw}}}', key=key)
    assert answer.status == 400
    assert list(answer.body["errors"]) == ["amount"]
    assert cloud.kudos(ada) == FLOOR + 100


@pytest.mark.parametrize(
    "name", ["bob", "bob#99", "carl#2", "#2", "bob#", "bob#2 ", "bob#²", "bob#" + "9" * 90, "b#o#2"]
)
def test_a_transfer_to_nobody_is_refused(cloud: Cloud, name: str) -> None:
    (ada, key), _ = cloud.register("ada", kudos=100), cloud.register("bob")
    refused(cloud.transfer(key, name), "InvalidTargetUsername")
    assert cloud.kudos(ada) == FLOOR + 100


def test_the_anonymous_account_neither_sends_nor_receives_kudos(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=100)
    refused(cloud.transfer(ANONYMOUS, f"ada#{ada}"), "KudosTransferFromAnon")
    refused(cloud.transfer(key, "Anonymous#0"), "KudosTransferToAnon")
    assert cloud.kudos(ada) == FLOOR + 100


def test_nobody_transfers_to_their_own_account(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=100)
    refused(cloud.transfer(key, f"ada#{ada}"), "KudosTransferToSelf")


def test_a_transfer_needs_a_key(cloud: Cloud) -> None:
    ada, _ = cloud.register("ada")
    assert "apikey" in cloud.call(TRANSFER, {"username": f"ada#{ada}"}).body["errors"]
    refused(cloud.transfer("x" * 22, f"ada#{ada}"), "InvalidAPIKey", 401)


@pytest.mark.parametrize(
    ("who", "name", "rc", "status"),
    [
        ("ada", "flagged", "SourceAccountFlagged", 400),
        ("bob", "flagged", "TargetAccountFlagged", 400),
        ("bob", "deleted", "DeletedUser", 400),
        ("ada", "deleted", "DeletedUser", 403),
    ],
)
def test_a_flagged_or_deleted_account_neither_sends_nor_receives_kudos(
    cloud: Cloud, who: str, name: str, rc: str, status: int
) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    cloud.set_flags({"ada": ada, "bob": bob}[who], **{name: True})
    refused(cloud.transfer(key, f"bob#{bob}"), rc, status)
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 100, FLOOR)


@pytest.mark.parametrize("who", ["sender", "receiver"])
@pytest.mark.parametrize("name", ["flagged", "deleted"])
def test_good_standing_is_a_condition_of_the_transaction(cloud: Cloud, who: str, name: str) -> None:
    (ada, _), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    seen = cloud.store.accounts.get(ada)
    assert seen is not None
    cloud.set_flags({"sender": ada, "receiver": bob}[who], **{name: True})  # after it was looked at
    assert cloud.store.transfers.transfer(seen, bob, 10, None) is False
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 100, FLOOR)


def test_what_was_spent_meanwhile_cannot_be_transferred(cloud: Cloud) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    seen = cloud.store.accounts.get(ada)
    assert seen is not None
    assert cloud.generate(key, params={"n": 8}).status == 202
    assert cloud.store.transfers.transfer(seen, bob, 100, None) is False
    assert cloud.store.transfers.transfer(seen, bob + 1, 1, None) is False
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 100 - 8 * COST, FLOOR)


def test_a_transfer_that_lost_a_race_is_decided_anew(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    real = Transfers.transfer

    def after_a_spree(table: Any, *args: Any) -> bool:
        cloud.store.accounts.grant(ada, -95)
        monkeypatch.setattr(Transfers, "transfer", real)
        return real(table, *args)

    monkeypatch.setattr(Transfers, "transfer", after_a_spree)
    refused(cloud.transfer(key, f"bob#{bob}", 50), "KudosTransferNotEnough")
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 5, FLOOR)


def test_kudos_are_not_sent_back_within_a_minute(cloud: Cloud) -> None:
    (ada, key), (bob, other) = cloud.register("ada", kudos=100), cloud.register("bob", kudos=100)
    assert cloud.transfer(key, f"bob#{bob}").status == 200
    refused(cloud.transfer(other, f"ada#{ada}"), "TooFastKudosTransfers")
    assert cloud.transfer(key, f"bob#{bob}").status == 200
    seen = cloud.store.accounts.get(bob)
    assert seen is not None
    # A condition, not only a check.
    assert cloud.store.transfers.transfer(seen, ada, 10, None) is False
    cloud.clock.pass_seconds(61)
    assert cloud.transfer(other, f"ada#{ada}").status == 200
    refused(cloud.transfer(key, f"bob#{bob}"), "TooFastKudosTransfers")


def test_the_same_idempotency_key_moves_kudos_once(cloud: Cloud) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=30), cloud.register("bob")
    for _ in range(3):
        answer = cloud.transfer(key, f"bob#{bob}", 20, once="abc")
        assert (answer.status, answer.body) == (200, {"transferred": 20})
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 10, FLOOR + 20)
    assert cloud.transfer(key, f"bob#{bob}", 5, once="abcd").status == 200
    assert cloud.kudos(ada) == FLOOR + 5


def test_an_idempotency_key_cannot_be_used_for_something_else(cloud: Cloud) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    assert cloud.transfer(key, f"bob#{bob}", 20, once="abc").status == 200
    refused(cloud.transfer(key, f"bob#{bob}", 21, once="abc"), "IdempotencyKeyConflict")
    assert cloud.kudos(ada) == FLOOR + 80


def test_users_do_not_share_idempotency_keys(cloud: Cloud) -> None:
    (_, key), (_, other) = cloud.register("ada", kudos=100), cloud.register("bob", kudos=100)
    carl, _ = cloud.register("carl")
    for who in (key, other):
        assert cloud.transfer(who, f"carl#{carl}", 20, once="abc").status == 200
    assert cloud.kudos(carl) == FLOOR + 40


def test_an_idempotency_key_is_forgotten_after_a_day(cloud: Cloud) -> None:
    (_, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    assert cloud.transfer(key, f"bob#{bob}", 20, once="abc").status == 200
    cloud.clock.pass_seconds(24 * 3600 - 10)
    assert cloud.transfer(key, f"bob#{bob}", 20, once="abc").status == 200
    assert cloud.kudos(bob) == FLOOR + 20
    cloud.clock.pass_seconds(20)  # TTL takes its time: the row may still be there
    assert cloud.transfer(key, f"bob#{bob}", 20, once="abc").status == 200
    assert cloud.kudos(bob) == FLOOR + 40


def test_two_at_once_with_one_idempotency_key_move_kudos_once(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    real = Transfers.transfer

    def overtaken(table: Any, *args: Any) -> bool:
        monkeypatch.setattr(Transfers, "transfer", real)
        assert cloud.transfer(key, f"bob#{bob}", 20, once="abc").status == 200
        return real(table, *args)

    monkeypatch.setattr(Transfers, "transfer", overtaken)
    assert cloud.transfer(key, f"bob#{bob}", 20, once="abc").body == {"transferred": 20}
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 80, FLOOR + 20)


def test_no_idempotency_key_is_kept_as_it_was_sent(cloud: Cloud) -> None:
    (_, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    assert cloud.transfer(key, f"bob#{bob}", once="secret\ud800" + "x" * 5000).status == 200
    (row,) = cloud.rows("IDEMPOTENCY")
    assert "secret" not in json.dumps(row)
    assert "gone_at" in row


@pytest.mark.lengthy
def test_a_key_may_transfer_once_a_second_and_90_times_an_hour(cloud: Cloud) -> None:
    cloud.overrides["RATE_LIMITS"] = "true"
    (_, key), (bob, _) = cloud.register("ada", kudos=1000), cloud.register("bob")
    cloud.clock.freeze(cloud.clock.now_ms() // 3_600_000 * 3_600_000 + 3_600_000)
    assert [cloud.transfer(key, f"bob#{bob}", 1).status for _ in range(2)] == [200, 429]
    seen = []
    for _ in range(88):
        cloud.clock.pass_seconds(1)
        seen.append(cloud.transfer(key, f"bob#{bob}", 0).status)  # what is refused counts
    assert seen == [400] * 88
    cloud.clock.pass_seconds(1)
    assert cloud.transfer(key, f"bob#{bob}", 1).status == 429
    assert cloud.kudos(bob) == FLOOR + 1


def test_before_the_operator_has_named_an_admin_nobody_awards_kudos(cloud: Cloud) -> None:
    """Not even whoever registered first, while the operator was still at work."""
    (first, key), (bob, _) = cloud.register("mallory"), cloud.register("bob")
    assert first == 1
    answer = cloud.call(AWARD, {"username": f"bob#{bob}", "amount": 10**9}, key=key)
    refused(answer, "NotAllowedAwards", 403)
    assert cloud.kudos(bob) == FLOOR


def test_only_admins_award_kudos(cloud: Cloud, admin: str, moderator: str) -> None:
    first, key = cloud.find_user(admin)["id"], admin
    (bob, other) = cloud.register("bob", kudos=50)
    answer = cloud.call(AWARD, {"username": f"bob#{bob}", "amount": 40}, key=key)
    assert (answer.status, answer.body) == (200, {"awarded": 40})
    assert (cloud.kudos(first), cloud.kudos(bob)) == (FLOOR, FLOOR + 90)
    entry = cloud.ledger(bob)[-1]
    assert (entry["kind"], entry["postings"]) == ("AWARD", {"awards": -40})
    for who in (other, moderator, ANONYMOUS):
        answer = cloud.call(AWARD, {"username": f"root#{first}", "amount": 40}, key=who)
        refused(answer, "NotAllowedAwards", 403)
    assert cloud.kudos(first) == FLOOR


@pytest.mark.parametrize(
    ("name", "amount", "rc"),
    [
        ("bob#2", -5, "NegativeKudosTransfer"),
        ("bob#2", 0, "InvalidKudosTransferAmount"),
        ("bob#2", 10**40, None),
        ("bob#3", 5, "InvalidAwardUsername"),
        ("Anonymous#0", 5, "KudosAwardToAnon"),
        ("root#1", 5, "KudosTransferToSelf"),
    ],
)
def test_an_award_that_makes_no_sense_is_refused(
    cloud: Cloud, admin: str, name: str, amount: int, rc: str | None
) -> None:
    bob, _ = cloud.register("bob")
    answer = cloud.call(AWARD, {"username": name, "amount": amount}, key=admin)
    assert (answer.status, answer.body.get("rc")) == (400, rc)
    assert cloud.kudos(bob) == FLOOR


def test_an_award_with_an_idempotency_key_is_given_once(cloud: Cloud, admin: str) -> None:
    key, (bob, _) = admin, cloud.register("bob")
    body, headers = {"username": f"bob#{bob}", "amount": 40}, {"Idempotency-Key": "a"}
    for _ in range(2):
        assert cloud.call(AWARD, body, key=key, headers=headers).body == {"awarded": 40}
    assert cloud.kudos(bob) == FLOOR + 40
    refused(cloud.call(TRANSFER, body, key=key, headers=headers), "IdempotencyKeyConflict")
