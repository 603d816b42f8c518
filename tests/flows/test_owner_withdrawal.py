"""Owners withdraw what they shared: one image, a request, all; wherever it is on its way."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient

from horde import aws, dataset, detector, gallery
from horde.release import resolving
from horde.rules.dates import DAY_S, HOUR_S
from horde.rules.sharing import PROMISED_S, SLACK_MS
from horde.store.releases import HOLD_S as RUN_S
from horde.store.releases import Releases
from horde.store.table import Table
from tests.support.api_calls import ANONYMOUS, UNKNOWN, Reply, refused
from tests.support.cloud import Cloud
from tests.support.releasing import (
    HOLD_S,
    age,
    date_files,
    in_gap,
    manifest,
    mentions,
    released,
    removed,
    share,
)
from tests.support.rights import held_to
from tests.support.step_functions import Machine

LATER_S = SLACK_MS // 1000 + 60


@pytest.fixture(autouse=True)
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds nothing, and takes no time."""
    score(monkeypatch, 0.01)


def score(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(detector, "_detector", lambda _name: lambda *_: (value, "none 1"))


@pytest.fixture
def ada(cloud: Cloud) -> str:
    """The key of an account."""
    return cloud.register("ada", kudos=100_000)[1]


def withdraw_image(cloud: Cloud, key: str, image: str) -> Reply:
    return cloud.call("DELETE /api/v2/shared/images/{id}", key=key, id=image)


def withdraw_request(cloud: Cloud, key: str, request: str) -> Reply:
    return cloud.call("DELETE /api/v2/shared/requests/{id}", key=key, id=request)


def withdraw_all(cloud: Cloud, key: str) -> Reply:
    return cloud.call("DELETE /api/v2/shared", key=key)


def accepted(answer: Reply) -> Reply:
    assert answer.status == 202, answer
    assert answer.body["hours"] == 72
    return answer


def state(cloud: Cloud, key: str, image: str) -> str:
    answer = cloud.call("GET /api/v2/shared/images/{id}", key=key, id=image)
    assert answer.status == 200, answer
    assert ("gone_by" in answer.body) is (answer.body["state"] == "withdrawn")
    return str(answer.body["state"])


def release(cloud: Cloud) -> None:
    age(cloud)
    Machine(cloud).run()


def requests_of(cloud: Cloud, images: list[str]) -> list[str]:
    rows = {row["id"]["S"]: row["request_id"]["S"] for row in cloud.rows("GENERATION")}
    return [rows[image] for image in images]


def forget_requests(cloud: Cloud) -> None:
    """Delete all requests and their images from the table, as TTL does after some days."""
    cloud.clock.pass_seconds(4 * DAY_S)
    for kind in ("REQUEST", "GENERATION"):
        for row in cloud.rows(kind):
            cloud.db.delete_item(TableName=cloud.table, Key={"pk": row["pk"], "sk": row["sk"]})


# --- one image ------------------------------------------------------------------------------------


@pytest.mark.lengthy
def test_an_owner_withdraws_one_released_image_and_no_other(
    cloud: Cloud, worker: str, ada: str, tmp_path: Path
) -> None:
    gone, left = share(cloud, worker, ada, 2, prompt="a secret prompt")
    assert state(cloud, ada, gone) == "waiting"
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    assert state(cloud, ada, gone) == "released"
    answer = accepted(withdraw_image(cloud, ada, gone.upper()))
    assert state(cloud, ada, gone) == "withdrawn"
    Machine(cloud).run()
    assert released(cloud) == {left}
    assert mentions(cloud, gone) == []
    (tombstone,) = removed(cloud, tmp_path)
    assert tombstone == {"id": gone, "removed_on": tombstone["removed_on"], "reason": "owner"}
    assert state(cloud, ada, left) == "released"
    again = accepted(withdraw_image(cloud, ada, gone))
    assert again.body["gone_by"] == answer.body["gone_by"]


@pytest.mark.lengthy
def test_an_image_that_waits_for_its_release_is_withdrawn_and_its_file_deleted(
    cloud: Cloud, worker: str, ada: str, tmp_path: Path
) -> None:
    gone, left = share(cloud, worker, ada, 2)
    accepted(withdraw_image(cloud, ada, gone))
    Machine(cloud).run()  # both are still held: the file goes all the same
    assert mentions(cloud, gone) == []
    release(cloud)
    assert released(cloud) == {left}
    assert removed(cloud, tmp_path) == []
    assert list(cloud.store.releases.tombstones()) == []


GAPS = ["before all", "before the file", "before the record", "before the reading"]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["image", "request", "all"])
@pytest.mark.parametrize("gap", GAPS)
def test_what_is_withdrawn_before_or_while_it_is_copied_is_not_published(
    cloud: Cloud, worker: str, ada: str, gap: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = cloud.generate(ada, shared=True).body["id"]
    (image,) = cloud.draw(worker)

    def withdraws() -> None:
        match what:
            case "image":
                accepted(withdraw_image(cloud, ada, image))
            case "request":
                accepted(withdraw_request(cloud, ada, request))
            case "all":
                accepted(withdraw_all(cloud, ada))

    if gap == "before all":
        withdraws()
    else:
        in_gap(monkeypatch, gap, withdraws)
    cloud.deliver("share")
    assert cloud.laion() == {}
    assert cloud.pending["share"] == []
    monkeypatch.undo()
    event(cloud, image)
    assert cloud.laion() == {}
    score(monkeypatch, 0.01)
    release(cloud)
    assert released(cloud) == set()


def event(cloud: Cloud, image: str) -> None:
    """Deliver the event of an image once more."""
    (row,) = (row for row in cloud.rows("GENERATION") if row["id"]["S"] == image)
    again = {"s3": {"object": {"key": f"shared/{image}/{row['sha256']['S']}.webp"}}}
    message = {
        "messageId": "1",
        "receiptHandle": "1",
        "body": json.dumps({"Records": [again]}),
        "attributes": {"ApproximateReceiveCount": "2"},
    }
    assert cloud.invoke("share", {"Records": [message]}) == {"batchItemFailures": []}


@pytest.mark.parametrize("trusted", [True, False])
def test_an_image_that_is_held_back_is_withdrawn_and_its_copy_deleted(
    cloud: Cloud, ada: str, *, trusted: bool
) -> None:
    stranger, _ = cloud.register("stranger")
    (image,) = share(cloud, cloud.worker_key(stranger), ada, name="w2")
    assert list(cloud.objects_of("Held")) == [f"{image}.tar"]
    assert state(cloud, ada, image) == "waiting"
    accepted(withdraw_image(cloud, ada, image))
    if trusted:
        trust(cloud, stranger)
        assert cloud.laion() == {}
    Machine(cloud).run()
    assert mentions(cloud, image) == []
    assert cloud.rows("HELD") == []


def trust(cloud: Cloud, owner: int) -> None:
    """Trust a worker's owner, whose held images are then published."""
    cloud.set_flags(owner, trusted=True)
    cloud.clock.pass_seconds(60)
    cloud.invoke("sweep", {})
    cloud.settle_async()


@pytest.mark.lengthy
def test_an_image_that_screening_kept_back_is_withdrawn_and_its_copy_deleted(
    cloud: Cloud, worker: str, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = share(cloud, worker, ada)
    score(monkeypatch, 0.9)
    release(cloud)
    assert state(cloud, ada, image) == "kept back"
    accepted(withdraw_image(cloud, ada, image))
    Machine(cloud).run()
    assert mentions(cloud, image) == []


@pytest.mark.lengthy
def test_a_withdrawn_image_leaves_the_pool(cloud: Cloud, worker: str, ada: str) -> None:
    (image,) = share(cloud, worker, ada)
    file, row = cloud.archives()[image]
    release(cloud)
    in_pool: dict[str, Any] = {
        "image_id": image,
        "body": file,
        "row": row,
        "user_id": 1,
        "worker_user": 2,
    }
    place: tuple[Any, ...] = (cloud.store, cloud.s3, cloud.bucket("Gallery"))
    assert gallery.offer(*place, **in_pool)
    accepted(withdraw_image(cloud, ada, image))
    Machine(cloud).run()
    assert cloud.store.pool.get(image) is None
    assert cloud.objects_of("Gallery") == {}
    assert not gallery.offer(*place, **in_pool)


def test_asking_again_has_the_next_release_look_again(cloud: Cloud, worker: str, ada: str) -> None:
    """As if a run had not deleted what it should have."""
    (image,) = share(cloud, worker, ada)
    ((key, body),) = cloud.laion().items()
    accepted(withdraw_image(cloud, ada, image))
    Machine(cloud).run()
    cloud.s3.put_object(Bucket=cloud.bucket("Laion"), Key=key, Body=body)
    cloud.s3.put_object(Bucket=cloud.bucket("Gallery"), Key=f"{image}.webp", Body=b"x")
    date_files(cloud, {image})
    Machine(cloud).run()
    assert len(mentions(cloud, image)) == 2  # within the hold, and nobody asked
    accepted(withdraw_image(cloud, ada, image))
    Machine(cloud).run()
    assert mentions(cloud, image) == []


# --- a request ------------------------------------------------------------------------------------


@pytest.mark.lengthy
@pytest.mark.parametrize("anonymous", [True, False])
def test_a_requests_images_are_withdrawn_those_not_drawn_yet_included(
    cloud: Cloud, worker: str, ada: str, *, anonymous: bool
) -> None:
    key = ANONYMOUS if anonymous else ada
    (other,) = share(cloud, worker, key)
    request = cloud.generate(key, shared=True, params={"n": 3}).body["id"]
    first = cloud.pop(worker).body
    cloud.upload(first["r2_upload"])
    cloud.submit(worker, first["id"])
    cloud.settle_async()
    assert first["id"] in cloud.archives()
    assert cloud.status(request).body["shared"] is True
    accepted(withdraw_request(cloud, key, request.upper()))
    assert cloud.status(request).body["shared"] is False
    cloud.draw(worker)
    cloud.settle_async()
    assert cloud.check(request).body["finished"] == 3
    assert len(cloud.archives()) == 2  # the other one, and the file of the first
    release(cloud)
    assert released(cloud) == {other}
    assert cloud.archives() == {}


@pytest.mark.lengthy
@pytest.mark.parametrize("anonymous", [True, False])
def test_a_request_that_is_forgotten_is_withdrawn_by_its_id(
    cloud: Cloud, worker: str, ada: str, tmp_path: Path, *, anonymous: bool
) -> None:
    key = ANONYMOUS if anonymous else ada
    gone, left = share(cloud, worker, key, 2)
    request, _ = requests_of(cloud, [gone, left])
    release(cloud)
    forget_requests(cloud)
    accepted(withdraw_request(cloud, key, request))
    Machine(cloud).run()
    assert released(cloud) == {left}
    assert [row["id"] for row in removed(cloud, tmp_path)] == [gone]
    assert cloud.store.withdrawals.pending(10) == []


@pytest.mark.lengthy
def test_held_and_waiting_images_of_a_forgotten_request_are_withdrawn(
    cloud: Cloud, worker: str, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, _ = cloud.register("stranger")
    (held,) = share(cloud, cloud.worker_key(stranger), ada, name="w2")
    (waits,) = share(cloud, worker, ada)
    requests = requests_of(cloud, [held, waits])
    forget_requests(cloud)
    date_files(cloud, {waits})
    for request in requests:
        accepted(withdraw_request(cloud, ada, request))
    Machine(cloud).run()
    assert cloud.store.withdrawals.pending(10) == []
    trust(cloud, stranger)
    assert list(cloud.archives()) == [waits]
    release(cloud)
    assert released(cloud) == set()
    assert mentions(cloud, waits) == mentions(cloud, held) == []


def test_ratings_of_a_withdrawn_request_are_not_paid(cloud: Cloud, worker: str, ada: str) -> None:
    request = cloud.generate(ada, shared=True, params={"n": 2}).body["id"]
    accepted(withdraw_request(cloud, ada, request))
    first, second = cloud.draw(worker)
    answer = cloud.rate(request, ratings=[{"id": first, "rating": 3}, {"id": second, "rating": 9}])
    assert (answer.status, answer.body["reward"]) == (200, 0)


# --- all ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_of_an_account_is_withdrawn_wherever_it_is_and_nothing_else(
    cloud: Cloud, worker: str, ada: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stranger, _ = cloud.register("stranger")
    others = [*share(cloud, worker), *share(cloud, worker, cloud.register("bob", 1000)[1])]
    in_release = share(cloud, worker, ada, 2)
    release(cloud)
    score(monkeypatch, 0.9)
    (kept,) = share(cloud, worker, ada)
    release(cloud)
    score(monkeypatch, 0.01)
    (held,) = share(cloud, cloud.worker_key(stranger), ada, name="w2")
    waiting = share(cloud, worker, ada, 2)
    cloud.generate(ada, shared=True)
    (not_copied,) = cloud.draw(worker)
    cloud.generate(ada, shared=True)  # not drawn
    accepted(withdraw_all(cloud, ada))
    cloud.draw(worker)
    cloud.settle_async()
    trust(cloud, stranger)
    Machine(cloud).run()
    assert released(cloud) == set(others)
    assert sorted(row["id"] for row in removed(cloud, tmp_path)) == sorted(in_release)
    release(cloud)
    assert released(cloud) == set(others)
    for image in (*in_release, kept, held, *waiting, not_copied):
        assert mentions(cloud, image) == []
        if image not in (held, not_copied):
            assert state(cloud, ada, image) == "withdrawn"
    assert cloud.store.withdrawals.pending(10) == []


@pytest.mark.lengthy
def test_what_is_shared_after_a_withdrawal_of_all_is_released(
    cloud: Cloud, worker: str, ada: str
) -> None:
    share(cloud, worker, ada)
    accepted(withdraw_all(cloud, ada))
    cloud.clock.pass_seconds(LATER_S)
    stranger, _ = cloud.register("stranger")
    (held,) = share(cloud, cloud.worker_key(stranger), ada, name="w2")
    (new,) = share(cloud, worker, ada)
    release(cloud)
    assert released(cloud) == {new}
    forget_requests(cloud)
    trust(cloud, stranger)
    release(cloud)
    assert released(cloud) == {new, held}


@pytest.mark.lengthy
def test_early_images_without_a_hash_of_their_account_are_withdrawn_with_all(
    cloud: Cloud, worker: str, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their rows were written before there was such a hash; their records name the account."""
    bob = cloud.register("bob", kudos=1000)[1]
    real = dataset.pack
    with monkeypatch.context() as patch:
        patch.setattr(dataset, "pack", lambda file, row: real(file, {**row, "user_hash": ""}))
        share(cloud, worker, ada, 2)
        (bobs,) = share(cloud, worker, bob)
    (anonymous,) = share(cloud, worker)
    release(cloud)
    accepted(withdraw_all(cloud, ada))
    Machine(cloud).run()
    assert released(cloud) == {anonymous, bobs}


@pytest.mark.lengthy
def test_a_withdrawal_of_all_writes_as_much_for_many_images_as_for_one(
    cloud: Cloud, worker: str, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(cloud, worker, ada, 4)
    calls: list[tuple[str, int]] = []
    real = BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(client: Any, operation: str, params: Any) -> Any:
        calls.append((operation, len(params.get("TransactItems", ()))))
        return real(client, operation, params)

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call)
        accepted(withdraw_all(cloud, ada))
    assert ("TransactWriteItems", 2) in calls
    assert {name for name, _ in calls} <= {
        "TransactWriteItems",
        "GetItem",
        "UpdateItem",
        "GetSecretValue",
    }
    assert len(calls) < 10


@pytest.mark.slow
def test_what_is_too_much_for_one_run_is_worked_off_by_the_next_ones(
    cloud: Cloud, worker: str, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(cloud, worker, ada, 5)
    (other,) = share(cloud, worker)
    release(cloud)
    monkeypatch.setattr(resolving, "BATCH", 2)
    monkeypatch.setattr(resolving, "MAX_MARKED", 2)
    accepted(withdraw_all(cloud, ada))
    sizes = []
    for _ in range(3):
        Machine(cloud).run()
        sizes.append(len(released(cloud)))
    assert sizes == [4, 2, 1]
    assert released(cloud) == {other}
    assert cloud.store.withdrawals.pending(10) == []


def test_a_withdrawal_that_is_asked_for_again_while_it_is_worked_off_stays_on_its_list(
    cloud: Cloud, ada: str
) -> None:
    accepted(withdraw_all(cloud, ada))
    (before,) = cloud.store.withdrawals.pending(10)
    cloud.clock.pass_seconds(60)
    accepted(withdraw_all(cloud, ada))
    cloud.store.withdrawals.done(before)
    (after,) = cloud.store.withdrawals.pending(10)
    assert after.before > before.before
    cloud.store.withdrawals.done(after)
    assert cloud.store.withdrawals.pending(10) == []


@pytest.mark.lengthy
def test_a_run_needs_no_index_to_know_the_tombstones_that_it_has_just_written(
    cloud: Cloud, worker: str, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index lags behind the table."""
    share(cloud, worker, ada)
    release(cloud)
    accepted(withdraw_all(cloud, ada))
    monkeypatch.setattr(Releases, "tombstones", lambda _: iter(()))
    Machine(cloud).run()
    assert released(cloud) == set()


def test_what_is_copied_while_a_withdrawal_of_all_is_written_belongs_to_it(
    cloud: Cloud, worker: str, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is read, then the image is copied and looked at once more, then it is written."""
    cloud.generate(ada, shared=True)
    cloud.draw(worker)
    real = Table.transact

    def late(table: Table, parts: list[Any]) -> None:
        monkeypatch.setattr(Table, "transact", real)
        cloud.clock.pass_seconds(10)
        with held_to("everybody", {"*"}):
            cloud.settle_async()
        assert len(cloud.archives()) == 1
        real(table, parts)

    monkeypatch.setattr(Table, "transact", late)
    accepted(withdraw_all(cloud, ada))
    release(cloud)
    assert released(cloud) == set()
    assert cloud.archives() == {}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["all", "request", "image"])
@pytest.mark.parametrize("step", ["plan", "screen", "pack", "select", "publish"])
def test_what_is_withdrawn_while_a_release_runs_leaves_it_or_the_next_one(
    cloud: Cloud, worker: str, ada: str, step: str, what: str
) -> None:
    gone = share(cloud, worker, ada)
    (left,) = share(cloud, worker)
    (request,) = requests_of(cloud, gone)
    age(cloud)
    done: list[bool] = []

    def upset(file: str, event: dict[str, Any]) -> None:
        if not done and step in (file, event.get("step")):
            done.append(True)
            match what:
                case "all":
                    withdraw_all(cloud, ada)
                case "request":
                    withdraw_request(cloud, ada, request)
                case "image":
                    withdraw_image(cloud, ada, *gone)

    Machine(cloud, upset).run()
    assert done
    if step != "publish":
        assert released(cloud) == {left}
    Machine(cloud).run()
    assert released(cloud) == {left}
    assert mentions(cloud, *gone) == []
    assert cloud.store.withdrawals.pending(10) == []
    assert list(cloud.store.releases.tombstones()) == []


@pytest.mark.slow
def test_a_run_that_dies_before_any_write_brings_nothing_back_and_the_next_one_ends_it(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (other,) = share(cloud, worker)
    release(cloud)
    for cut in range(100):
        key = cloud.register(f"ada{cut}", kudos=100_000)[1]
        share(cloud, worker, key)
        release(cloud)
        (waits,) = share(cloud, worker, key)
        assert len(released(cloud)) == 2
        accepted(withdraw_all(cloud, key))
        age(cloud)
        died = run_cut_at(cloud, monkeypatch, cut)
        assert waits not in released(cloud), cut
        cloud.clock.pass_seconds(RUN_S + 1)
        Machine(cloud).run(f"repair {cut}")
        Machine(cloud).run(f"rest {cut}")
        assert released(cloud) == {other}, cut
        assert cloud.archives() == {}, cut
        assert cloud.store.withdrawals.pending(10) == []
        assert list(cloud.store.releases.tombstones()) == []
        if not died:
            break
    else:
        pytest.fail("a run has more calls than that")
    assert cut > 10


def run_cut_at(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, cut: int) -> bool:
    """Run the machine, which dies before its write number ``cut``; returns whether it did."""

    class Died(BaseException):
        pass

    calls: list[str] = []
    real = BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(client: Any, operation: str, params: Any) -> Any:
        if not operation.startswith(("Get", "List", "Head", "Batch", "Query", "Describe")):
            if len(calls) == cut:
                raise Died
            calls.append(operation)
        return real(client, operation, params)

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call)
        try:
            Machine(cloud).run(f"cut {cut}")
        except Died:
            return True
    return False


# --- strangers ------------------------------------------------------------------------------------


def nothing_changes(cloud: Cloud) -> Callable[[], None]:
    def stored() -> dict[str, Any]:
        kinds = ("RATELIMIT", "WITHDRAWAL")
        return {k: v for k, v in cloud.everything().items() if not k.startswith(kinds)}

    before = stored()

    def check() -> None:
        assert stored() == before

    return check


@pytest.mark.lengthy
def test_a_stranger_withdraws_nothing_by_the_ids_of_others_and_learns_nothing(
    cloud: Cloud, worker: str, ada: str
) -> None:
    """The ids of released images are public."""
    images = [*share(cloud, worker, ada), *share(cloud, worker)]
    private = cloud.generate(ada).body["id"]
    (unshared,) = cloud.draw(worker)
    cloud.settle_async()
    requests = requests_of(cloud, images)
    mallory = cloud.register("mallory", kudos=100)[1]
    check = nothing_changes(cloud)
    unknown = withdraw_image(cloud, mallory, UNKNOWN).body
    for image in (*images, unshared, UNKNOWN, "x" * 300, "../x"):
        answer = withdraw_image(cloud, mallory, image)
        refused(answer, "SharedImageNotFound", 404)
        assert answer.body == unknown
        shown = cloud.call("GET /api/v2/shared/images/{id}", key=mallory, id=image)
        assert shown.body == unknown
        refused(withdraw_image(cloud, ANONYMOUS, image), "AnonForbidden", 403)
    for request in (*requests, private):
        refused(withdraw_request(cloud, mallory, request), "RequestNotFound", 404)
    refused(withdraw_request(cloud, ANONYMOUS, requests[0]), "RequestNotFound", 404)
    refused(withdraw_request(cloud, ada, requests[1]), "RequestNotFound", 404)
    refused(withdraw_request(cloud, ada, private), "RequestNotFound", 404)
    refused(withdraw_image(cloud, ada, unshared), "SharedImageNotFound", 404)
    check()
    release(cloud)
    assert released(cloud) == set(images)


@pytest.mark.lengthy
def test_a_stranger_withdraws_no_forgotten_request_and_does_not_undo_its_owners_withdrawal(
    cloud: Cloud, worker: str, ada: str
) -> None:
    (image,) = share(cloud, worker, ada)
    (other,) = share(cloud, worker)
    request, others = requests_of(cloud, [image, other])
    release(cloud)
    forget_requests(cloud)
    mallory = cloud.register("mallory", kudos=100)[1]
    for name in (request, others, UNKNOWN):
        accepted(withdraw_request(cloud, mallory, name))
    Machine(cloud).run()
    assert released(cloud) == {image, other}
    accepted(withdraw_request(cloud, ada, request))
    accepted(withdraw_request(cloud, mallory, request))
    Machine(cloud).run()
    assert released(cloud) == {other}


@pytest.mark.parametrize(
    "route",
    ["DELETE /api/v2/shared", "DELETE /api/v2/shared/images/{id}"],
)
def test_without_an_account_nothing_but_a_request_is_withdrawn(cloud: Cloud, route: str) -> None:
    refused(cloud.call(route, key=ANONYMOUS, id=UNKNOWN), "AnonForbidden", 403)
    refused(cloud.call(route, key="x" * 22, id=UNKNOWN), "InvalidAPIKey", 401)


def test_a_worker_key_withdraws_nothing(cloud: Cloud, worker: str) -> None:
    refused(withdraw_all(cloud, worker), "NotPrivileged", 403)


@pytest.mark.slow
def test_a_thousand_withdrawals_at_once_are_bounded_and_rewrite_a_part_once(
    cloud: Cloud, worker: str, ada: str
) -> None:
    images = share(cloud, worker, ada, 6)
    (other,) = share(cloud, worker)
    release(cloud)
    cloud.overrides["RATE_LIMITS"] = "true"
    aws.clear_settings()
    answers = [withdraw_image(cloud, ada, images[number % 6]) for number in range(100)]
    assert {answer.status for answer in answers} == {202, 429}
    assert len([answer for answer in answers if answer.status == 202]) <= 60
    del cloud.overrides["RATE_LIMITS"]
    aws.clear_settings()
    assert len(list(cloud.store.releases.tombstones())) == 6
    (before,) = manifest(cloud).parts()
    Machine(cloud).run()
    (after,) = manifest(cloud).parts()
    assert after == before.rewritten()
    assert released(cloud) == {other}


# --- deleting an account --------------------------------------------------------------------------


def delete_account(cloud: Cloud, key: str, user: int, choice: str | None) -> Reply:
    query = None if choice is None else {"withdraw_shared": choice}
    return cloud.call("DELETE /api/v2/users/{id}", key=key, id=str(user), query=query)


@pytest.mark.lengthy
def test_deleting_an_account_withdraws_what_it_shared_if_it_says_so(
    cloud: Cloud, worker: str, tmp_path: Path
) -> None:
    user, key = cloud.register("ada", kudos=1000)
    gone = share(cloud, worker, key, 2)
    (left,) = share(cloud, worker)
    release(cloud)
    (waits,) = share(cloud, worker, key)
    answer = delete_account(cloud, key, user, "true")
    assert (answer.status, answer.body) == (200, {"message": "OK", "shared_withdrawn": True})
    release(cloud)
    assert released(cloud) == {left}
    assert {row["reason"] for row in removed(cloud, tmp_path)} == {"account"}
    assert {row["id"] for row in removed(cloud, tmp_path)} == set(gone)
    assert mentions(cloud, waits) == []
    refused(withdraw_all(cloud, key), "DeletedUser", 403)


@pytest.mark.lengthy
@pytest.mark.parametrize("choice", [None, "false"])
def test_deleting_an_account_leaves_in_the_data_set_what_it_shared_else(
    cloud: Cloud, worker: str, choice: str | None
) -> None:
    user, key = cloud.register("ada", kudos=1000)
    images = share(cloud, worker, key, 2)
    cloud.generate(key, shared=True)
    cloud.draw(worker)
    assert delete_account(cloud, key, user, choice).status == 200
    cloud.settle_async()
    release(cloud)
    assert released(cloud) == set(images)  # and not what was not copied by then


def test_a_deletion_with_another_choice_deletes_nothing(cloud: Cloud) -> None:
    user, key = cloud.register("ada")
    assert delete_account(cloud, key, user, "maybe").status == 400
    assert cloud.find_user(key)["id"] == user


@pytest.mark.lengthy
def test_a_deletion_that_died_is_asked_for_again(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The withdrawal is written first: a deleted account could not ask again."""
    user, key = cloud.register("ada", kudos=1000)
    share(cloud, worker, key)
    release(cloud)

    def dies(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr("horde.store.accounts.Accounts.change", dies)
        assert delete_account(cloud, key, user, "true").status == 500
    assert delete_account(cloud, key, user, "true").status == 200
    Machine(cloud).run()
    assert released(cloud) == set()


# --- the promised time ----------------------------------------------------------------------------


def daily_run(cloud: Cloud) -> tuple[int, int]:
    """Return the hour and minute of the release, as the stack schedules it."""
    (rule,) = (
        found["Properties"]["ScheduleExpression"]
        for found in cloud.template["Resources"].values()
        if found["Type"] == "AWS::Events::Rule"
        and str(found["Properties"].get("ScheduleExpression", "")).startswith("cron(17 3")
    )
    minute, hour, *rest = rule.removeprefix("cron(").removesuffix(")").split()
    assert rest == ["*", "*", "?", "*"]
    return int(hour), int(minute)


def wait_for_run(cloud: Cloud) -> None:
    hour, minute = daily_run(cloud)
    now = cloud.clock.now_ms() // 1000
    run = now // DAY_S * DAY_S + hour * HOUR_S + minute * 60
    cloud.clock.pass_seconds((run if run > now else run + DAY_S) - now)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("at", ["03:16", "03:18", "15:00", "during"])
def test_a_withdrawn_image_is_gone_within_the_promised_time_at_any_time_of_day(
    cloud: Cloud, worker: str, ada: str, at: str, failing: int
) -> None:
    """Also if a run fails altogether."""
    (image,) = share(cloud, worker, ada)
    release(cloud)
    assert released(cloud) == {image}
    asked: list[str] = []

    def ask() -> None:
        asked.append(accepted(withdraw_image(cloud, ada, image)).body["gone_by"])

    if at == "during":
        wait_for_run(cloud)

        def upset(_file: str, event: dict[str, Any]) -> None:
            if event.get("step") == "publish" and not asked:
                ask()

        Machine(cloud, upset).run()
    else:
        hour, minute = map(int, at.split(":"))
        now = cloud.clock.now_ms() // 1000
        cloud.clock.pass_seconds((hour * HOUR_S + minute * 60 - now) % DAY_S)
        ask()
    began = cloud.clock.now_ms()
    for number in range(3):
        wait_for_run(cloud)
        if number >= failing:
            Machine(cloud).run()
        if released(cloud) == set():
            break
    took = (cloud.clock.now_ms() - began) / 1000
    assert released(cloud) == set()
    assert took <= PROMISED_S
    assert took <= (1 + failing) * DAY_S + HOUR_S
    promised = datetime.fromisoformat(asked[0]).astimezone(UTC).timestamp()
    assert cloud.clock.now_ms() / 1000 <= promised


def test_the_terms_promise_what_the_api_and_the_audit_do(cloud: Cloud) -> None:
    text = cloud.call("GET /api/v2/documents/terms", query={"format": "markdown"}).body["markdown"]
    assert f"**within {PROMISED_S // HOUR_S} hours**" in text
    assert "{" not in text
