"""Accounts: what whom is shown, who may change what, and the list of all."""

from typing import Any

import pytest

from horde.store.workers import WORKER_KEEP_S
from tests.support.api_calls import ANONYMOUS, UNKNOWN, Reply, refused
from tests.support.cloud import Cloud
from tests.support.numbers import CONCURRENCY, COST, FLOOR, LIFE_S, OVER_S, REWARD

ONE = "/api/v2/users/{id}"


def show(cloud: Cloud, user: object, key: str | None = None) -> Reply:
    return cloud.call(f"GET {ONE}", key=key, id=str(user))


def delete(cloud: Cloud, key: str, user: object) -> Reply:
    return cloud.call(f"DELETE {ONE}", key=key, id=str(user))


def listed(cloud: Cloud, **query: str) -> list[int]:
    answer = cloud.call("GET /api/v2/users", query=query)
    assert answer.status == 200, answer
    return [user["id"] for user in answer.body]


def nulls(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return any(nulls(part) for part in value) if isinstance(value, list) else value is None


# --- what is shown --------------------------------------------------------------------------------


def test_a_new_account_is_shown_whole_and_without_nulls(cloud: Cloud) -> None:
    cloud.clock.freeze()
    ada, key = cloud.register("ada")
    cloud.clock.pass_seconds(100)
    found = cloud.find_user(key)
    assert found.pop("account_age") == 100
    amounts = {"image": 0, "text": 0, "interrogation": 0}
    assert found == {
        "username": f"ada#{ada}",
        "id": ada,
        "kudos": FLOOR,
        "kudos_details": {
            "accumulated": 0,
            "gifted": 0,
            "received": 0,
            "admin": FLOOR,
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
        "concurrency": CONCURRENCY,
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
    assert not nulls(cloud.find_user(ANONYMOUS))


def test_an_account_says_where_its_kudos_come_from(cloud: Cloud) -> None:
    cloud.overrides["ADMINS"] = "1"
    ada, key = cloud.register("ada", kudos=1000)
    bob, other = cloud.register("bob", kudos=50)
    worker = cloud.worker_key(ada)
    cloud.generate(key, params={"n": 2})
    cloud.draw(worker)
    cloud.transfer(key, f"bob#{bob}", 30)
    cloud.call("POST /api/v2/kudos/award", {"username": f"bob#{bob}", "amount": 5}, key=key)
    mine, received = cloud.find_user(key), cloud.find_user(other)
    parts = mine["kudos_details"]
    drawn = 2 * (REWARD - COST)
    assert (parts["accumulated"], parts["admin"], parts["gifted"]) == (drawn, FLOOR + 1000, -30)
    assert sum(parts.values()) == mine["kudos"] == FLOOR + 1000 - 30 + drawn
    parts = received["kudos_details"]
    assert (parts["received"], parts["admin"], parts["awarded"]) == (30, FLOOR + 50, 5)
    assert sum(parts.values()) == received["kudos"] == FLOOR + 85


def test_an_account_counts_the_images_it_asked_for_and_drew(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    fleet, owner = cloud.register("fleet")
    worker = cloud.worker_key(fleet)
    request = cloud.generate(key, params={"n": 3, "steps": 20}).body["id"]
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"], state="censored").status == 200
    cloud.cancel(request)  # asked for is asked for
    mine, theirs = cloud.find_user(key), cloud.find_user(owner)
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
    assert set(cloud.find_user(key)["worker_ids"]) == ids
    assert show(cloud, ada).body["worker_count"] == 2
    gone = min(ids)
    assert cloud.call("DELETE /api/v2/workers/{id}", key=key, id=gone).status == 200
    assert cloud.find_user(key)["worker_ids"] == [max(ids)]
    cloud.clock.pass_seconds(WORKER_KEEP_S)
    assert cloud.find_user(key)["worker_count"] == 0


def test_a_worker_at_work_stays_in_its_owners_list(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    worker = cloud.worker_key(ada)
    for _ in range(3):
        cloud.pop(worker)
        cloud.clock.pass_seconds(WORKER_KEEP_S / 2)
    assert len(cloud.find_user(key)["worker_ids"]) == 1


@pytest.mark.lengthy
def test_an_owner_finds_a_delivered_request_until_it_expires(cloud: Cloud, worker: str) -> None:
    _, key = cloud.register("ada", kudos=1000)
    ids = []
    for n in (1, 2):
        ids.append(cloud.generate(key, params={"n": n}).body["id"])
        cloud.clock.pass_seconds(1)
    cloud.clock.pass_seconds(LIFE_S - 10)
    assert len(cloud.draw(worker)) == 3
    cloud.settle_async()
    cloud.clock.pass_seconds(LIFE_S - 1)
    assert cloud.find_user(key)["active_generations"]["image"] == ids[::-1]
    cloud.clock.pass_seconds(2)
    assert cloud.find_user(key)["active_generations"]["image"] == []


def test_an_owner_finds_the_requests_that_are_not_over(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    ids = []
    for _ in range(2):
        ids.append(cloud.generate(key).body["id"])
        cloud.clock.pass_seconds(1)
    cloud.generate(ANONYMOUS)
    assert cloud.find_user(key)["active_generations"]["image"] == ids[::-1]
    job = cloud.pop(cloud.new_worker()).body
    assert job["id"]
    assert cloud.find_user(key)["active_generations"]["image"] == ids[::-1]
    cloud.cancel(ids[1])
    assert cloud.find_user(key)["active_generations"]["image"] == ids[:1]
    for seconds in (
        OVER_S,
        60,
    ):  # the lease ends first, then the request
        cloud.clock.pass_seconds(seconds)
        cloud.sweep()
    assert cloud.find_user(key)["active_generations"]["image"] == []
    assert "active_generations" not in show(cloud, ada).body


def test_a_shared_key_finds_its_owner_and_no_more(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    made = cloud.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).body["id"]
    assert cloud.find_user(key)["sharedkey_ids"] == [made]
    cloud.change_user(key, ada, contact="ada@example.org")
    found = cloud.find_user(made)
    assert (found["id"], found["username"]) == (ada, "ada (Shared Key: friends)")
    assert {"sharedkey_ids", "contact", "worker_ids"}.isdisjoint(found)
    unknown = UNKNOWN
    refused(cloud.call("GET /api/v2/find_user", key=unknown), "UserNotFound", 404)


def test_an_account_is_shown_by_its_number(cloud: Cloud, moderator: str) -> None:
    (ada, key), (_, other) = cloud.register("ada"), cloud.register("bob")
    cloud.change_user(key, ada, contact="ada@example.org")
    cloud.change_user(moderator, ada, admin_comment="a good one")
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
        cloud.change_user(key, number, username="someone"),
        delete(cloud, key, number),
    ):
        refused(answer, "UserNotFound", 404)


# --- the list -------------------------------------------------------------------------------------


def test_the_list_is_in_order_of_kudos_whatever_moves_them(cloud: Cloud) -> None:
    keys = dict(cloud.register(f"user{n}", kudos=n * 100) for n in range(1, 5))
    assert listed(cloud) == [4, 3, 2, 1]
    cloud.transfer(keys[4], "user1#1", 400)
    cloud.store.accounts.grant(2, 150)
    assert listed(cloud) == [1, 2, 3, 4]
    assert cloud.generate(keys[1], params={"n": 20}).status == 202
    order = sorted(range(1, 5), key=lambda user: (-cloud.kudos(user), user))
    assert order[0] == 2
    assert listed(cloud) == order


def test_charges_and_rewards_move_a_place_in_the_list_once_an_hour(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=1000)
    cloud.register("bob", kudos=999)
    top = cloud.store.accounts.top_by_kudos

    def posts() -> None:
        cloud.clock.pass_seconds(1)
        assert cloud.generate(key).status == 202

    posts()
    assert cloud.kudos(1) < cloud.kudos(2)
    assert top(2) == [1, 2]
    cloud.clock.pass_seconds(3599)
    posts()
    assert top(2) == [2, 1]
    cloud.store.accounts.grant(1, 500)
    assert top(2) == [1, 2]


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
def test_a_page_or_an_order_that_does_not_exist_is_a_schema_error(
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


def test_an_owner_changes_the_name_and_leaves_a_contact(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    answer = cloud.change_user(key, ada, username="lovelace", contact="ada@example.org")
    assert (answer.status, answer.body) == (
        200,
        {"username": f"lovelace#{ada}", "contact": "ada@example.org"},
    )
    assert cloud.find_user(key)["username"] == f"lovelace#{ada}"


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
    answer = cloud.change_user(admin, ada, **{field: value})
    assert (answer.status, list(answer.body["errors"])) == (400, [field])


def test_a_name_of_more_than_30_characters_is_too_long(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    refused(cloud.change_user(key, ada, username="x" * 31), "TooLongUserName", 400)
    assert cloud.change_user(key, ada, username="x" * 30).status == 200


def test_a_change_of_nothing_is_refused(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    for fields in ({}, {"username": None}, {"colour": "red"}):
        refused(cloud.change_user(key, ada, **fields), "NoUserModSelected", 400)


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
    answer = cloud.change_user(admin, ada, **{field: True, "username": "changed"})
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
        refused(cloud.change_user(who, ada, **{field: value}), rc, 403)
    by_owner = cloud.change_user(key, ada, **{field: value})
    by_moderator = cloud.change_user(moderator, ada, **{field: value})
    assert (by_owner.status == 200) is (rc == "NotOwner")
    assert (by_moderator.status == 200) is (rc != "NotAdmin")
    assert cloud.change_user(admin, ada, **{field: value}).status == 200
    refused(cloud.change_user("x" * 22, ada, **{field: value}), "InvalidAPIKey", 401)
    assert "apikey" in cloud.call(f"PUT {ONE}", {field: value}, id=str(ada)).body["errors"]


def test_nobody_changes_or_deletes_the_anonymous_account(cloud: Cloud, admin: str) -> None:
    refused(cloud.change_user(admin, 0, concurrency=5), "AnonForbiddenUserMod", 403)
    refused(cloud.change_user(ANONYMOUS, 0, username="nobody"), "AnonForbiddenUserMod", 403)
    refused(delete(cloud, ANONYMOUS, 0), "AnonForbiddenUserMod", 403)


def test_a_moderator_sets_how_much_an_account_may_have_waiting(
    cloud: Cloud, moderator: str
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    assert cloud.change_user(moderator, ada, concurrency=2).body == {"concurrency": 2}
    assert cloud.find_user(key)["concurrency"] == 2
    assert cloud.generate(key, params={"n": 3}).status == 429
    assert cloud.change_user(moderator, ada, concurrency=0).body == {"concurrency": 0}
    assert cloud.generate(key).status == 429
    assert cloud.change_user(moderator, ada, concurrency=3).status == 200
    assert cloud.generate(key, params={"n": 3}).status == 202


def test_a_flag_is_set_and_taken_away(cloud: Cloud, moderator: str) -> None:
    (ada, key), (bob, _) = cloud.register("ada", kudos=100), cloud.register("bob")
    assert cloud.change_user(moderator, ada, flagged=True).body == {"flagged": True}
    assert cloud.find_user(key)["flagged"] is True
    refused(cloud.transfer(key, f"bob#{bob}"), "SourceAccountFlagged", 400)
    assert cloud.change_user(moderator, ada, flagged=False).body == {"flagged": False}
    assert cloud.transfer(key, f"bob#{bob}").status == 200


def test_an_admin_gives_and_takes_kudos_with_an_entry_in_the_ledger(
    cloud: Cloud, admin: str
) -> None:
    ada, _ = cloud.register("ada", kudos=6)
    answer = cloud.change_user(admin, ada, kudos=100, trusted=True)
    assert answer.body == {"new_kudos": FLOOR + 106, "trusted": True}
    entry = cloud.ledger(ada)[-1]
    assert (entry["kind"], entry["amount"]) == ("ADMIN_ADJUSTMENT", 100)
    refused(cloud.change_user(admin, ada, kudos=-107, flagged=True), "BadRequest", 400)
    assert show(cloud, ada).body["flagged"] is False
    assert cloud.change_user(admin, ada, kudos=-106).body == {"new_kudos": FLOOR}
    assert cloud.change_user(admin, ada, kudos=0).body == {"new_kudos": FLOOR}


def test_a_former_moderator_may_do_nothing(cloud: Cloud, admin: str, moderator: str) -> None:
    ada, _ = cloud.register("ada")
    assert cloud.change_user(moderator, ada, trusted=True).status == 200
    assert cloud.change_user(admin, cloud.find_user(moderator)["id"], moderator=False).status == 200
    refused(cloud.change_user(moderator, ada, trusted=False), "NotModerator", 403)


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
        cloud.change_user(key, ada, username="again"),
        delete(cloud, key, ada),
        cloud.transfer(key, "x#1"),
        cloud.call("PUT /api/v2/sharedkeys", {"name": "more"}, key=key),
        cloud.call("DELETE /api/v2/sharedkeys/{id}", key=key, id=made),
    ):
        refused(answer, "DeletedUser", 403)
    assert cloud.kudos(ada) == FLOOR + 1000


def test_a_deleted_account_is_off_the_list_until_it_is_undeleted(
    cloud: Cloud, moderator: str
) -> None:
    ada, key = cloud.register("ada", kudos=500)
    assert delete(cloud, key, ada).status == 200
    assert ada not in listed(cloud)
    assert ada not in cloud.store.accounts.top_by_kudos(10)  # it takes nobody's place on a page
    assert ada not in listed(cloud, sort="age")
    assert show(cloud, ada).body["deleted"] is True
    assert cloud.change_user(moderator, ada, undelete=False).status == 200
    assert show(cloud, ada).body["deleted"] is True
    assert cloud.change_user(moderator, ada, undelete=True).body == {"deleted": False}
    assert listed(cloud)[0] == ada
    assert ada in listed(cloud, sort="age")
    assert cloud.find_user(key)["kudos"] == FLOOR + 500


def test_only_the_owner_and_moderators_delete_an_account(cloud: Cloud, moderator: str) -> None:
    (ada, _), (_, other) = cloud.register("ada"), cloud.register("bob")
    for who in (other, ANONYMOUS):
        refused(delete(cloud, who, ada), "NotOwner", 403)
    assert delete(cloud, moderator, ada).status == 200
    assert delete(cloud, moderator, ada).status == 200


def test_what_a_deleted_account_asked_for_is_refunded_to_it(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    request = cloud.generate(key).body["id"]
    assert delete(cloud, key, ada).status == 200
    cloud.cancel(request)
    assert cloud.kudos(ada) == FLOOR + 1000
