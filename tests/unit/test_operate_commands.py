"""The operator's command, on a store of its own."""

from dataclasses import asdict, replace
from unittest.mock import Mock

import pytest
from botocore.exceptions import NoCredentialsError

from horde.records import User
from horde.rules import ruleset
from horde.rules.accounts import anonymous
from horde.store import Store
from horde.store.accounts import Accounts
from infra.operate import commands
from tests.support.numbers import FLOOR


class OneAccount(Accounts):
    """One account, 7, with 100 kudos above its floor."""

    def __init__(self) -> None:
        self.account = User(id=7, alias="ada", kudos=FLOOR + 100, floor=FLOOR, created_at=0)
        self.keys: list[str] = []

    def get(self, user_id: int) -> User | None:
        return {7: self.account, 0: anonymous()}.get(user_id)

    def grant(self, user_id: int, amount: int) -> bool:
        if self.account.kudos + amount < self.account.floor:
            return False
        self.account = replace(self.account, kudos=self.account.kudos + amount)
        return True

    def add_worker_key(self, user_id: int, key_hash: str) -> bool:
        self.keys.append(key_hash)
        return True


def run(accounts: OneAccount, *words: str) -> str:
    store = Store("none", Mock())
    store.accounts = accounts
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
    with pytest.raises(commands.OperatorError, match=message):
        run(OneAccount(), *words)


def test_a_worker_key_is_shown_and_kept_as_a_hash() -> None:
    accounts = OneAccount()
    key = run(accounts, "worker-key", "ada#7")
    assert len(key) == 22
    assert [len(kept) for kept in accounts.keys] == [64]
    assert key not in accounts.keys


def test_missing_credentials_are_a_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> dict[str, str]:
        raise NoCredentialsError

    monkeypatch.setattr(commands, "outputs_of", refuse)
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
