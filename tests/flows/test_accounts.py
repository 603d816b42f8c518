"""Accounts: what whom is shown, who may change what, and the list of all."""

from typing import Any

import pytest

from horde.rules import ruleset
from horde.store.workers import WORKER_KEEP_S
from tests.support.api_calls import ANONYMOUS, Reply
from tests.support.cloud import Cloud

ONE = "/api/v2/users/{id}"


def find(cloud: Cloud, key: str) -> Any:
    cloud.pay()
    answer = cloud.call("GET /api/v2/find_user", key=key)
    assert answer.status == 200, answer
    return answer.body


def show(cloud: Cloud, user: object, key: str | None = None) -> Reply:
    return cloud.call(f"GET {ONE}", key=key, id=str(user))


def change(cloud: Cloud, key: str, user: object, **fields: Any) -> Reply:
    return cloud.call(f"PUT {ONE}", fields, key=key, id=str(user))


def delete(cloud: Cloud, key: str, user: object) -> Reply:
    return cloud.call(f"DELETE {ONE}", key=key, id=str(user))


def listed(cloud: Cloud, **query: str) -> list[int]:
    answer = cloud.call("GET /api/v2/users", query=query)
    assert answer.status == 200, answer
    return [user["id"] for user in answer.body]


def refused(answer: Reply, rc: str, status: int = 403) -> None:
    assert (answer.status, answer.body.get("rc")) == (status, rc), answer
    assert answer.body["message"]


@pytest.fixture
def admin(cloud: Cloud) -> str:
    """The key of an account that the operator named."""
    cloud.overrides["ADMINS"] = "77, 1"
    user, key = cloud.register("root")
    assert user == 1
    return key


@pytest.fixture
def moderator(cloud: Cloud, admin: str) -> str:
    user, key = cloud.register("mod")
    assert change(cloud, admin, user, moderator=True).body == {"moderator": True}
    return key


def nulls(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return any(nulls(part) for part in value) if isinstance(value, list) else value is None


# --- what is shown --------------------------------------------------------------------------------


def test_a_new_account_is_shown_whole_and_without_nulls(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    cloud.clock.pass_seconds(100)
    found = find(cloud, key)
    assert 99 <= found.pop("account_age") <= 110
    amounts = {"image": 0, "text": 0, "interrogation": 0}
    assert found == {
        "username": f"ada#{ada}",
        "id": ada,
        "kudos": 14,
        "kudos_details": {
            "accumulated": 0,
            "gifted": 0,
            "received": 0,
            "admin": 14,
            "awarded": 0,
            "recurring": 0,
            "donated": 0,
            "styled": 0,
        },
        "pseudonymous": True,
        "moderator": False,
        "trusted": False,
        "flagged": False,
        "deleted": False,
        "service": False,
        "education": False,
        "customizer": False,
        "concurrency": 30,
        "usage": {"megapixelsteps": 0.0, "requests": 0},
        "contributions": {"megapixelsteps": 0.0, "fulfillments": 0},
        "records": {
            "usage": {"megapixelsteps": 0.0, "tokens": 0},
            "contribution": {"megapixelsteps": 0.0, "tokens": 0},
            "request": amounts,
            "fulfillment": amounts,
            "style": amounts,
        },
        "styles": [],
        "worker_count": 0,
        "worker_ids": [],
        "active_generations": {"image": [], "text": [], "alchemy": []},
        "monthly_kudos": {"amount": 0},
        "sharedkey_ids": [],
    }
    assert not nulls(find(cloud, ANONYMOUS))


def test_an_account_says_where_its_kudos_come_from(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    bob, other = cloud.register("bob", kudos=50)
    worker = cloud.worker_key(ada)
    cloud.generate(key, params={"n": 2})  # 20
    cloud.draw(worker)  # + 14
    cloud.call("POST /api/v2/kudos/transfer", {"username": f"bob#{bob}", "amount": 30}, key=key)
    cloud.call("POST /api/v2/kudos/award", {"username": f"bob#{bob}", "amount": 5}, key=key)
    mine, his = find(cloud, key), find(cloud, other)
    parts = mine["kudos_details"]
    assert (parts["accumulated"], parts["admin"], parts["gifted"]) == (-6, 1014, -30)
    assert sum(parts.values()) == mine["kudos"] == 978
    parts = his["kudos_details"]
    assert (parts["received"], parts["admin"], parts["awarded"]) == (30, 64, 5)
    assert sum(parts.values()) == his["kudos"] == 99


def test_an_account_counts_the_images_it_asked_for_and_drew(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    fleet, owner = cloud.register("fleet")
    worker = cloud.worker_key(fleet)
    request = cloud.generate(key, params={"n": 3, "steps": 20}).body["id"]
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"], state="censored").status == 200
    cloud.cancel(request)  # asked for is asked for
    mine, theirs = find(cloud, key), find(cloud, owner)
    assert mine["usage"] == {"megapixelsteps": 15.73, "requests": 3}
    assert mine["records"]["request"]["image"] == 3
    assert mine["contributions"]["fulfillments"] == 0
    assert theirs["contributions"] == {"megapixelsteps": 5.24, "fulfillments": 1}
    assert theirs["records"]["fulfillment"]["image"] == 1
    assert theirs["usage"]["requests"] == 0
    assert ada != fleet


def test_an_owner_finds_the_accounts_workers_and_others_their_number(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    worker = cloud.worker_key(ada)
    for name in ("one", "two"):
        cloud.pop(worker, name=name)
    ids = {row["id"]["S"] for row in cloud.rows("WORKER")}
    assert set(find(cloud, key)["worker_ids"]) == ids
    assert show(cloud, ada).body["worker_count"] == 2
    gone = min(ids)
    assert cloud.call("DELETE /api/v2/workers/{id}", key=key, id=gone).status == 200
    assert find(cloud, key)["worker_ids"] == [max(ids)]
    cloud.clock.pass_seconds(WORKER_KEEP_S)
    assert find(cloud, key)["worker_count"] == 0


def test_a_worker_at_work_stays_in_its_owners_list(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    worker = cloud.worker_key(ada)
    for _ in range(3):
        cloud.pop(worker)
        cloud.clock.pass_seconds(WORKER_KEEP_S / 2)
    assert len(find(cloud, key)["worker_ids"]) == 1


def test_an_owner_finds_the_requests_that_are_not_over(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    ids = []
    for _ in range(2):
        ids.append(cloud.generate(key).body["id"])
        cloud.clock.pass_seconds(1)
    cloud.generate(ANONYMOUS)
    assert find(cloud, key)["active_generations"]["image"] == ids[::-1]
    job = cloud.pop(cloud.worker_key(cloud.register("owner")[0])).body
    assert job["id"]
    assert find(cloud, key)["active_generations"]["image"] == ids[::-1]
    cloud.cancel(ids[1])
    assert find(cloud, key)["active_generations"]["image"] == ids[:1]
    for seconds in (
        ruleset.IN_FORCE.request_life_s + 1,
        60,
    ):  # the lease ends first, then the request
        cloud.clock.pass_seconds(seconds)
        cloud.sweep()
    assert find(cloud, key)["active_generations"]["image"] == []
    assert "active_generations" not in show(cloud, ada).body


def test_a_shared_key_finds_its_owner_and_no_more(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    made = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    assert find(cloud, key)["sharedkey_ids"] == [made]
    change(cloud, key, ada, contact="ada@example.org")
    found = find(cloud, made)
    assert (found["id"], found["username"]) == (ada, "ada (Shared Key: friends)")
    assert {"sharedkey_ids", "contact", "worker_ids"}.isdisjoint(found)
    unknown = "11111111-2222-4333-8444-555555555555"
    refused(cloud.call("GET /api/v2/find_user", key=unknown), "UserNotFound", 404)


def test_an_account_is_shown_by_its_number(cloud: Cloud, moderator: str) -> None:
    (ada, key), (_, other) = cloud.register("ada"), cloud.register("bob")
    change(cloud, key, ada, contact="ada@example.org")
    change(cloud, moderator, ada, admin_comment="a good one")
    owners = {"sharedkey_ids", "contact", "worker_ids", "active_generations"}
    private = {*owners, "admin_comment"}
    for who, seen in (
        (None, set[str]()),
        (ANONYMOUS, set[str]()),
        (other, set[str]()),
        (key, owners),
        (moderator, private),
    ):
        body = show(cloud, ada, who).body
        assert body["username"] == f"ada#{ada}"
        assert private & set(body) == seen
    refused(show(cloud, ada, "x" * 22), "InvalidAPIKey", 401)
    assert show(cloud, 0).body["username"] == "Anonymous#0"


@pytest.mark.parametrize("number", ["99", "x", "-1", "1.0", "²", "9" * 5000, "99999999999", "\x00"])
def test_an_unknown_account_is_a_404(cloud: Cloud, number: str) -> None:
    _, key = cloud.register("ada")
    for answer in (
        show(cloud, number),
        change(cloud, key, number, username="someone"),
        delete(cloud, key, number),
    ):
        refused(answer, "UserNotFound", 404)


# --- the list -------------------------------------------------------------------------------------


def test_the_list_is_in_order_of_kudos_whatever_moves_them(cloud: Cloud) -> None:
    keys = dict(cloud.register(f"user{n}", kudos=n * 100) for n in range(1, 5))
    assert listed(cloud) == [4, 3, 2, 1]
    cloud.call("POST /api/v2/kudos/transfer", {"username": "user1#1", "amount": 400}, key=keys[4])
    cloud.store.accounts.grant(2, 150)
    assert listed(cloud) == [1, 2, 3, 4]
    assert cloud.generate(keys[1], params={"n": 20}).status == 202  # 200
    assert listed(cloud) == [2, 1, 3, 4] if cloud.kudos(2) > cloud.kudos(1) else [1, 2, 3, 4]


def test_the_list_has_25_accounts_a_page(cloud: Cloud) -> None:
    for n in range(1, 28):
        cloud.register(f"user{n}", kudos=n if n % 2 else 0)
    rich = [*range(27, 0, -2), *range(2, 28, 2)]
    assert listed(cloud, sort="age") == list(range(1, 26))
    assert listed(cloud, sort="age", page="2") == [26, 27]
    assert listed(cloud, sort="age", page="3") == []
    pages = [listed(cloud, page=str(n)) for n in range(1, 4)]
    assert [len(page) for page in pages] == [25, 2, 0]
    assert [user for page in pages for user in page] == rich


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"page": "0"}, "page"),
        ({"page": "-1"}, "page"),
        ({"page": "x"}, "page"),
        ({"page": "9" * 5000}, "page"),
        ({"sort": "name"}, "sort"),
    ],
)
def test_a_list_that_is_not_is_a_schema_error(
    cloud: Cloud, query: dict[str, str], field: str
) -> None:
    answer = cloud.call("GET /api/v2/users", query=query)
    assert (answer.status, list(answer.body["errors"])) == (400, [field])


@pytest.mark.parametrize(
    "query", [{"page": "41"}, {"page": "10001", "sort": "age"}, {"page": "9" * 40}]
)
def test_a_page_beyond_the_last_is_empty(cloud: Cloud, query: dict[str, str]) -> None:
    cloud.register("ada")
    assert listed(cloud, **query) == []


def test_the_list_shows_what_everybody_may_see(cloud: Cloud, moderator: str) -> None:
    body = cloud.call("GET /api/v2/users", key=moderator).body
    assert all({"sharedkey_ids", "contact", "admin_comment"}.isdisjoint(user) for user in body)
    masked = cloud.call("GET /api/v2/users", headers={"X-Fields": "id"}).body
    assert all(list(user) == ["id"] for user in masked)


# --- changes --------------------------------------------------------------------------------------


def test_an_owner_renames_himself_and_leaves_a_contact(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    answer = change(cloud, key, ada, username="lovelace", contact="ada@example.org")
    assert (answer.status, answer.body) == (
        200,
        {"username": f"lovelace#{ada}", "contact": "ada@example.org"},
    )
    assert find(cloud, key)["username"] == f"lovelace#{ada}"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "ab"),
        ("username", "a#b"),
        ("username", "a\nbc"),
        ("username", "    "),
        ("username", "x" * 101),
        ("username", 5),
        ("contact", "abcd"),
        ("contact", "x" * 501),
        ("concurrency", 501),
        ("concurrency", -1),
        ("trusted", "yes"),
        ("kudos", 1.5),
        ("kudos", 10**40),
        ("admin_comment", ""),
    ],
)
def test_a_change_out_of_range_is_a_schema_error(
    cloud: Cloud, admin: str, field: str, value: Any
) -> None:
    ada, _ = cloud.register("ada")
    answer = change(cloud, admin, ada, **{field: value})
    assert (answer.status, list(answer.body["errors"])) == (400, [field])


def test_a_name_of_more_than_30_characters_is_too_long(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    refused(change(cloud, key, ada, username="x" * 31), "TooLongUserName", 400)
    assert change(cloud, key, ada, username="x" * 30).status == 200


def test_a_change_of_nothing_is_refused(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    for fields in ({}, {"username": None}, {"colour": "red"}):
        refused(change(cloud, key, ada, **fields), "NoUserModSelected", 400)


@pytest.mark.parametrize(
    "field",
    [
        "public_workers",
        "usage_multiplier",
        "worker_invited",
        "customizer",
        "vpn",
        "service",
        "education",
        "special",
        "filtered",
        "reset_suspicion",
        "generate_proxy_passkey",
    ],
)
def test_what_has_no_effect_is_refused_and_nothing_is_changed(
    cloud: Cloud, admin: str, field: str
) -> None:
    ada, _ = cloud.register("ada")
    answer = change(cloud, admin, ada, **{field: True, "username": "changed"})
    refused(answer, "BadRequest", 400)
    assert field in answer.body["message"]
    assert show(cloud, ada).body["username"] == f"ada#{ada}"


@pytest.mark.parametrize(
    ("field", "value", "rc"),
    [
        ("username", "changed", "NotOwner"),
        ("contact", "changed", "NotOwner"),
        ("concurrency", 7, "NotModerator"),
        ("trusted", True, "NotModerator"),
        ("flagged", True, "NotModerator"),
        ("admin_comment", "changed", "NotModerator"),
        ("undelete", True, "NotModerator"),
        ("kudos", 7, "NotAdmin"),
        ("moderator", True, "NotAdmin"),
        ("monthly_kudos", 7, "NotAdmin"),
    ],
)
def test_who_may_change_what(
    cloud: Cloud, moderator: str, admin: str, field: str, value: Any, rc: str
) -> None:
    (ada, key), (_, other) = cloud.register("ada"), cloud.register("bob")
    for who in (other, ANONYMOUS):
        refused(change(cloud, who, ada, **{field: value}), rc)
    by_owner = change(cloud, key, ada, **{field: value})
    by_moderator = change(cloud, moderator, ada, **{field: value})
    assert (by_owner.status == 200) is (rc == "NotOwner")
    assert (by_moderator.status == 200) is (rc != "NotAdmin")
    assert change(cloud, admin, ada, **{field: value}).status == 200
    refused(change(cloud, "x" * 22, ada, **{field: value}), "InvalidAPIKey", 401)
    assert "apikey" in cloud.call(f"PUT {ONE}", {field: value}, id=str(ada)).body["errors"]


def test_nobody_changes_or_deletes_the_anonymous_account(cloud: Cloud, admin: str) -> None:
    refused(change(cloud, admin, 0, concurrency=5), "AnonForbiddenUserMod")
    refused(change(cloud, ANONYMOUS, 0, username="nobody"), "AnonForbiddenUserMod")
    refused(delete(cloud, ANONYMOUS, 0), "AnonForbiddenUserMod")


def test_a_moderator_sets_how_much_an_account_may_have_waiting(
    cloud: Cloud, moderator: str
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    assert change(cloud, moderator, ada, concurrency=2).body == {"concurrency": 2}
    assert find(cloud, key)["concurrency"] == 2
    assert cloud.generate(key, params={"n": 3}).status == 429
    assert change(cloud, moderator, ada, concurrency=0).body == {"concurrency": 0}
    assert cloud.generate(key).status == 429
    assert change(cloud, moderator, ada, concurrency=3).status == 200
    assert cloud.generate(key, params={"n": 3}).status == 202


def test_a_flag_is_set_and_taken_away(cloud: Cloud, moderator: str) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    body = {"username": f"bob#{bob}", "amount": 10}
    assert change(cloud, moderator, ada, flagged=True).body == {"flagged": True}
    assert find(cloud, key)["flagged"] is True
    answer = cloud.call("POST /api/v2/kudos/transfer", body, key=key)
    refused(answer, "SourceAccountFlagged", 400)
    assert change(cloud, moderator, ada, flagged=False).body == {"flagged": False}
    assert cloud.call("POST /api/v2/kudos/transfer", body, key=key).status == 200


def test_an_admin_gives_and_takes_kudos_with_an_entry_in_the_ledger(
    cloud: Cloud, admin: str
) -> None:
    ada, _ = cloud.register("ada", kudos=6)
    answer = change(cloud, admin, ada, kudos=100, trusted=True)
    assert answer.body == {"new_kudos": 120, "trusted": True}
    entry = cloud.ledger(ada)[-1]
    assert (entry["kind"], entry["amount"]) == ("ADMIN_ADJUSTMENT", 100)
    refused(change(cloud, admin, ada, kudos=-107, flagged=True), "BadRequest", 400)
    assert show(cloud, ada).body["flagged"] is False
    assert change(cloud, admin, ada, kudos=-106).body == {"new_kudos": 14}
    assert change(cloud, admin, ada, kudos=0).body == {"new_kudos": 14}


def test_a_moderator_who_is_one_no_longer_may_do_nothing(
    cloud: Cloud, admin: str, moderator: str
) -> None:
    ada, _ = cloud.register("ada")
    assert change(cloud, moderator, ada, trusted=True).status == 200
    assert change(cloud, admin, find(cloud, moderator)["id"], moderator=False).status == 200
    refused(change(cloud, moderator, ada, trusted=False), "NotModerator")


# --- deleting -------------------------------------------------------------------------------------


def test_a_deleted_accounts_keys_are_refused_everywhere(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    made = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    worker = cloud.worker_key(ada)
    assert delete(cloud, key, ada).body == {"message": "OK"}
    for answer in (
        cloud.call("GET /api/v2/find_user", key=key),
        cloud.call("GET /api/v2/find_user", key=made),
        cloud.generate(key),
        cloud.generate(made),
        cloud.pop(worker),
        change(cloud, key, ada, username="again"),
        delete(cloud, key, ada),
        cloud.call("POST /api/v2/kudos/transfer", {"username": "x#1"}, key=key),
        cloud.call("PUT /api/v2/sharedkeys", {"name": "more"}, key=key),
        cloud.call("DELETE /api/v2/sharedkeys/{id}", key=key, id=made),
    ):
        refused(answer, "DeletedUser")
    assert cloud.kudos(ada) == 1014


def test_a_deleted_account_is_off_the_list_until_it_is_undeleted(
    cloud: Cloud, moderator: str
) -> None:
    ada, key = cloud.register("ada", kudos=500)
    assert delete(cloud, key, ada).status == 200
    assert ada not in listed(cloud)
    assert ada not in cloud.store.accounts.top_by_kudos(10)  # it takes nobody's place on a page
    assert ada not in listed(cloud, sort="age")
    assert show(cloud, ada).body["deleted"] is True
    assert change(cloud, moderator, ada, undelete=False).status == 200
    assert show(cloud, ada).body["deleted"] is True
    assert change(cloud, moderator, ada, undelete=True).body == {"deleted": False}
    assert listed(cloud)[0] == ada
    assert ada in listed(cloud, sort="age")
    assert find(cloud, key)["kudos"] == 514


def test_only_the_owner_and_moderators_delete_an_account(cloud: Cloud, moderator: str) -> None:
    (ada, _), (_, other) = cloud.register("ada"), cloud.register("bob")
    for who in (other, ANONYMOUS):
        refused(delete(cloud, who, ada), "NotOwner")
    assert delete(cloud, moderator, ada).status == 200
    assert delete(cloud, moderator, ada).status == 200


def test_what_a_deleted_account_asked_for_is_refunded_to_it(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    request = cloud.generate(key).body["id"]
    assert delete(cloud, key, ada).status == 200
    cloud.cancel(request)
    assert cloud.kudos(ada) == 1014
