"""Shared keys: others spend their owner's kudos, within the key's bounds and never beyond."""

import json
import uuid
from typing import Any

import pytest

from horde.store.endings import Endings
from horde.store.requests import Requests
from tests.support.api_calls import ANONYMOUS, UNKNOWN, Reply, refused
from tests.support.cloud import Cloud
from tests.support.numbers import COST, COST_SHARED, FLOOR, TAX

ONE = "/api/v2/sharedkeys/{id}"


def make(cloud: Cloud, key: str, **fields: Any) -> Reply:
    return cloud.call("PUT /api/v2/sharedkeys", {"name": "friends", **fields}, key=key)


def shared(cloud: Cloud, key: str, **fields: Any) -> str:
    answer = make(cloud, key, **fields)
    assert answer.status == 200, answer
    return str(answer.body["id"])


def show(cloud: Cloud, key_id: str) -> Any:
    return cloud.call(f"GET {ONE}", id=key_id).body


def change(cloud: Cloud, key: str, key_id: str, **fields: Any) -> Reply:
    return cloud.call(f"PATCH {ONE}", fields, key=key, id=key_id)


def test_a_new_key_has_the_hordes_defaults(cloud: Cloud) -> None:
    ada, key = cloud.register("ada")
    answer = make(cloud, key)
    assert answer.body == {
        "id": answer.body["id"],
        "username": f"ada#{ada}",
        "name": "friends",
        "kudos": 5000,
        "utilized": 0,
        "max_image_pixels": -1,
        "max_image_steps": -1,
        "max_text_tokens": -1,
    }
    assert str(uuid.UUID(answer.body["id"])) == answer.body["id"]
    assert show(cloud, answer.body["id"]) == answer.body


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kudos", -2),
        ("kudos", 50_000_001),
        ("kudos", "5"),
        ("expiry", -2),
        ("expiry", 10**30),
        ("name", "ab"),
        ("name", "x" * 256),
        ("name", None),
        ("max_image_pixels", 4194305),
        ("max_image_steps", 501),
        ("max_text_tokens", -2),
    ],
)
def test_a_key_out_of_range_is_a_schema_error(cloud: Cloud, field: str, value: Any) -> None:
    _, key = cloud.register("ada")
    answer = make(cloud, key, **{field: value})
    assert (answer.status, list(answer.body["errors"])) == (400, [field])
    assert cloud.rows("SHAREDKEY") == []


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "1e400", "2.5"])
def test_a_budget_that_is_not_whole_is_a_schema_error(cloud: Cloud, raw: str) -> None:
    _, key = cloud.register("ada")
    answer = cloud.call("PUT /api/v2/sharedkeys", raw=f'{{"name": "abc", "kudos": {raw}}}', key=key)
    assert (answer.status, list(answer.body["errors"])) == (400, ["kudos"])


def test_anonymous_has_no_shared_keys(cloud: Cloud) -> None:
    refused(make(cloud, ANONYMOUS), "AnonForbidden", 403)
    assert make(cloud, "x" * 22).status == 401


@pytest.mark.parametrize(("trusted", "most"), [(False, 3), (True, 10)])
def test_an_account_has_three_shared_keys_and_a_trusted_one_ten(
    cloud: Cloud, trusted: bool, most: int
) -> None:
    ada, key = cloud.register("ada")
    if trusted:
        cloud.set_flags(ada, trusted=True)
    made = [make(cloud, key) for _ in range(most + 1)]
    assert [answer.status for answer in made] == [200] * most + [403]
    refused(made[-1], "Forbidden", 403)
    assert len(cloud.rows("SHAREDKEY")) == most
    assert cloud.call(f"DELETE {ONE}", key=key, id=made[0].body["id"]).status == 200
    assert make(cloud, key).status == 200


def test_what_a_key_asks_for_is_its_owners(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=100)
    answer = cloud.generate(gift, params={"n": 2}, shared=True)
    assert (answer.status, answer.body["kudos"]) == (202, 2 * COST_SHARED)
    assert cloud.kudos(ada) == FLOOR + 1000 - 2 * COST_SHARED
    assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (
        100 - 2 * COST_SHARED,
        2 * COST_SHARED,
    )
    kept = cloud.store.requests.get(answer.body["id"])
    assert kept is not None
    assert (kept.user_id, kept.sharedkey_id) == (ada, gift)


def test_a_key_has_its_owners_priority(cloud: Cloud, worker: str) -> None:
    _, poor = cloud.register("poor", kudos=50)
    _, rich = cloud.register("rich", kudos=10_000)
    first, second = cloud.generate(poor), cloud.generate(shared(cloud, rich))
    order = [cloud.store.requests.generation(cloud.pop(worker).body["id"]) for _ in range(2)]
    assert [g.request_id for g in order if g] == [second.body["id"], first.body["id"]]


def test_a_request_over_the_budget_is_refused(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=2 * COST - 1)
    refused(cloud.generate(gift, params={"n": 2}), "SharedKeyInsufficientKudos", 403)
    assert cloud.generate(gift).status == 202
    refused(cloud.generate(gift), "SharedKeyInsufficientKudos", 403)
    assert (cloud.kudos(ada), show(cloud, gift)["kudos"]) == (FLOOR + 1000 - COST, COST - 1)


def test_a_used_up_or_disabled_key_is_refused(cloud: Cloud) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=COST)
    assert cloud.generate(gift).status == 202
    refused(cloud.generate(gift), "SharedKeyEmpty", 403)
    refused(cloud.generate(shared(cloud, key, kudos=0)), "SharedKeyEmpty", 403)
    assert cloud.kudos(ada) == FLOOR + 1000 - COST


def test_the_budget_is_a_condition_of_the_transaction(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=2 * COST - 5)
    real = Requests.accept

    def overtaken(table: Any, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(Requests, "accept", real)
        assert cloud.generate(gift).status == 202
        real(table, *args, **kwargs)

    monkeypatch.setattr(Requests, "accept", overtaken)
    refused(cloud.generate(gift), "SharedKeyInsufficientKudos", 403)
    assert (cloud.kudos(ada), show(cloud, gift)["kudos"]) == (FLOOR + 1000 - COST, COST - 5)
    assert len(cloud.rows("REQUEST")) == 1


@pytest.mark.parametrize(
    ("fields", "rc", "status"),
    [
        ({"kudos": 0}, "SharedKeyEmpty", 403),
        ({"expiry": 0}, "SharedKeyExpired", 403),
        (None, "InvalidAPIKey", 401),
        ({"kudos": -1}, None, 202),
    ],
)
def test_a_key_that_is_changed_while_it_is_used_counts_as_changed(
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, int] | None,
    rc: str | None,
    status: int,
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=100)
    real = Requests.accept

    def overtaken(table: Any, *args: Any, **kwargs: Any) -> None:
        if fields is None:
            assert cloud.call(f"DELETE {ONE}", key=key, id=gift).status == 200
        else:
            assert change(cloud, key, gift, **fields).status == 200
        real(table, *args, **kwargs)

    monkeypatch.setattr(Requests, "accept", overtaken)
    answer = cloud.generate(gift)
    assert (answer.status, answer.body.get("rc")) == (status, rc)
    assert cloud.kudos(ada) == FLOOR + 1000 - (0 if rc else COST)
    if fields == {"kudos": -1}:
        assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (-1, COST)


def test_an_unlimited_key_counts_what_it_spends(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=-1)
    for _ in range(3):
        assert cloud.generate(gift).status == 202
    assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (-1, 3 * COST)


def test_an_expired_key_is_refused(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, expiry=2)
    cloud.clock.pass_seconds(2 * 24 * 3600 - 60)
    assert cloud.generate(gift).status == 202
    cloud.clock.pass_seconds(120)
    refused(cloud.generate(gift), "SharedKeyExpired", 403)
    assert show(cloud, gift)["expiry"].endswith(" -0000")
    assert change(cloud, key, gift, expiry=-1).status == 200
    assert "expiry" not in show(cloud, gift)
    assert cloud.generate(gift).status == 202


@pytest.mark.parametrize(
    ("bound", "params"),
    [({"max_image_pixels": 262144}, {"width": 576}), ({"max_image_steps": 20}, {"steps": 21})],
)
def test_a_key_bounds_pixels_and_steps(
    cloud: Cloud, bound: dict[str, int], params: dict[str, int]
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, **bound)
    refused(cloud.generate(gift, params={"steps": 20, **params}), "BadRequest", 400)
    assert cloud.kudos(ada) == FLOOR + 1000
    assert cloud.generate(gift, params={"steps": 20}).status == 202


def test_a_dry_run_with_a_key_spends_nothing(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=COST)
    assert cloud.generate(gift, dry_run=True).body == {"kudos": COST}
    assert show(cloud, gift)["utilized"] == 0


def test_a_refund_goes_back_to_the_keys_budget(cloud: Cloud, worker: str) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=100)
    request = cloud.generate(gift, params={"n": 3}).body["id"]
    job = cloud.pop(worker).body
    cloud.cancel(request)
    assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (100 - COST, COST)
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"], state="censored").status == 200
    assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (100 - TAX, TAX)
    assert cloud.kudos(ada) == FLOOR + 1000 - TAX


def test_a_key_pays_what_its_owner_pays_and_gets_back_what_its_owner_gets_back(
    cloud: Cloud,
) -> None:
    ada, key = cloud.register("ada", kudos=6)
    gift = shared(cloud, key, kudos=100)
    request = cloud.generate(gift, params={"n": 2}).body["id"]  # all but 6 kudos are waived
    assert (cloud.kudos(ada), show(cloud, gift)["kudos"]) == (FLOOR, 94)
    cloud.cancel(request)
    assert (cloud.kudos(ada), show(cloud, gift)["kudos"]) == (FLOOR + 6, 100)
    assert show(cloud, gift)["utilized"] == 0


@pytest.mark.parametrize(
    ("fields", "left"),
    [({"kudos": -1}, -1), ({"kudos": 0}, 0), ({"kudos": 7}, 7), ({"name": "theirs"}, 100)],
)
def test_a_refund_lifts_no_budget_that_its_owner_has_set_since(
    cloud: Cloud, fields: dict[str, Any], left: int
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=100)
    request = cloud.generate(gift, params={"n": 2}).body["id"]
    assert change(cloud, key, gift, **fields).status == 200
    cloud.cancel(request)
    assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (left, 0)
    assert cloud.kudos(ada) == FLOOR + 1000
    if left == 0:
        refused(cloud.generate(gift), "SharedKeyEmpty", 403)


@pytest.mark.parametrize("how", ["deleted", "unlimited", "disabled"])
def test_a_refund_that_races_a_change_of_its_key_is_not_lost(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=100)
    request = cloud.generate(gift).body["id"]
    real = Endings._back_to_key

    def overtaken(table: Any, *args: Any) -> Any:
        part = real(table, *args)
        monkeypatch.setattr(Endings, "_back_to_key", real)
        if how == "deleted":
            assert cloud.call(f"DELETE {ONE}", key=key, id=gift).status == 200
        else:
            assert change(cloud, key, gift, kudos=-1 if how == "unlimited" else 0).status == 200
        return part

    monkeypatch.setattr(Endings, "_back_to_key", overtaken)
    assert cloud.cancel(request).status == 200
    assert cloud.kudos(ada) == FLOOR + 1000
    assert cloud.check(request).body["done"] is True
    if how != "deleted":
        budget = -1 if how == "unlimited" else 0
        assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (budget, 0)


def test_a_request_paid_from_a_new_budget_is_refunded_to_it(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=100)
    before = cloud.generate(gift).body["id"]
    assert change(cloud, key, gift, kudos=50).status == 200
    after = cloud.generate(gift).body["id"]
    for request in (before, after):
        cloud.cancel(request)
    assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (50, 0)


def test_a_charge_names_the_budget_that_it_is_paid_from(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner sets a budget while a request reads the old one: it is charged to the new one."""
    _, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=100)
    real = Requests.accept

    def overtaken(table: Any, *args: Any, **more: Any) -> None:
        assert change(cloud, key, gift, kudos=50).status == 200
        real(table, *args, **more)

    monkeypatch.setattr(Requests, "accept", overtaken)
    request = cloud.generate(gift).body["id"]
    assert show(cloud, gift)["kudos"] == 50 - COST
    cloud.cancel(request)
    assert show(cloud, gift)["kudos"] == 50


def test_a_key_and_a_request_from_before_revisions_are_refunded_as_they_were(cloud: Cloud) -> None:
    _, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=100)
    waiting = cloud.generate(gift).body["id"]
    for kind, name, field in (
        ("SHAREDKEY", gift, "revision"),
        ("REQUEST", waiting, "sharedkey_revision"),
    ):
        cloud.db.update_item(
            TableName=cloud.table,
            Key={"pk": {"S": f"{kind}#{name}"}, "sk": {"S": kind}},
            UpdateExpression=f"REMOVE {field}",
        )
    assert cloud.generate(gift).status == 202
    cloud.cancel(waiting)
    assert (show(cloud, gift)["kudos"], show(cloud, gift)["utilized"]) == (100 - COST, COST)


def test_what_a_deleted_key_asked_for_is_drawn_and_refunded(cloud: Cloud, worker: str) -> None:
    ada, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key)
    drawn, cancelled = (cloud.generate(gift).body["id"] for _ in range(2))
    assert cloud.call(f"DELETE {ONE}", key=key, id=gift).body == {"message": "OK"}
    refused(cloud.generate(gift), "InvalidAPIKey", 401)
    cloud.cancel(cancelled)
    assert len(cloud.draw(worker)) == 1
    assert cloud.check(drawn).body["done"] is True
    assert cloud.kudos(ada) == FLOOR + 1000 - COST


def test_only_the_owner_changes_and_deletes_a_key(cloud: Cloud) -> None:
    (_, key), (_, other) = cloud.register("ada"), cloud.register("bob")
    gift = shared(cloud, key)
    for who in (other, ANONYMOUS):
        refused(change(cloud, who, gift, kudos=7), "NotOwner", 403)
        refused(cloud.call(f"DELETE {ONE}", key=who, id=gift), "NotOwner", 403)
    refused(change(cloud, gift, gift, kudos=7), "InvalidAPIKey", 401)
    assert show(cloud, gift)["kudos"] == 5000
    changed = change(
        cloud, key, gift, kudos=7, name="few", max_image_pixels=4096, max_image_steps=9
    )
    assert changed.status == 200
    assert show(cloud, gift) == changed.body
    assert (changed.body["kudos"], changed.body["name"]) == (7, "few")
    assert (changed.body["max_image_pixels"], changed.body["max_image_steps"]) == (4096, 9)


def test_a_change_of_nothing_is_refused(cloud: Cloud) -> None:
    _, key = cloud.register("ada")
    gift = shared(cloud, key)
    refused(change(cloud, key, gift), "NoSharedKeyModSelected", 400)
    refused(change(cloud, key, gift, colour="red", kudos=None), "NoSharedKeyModSelected", 400)


@pytest.mark.parametrize("key_id", [UNKNOWN, "x", "\x00", "\ud800", "1" * 5000])
def test_an_unknown_key_is_a_404(cloud: Cloud, key_id: str) -> None:
    _, key = cloud.register("ada")
    refused(cloud.call(f"GET {ONE}", id=key_id), "SharedKeyNotFound", 404)
    refused(change(cloud, key, key_id, kudos=7), "SharedKeyNotFound", 404)
    refused(cloud.call(f"DELETE {ONE}", key=key, id=key_id), "SharedKeyNotFound", 404)


def test_a_shared_key_neither_works_nor_gives_kudos_away(cloud: Cloud) -> None:
    (_, key), (bob, _) = cloud.register("ada", kudos=1000), cloud.register("bob")
    gift = shared(cloud, key)
    refused(cloud.pop(gift), "InvalidAPIKey", 401)
    refused(make(cloud, gift), "InvalidAPIKey", 401)
    answer = cloud.call("POST /api/v2/kudos/transfer", {"username": f"bob#{bob}"}, key=gift)
    refused(answer, "InvalidAPIKey", 401)


def test_kudos_sent_to_a_key_are_its_owners_and_its_to_spend(cloud: Cloud) -> None:
    (ada, key), (bob, other) = cloud.register("ada", kudos=1000), cloud.register("bob")
    limited, unlimited = shared(cloud, other, kudos=0), shared(cloud, other, kudos=-1)
    for gift in (limited, unlimited):
        answer = cloud.call("POST /api/v2/kudos/transfer", {"username": gift}, key=key)
        assert (answer.status, answer.body) == (200, {"transferred": 100})
    assert (cloud.kudos(ada), cloud.kudos(bob)) == (FLOOR + 800, FLOOR + 200)
    assert [show(cloud, gift)["kudos"] for gift in (limited, unlimited)] == [100, -1]
    assert [show(cloud, gift)["utilized"] for gift in (limited, unlimited)] == [0, 0]
    assert cloud.generate(limited).status == 202


def test_kudos_are_not_sent_to_an_unusable_key_or_to_ones_own(cloud: Cloud) -> None:
    (ada, key), (_, other) = cloud.register("ada", kudos=1000), cloud.register("bob")
    over, mine, nobodys = shared(cloud, other, expiry=0), shared(cloud, key), str(uuid.uuid4())
    for gift, rc in (
        (over, "SharedKeyExpired"),
        (mine, "KudosTransferToSelf"),
        (nobodys, "InvalidTargetUsername"),
    ):
        answer = cloud.call("POST /api/v2/kudos/transfer", {"username": gift}, key=key)
        refused(answer, rc, 400)
    assert cloud.kudos(ada) == FLOOR + 1000


def test_a_flagged_owners_requests_come_last(cloud: Cloud, worker: str) -> None:
    ada, key = cloud.register("ada", kudos=10_000)
    gift = shared(cloud, key)
    cloud.set_flags(ada, flagged=True)
    _, poor = cloud.register("poor", kudos=50)
    last, first = cloud.generate(gift).body["id"], cloud.generate(poor).body["id"]
    order = [cloud.store.requests.generation(cloud.pop(worker).body["id"]) for _ in range(2)]
    assert [g.request_id for g in order if g] == [first, last]


def test_keys_may_be_made_five_times_a_minute(cloud: Cloud) -> None:
    cloud.overrides["RATE_LIMITS"] = "true"
    _, key = cloud.register("ada")
    cloud.clock.freeze(cloud.clock.now_ms() // 60_000 * 60_000)
    assert [make(cloud, key).status for _ in range(6)] == [200] * 3 + [403] * 2 + [429]


def test_no_refusal_and_no_log_shows_a_key(
    cloud: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    _, key = cloud.register("ada", kudos=1000)
    gift = shared(cloud, key, kudos=5)
    assert gift not in json.dumps(cloud.generate(gift).body)
    assert gift not in capsys.readouterr().out


def test_what_a_key_was_granted_is_followed_through_all_its_changes(cloud: Cloud) -> None:
    """The audit after each test holds budget, use and ledger against it."""
    ada, key = cloud.register("ada", kudos=1000)
    _, bobs = cloud.register("bob", kudos=100)
    gift = shared(cloud, key, kudos=100)

    def granted() -> int | None:
        found = cloud.store.sharedkeys.get(gift)
        assert found is not None
        assert found.in_ledger
        return found.granted

    assert granted() == 100
    request = cloud.generate(gift, params={"n": 2}).body["id"]
    assert granted() == 100
    assert change(cloud, key, gift, kudos=50).status == 200
    assert granted() == 50 + 2 * COST
    assert cloud.transfer(bobs, gift, 30).status == 200
    assert granted() == 80 + 2 * COST
    assert change(cloud, key, gift, name="renamed").status == 200
    assert granted() == 80 + 2 * COST
    assert change(cloud, key, gift, kudos=-1).status == 200
    cloud.audit()
    assert cloud.transfer(bobs, gift, 30).status == 200
    assert change(cloud, key, gift, kudos=0).status == 200
    assert granted() == 2 * COST
    cloud.audit()
    cloud.draw(cloud.new_worker())
    assert cloud.kudos(ada) == FLOOR + 1000 + 60 - 2 * COST
    marks = {item["sharedkey"]["S"] for item in cloud.items() if "sharedkey" in item}
    assert len(marks) == 1
    assert gift not in str(marks)
    assert cloud.check(request).body["finished"] == 2
