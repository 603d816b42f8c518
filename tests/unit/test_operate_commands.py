"""The operator's command, on a store of its own."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from unittest.mock import Mock

import pytest
from botocore.exceptions import NoCredentialsError

from horde.edge.auth import key_hash
from horde.records import ApiKey, User
from horde.rules import ruleset
from horde.rules.accounts import anonymous
from horde.store import Store
from horde.store.accounts import Accounts
from horde.store.apikeys import ApiKeys
from infra.operate import OperatorError, commands, deployed
from tests.support.numbers import FLOOR


class OneAccount(Accounts):
    """One account, 7, with 100 kudos above its floor."""

    def __init__(self) -> None:
        self.account = User(id=7, alias="ada", kudos=FLOOR + 100, floor=FLOOR, created_at=0)
        self.keys = ItsKeys(self)

    def get(self, user_id: int) -> User | None:
        return {7: self.account, 0: anonymous()}.get(user_id)

    def grant(self, user_id: int, amount: int) -> bool:
        if self.account.kudos + amount < self.account.floor:
            return False
        self.account = replace(self.account, kudos=self.account.kudos + amount)
        return True


class ItsKeys(ApiKeys):
    """The keys of that account, as the table would have them."""

    def __init__(self, accounts: OneAccount) -> None:
        self.accounts = accounts
        self.listed: list[ApiKey] = []
        self.not_listed: list[ApiKey] = []

    def get(self, key_hash: str) -> ApiKey | None:
        return next((key for key in self.listed if key.hash == key_hash), None)

    def of_user(self, user_id: int, known: Iterable[str] = ()) -> list[ApiKey]:
        return [key for key in self.listed if key.user_id == user_id]

    def unlisted(self) -> Iterator[ApiKey]:
        return iter(tuple(self.not_listed))

    def adopt(self, old: ApiKey) -> None:
        self.not_listed.remove(old)
        self.listed.append(old)

    def add_worker_key(self, made: ApiKey, *, fleet: bool = False) -> bool:
        self.listed.append(made)
        if fleet:
            self.accounts.account = replace(self.accounts.account, fleet=True, trusted=True)
        return True

    def rotate(self, old: ApiKey, new_hash: str) -> ApiKey | None:
        made = replace(old, hash=new_hash)
        self.listed = [made if key == old else key for key in self.listed]
        return made

    def revoke(self, old: ApiKey) -> bool:
        if not old.worker and sum(not key.worker for key in self.listed) == 1:
            return False
        self.listed.remove(old)
        return True


def run(accounts: OneAccount, *words: str) -> str:
    store = Store("none", Mock())
    store.accounts, store.keys = accounts, accounts.keys
    return commands.run(store, commands.parser().parse_args(words))


def test_a_grant_shows_the_balance_after_it() -> None:
    assert run(OneAccount(), "grant", "ada#7", "1000") == f"ada#7 has {FLOOR + 1100} kudos now"


def test_a_negative_grant_takes() -> None:
    assert run(OneAccount(), "grant", "ada#7", "-100") == f"ada#7 has {FLOOR} kudos now"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("grant", "ada#7", "-101"), "at most 100 of its"),
        (("grant", "ada#7", "0"), "must not be 0"),
        (("grant", "Anonymous#0", "5"), "never written"),
        (("grant", "ada#8", "5"), "no user 'ada#8'"),
        (("grant", "adam#7", "5"), "account 7 is 'ada#7'"),
        (("worker-key", "ada"), "looks like 'alias#7'"),
    ],
)
def test_what_cannot_be_done_says_why(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(OperatorError, match=message):
        run(OneAccount(), *words)


def test_a_worker_key_is_shown_and_kept_as_a_hash() -> None:
    accounts = OneAccount()
    key = run(accounts, "worker-key", "ada#7", "--name", "a pod")
    (kept,) = accounts.keys.listed
    assert len(key) == 22
    assert kept.hash == key_hash(key)
    assert (kept.worker, kept.name) == (True, "a pod")


def test_a_fleets_key_makes_its_account_trusted_and_a_volunteers_changes_nothing() -> None:
    accounts = OneAccount()
    run(accounts, "worker-key", "ada#7")
    assert not accounts.account.trusted
    run(accounts, "worker-key", "ada#7", "--fleet")
    assert (accounts.account.trusted, accounts.account.fleet) == (True, True)


def test_an_accounts_keys_are_listed_by_the_start_of_their_hash() -> None:
    accounts = OneAccount()
    accounts.keys.listed = [
        ApiKey(hash="a" * 64, user_id=7),
        ApiKey(hash="b" * 64, user_id=7, worker=True, created_at=1_790_000_000, name="a pod"),
        ApiKey(hash="c" * 64, user_id=8),
    ]
    accounts.keys.not_listed = [ApiKey(hash="d" * 64, user_id=7, worker=True)]
    first = "aaaaaaaaaaaa  account key  unknown"
    second = "bbbbbbbbbbbb  worker key   2026-09-21  a pod"
    assert run(accounts, "keys", "ada#7").splitlines() == [first, second]
    third = "dddddddddddd  worker key   unknown"
    assert run(accounts, "keys", "ada#7", "--adopt").splitlines() == [first, second, third]
    assert run(accounts, "keys", "ada#7").splitlines() == [first, second, third]


def test_a_key_is_rotated_and_revoked_by_its_id() -> None:
    accounts = OneAccount()
    accounts.keys.listed = [
        ApiKey(hash="a" * 64, user_id=7),
        ApiKey(hash="b" * 64, user_id=7, worker=True),
    ]
    made = run(accounts, "rotate-key", "ada#7", "B" * 12)
    assert [key.hash for key in accounts.keys.listed] == ["a" * 64, key_hash(made)]
    gone = key_hash(made)[:12]
    assert run(accounts, "revoke-key", "ada#7", gone) == f"the key {gone} is revoked"
    assert [key.hash for key in accounts.keys.listed] == ["a" * 64]
    for words, message in (
        (("revoke-key", "ada#7", "a" * 12), "last account key"),
        (("revoke-key", "ada#7", gone), "has no key"),
        (("rotate-key", "ada#7", gone), "has no key"),
    ):
        with pytest.raises(OperatorError, match=message):
            run(accounts, *words)


def test_missing_credentials_are_a_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> dict[str, str]:
        raise NoCredentialsError

    monkeypatch.setattr(deployed, "outputs_of", refuse)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(SystemExit, match="Unable to locate credentials"):
        commands.main(["user", "ada#7"])


def test_rules_prints_each_number_in_force_and_needs_no_cloud(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("boto3.Session", None)
    commands.main(["rules"])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == "the ruleset in force"
    shown = dict(line.split(maxsplit=1) for line in lines)
    rules = asdict(ruleset.IN_FORCE)
    assert shown.keys() == rules.keys()
    for name, value in rules.items():
        if not isinstance(value, tuple):
            assert shown[name] == str(value)
    assert shown["two_pass_samplers"] == ", ".join(ruleset.IN_FORCE.two_pass_samplers)
    families = [f"{name} {factor}" for name, factor in ruleset.IN_FORCE.families]
    assert shown["families"] == ", ".join(families)
