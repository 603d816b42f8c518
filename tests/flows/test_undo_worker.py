"""``bin/operator undo-worker``: keys, rewards and images of a worker's owner are taken back."""

import contextlib
from typing import Any

import pytest

from horde import dataset
from horde.records import User
from infra.operate import undo
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud


def undone(cloud: Cloud, user: User, **options: Any) -> undo.Undone:
    """Run the command."""

    def withdraw(shared: Any) -> None:
        dataset.withdraw(cloud.store, cloud.s3, cloud.bucket("Laion"), shared)

    return undo.undo_worker(cloud.store, user, withdraw, **options)


@pytest.fixture
def liar(cloud: Cloud) -> tuple[User, str]:
    """A trusted owner whose worker drew three shared images for others; two rewards are paid."""
    user, _ = cloud.register("liar")
    cloud.set_flags(user, trusted=True)
    key = cloud.worker_key(user)
    cloud.generate(ANONYMOUS, params={"n": 2})
    cloud.draw(key)
    cloud.pay()
    _, ada = cloud.register("ada", kudos=100)
    cloud.generate(ada, shared=True)
    cloud.draw(key)
    cloud.settle_async()
    assert len(cloud.laion()) == 3
    account = cloud.store.accounts.get(user)
    assert account is not None
    return account, key


@pytest.mark.lengthy
def test_the_key_the_rewards_and_the_images_are_taken_back(
    cloud: Cloud, liar: tuple[User, str]
) -> None:
    user, key = liar
    done = undone(cloud, user)
    assert (done.keys, done.rewards, done.withdrawn, done.spent) == (1, 3, 3, 0)
    assert cloud.laion() == {}
    assert cloud.kudos(user.id) == user.floor
    assert cloud.pop(key).status == 401


@pytest.mark.lengthy
def test_what_others_drew_and_earned_stays(cloud: Cloud, liar: tuple[User, str]) -> None:
    other = cloud.new_worker("other")
    cloud.generate(ANONYMOUS)
    (image,) = cloud.draw(other, name="w2")
    cloud.settle_async()
    undone(cloud, liar[0])
    assert list(cloud.archives()) == [image]
    assert cloud.pop(other, name="w2").status == 200


@pytest.mark.lengthy
def test_undoing_twice_is_as_good_as_once(cloud: Cloud, liar: tuple[User, str]) -> None:
    undone(cloud, liar[0])
    before = cloud.everything()
    again = undone(cloud, liar[0])
    assert (again.keys, again.rewards, again.kudos, again.withdrawn) == (0, 0, 0, 0)
    assert cloud.everything() == before


@pytest.mark.lengthy
def test_a_dry_run_says_the_same_and_changes_nothing(cloud: Cloud, liar: tuple[User, str]) -> None:
    before = cloud.everything()
    said = undone(cloud, liar[0], dry_run=True)
    assert cloud.everything() == before
    assert said == undone(cloud, liar[0])


@pytest.mark.parametrize("cut", range(1, 6))
@pytest.mark.slow
def test_an_interrupted_run_is_finished_by_the_next(
    cloud: Cloud, liar: tuple[User, str], cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, transact, calls = type(cloud.store.table), type(cloud.store.table).transact, 0

    def dies(room: Any, parts: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise ConnectionError
        transact(room, parts)

    with monkeypatch.context() as patch:
        patch.setattr(table, "transact", dies)
        with contextlib.suppress(ConnectionError):
            undone(cloud, liar[0])
    undone(cloud, liar[0])
    assert cloud.laion() == {}
    assert cloud.kudos(liar[0].id) == liar[0].floor


@pytest.mark.lengthy
def test_what_was_spent_is_reported_and_taken_when_it_is_there_again(
    cloud: Cloud, liar: tuple[User, str]
) -> None:
    user, _ = liar
    cloud.pay()
    assert cloud.store.accounts.grant(user.id, -cloud.kudos(user.id) + user.floor)
    done = undone(cloud, user)
    assert (done.rewards, done.kudos) == (0, 0)
    assert done.spent > 0
    assert cloud.store.accounts.grant(user.id, done.spent)
    again = undone(cloud, user)
    assert (again.kudos, again.spent) == (done.spent, 0)
    assert cloud.kudos(user.id) == user.floor


@pytest.mark.lengthy
def test_the_account_sends_nothing_on_once_it_is_undone(
    cloud: Cloud, liar: tuple[User, str]
) -> None:
    """Its kudos leave only before the command, not during it."""
    user, _ = liar
    accomplice, _ = cloud.register("accomplice")
    undone(cloud, user)
    account = cloud.store.accounts.get(user.id)
    assert account is not None
    assert account.flagged
    assert not cloud.store.transfers.transfer(account, accomplice, 1, None)


def test_held_images_are_dropped(cloud: Cloud) -> None:
    user, _ = cloud.register("stranger")
    cloud.generate(ANONYMOUS)
    cloud.draw(cloud.worker_key(user))
    cloud.settle_async()
    account = cloud.store.accounts.get(user)
    assert account is not None
    assert undone(cloud, account).dropped == 1
    cloud.set_flags(user, trusted=True)
    cloud.sweep()
    cloud.deliver("share")
    assert cloud.laion() == {}
    assert cloud.rows("HELD") == []


@pytest.mark.lengthy
def test_the_report_is_one_that_an_operator_can_read(cloud: Cloud, liar: tuple[User, str]) -> None:
    user, _ = liar
    lines = undone(cloud, user, dry_run=True).text(user, dry_run=True).splitlines()
    assert lines[0] == f"{user.username} would be flagged"
    assert "1 would be revoked" in lines[1]
