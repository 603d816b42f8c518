"""API keys: what a worker key may do, and how keys are listed, added, rotated and revoked."""

import importlib
from typing import Any

import pytest

from horde.edge.auth import key_hash
from horde.edge.http import Key, Route
from horde.records import ApiKey
from horde.rules.accounts import MAX_API_KEYS
from horde.rules.raters import DATASET_ID
from horde.store.apikeys import ApiKeys
from infra.contract import routes_of
from infra.operate import OperatorError, account_commands
from tests.support.api_calls import ANONYMOUS, Reply, refused
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR, REWARD
from tests.support.template import ROOT

LIST, ADD = "GET /api/v2/keys", "POST /api/v2/keys"
ROTATE, REVOKE = "POST /api/v2/keys/{id}/rotate", "DELETE /api/v2/keys/{id}"


def ids(cloud: Cloud, key: str) -> list[str]:
    answer = cloud.call(LIST, key=key)
    assert answer.status == 200, answer
    return [one["id"] for one in answer.body]


def id_of(key: str) -> str:
    return key_hash(key)[:12]


def added(cloud: Cloud, key: str, **fields: Any) -> str:
    answer = cloud.call(ADD, fields, key=key)
    assert answer.status == 201, answer
    return str(answer.body["api_key"])


def works(cloud: Cloud, key: str) -> bool:
    answer = cloud.call("GET /api/v2/users/{id}", key=key, id="1")
    assert answer.status == 200 or answer.body["rc"] == "InvalidAPIKey"
    return answer.status == 200


# --- what a worker key may do ---------------------------------------------------------------------

IMAGE = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
FOR_WORKERS = {
    "POST /api/v2/generate/pop",
    "POST /api/v2/generate/submit",
    "GET /api/v2/find_user",
}
"""The routes that a worker key may use."""
BODIES: dict[str, Any] = {
    "POST /api/v2/generate/async": {"prompt": "a fox"},
    ADD: {"name": "mine"},
    "POST /api/v2/kudos/award": {"username": "thief#2", "amount": 1000},
    "POST /api/v2/kudos/transfer": {"username": "thief#2", "amount": 1000},
    "PUT /api/v2/sharedkeys": {"name": "for me"},
    "PATCH /api/v2/sharedkeys/{id}": {"kudos": 5000},
    "PUT /api/v2/status/modes": {"maintenance_mode": True},
    "PUT /api/v2/users/{id}": {"kudos": 1000, "moderator": True, "contact": "me, the thief"},
    "PUT /api/v2/workers/{id}": {"paused": True},
    "POST /api/v1/rating/{id}": {"rating": 10},
    "POST /api/v2/styles/image": {"name": "mine", "models": ["stable_diffusion"]},
    "PATCH /api/v2/styles/image/{id}": {"name": "mine"},
    "POST /api/v2/styles/image/{id}/example": {"url": "https://thief.example"},
    "PATCH /api/v2/styles/image/{id}/example/{example_id}": {"url": "https://thief.example"},
}
"""What a thief sends. A new route that takes a key and a body needs its line."""


def routes_with_a_key() -> dict[str, Route]:
    found: dict[str, Route] = {}
    for path in sorted((ROOT / "functions").glob("*.py")):
        module = importlib.import_module(path.stem)
        if hasattr(module, "ROUTES"):
            found |= {name: module.ROUTES[name] for name in routes_of(path.stem)}
    return {name: route for name, route in found.items() if route.key is not Key.UNUSED}


@pytest.mark.parametrize("name", sorted(routes_with_a_key().keys() - FOR_WORKERS))
def test_an_admins_worker_key_does_nothing_but_pop_and_submit(cloud: Cloud, name: str) -> None:
    cloud.overrides["ADMINS"] = "1"
    (ada, key), (thief, _) = cloud.register("ada", kudos=1000), cloud.register("thief")
    shared = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    worker = cloud.worker_key(ada)
    cloud.pop(worker)
    worker_id = cloud.worker_named()["id"]
    ids = {"users": str(ada), "sharedkeys": shared, "workers": worker_id, "keys": id_of(key)}
    part = name.partition("/v2/")[2].partition("/")[0]
    path = {"id": ids.get(part, IMAGE)} if "{id}" in name else {}
    path |= {"example_id": IMAGE} if "{example_id}" in name else {}
    others = {"name": "w1", "image_id": IMAGE, "user_id": str(ada), "dataset_id": DATASET_ID}
    others["model_name"] = "stable_diffusion"
    path |= {key: value for key, value in others.items() if f"{{{key}}}" in name}
    body = BODIES[name] if routes_with_a_key()[name].body else None
    before = list(cloud.items())
    refused(cloud.call(name, body, key=worker, **path), "NotPrivileged", 403)
    assert list(cloud.items()) == before
    assert cloud.kudos(thief) == FLOOR


def test_a_worker_key_finds_its_owner_and_no_more(cloud: Cloud) -> None:
    """An unmodified worker asks for its account at its start."""
    cloud.overrides["MONTHLY_KUDOS"] = "500"
    ada, key = cloud.register("ada")
    assert cloud.change_user(key, ada, contact="by mail").status == 200
    worker = cloud.worker_key(ada)
    seen = cloud.find_user(worker)
    assert (seen["username"], seen["id"], seen["kudos"]) == (f"ada#{ada}", ada, FLOOR)
    assert not {"contact", "sharedkey_ids", "worker_ids", "monthly_kudos"} & seen.keys()
    assert "active_generations" not in seen
    assert cloud.kudos(ada) == FLOOR  # its owner does not use the account
    assert cloud.find_user(key)["kudos"] == FLOOR + 500


def test_a_worker_key_of_a_deleted_account_is_refused_everywhere(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    worker = cloud.worker_key(ada)
    cloud.generate()
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    assert cloud.call("DELETE /api/v2/users/{id}", key=key, id=str(ada)).status == 200
    for answer in (
        cloud.pop(worker),
        cloud.submit(worker, job["id"]),
        cloud.call("GET /api/v2/find_user", key=worker),
    ):
        refused(answer, "DeletedUser", 403)
    assert cloud.kudos(ada) == FLOOR


# --- their list -----------------------------------------------------------------------------------


def test_an_owner_lists_the_keys_and_sees_none(cloud: Cloud) -> None:
    (ada, key), (_, other) = cloud.register("ada"), cloud.register("bob")
    cloud.clock.pass_seconds(60)
    worker = cloud.worker_key(ada)
    cloud.clock.pass_seconds(60)
    second = added(cloud, key, name="my phone")
    shown = cloud.call(LIST, key=second).body
    assert [(one["id"], one.get("name"), one["worker"], one["fleet"]) for one in shown] == [
        (id_of(key), None, False, False),
        (id_of(worker), None, True, False),
        (id_of(second), "my phone", False, False),
    ]
    assert all(one["created_at"].endswith("Z") for one in shown)
    assert not any(secret in str(shown) for secret in (key, worker, second))
    assert ids(cloud, other) == [id_of(other)]


def test_only_an_accounts_own_key_lists_and_changes_its_keys(cloud: Cloud) -> None:
    (_, key), (_, other) = cloud.register("ada"), cloud.register("bob")
    for route in (ROTATE, REVOKE):
        refused(cloud.call(route, key=other, id=id_of(key)), "KeyNotFound", 404)
        refused(cloud.call(route, key=key, id="0" * 12), "KeyNotFound", 404)
        refused(cloud.call(route, key=key, id=key_hash(key)), "KeyNotFound", 404)
        refused(cloud.call(route, key=ANONYMOUS, id=id_of(key)), "AnonForbidden", 403)
    for route, body in ((LIST, None), (ADD, {})):
        refused(cloud.call(route, body, key=ANONYMOUS), "AnonForbidden", 403)
        refused(cloud.call(route, body, key="x" * 22), "InvalidAPIKey", 401)
    assert works(cloud, key)


def as_before_lists(cloud: Cloud, user: int, *keys: str) -> None:
    """Make an account and its keys as earlier versions wrote them."""
    for key in keys:
        cloud.db.update_item(
            TableName=cloud.table,
            Key={"pk": {"S": f"KEY#{key_hash(key)}"}, "sk": {"S": "KEY"}},
            UpdateExpression="REMOVE listed, listed_at, created_at",
        )
    cloud.db.update_item(
        TableName=cloud.table,
        Key={"pk": {"S": f"USER#{user}"}, "sk": {"S": "USER"}},
        UpdateExpression="REMOVE account_keys",
    )


def test_keys_from_before_there_was_a_list_work_and_are_adopted(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    worker = cloud.worker_key(ada)
    as_before_lists(cloud, ada, key, worker)
    assert ids(cloud, key) == [id_of(key)]
    assert cloud.pop(worker).status == 200
    refused(cloud.call(REVOKE, key=key, id=id_of(key)), "LastAccountKey", 403)
    assert account_commands.keys(cloud.store, f"ada#{ada}") == []
    lines = account_commands.keys(cloud.store, f"ada#{ada}", adopt=True)
    assert sorted(line.split()[:2] for line in lines) == sorted(
        [[id_of(key), "account"], [id_of(worker), "worker"]]
    )
    assert sorted(ids(cloud, key)) == sorted([id_of(key), id_of(worker)])
    again = cloud.call(ROTATE, key=key, id=id_of(key)).body["api_key"]
    assert sorted(ids(cloud, again)) == sorted([id_of(again), id_of(worker)])


def test_a_second_key_of_an_account_from_before_can_be_revoked(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    as_before_lists(cloud, ada, key)
    second = added(cloud, key)
    assert cloud.call(REVOKE, key=key, id=id_of(key)).status == 200
    refused(cloud.call(REVOKE, key=second, id=id_of(second)), "LastAccountKey", 403)


# --- added, rotated, revoked ----------------------------------------------------------------------


def test_a_new_key_is_shown_once_and_does_what_the_first_one_does(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    answer = cloud.call(ADD, {"name": "my phone"}, key=key)
    assert (answer.status, answer.headers["Cache-Control"]) == (201, "no-store")
    second = answer.body["api_key"]
    assert len(second) == 22
    assert cloud.change_user(second, ada, username="lovelace").status == 200
    assert not any(second in str(item) for item in cloud.items())


def test_an_account_has_so_many_account_keys_and_worker_keys_do_not_count(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    for _ in range(MAX_API_KEYS):
        cloud.worker_key(ada)
    for number in range(MAX_API_KEYS - 1):
        added(cloud, key, name=f"key {number}")
    refused(cloud.call(ADD, {}, key=key), "TooManyKeys", 403)
    assert cloud.call(REVOKE, key=key, id=id_of(key)).status == 200
    assert not works(cloud, key)


def test_a_rotated_key_stops_at_once_and_the_new_one_is_of_its_kind(
    cloud: Cloud, worker: str, owner: int
) -> None:
    ada, key = cloud.register("ada")
    second = added(cloud, key, name="my phone")
    assert works(cloud, second)  # whatever a process has seen of it
    answer = cloud.call(ROTATE, key=key, id=id_of(second))
    assert (answer.status, answer.body["name"]) == (200, "my phone")
    assert answer.headers["Cache-Control"] == "no-store"
    assert not works(cloud, second)
    assert works(cloud, answer.body["api_key"])
    assert answer.body["id"] == id_of(answer.body["api_key"])
    refused(cloud.call(ROTATE, key=key, id=id_of(second)), "KeyNotFound", 404)
    mine = cloud.worker_key(ada)
    cloud.pop(mine, name="mine")
    fresh = cloud.call(ROTATE, key=key, id=id_of(mine)).body["api_key"]
    refused(cloud.pop(mine, name="mine"), "InvalidAPIKey", 401)
    assert cloud.pop(fresh, name="mine").status == 200
    refused(cloud.generate(fresh), "NotPrivileged", 403)


def test_a_revoked_key_stops_at_once(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=100)
    worker, second = cloud.worker_key(ada), added(cloud, key)
    cloud.generate()
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    assert works(cloud, second)
    for one in (worker, second):
        assert cloud.call(REVOKE, key=key, id=id_of(one)).body == {"message": "OK"}
        refused(cloud.call(REVOKE, key=key, id=id_of(one)), "KeyNotFound", 404)
    refused(cloud.submit(worker, job["id"]), "InvalidAPIKey", 401)
    refused(cloud.pop(worker), "InvalidAPIKey", 401)
    refused(cloud.call("GET /api/v2/find_user", key=worker), "UserNotFound", 404)
    refused(cloud.generate(second), "InvalidAPIKey", 401)
    assert not works(cloud, second)
    assert ids(cloud, key) == [id_of(key)]


def test_the_last_account_key_is_rotated_but_not_revoked(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    cloud.worker_key(ada)  # is no way into the account
    refused(cloud.call(REVOKE, key=key, id=id_of(key)), "LastAccountKey", 403)
    fresh = cloud.call(ROTATE, key=key, id=id_of(key)).body["api_key"]
    assert (works(cloud, key), works(cloud, fresh)) == (False, True)
    refused(cloud.call(REVOKE, key=fresh, id=id_of(fresh)), "LastAccountKey", 403)


def overtaken(monkeypatch: pytest.MonkeyPatch, name: str, first: Any) -> None:
    """Have something happen right before a key's next change of a kind."""
    real = getattr(ApiKeys, name)

    def late(self: ApiKeys, *args: Any) -> Any:
        monkeypatch.setattr(ApiKeys, name, real)
        first()
        return real(self, *args)

    monkeypatch.setattr(ApiKeys, name, late)


def test_of_two_rotations_at_once_one_makes_a_key(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = cloud.register("ada")
    won: list[Reply] = []
    overtaken(monkeypatch, "rotate", lambda: won.append(cloud.call(ROTATE, key=key, id=id_of(key))))
    refused(cloud.call(ROTATE, key=key, id=id_of(key)), "KeyNotFound", 404)
    (answer,) = won
    assert ids(cloud, answer.body["api_key"]) == [id_of(answer.body["api_key"])]


def test_two_revocations_at_once_leave_a_key(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    _, key = cloud.register("ada")
    second = added(cloud, key)
    overtaken(monkeypatch, "revoke", lambda: cloud.call(REVOKE, key=second, id=id_of(key)))
    refused(cloud.call(REVOKE, key=key, id=id_of(second)), "LastAccountKey", 403)
    assert (works(cloud, key), works(cloud, second)) == (False, True)


def test_the_limit_of_keys_is_a_condition_of_the_transaction(cloud: Cloud) -> None:
    ada, _ = cloud.register("ada")
    made = [ApiKey(hash=key_hash(str(number)), user_id=ada) for number in range(3)]
    assert [cloud.store.keys.add(one, 3) for one in made] == [True, True, False]
    assert cloud.store.keys.get(made[2].hash) is None


def test_no_key_is_added_to_a_deleted_account(cloud: Cloud) -> None:
    ada, _ = cloud.register("ada")
    cloud.set_flags(ada, deleted=True)
    assert not cloud.store.keys.add(ApiKey(hash=key_hash("x"), user_id=ada), MAX_API_KEYS)


def test_the_operator_lists_rotates_and_revokes_keys(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    name = f"ada#{ada}"
    worker = account_commands.worker_key(cloud.store, name, name="a pod")
    (line,) = [found for found in account_commands.keys(cloud.store, name) if "worker key" in found]
    assert line.split()[0] == id_of(worker)
    assert line.endswith("a pod")
    fresh = account_commands.rotate_key(cloud.store, name, id_of(worker))
    refused(cloud.pop(worker), "InvalidAPIKey", 401)
    assert cloud.pop(fresh).status == 200
    account_commands.revoke_key(cloud.store, name, id_of(fresh))
    refused(cloud.pop(fresh), "InvalidAPIKey", 401)
    with pytest.raises(OperatorError, match="last account key"):
        account_commands.revoke_key(cloud.store, name, id_of(key))
    mine = account_commands.rotate_key(cloud.store, name, id_of(key))
    assert (works(cloud, key), works(cloud, mine)) == (False, True)


def test_keys_may_be_changed_five_times_a_minute(cloud: Cloud) -> None:
    cloud.overrides["RATE_LIMITS"] = "true"
    cloud.clock.freeze(cloud.clock.now_ms() // 60_000 * 60_000)
    _, key = cloud.register("ada")
    seen = [cloud.call(ROTATE, key=key, id="0" * 12).status for _ in range(6)]
    assert seen == [404] * 5 + [429]


# --- the fleet ------------------------------------------------------------------------------------


def test_a_request_for_trusted_workers_is_drawn_by_the_fleet_and_by_no_volunteer(
    cloud: Cloud,
) -> None:
    (fleet, key), (volunteer, _) = cloud.register("fleet"), cloud.register("volunteer")
    pod = account_commands.worker_key(cloud.store, f"fleet#{fleet}", fleet=True)
    other = account_commands.worker_key(cloud.store, f"volunteer#{volunteer}")
    cloud.generate(trusted_workers=True)
    popped = cloud.pop(other, name="a volunteer").body
    assert (popped["id"], popped["skipped"]) == (None, {"untrusted": 1})
    assert len(cloud.draw(pod)) == 1
    assert cloud.kudos(fleet) == FLOOR + REWARD
    owners = [cloud.store.accounts.get(user) for user in (fleet, volunteer)]
    assert [(one.fleet, one.trusted) for one in owners if one] == [(True, True), (False, False)]
    shown = {one["worker"]: one["fleet"] for one in cloud.call(LIST, key=key).body}
    assert shown == {False: False, True: True}


def test_a_fleets_account_is_marked_with_its_key_or_not_at_all(cloud: Cloud) -> None:
    fleet, _ = cloud.register("fleet")
    made = ApiKey(hash=key_hash("pod"), user_id=fleet, worker=True)
    assert cloud.store.keys.add_worker_key(made)
    assert not cloud.store.keys.add_worker_key(made, fleet=True)  # the key is there already
    owner = cloud.store.accounts.get(fleet)
    assert owner is not None
    assert not owner.trusted
    nobody = ApiKey(hash=key_hash("pod 2"), user_id=99, worker=True)
    assert not cloud.store.keys.add_worker_key(nobody, fleet=True)
    assert cloud.store.accounts.get(99) is None
