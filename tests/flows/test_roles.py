"""Rights come from settings and roles: what moderators may not do to admins, peers and themselves.

What everybody may do is in ``test_accounts`` and ``test_fleet``, awards are in ``test_transfers``.
"""

from typing import Any

import pytest

from tests.support.api_calls import Reply, refused
from tests.support.cloud import Cloud, new_processes
from tests.support.numbers import FLOOR

USER, WORKER = "/api/v2/users/{id}", "/api/v2/workers/{id}"
FIELDS: dict[str, Any] = {
    "username": "a fool",
    "contact": "nowhere",
    "concurrency": 0,
    "trusted": True,
    "flagged": True,
    "admin_comment": "a fool",
    "undelete": True,
}
"""What a moderator may change of others."""


@pytest.fixture
def peer(cloud: Cloud, admin: str, moderator: str) -> str:
    """The key of another moderator."""
    user, key = cloud.register("peer")
    assert cloud.change_user(admin, user, moderator=True).status == 200
    return key


def number(cloud: Cloud, key: str) -> int:
    found: int = cloud.find_user(key)["id"]
    return found


def delete(cloud: Cloud, key: str, user: int) -> Reply:
    return cloud.call(f"DELETE {USER}", key=key, id=str(user))


@pytest.mark.parametrize("field", FIELDS)
def test_a_moderator_changes_nothing_of_an_admin_or_another_moderator(
    cloud: Cloud, admin: str, moderator: str, peer: str, field: str
) -> None:
    for above in (admin, peer):
        user = number(cloud, above)
        before = cloud.store.accounts.get(user)
        refused(cloud.change_user(moderator, user, **{field: FIELDS[field]}), "NotAdmin", 403)
        assert cloud.store.accounts.get(user) == before
        assert cloud.change_user(admin, user, **{field: FIELDS[field]}).status == 200


def test_a_moderator_deletes_neither_an_admin_nor_another_moderator(
    cloud: Cloud, admin: str, moderator: str, peer: str
) -> None:
    for above in (admin, peer):
        refused(delete(cloud, moderator, number(cloud, above)), "NotAdmin", 403)
        assert cloud.find_user(above)["deleted"] is False
    assert delete(cloud, admin, number(cloud, peer)).status == 200
    refused(cloud.change_user(moderator, 3, undelete=True), "NotAdmin", 403)


@pytest.mark.parametrize("field", ["concurrency", "trusted", "flagged", "admin_comment"])
def test_a_moderator_does_not_raise_himself(
    cloud: Cloud, admin: str, moderator: str, field: str
) -> None:
    me = number(cloud, moderator)
    before = cloud.store.accounts.get(me)
    refused(cloud.change_user(moderator, me, **{field: FIELDS[field]}), "NotAdmin", 403)
    sent = {"contact": "by mail", field: FIELDS[field]}
    refused(cloud.change_user(moderator, me, **sent), "NotAdmin", 403)
    refused(cloud.change_user(moderator, me, kudos=1000), "NotAdmin", 403)
    assert cloud.store.accounts.get(me) == before
    assert cloud.change_user(admin, me, **{field: FIELDS[field]}).status == 200


def test_a_moderator_is_the_owner_of_his_own_account(cloud: Cloud, moderator: str) -> None:
    me = number(cloud, moderator)
    assert cloud.change_user(moderator, me, username="modern", contact="by mail").status == 200
    assert delete(cloud, moderator, me).status == 200


def test_an_admin_does_everything_to_everybody(cloud: Cloud, admin: str, moderator: str) -> None:
    cloud.overrides["ADMINS"] = "1, 3"
    new_processes()  # which read their settings anew
    _, other = cloud.register("second root")
    for user in (1, 2, 3):
        answer = cloud.change_user(admin, user, trusted=True, kudos=5)
        assert (answer.status, answer.body["new_kudos"]) == (200, FLOOR + 5)
    assert delete(cloud, other, 1).status == 200
    assert cloud.change_user(other, 1, undelete=True).body == {"deleted": False}


CHANGES: list[dict[str, Any]] = [
    {"paused": True},
    {"maintenance": True},
    {"name": "a fool's"},
    {"info": "a fool's"},
]


@pytest.mark.parametrize("body", CHANGES, ids=str)
def test_a_moderator_leaves_the_workers_of_admins_and_moderators_alone(
    cloud: Cloud, admin: str, moderator: str, peer: str, body: dict[str, Any]
) -> None:
    for above in (admin, peer):
        name = f"of {number(cloud, above)}"
        cloud.pop(cloud.worker_key(number(cloud, above)), name=name)
        worker = cloud.worker_named(name)["id"]
        before = cloud.store.workers.get(worker)
        for answer in (
            cloud.call(f"PUT {WORKER}", body, key=moderator, id=worker),
            cloud.call(f"DELETE {WORKER}", key=moderator, id=worker),
        ):
            refused(answer, "NotAdmin", 403)
        assert cloud.store.workers.get(worker) == before
        changed = {**body, **({"name": f"{name}, renamed"} if "name" in body else {})}
        assert cloud.call(f"PUT {WORKER}", changed, key=admin, id=worker).status == 200
        assert cloud.call(f"DELETE {WORKER}", key=admin, id=worker).status == 200


def test_a_moderator_does_not_end_the_pause_of_his_own_worker(
    cloud: Cloud, admin: str, moderator: str
) -> None:
    cloud.pop(cloud.worker_key(number(cloud, moderator)))
    worker = cloud.worker_named()["id"]
    assert cloud.call(f"PUT {WORKER}", {"paused": True}, key=admin, id=worker).status == 200
    answer = cloud.call(f"PUT {WORKER}", {"paused": False}, key=moderator, id=worker)
    refused(answer, "NotAdmin", 403)
    assert cloud.call(f"PUT {WORKER}", {"info": "mine"}, key=moderator, id=worker).status == 200


def test_before_the_operator_has_named_an_admin_nobody_is_special(cloud: Cloud) -> None:
    """Whoever is first: the settings that are deployed name nobody."""
    (first, key), (bob, _) = cloud.register("mallory"), cloud.register("bob")
    assert first == 1
    refused(cloud.change_user(key, bob, trusted=True), "NotModerator", 403)
    refused(cloud.change_user(key, first, kudos=10**9), "NotAdmin", 403)
    refused(delete(cloud, key, bob), "NotOwner", 403)
    modes = cloud.call("PUT /api/v2/status/modes", {"maintenance_mode": True}, key=key)
    refused(modes, "NotAdmin", 403)
    assert cloud.find_user(key)["moderator"] is False
