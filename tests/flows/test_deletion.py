"""Deleting an account: what it has waiting is cancelled and refunded, and nothing is added."""

from typing import Any

import pytest

from horde import ending
from horde.records import State
from horde.rules.refusals import Busy
from horde.store.due import Due, DueRow
from horde.store.requests import Requests
from tests.support.api_calls import Reply, refused
from tests.support.cloud import Cloud
from tests.support.numbers import COST, FLOOR, LIFE_S, MAX_FAULTS

ONE = "/api/v2/users/{id}"


def delete(cloud: Cloud, key: str, user: int) -> Reply:
    return cloud.call(f"DELETE {ONE}", key=key, id=str(user))


def states(cloud: Cloud, *requests: str) -> list[State]:
    found = [cloud.store.requests.get(one) for one in requests]
    return [g.state for r in found if r for g in cloud.store.requests.generations(r)]


def is_due(cloud: Cloud, user: int) -> bool:
    rows = cloud.due(cloud.clock.now_ms() // 1000 + LIFE_S)
    return any((row.kind, row.id) == (Due.ACCOUNT, str(user)) for row in rows)


def test_what_a_deleted_account_has_waiting_is_cancelled_and_refunded(
    cloud: Cloud, worker: str
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    requests = [cloud.generate(key, shared=True, params={"n": 5}).body["id"] for _ in range(3)]
    cloud.pop(worker, models=["rare"])
    anonymous = cloud.generate(models=["rare"]).body["id"]
    assert delete(cloud, key, ada).status == 200
    assert set(states(cloud, *requests)) == {State.CANCELLED}
    assert states(cloud, anonymous) == [State.WAITING]
    assert cloud.kudos(ada) == FLOOR + 1000
    assert cloud.draw(worker) == []


def test_what_a_shared_key_of_a_deleted_account_has_waiting_is_cancelled(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    request = cloud.generate(gift, params={"n": 2}).body["id"]
    assert delete(cloud, key, ada).status == 200
    assert set(states(cloud, request)) == {State.CANCELLED}
    assert cloud.kudos(ada) == FLOOR + 1000


def test_more_requests_than_one_read_has_are_cancelled(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horde.store.table.BATCH", 2)
    ada, key = cloud.register("ada", kudos=1000)
    requests = [cloud.generate(key).body["id"] for _ in range(5)]
    held = [cloud.pop(worker).body["id"] for _ in range(3)]
    assert delete(cloud, key, ada).status == 200
    for image in held:
        assert cloud.submit(worker, image, state="faulted").status == 200
    assert set(states(cloud, *requests)) == {State.CANCELLED}
    assert cloud.kudos(ada) == FLOOR + 1000


def test_an_image_in_a_workers_hands_is_delivered_or_refunded_but_not_drawn_again(
    cloud: Cloud, worker: str
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    delivered, faulted = (cloud.generate(key).body["id"] for _ in range(2))
    first, second = (cloud.pop(worker).body for _ in range(2))
    assert delete(cloud, key, ada).status == 200
    cloud.upload(first["r2_upload"])
    assert cloud.submit(worker, first["id"]).status == 200
    assert MAX_FAULTS > 1
    assert cloud.submit(worker, second["id"], state="faulted").status == 200
    assert states(cloud, delivered, faulted) == [State.OK, State.CANCELLED]
    assert cloud.pop(worker).body["id"] is None
    assert cloud.kudos(ada) == FLOOR + 1000 - COST


def dies(*_: object) -> None:
    message = "the process is killed"
    raise SystemExit(message)


def test_a_deletion_that_died_before_it_cancelled_is_finished_by_the_sweep(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    request = cloud.generate(key, params={"n": 5}).body["id"]
    with monkeypatch.context() as patch:
        patch.setattr(ending, "cancel_all_of", dies)
        with pytest.raises(SystemExit):
            delete(cloud, key, ada)
    refused(delete(cloud, key, ada), "DeletedUser", 403)
    assert set(states(cloud, request)) == {State.WAITING}
    cloud.sweep()
    assert set(states(cloud, request)) == {State.CANCELLED}
    assert cloud.kudos(ada) == FLOOR + 1000
    assert cloud.draw(worker) == []


def test_a_deletion_that_died_between_two_requests_is_finished_by_the_sweep(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    requests = [cloud.generate(key, params={"n": 2}).body["id"] for _ in range(3)]
    real, left = ending.cancel, [1]

    def once(*args: Any) -> None:
        if not left:
            dies()
        left.pop()
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(ending, "cancel", once)
        with pytest.raises(SystemExit):
            delete(cloud, key, ada)
    assert set(states(cloud, *requests)) == {State.WAITING, State.CANCELLED}
    cloud.sweep()
    assert set(states(cloud, *requests)) == {State.CANCELLED}
    assert cloud.kudos(ada) == FLOOR + 1000


def test_a_deletion_whose_account_is_too_busy_succeeds_and_the_sweep_goes_on(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    request = cloud.generate(key).body["id"]

    def busy(*_: object) -> None:
        raise Busy

    with monkeypatch.context() as patch:
        patch.setattr(ending, "cancel", busy)
        assert delete(cloud, key, ada).body == {"message": "OK"}
    assert states(cloud, request) == [State.WAITING]
    cloud.sweep()
    assert states(cloud, request) == [State.CANCELLED]


def test_a_deleted_account_is_due_until_the_sweep_has_cancelled_what_it_had_open(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    request = cloud.generate(key, params={"n": 2}).body["id"]

    def dies(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(Requests, "cancel", dies)
        assert delete(cloud, key, ada).status == 500
        with pytest.raises(ExceptionGroup):
            cloud.sweep()
    assert is_due(cloud, ada)
    cloud.sweep()
    assert not is_due(cloud, ada)
    assert states(cloud, request) == [State.CANCELLED] * 2


def test_no_request_slips_in_after_the_deletion(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is deleted between the last check of a request and its charge."""
    (ada, key), real = cloud.register("ada", kudos=1000), Requests.accept

    def late(self: Requests, *args: Any, **more: Any) -> None:
        monkeypatch.setattr(Requests, "accept", real)
        assert delete(cloud, key, ada).status == 200
        real(self, *args, **more)

    monkeypatch.setattr(Requests, "accept", late)
    refused(cloud.generate(key), "DeletedUser", 403)
    assert cloud.rows("REQUEST") == []
    assert cloud.kudos(ada) == FLOOR + 1000


@pytest.mark.parametrize("how", ["an account key", "a shared key", "waived"])
def test_no_charge_to_a_deleted_account(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    (ada, key), real = cloud.register("ada", kudos=3 if how == "waived" else 1000), Requests.accept
    if how == "a shared key":
        key = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]

    def late(self: Requests, *args: Any, **more: Any) -> None:
        cloud.set_flags(ada, deleted=True)
        real(self, *args, **more)

    monkeypatch.setattr(Requests, "accept", late)
    refused(cloud.generate(key), "DeletedUser", 403)
    assert cloud.rows("REQUEST") == []


def test_an_undeleted_account_asks_again_and_the_sweep_cancels_nothing(
    cloud: Cloud, moderator: str
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    before = cloud.generate(key).body["id"]
    assert delete(cloud, key, ada).status == 200
    assert cloud.change_user(moderator, ada, undelete=True).body == {"deleted": False}
    assert not is_due(cloud, ada)
    after = cloud.generate(key).body["id"]
    cloud.sweep()
    assert states(cloud, before, after) == [State.CANCELLED, State.WAITING]


def test_a_row_that_the_index_still_shows_after_an_undeletion_cancels_nothing(
    cloud: Cloud, moderator: str
) -> None:
    from horde import overdue

    ada, key = cloud.register("ada", kudos=1000)
    assert delete(cloud, key, ada).status == 200
    assert cloud.change_user(moderator, ada, undelete=True).status == 200
    request = cloud.generate(key).body["id"]
    now = cloud.clock.now_ms() // 1000
    overdue.finish(cloud.store, DueRow(Due.ACCOUNT, str(ada)), now)
    assert states(cloud, request) == [State.WAITING]
