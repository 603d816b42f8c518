"""An account's own key runs its workers only where the operator allows it, and only its own."""

from typing import Any

import pytest

from horde.edge import auth
from tests.support.api_calls import ANONYMOUS, refused
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR, REWARD

ROTATE = "POST /api/v2/keys/{id}/rotate"


@pytest.fixture
def open_cloud(cloud: Cloud) -> Cloud:
    """A cloud whose operator lets account keys pop."""
    cloud.overrides["ACCOUNT_KEYS_POP"] = "true"
    return cloud


def id_of(key: str) -> str:
    return auth.key_hash(key)[:12]


def changed(cloud: Cloud, before: list[Any]) -> bool:
    return list(cloud.items()) != before


@pytest.mark.lengthy
def test_an_account_key_cannot_pop_or_submit_by_default(cloud: Cloud, owner: int) -> None:
    key, worker = cloud.register("volunteer")[1], cloud.worker_key(owner)
    cloud.generate()
    job = cloud.pop(worker).body["id"]
    before = list(cloud.items())
    refused(cloud.pop(key, name="mine"), "NotPrivileged", 403)
    refused(cloud.submit(key, job), "NotPrivileged", 403)
    refused(cloud.call("POST /api/v2/generate/pop", {}, key=key), "NotPrivileged", 403)
    assert not changed(cloud, before)


def test_where_it_is_allowed_an_unmodified_worker_draws_with_its_owners_key(
    open_cloud: Cloud,
) -> None:
    user, key = open_cloud.register("volunteer")
    request = open_cloud.generate(extra_slow_workers=True).body["id"]
    assert open_cloud.call("GET /api/v2/find_user", key=key).body["username"] == f"volunteer#{user}"
    open_cloud.draw(key, name="mine")
    assert open_cloud.status(request).body["finished"] == 1
    open_cloud.pay()
    assert open_cloud.kudos(user) == FLOOR + REWARD
    assert open_cloud.worker_named("mine", key)["owner"] == f"volunteer#{user}"


def test_an_account_key_runs_only_workers_of_its_own_account(
    open_cloud: Cloud, worker: str
) -> None:
    open_cloud.pop(worker)
    open_cloud.generate()
    job = open_cloud.pop(worker).body
    open_cloud.upload(job["r2_upload"])
    key = open_cloud.register("thief")[1]
    before = list(open_cloud.items())
    refused(open_cloud.pop(key), "PolymorphicNameConflict")
    refused(open_cloud.submit(key, job["id"]), "WrongCredentials", 403)
    refused(open_cloud.submit(key, job["id"], state="faulted"), "WrongCredentials", 403)
    assert not changed(open_cloud, before)
    assert open_cloud.submit(worker, job["id"]).status == 200


def test_no_other_key_pops_where_account_keys_do(open_cloud: Cloud) -> None:
    key = open_cloud.register("ada", kudos=1000)[1]
    shared = open_cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    refused(open_cloud.pop(ANONYMOUS), "AnonForbiddenWorker", 403)
    refused(open_cloud.pop(shared), "InvalidAPIKey", 401)
    refused(open_cloud.pop("a" * 22), "InvalidAPIKey", 401)
    new = open_cloud.call(ROTATE, key=key, id=id_of(key)).body["api_key"]
    refused(open_cloud.pop(key), "InvalidAPIKey", 401)
    assert open_cloud.pop(new).status == 200


def test_a_worker_that_pops_with_an_account_key_has_the_limits_of_a_volunteers(
    open_cloud: Cloud,
) -> None:
    user, key = open_cloud.register("volunteer")
    for number in range(3):
        assert open_cloud.pop(key, name=f"mine {number}").status == 200
    refused(open_cloud.pop(key, name="one more"), "TooManyWorkers", 403)
    open_cloud.set_flags(user, flagged=True)
    refused(open_cloud.pop(key, name="mine 0"), "WorkerFlaggedMaintenance", 403)
    open_cloud.set_flags(user, flagged=False, deleted=True)
    assert open_cloud.pop(key, name="mine 0").status == 403


def test_the_operators_own_workers_pop_with_a_worker_key_alone(open_cloud: Cloud) -> None:
    user, key = open_cloud.register("operator")
    worker = open_cloud.worker_key(user, fleet=True)
    refused(open_cloud.pop(key), "NotPrivileged", 403)
    assert open_cloud.pop(worker).status == 200
    refused(open_cloud.pop(key), "NotPrivileged", 403)


def test_a_worker_key_does_no_more_where_account_keys_pop(
    open_cloud: Cloud, owner: int, worker: str
) -> None:
    refused(open_cloud.generate(worker), "NotPrivileged", 403)
    body = {"username": "ada#9", "amount": 1}
    refused(open_cloud.call("POST /api/v2/kudos/transfer", body, key=worker), "NotPrivileged", 403)
    made = open_cloud.store.keys.get(auth.key_hash(worker))
    assert made is not None
    assert (made.user_id, made.worker) == (owner, True)
