"""Kudos between accounts: what may move, and that it moves once."""

import json
from typing import Any

import pytest

from horde import store
from tests.support.cloud import ANONYMOUS, Cloud, Reply

TRANSFER, AWARD = "POST /api/v2/kudos/transfer", "POST /api/v2/kudos/award"


def send(horde: Cloud, key: str, to: str, amount: Any = 10, once: str | None = None) -> Reply:
    headers = {"Idempotency-Key": once} if once else None
    return horde.call(TRANSFER, {"username": to, "amount": amount}, key=key, headers=headers)


def refused(answer: Reply, rc: str, status: int = 400) -> None:
    assert (answer.status, answer.body.get("rc")) == (status, rc), answer
    assert answer.body["message"]


def flag(horde: Cloud, user: int, name: str) -> None:
    """Set a flag of an account behind the API's back."""
    account = horde.store.user(user)
    assert account is not None
    changes = store.DELETED if name == "deleted" else {name: True}
    assert horde.store.change_user(account, changes)


def test_a_transfer_moves_kudos_and_makes_none(horde: Cloud) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    answer = send(horde, key, f"bob#{bob}", 30)
    assert (answer.status, answer.body) == (200, {"transferred": 30})
    assert (horde.kudos(ada), horde.kudos(bob)) == (84, 44)
    sent, got = horde.ledger(ada)[-1], horde.ledger(bob)[-1]
    assert (sent["kind"], sent["amount"], sent["postings"]) == ("TRANSFER", -30, {"transfers": 30})
    assert (got["kind"], got["amount"], got["postings"]) == ("TRANSFER", 30, {"transfers": -30})
    assert sent["reference"] == got["reference"]


def test_an_amount_left_out_is_100(horde: Cloud) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    answer = horde.call(TRANSFER, {"username": f"bob#{bob}"}, key=key)
    assert (answer.status, answer.body) == (200, {"transferred": 100})
    assert horde.kudos(ada) == 14


def test_a_whole_amount_may_be_written_as_a_float(horde: Cloud) -> None:
    (_, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    assert send(horde, key, f"bob#{bob}", 5.0).body == {"transferred": 5}


def test_the_floor_cannot_be_given_away(horde: Cloud) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=6), horde.register("bob")
    refused(send(horde, key, f"bob#{bob}", 7), "KudosTransferNotEnough")
    assert send(horde, key, f"bob#{bob}", 6).status == 200
    refused(send(horde, key, f"bob#{bob}", 1), "KudosTransferNotEnough")
    assert (horde.kudos(ada), horde.kudos(bob)) == (14, 20)


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
def test_an_amount_that_cannot_be_moved_is_refused(horde: Cloud, amount: Any, rc: str) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    refused(send(horde, key, f"bob#{bob}", amount), rc)
    assert (horde.kudos(ada), horde.kudos(bob)) == (114, 14)


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "-Infinity", "1.5", '"7"', "true", "[1]"])
def test_an_amount_that_is_no_whole_number_is_a_schema_error(horde: Cloud, raw: str) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    answer = horde.call(TRANSFER, raw=f'{{"username": "bob#{bob}", "amount": {raw}}}', key=key)
    assert answer.status == 400
    assert list(answer.body["errors"]) == ["amount"]
    assert horde.kudos(ada) == 114


@pytest.mark.parametrize(
    "name", ["bob", "bob#99", "carl#2", "#2", "bob#", "bob#2 ", "bob#²", "bob#" + "9" * 90, "b#o#2"]
)
def test_a_transfer_to_nobody_is_refused(horde: Cloud, name: str) -> None:
    (ada, key), _ = horde.register("ada", kudos=100), horde.register("bob")
    refused(send(horde, key, name), "InvalidTargetUsername")
    assert horde.kudos(ada) == 114


def test_the_anonymous_account_neither_gives_nor_gets(horde: Cloud) -> None:
    ada, key = horde.register("ada", kudos=100)
    refused(send(horde, ANONYMOUS, f"ada#{ada}"), "KudosTransferFromAnon")
    refused(send(horde, key, "Anonymous#0"), "KudosTransferToAnon")
    assert horde.kudos(ada) == 114


def test_nobody_transfers_to_himself(horde: Cloud) -> None:
    ada, key = horde.register("ada", kudos=100)
    refused(send(horde, key, f"ada#{ada}"), "KudosTransferToSelf")


def test_a_transfer_needs_a_key(horde: Cloud) -> None:
    ada, _ = horde.register("ada")
    assert "apikey" in horde.call(TRANSFER, {"username": f"ada#{ada}"}).body["errors"]
    refused(send(horde, "x" * 22, f"ada#{ada}"), "InvalidAPIKey", 401)


@pytest.mark.parametrize(
    ("who", "name", "rc", "status"),
    [
        ("ada", "flagged", "SourceAccountFlagged", 400),
        ("bob", "flagged", "TargetAccountFlagged", 400),
        ("bob", "deleted", "DeletedUser", 400),
        ("ada", "deleted", "DeletedUser", 403),
    ],
)
def test_a_flagged_or_deleted_account_neither_gives_nor_gets(
    horde: Cloud, who: str, name: str, rc: str, status: int
) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    flag(horde, {"ada": ada, "bob": bob}[who], name)
    refused(send(horde, key, f"bob#{bob}"), rc, status)
    assert (horde.kudos(ada), horde.kudos(bob)) == (114, 14)


@pytest.mark.parametrize("who", ["sender", "receiver"])
@pytest.mark.parametrize("name", ["flagged", "deleted"])
def test_good_standing_is_a_condition_of_the_transaction(horde: Cloud, who: str, name: str) -> None:
    (ada, _), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    seen = horde.store.user(ada)
    assert seen is not None
    flag(horde, {"sender": ada, "receiver": bob}[who], name)  # after it was looked at
    assert horde.store.transfer(seen, bob, 10, None) is False
    assert (horde.kudos(ada), horde.kudos(bob)) == (114, 14)


def test_what_was_spent_meanwhile_cannot_be_transferred(horde: Cloud) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    seen = horde.store.user(ada)
    assert seen is not None
    assert horde.generate(key, params={"n": 8}).status == 202
    assert horde.store.transfer(seen, bob, 100, None) is False
    assert horde.store.transfer(seen, bob + 1, 1, None) is False
    assert (horde.kudos(ada), horde.kudos(bob)) == (34, 14)


def test_a_transfer_that_lost_a_race_is_decided_anew(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    real = store.Store.transfer

    def after_a_spree(table: store.Store, *args: Any) -> bool:
        horde.store.grant(ada, -95)
        monkeypatch.setattr(store.Store, "transfer", real)
        return real(table, *args)

    monkeypatch.setattr(store.Store, "transfer", after_a_spree)
    refused(send(horde, key, f"bob#{bob}", 50), "KudosTransferNotEnough")
    assert (horde.kudos(ada), horde.kudos(bob)) == (19, 14)


def test_kudos_are_not_sent_back_within_a_minute(horde: Cloud) -> None:
    (ada, key), (bob, other) = horde.register("ada", kudos=100), horde.register("bob", kudos=100)
    assert send(horde, key, f"bob#{bob}").status == 200
    refused(send(horde, other, f"ada#{ada}"), "TooFastKudosTransfers")
    assert send(horde, key, f"bob#{bob}").status == 200
    seen = horde.store.user(bob)
    assert seen is not None
    assert horde.store.transfer(seen, ada, 10, None) is False  # a condition, not only a check
    horde.clock.pass_seconds(61)
    assert send(horde, other, f"ada#{ada}").status == 200
    refused(send(horde, key, f"bob#{bob}"), "TooFastKudosTransfers")


def test_the_same_idempotency_key_moves_kudos_once(horde: Cloud) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=30), horde.register("bob")
    for _ in range(3):
        answer = send(horde, key, f"bob#{bob}", 20, once="abc")
        assert (answer.status, answer.body) == (200, {"transferred": 20})
    assert (horde.kudos(ada), horde.kudos(bob)) == (24, 34)
    assert send(horde, key, f"bob#{bob}", 5, once="abcd").status == 200
    assert horde.kudos(ada) == 19


def test_an_idempotency_key_cannot_be_used_for_something_else(horde: Cloud) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    assert send(horde, key, f"bob#{bob}", 20, once="abc").status == 200
    refused(send(horde, key, f"bob#{bob}", 21, once="abc"), "IdempotencyKeyConflict")
    assert horde.kudos(ada) == 94


def test_users_do_not_share_idempotency_keys(horde: Cloud) -> None:
    (_, key), (_, other) = horde.register("ada", kudos=100), horde.register("bob", kudos=100)
    carl, _ = horde.register("carl")
    for who in (key, other):
        assert send(horde, who, f"carl#{carl}", 20, once="abc").status == 200
    assert horde.kudos(carl) == 54


def test_an_idempotency_key_is_forgotten_after_a_day(horde: Cloud) -> None:
    (_, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    assert send(horde, key, f"bob#{bob}", 20, once="abc").status == 200
    horde.clock.pass_seconds(24 * 3600 - 10)
    assert send(horde, key, f"bob#{bob}", 20, once="abc").status == 200
    assert horde.kudos(bob) == 34
    horde.clock.pass_seconds(20)  # TTL takes its time: the row may still be there
    assert send(horde, key, f"bob#{bob}", 20, once="abc").status == 200
    assert horde.kudos(bob) == 54


def test_two_at_once_with_one_idempotency_key_move_kudos_once(
    horde: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    real = store.Store.transfer

    def overtaken(table: store.Store, *args: Any) -> bool:
        monkeypatch.setattr(store.Store, "transfer", real)
        assert send(horde, key, f"bob#{bob}", 20, once="abc").status == 200
        return real(table, *args)

    monkeypatch.setattr(store.Store, "transfer", overtaken)
    assert send(horde, key, f"bob#{bob}", 20, once="abc").body == {"transferred": 20}
    assert (horde.kudos(ada), horde.kudos(bob)) == (94, 34)


def test_no_idempotency_key_is_kept_as_it_was_sent(horde: Cloud) -> None:
    (_, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    assert send(horde, key, f"bob#{bob}", once="secret\ud800" + "x" * 5000).status == 200
    (row,) = horde.rows("ONCE")
    assert "secret" not in json.dumps(row)
    assert "gone_at" in row


def test_a_key_may_transfer_once_a_second_and_90_times_an_hour(horde: Cloud) -> None:
    horde.overrides["RATE_LIMITS"] = "true"
    (_, key), (bob, _) = horde.register("ada", kudos=1000), horde.register("bob")
    horde.clock.freeze(horde.clock.now_ms() // 3_600_000 * 3_600_000 + 3_600_000)
    assert [send(horde, key, f"bob#{bob}", 1).status for _ in range(2)] == [200, 429]
    seen = []
    for _ in range(88):
        horde.clock.pass_seconds(1)
        seen.append(send(horde, key, f"bob#{bob}", 0).status)  # what is refused counts
    assert seen == [400] * 88
    horde.clock.pass_seconds(1)
    assert send(horde, key, f"bob#{bob}", 1).status == 429
    assert horde.kudos(bob) == 14 + 1


def test_only_the_first_account_awards_kudos(horde: Cloud) -> None:
    (first, key), (bob, other) = horde.register("ada"), horde.register("bob", kudos=50)
    assert first == 1
    answer = horde.call(AWARD, {"username": f"bob#{bob}", "amount": 40}, key=key)
    assert (answer.status, answer.body) == (200, {"awarded": 40})
    assert (horde.kudos(first), horde.kudos(bob)) == (14, 104)
    entry = horde.ledger(bob)[-1]
    assert (entry["kind"], entry["postings"]) == ("AWARD", {"awards": -40})
    for who in (other, ANONYMOUS):
        answer = horde.call(AWARD, {"username": f"ada#{first}", "amount": 40}, key=who)
        refused(answer, "NotAllowedAwards", 403)
    assert horde.kudos(first) == 14


@pytest.mark.parametrize(
    ("name", "amount", "rc"),
    [
        ("bob#2", -5, "NegativeKudosTransfer"),
        ("bob#2", 0, "InvalidKudosTransferAmount"),
        ("bob#2", 10**40, None),
        ("bob#3", 5, "InvalidAwardUsername"),
        ("Anonymous#0", 5, "KudosAwardToAnon"),
        ("ada#1", 5, "KudosTransferToSelf"),
    ],
)
def test_an_award_that_makes_no_sense_is_refused(
    horde: Cloud, name: str, amount: int, rc: str | None
) -> None:
    (_, key), (bob, _) = horde.register("ada"), horde.register("bob")
    answer = horde.call(AWARD, {"username": name, "amount": amount}, key=key)
    assert (answer.status, answer.body.get("rc")) == (400, rc)
    assert horde.kudos(bob) == 14


def test_an_award_with_an_idempotency_key_is_given_once(horde: Cloud) -> None:
    (_, key), (bob, _) = horde.register("ada"), horde.register("bob")
    body, headers = {"username": f"bob#{bob}", "amount": 40}, {"Idempotency-Key": "a"}
    for _ in range(2):
        assert horde.call(AWARD, body, key=key, headers=headers).body == {"awarded": 40}
    assert horde.kudos(bob) == 54
    refused(horde.call(TRANSFER, body, key=key, headers=headers), "IdempotencyKeyConflict")
