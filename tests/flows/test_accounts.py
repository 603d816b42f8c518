"""Accounts: what whom is shown, who may change what, and the list of all."""

from typing import Any

import pytest

from horde.fleet import WORKER_KEEP_S
from horde.model import REQUEST_LIFE_S
from tests.support.cloud import ANONYMOUS, Cloud, Reply

ONE = "/api/v2/users/{id}"


def find(horde: Cloud, key: str) -> Any:
    horde.pay()
    answer = horde.call("GET /api/v2/find_user", key=key)
    assert answer.status == 200, answer
    return answer.body


def show(horde: Cloud, user: object, key: str | None = None) -> Reply:
    return horde.call(f"GET {ONE}", key=key, id=str(user))


def change(horde: Cloud, key: str, user: object, **fields: Any) -> Reply:
    return horde.call(f"PUT {ONE}", fields, key=key, id=str(user))


def delete(horde: Cloud, key: str, user: object) -> Reply:
    return horde.call(f"DELETE {ONE}", key=key, id=str(user))


def listed(horde: Cloud, **query: str) -> list[int]:
    answer = horde.call("GET /api/v2/users", query=query)
    assert answer.status == 200, answer
    return [user["id"] for user in answer.body]


def refused(answer: Reply, rc: str, status: int = 403) -> None:
    assert (answer.status, answer.body.get("rc")) == (status, rc), answer
    assert answer.body["message"]


@pytest.fixture
def admin(horde: Cloud) -> str:
    """The key of an account that the operator named."""
    horde.overrides["ADMINS"] = "77, 1"
    user, key = horde.register("root")
    assert user == 1
    return key


@pytest.fixture
def moderator(horde: Cloud, admin: str) -> str:
    user, key = horde.register("mod")
    assert change(horde, admin, user, moderator=True).body == {"moderator": True}
    return key


def nulls(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return any(nulls(part) for part in value) if isinstance(value, list) else value is None


# --- what is shown --------------------------------------------------------------------------------


def test_a_new_account_is_shown_whole_and_without_nulls(horde: Cloud) -> None:
    ada, key = horde.register("ada")
    horde.clock.pass_seconds(100)
    found = find(horde, key)
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
    assert not nulls(find(horde, ANONYMOUS))


def test_an_account_says_where_its_kudos_come_from(horde: Cloud) -> None:
    ada, key = horde.register("ada", kudos=1000)
    bob, other = horde.register("bob", kudos=50)
    worker = horde.worker_key(ada)
    horde.generate(key, params={"n": 2})  # 20
    horde.draw(worker)  # + 14
    horde.call("POST /api/v2/kudos/transfer", {"username": f"bob#{bob}", "amount": 30}, key=key)
    horde.call("POST /api/v2/kudos/award", {"username": f"bob#{bob}", "amount": 5}, key=key)
    mine, his = find(horde, key), find(horde, other)
    parts = mine["kudos_details"]
    assert (parts["accumulated"], parts["admin"], parts["gifted"]) == (-6, 1014, -30)
    assert sum(parts.values()) == mine["kudos"] == 978
    parts = his["kudos_details"]
    assert (parts["received"], parts["admin"], parts["awarded"]) == (30, 64, 5)
    assert sum(parts.values()) == his["kudos"] == 99


def test_an_account_counts_the_images_it_asked_for_and_drew(horde: Cloud) -> None:
    ada, key = horde.register("ada", kudos=1000)
    fleet, owner = horde.register("fleet")
    worker = horde.worker_key(fleet)
    request = horde.generate(key, params={"n": 3, "steps": 20}).body["id"]
    job = horde.pop(worker).body
    horde.upload(job["r2_upload"])
    assert horde.submit(worker, job["id"], state="censored").status == 200
    horde.cancel(request)  # asked for is asked for
    mine, theirs = find(horde, key), find(horde, owner)
    assert mine["usage"] == {"megapixelsteps": 15.73, "requests": 3}
    assert mine["records"]["request"]["image"] == 3
    assert mine["contributions"]["fulfillments"] == 0
    assert theirs["contributions"] == {"megapixelsteps": 5.24, "fulfillments": 1}
    assert theirs["records"]["fulfillment"]["image"] == 1
    assert theirs["usage"]["requests"] == 0
    assert ada != fleet


def test_an_owner_finds_the_accounts_workers_and_others_their_number(horde: Cloud) -> None:
    ada, key = horde.register("ada")
    worker = horde.worker_key(ada)
    for name in ("one", "two"):
        horde.pop(worker, name=name)
    ids = {row["id"]["S"] for row in horde.rows("WORKER")}
    assert set(find(horde, key)["worker_ids"]) == ids
    assert show(horde, ada).body["worker_count"] == 2
    gone = min(ids)
    assert horde.call("DELETE /api/v2/workers/{id}", key=key, id=gone).status == 200
    assert find(horde, key)["worker_ids"] == [max(ids)]
    horde.clock.pass_seconds(WORKER_KEEP_S)
    assert find(horde, key)["worker_count"] == 0


def test_a_worker_at_work_stays_in_its_owners_list(horde: Cloud) -> None:
    ada, key = horde.register("ada")
    worker = horde.worker_key(ada)
    for _ in range(3):
        horde.pop(worker)
        horde.clock.pass_seconds(WORKER_KEEP_S / 2)
    assert len(find(horde, key)["worker_ids"]) == 1


def test_an_owner_finds_the_requests_that_are_not_over(horde: Cloud) -> None:
    ada, key = horde.register("ada", kudos=1000)
    ids = []
    for _ in range(2):
        ids.append(horde.generate(key).body["id"])
        horde.clock.pass_seconds(1)
    horde.generate(ANONYMOUS)
    assert find(horde, key)["active_generations"]["image"] == ids[::-1]
    job = horde.pop(horde.worker_key(horde.register("owner")[0])).body
    assert job["id"]
    assert find(horde, key)["active_generations"]["image"] == ids[::-1]
    horde.cancel(ids[1])
    assert find(horde, key)["active_generations"]["image"] == ids[:1]
    for seconds in (REQUEST_LIFE_S + 1, 60):  # the lease ends first, then the request
        horde.clock.pass_seconds(seconds)
        horde.sweep()
    assert find(horde, key)["active_generations"]["image"] == []
    assert "active_generations" not in show(horde, ada).body


def test_a_shared_key_finds_its_owner_and_no_more(horde: Cloud) -> None:
    ada, key = horde.register("ada")
    made = horde.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    assert find(horde, key)["sharedkey_ids"] == [made]
    change(horde, key, ada, contact="ada@example.org")
    found = find(horde, made)
    assert (found["id"], found["username"]) == (ada, "ada (Shared Key: friends)")
    assert {"sharedkey_ids", "contact", "worker_ids"}.isdisjoint(found)
    unknown = "11111111-2222-4333-8444-555555555555"
    refused(horde.call("GET /api/v2/find_user", key=unknown), "UserNotFound", 404)


def test_an_account_is_shown_by_its_number(horde: Cloud, moderator: str) -> None:
    (ada, key), (_, other) = horde.register("ada"), horde.register("bob")
    change(horde, key, ada, contact="ada@example.org")
    change(horde, moderator, ada, admin_comment="a good one")
    owners = {"sharedkey_ids", "contact", "worker_ids", "active_generations"}
    private = {*owners, "admin_comment"}
    for who, seen in (
        (None, set[str]()),
        (ANONYMOUS, set[str]()),
        (other, set[str]()),
        (key, owners),
        (moderator, private),
    ):
        body = show(horde, ada, who).body
        assert body["username"] == f"ada#{ada}"
        assert private & set(body) == seen
    refused(show(horde, ada, "x" * 22), "InvalidAPIKey", 401)
    assert show(horde, 0).body["username"] == "Anonymous#0"


@pytest.mark.parametrize("number", ["99", "x", "-1", "1.0", "²", "9" * 5000, "99999999999", "\x00"])
def test_an_unknown_account_is_a_404(horde: Cloud, number: str) -> None:
    _, key = horde.register("ada")
    for answer in (
        show(horde, number),
        change(horde, key, number, username="someone"),
        delete(horde, key, number),
    ):
        refused(answer, "UserNotFound", 404)


# --- the list -------------------------------------------------------------------------------------


def test_the_list_is_in_order_of_kudos_whatever_moves_them(horde: Cloud) -> None:
    keys = dict(horde.register(f"user{n}", kudos=n * 100) for n in range(1, 5))
    assert listed(horde) == [4, 3, 2, 1]
    horde.call("POST /api/v2/kudos/transfer", {"username": "user1#1", "amount": 400}, key=keys[4])
    horde.store.grant(2, 150)
    assert listed(horde) == [1, 2, 3, 4]
    assert horde.generate(keys[1], params={"n": 20}).status == 202  # 200
    assert listed(horde) == [2, 1, 3, 4] if horde.kudos(2) > horde.kudos(1) else [1, 2, 3, 4]


def test_the_list_has_25_accounts_a_page(horde: Cloud) -> None:
    for n in range(1, 28):
        horde.register(f"user{n}", kudos=n if n % 2 else 0)
    rich = [*range(27, 0, -2), *range(2, 28, 2)]
    assert listed(horde, sort="age") == list(range(1, 26))
    assert listed(horde, sort="age", page="2") == [26, 27]
    assert listed(horde, sort="age", page="3") == []
    pages = [listed(horde, page=str(n)) for n in range(1, 4)]
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
    horde: Cloud, query: dict[str, str], field: str
) -> None:
    answer = horde.call("GET /api/v2/users", query=query)
    assert (answer.status, list(answer.body["errors"])) == (400, [field])


@pytest.mark.parametrize(
    "query", [{"page": "41"}, {"page": "10001", "sort": "age"}, {"page": "9" * 40}]
)
def test_a_page_beyond_the_last_is_empty(horde: Cloud, query: dict[str, str]) -> None:
    horde.register("ada")
    assert listed(horde, **query) == []


def test_the_list_shows_what_everybody_may_see(horde: Cloud, moderator: str) -> None:
    body = horde.call("GET /api/v2/users", key=moderator).body
    assert all({"sharedkey_ids", "contact", "admin_comment"}.isdisjoint(user) for user in body)
    masked = horde.call("GET /api/v2/users", headers={"X-Fields": "id"}).body
    assert all(list(user) == ["id"] for user in masked)


# --- changes --------------------------------------------------------------------------------------


def test_an_owner_renames_himself_and_leaves_a_contact(horde: Cloud) -> None:
    ada, key = horde.register("ada")
    answer = change(horde, key, ada, username="lovelace", contact="ada@example.org")
    assert (answer.status, answer.body) == (
        200,
        {"username": f"lovelace#{ada}", "contact": "ada@example.org"},
    )
    assert find(horde, key)["username"] == f"lovelace#{ada}"


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
    horde: Cloud, admin: str, field: str, value: Any
) -> None:
    ada, _ = horde.register("ada")
    answer = change(horde, admin, ada, **{field: value})
    assert (answer.status, list(answer.body["errors"])) == (400, [field])


def test_a_name_of_more_than_30_characters_is_too_long(horde: Cloud) -> None:
    ada, key = horde.register("ada")
    refused(change(horde, key, ada, username="x" * 31), "TooLongUserName", 400)
    assert change(horde, key, ada, username="x" * 30).status == 200


def test_a_change_of_nothing_is_refused(horde: Cloud) -> None:
    ada, key = horde.register("ada")
    for fields in ({}, {"username": None}, {"colour": "red"}):
        refused(change(horde, key, ada, **fields), "NoUserModSelected", 400)


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
    horde: Cloud, admin: str, field: str
) -> None:
    ada, _ = horde.register("ada")
    answer = change(horde, admin, ada, **{field: True, "username": "changed"})
    refused(answer, "BadRequest", 400)
    assert field in answer.body["message"]
    assert show(horde, ada).body["username"] == f"ada#{ada}"


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
    horde: Cloud, moderator: str, admin: str, field: str, value: Any, rc: str
) -> None:
    (ada, key), (_, other) = horde.register("ada"), horde.register("bob")
    for who in (other, ANONYMOUS):
        refused(change(horde, who, ada, **{field: value}), rc)
    by_owner = change(horde, key, ada, **{field: value})
    by_moderator = change(horde, moderator, ada, **{field: value})
    assert (by_owner.status == 200) is (rc == "NotOwner")
    assert (by_moderator.status == 200) is (rc != "NotAdmin")
    assert change(horde, admin, ada, **{field: value}).status == 200
    refused(change(horde, "x" * 22, ada, **{field: value}), "InvalidAPIKey", 401)
    assert "apikey" in horde.call(f"PUT {ONE}", {field: value}, id=str(ada)).body["errors"]


def test_nobody_changes_or_deletes_the_anonymous_account(horde: Cloud, admin: str) -> None:
    refused(change(horde, admin, 0, concurrency=5), "AnonForbiddenUserMod")
    refused(change(horde, ANONYMOUS, 0, username="nobody"), "AnonForbiddenUserMod")
    refused(delete(horde, ANONYMOUS, 0), "AnonForbiddenUserMod")


def test_a_moderator_sets_how_much_an_account_may_have_waiting(
    horde: Cloud, moderator: str
) -> None:
    ada, key = horde.register("ada", kudos=1000)
    assert change(horde, moderator, ada, concurrency=2).body == {"concurrency": 2}
    assert find(horde, key)["concurrency"] == 2
    assert horde.generate(key, params={"n": 3}).status == 429
    assert change(horde, moderator, ada, concurrency=0).body == {"concurrency": 0}
    assert horde.generate(key).status == 429
    assert change(horde, moderator, ada, concurrency=3).status == 200
    assert horde.generate(key, params={"n": 3}).status == 202


def test_a_flag_is_set_and_taken_away(horde: Cloud, moderator: str) -> None:
    (ada, key), (bob, _) = horde.register("ada", kudos=100), horde.register("bob")
    body = {"username": f"bob#{bob}", "amount": 10}
    assert change(horde, moderator, ada, flagged=True).body == {"flagged": True}
    assert find(horde, key)["flagged"] is True
    answer = horde.call("POST /api/v2/kudos/transfer", body, key=key)
    refused(answer, "SourceAccountFlagged", 400)
    assert change(horde, moderator, ada, flagged=False).body == {"flagged": False}
    assert horde.call("POST /api/v2/kudos/transfer", body, key=key).status == 200


def test_an_admin_gives_and_takes_kudos_with_an_entry_in_the_ledger(
    horde: Cloud, admin: str
) -> None:
    ada, _ = horde.register("ada", kudos=6)
    answer = change(horde, admin, ada, kudos=100, trusted=True)
    assert answer.body == {"new_kudos": 120, "trusted": True}
    entry = horde.ledger(ada)[-1]
    assert (entry["kind"], entry["amount"]) == ("ADMIN_ADJUSTMENT", 100)
    refused(change(horde, admin, ada, kudos=-107, flagged=True), "BadRequest", 400)
    assert show(horde, ada).body["flagged"] is False
    assert change(horde, admin, ada, kudos=-106).body == {"new_kudos": 14}
    assert change(horde, admin, ada, kudos=0).body == {"new_kudos": 14}


def test_a_moderator_who_is_one_no_longer_may_do_nothing(
    horde: Cloud, admin: str, moderator: str
) -> None:
    ada, _ = horde.register("ada")
    assert change(horde, moderator, ada, trusted=True).status == 200
    assert change(horde, admin, find(horde, moderator)["id"], moderator=False).status == 200
    refused(change(horde, moderator, ada, trusted=False), "NotModerator")


# --- deleting -------------------------------------------------------------------------------------


def test_a_deleted_accounts_keys_are_refused_everywhere(horde: Cloud) -> None:
    ada, key = horde.register("ada", kudos=1000)
    made = horde.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    worker = horde.worker_key(ada)
    assert delete(horde, key, ada).body == {"message": "OK"}
    for answer in (
        horde.call("GET /api/v2/find_user", key=key),
        horde.call("GET /api/v2/find_user", key=made),
        horde.generate(key),
        horde.generate(made),
        horde.pop(worker),
        change(horde, key, ada, username="again"),
        delete(horde, key, ada),
        horde.call("POST /api/v2/kudos/transfer", {"username": "x#1"}, key=key),
        horde.call("PUT /api/v2/sharedkeys", {"name": "more"}, key=key),
        horde.call("DELETE /api/v2/sharedkeys/{id}", key=key, id=made),
    ):
        refused(answer, "DeletedUser")
    assert horde.kudos(ada) == 1014


def test_a_deleted_account_is_off_the_list_until_it_is_undeleted(
    horde: Cloud, moderator: str
) -> None:
    ada, key = horde.register("ada", kudos=500)
    assert delete(horde, key, ada).status == 200
    assert ada not in listed(horde)
    assert ada not in horde.store.richest(10)  # it takes nobody's place on a page
    assert ada not in listed(horde, sort="age")
    assert show(horde, ada).body["deleted"] is True
    assert change(horde, moderator, ada, undelete=False).status == 200
    assert show(horde, ada).body["deleted"] is True
    assert change(horde, moderator, ada, undelete=True).body == {"deleted": False}
    assert listed(horde)[0] == ada
    assert ada in listed(horde, sort="age")
    assert find(horde, key)["kudos"] == 514


def test_only_the_owner_and_moderators_delete_an_account(horde: Cloud, moderator: str) -> None:
    (ada, _), (_, other) = horde.register("ada"), horde.register("bob")
    for who in (other, ANONYMOUS):
        refused(delete(horde, who, ada), "NotOwner")
    assert delete(horde, moderator, ada).status == 200
    assert delete(horde, moderator, ada).status == 200


def test_what_a_deleted_account_asked_for_is_refunded_to_it(horde: Cloud) -> None:
    ada, key = horde.register("ada", kudos=1000)
    request = horde.generate(key).body["id"]
    assert delete(horde, key, ada).status == 200
    horde.cancel(request)
    assert horde.kudos(ada) == 1014
