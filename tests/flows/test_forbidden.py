"""What is forbidden before it is published does not stay in the data set, whatever comes between.

``share`` writes the file, then the record, and then reads what forbids. Whoever forbids writes that
first, and then looks for records. Each test puts one of these steps into a gap between the others.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from horde import dataset
from horde.records import Shared
from horde.store.sharing import Sharing
from infra.operate import undo, withdraw_command
from tests.support.cloud import Cloud
from tests.support.images import webp
from tests.support.proof import sha256
from tests.support.releasing import in_gap
from tests.support.rights import held_to

FORBIDDEN_BY = ["request", "author", "drawer"]
GAPS = ["before all", "before the file", "before the record", "before the reading"]


@dataclass
class Job:
    """A shared image that was delivered, and whose event is still to be worked on."""

    cloud: Cloud
    image: str
    request: str
    author: int
    drawer: int

    def forbid(self, by: str) -> None:
        """Mark the request, delete the author's account or flag the worker's owner: no more."""
        match by:
            case "request":
                self.cloud.db.update_item(
                    TableName=self.cloud.table,
                    Key={"pk": {"S": f"REQUEST#{self.request}"}, "sk": {"S": "REQUEST"}},
                    UpdateExpression="SET csam = :true",
                    ExpressionAttributeValues={":true": {"BOOL": True}},
                )
            case "author":
                self.cloud.set_flags(self.author, deleted=True)
            case "drawer":
                self.cloud.set_flags(self.drawer, flagged=True)

    def look(self, by: str) -> None:
        """Look for what was published before it was forbidden, and withdraw it."""
        with held_to("operator", {"*"}):
            self._look(by)

    def _look(self, by: str) -> None:
        cloud = self.cloud
        author, drawer = (cloud.store.accounts.get(one) for one in (self.author, self.drawer))
        assert author is not None
        assert drawer is not None
        match by:
            case "request":
                message = {"csam": self.request}
                record = {"messageId": "1", "receiptHandle": "1", "body": json.dumps(message)}
                assert cloud.invoke("share", {"Records": [record]}) == {"batchItemFailures": []}
            case "author":
                self.withdraw(author.username)
            case "drawer":
                bucket = cloud.bucket("Laion")

                def withdraw(shared: Shared) -> None:
                    dataset.withdraw(cloud.store, cloud.s3, bucket, shared)

                undo.undo_worker(cloud.store, drawer, withdraw)

    def withdraw(self, what: str) -> None:
        with held_to("operator", {"*"}):
            withdraw_command.withdraw(
                self.cloud.store, self.cloud.s3, self.cloud.bucket("Laion"), what
            )

    def event(self) -> None:
        """Deliver the event of the image once more, beside the queue."""
        key = f"shared/{self.image}/{sha256(webp())}.webp"
        body = json.dumps({"Records": [{"s3": {"object": {"key": key}}}]})
        record = {"messageId": "1", "receiptHandle": "1", "body": body}
        assert self.cloud.invoke("share", {"Records": [record]}) == {"batchItemFailures": []}

    def is_out(self) -> bool:
        """Return whether the data set does not have it, and its record, if any, says so."""
        records = [one for one in self.cloud.items() if one["sk"]["S"] == "SHARED"]
        return self.cloud.laion() == {} and all("withdrawn_at" in one for one in records)


@pytest.fixture
def job(cloud: Cloud, owner: int, worker: str) -> Job:
    user, key = cloud.register("ada", kudos=100)
    request = cloud.generate(key, shared=True).body["id"]
    (image,) = cloud.draw(worker)
    return Job(cloud, image, request, user, owner)


def dies(*_: object, **__: object) -> None:
    """Stand for a process that is killed."""
    raise ConnectionError


# --- one delivery ---------------------------------------------------------------------------------


def deliver_while_forbidden(
    job: Job, by: str, gap: str, monkeypatch: pytest.MonkeyPatch, *, looks: bool = True
) -> None:
    """Deliver to ``share``, and forbid the image in a gap; ``looks``: and look for its record."""

    def forbids() -> None:
        job.forbid(by)
        if looks:
            job.look(by)

    if gap == "before all":
        forbids()
    else:
        in_gap(monkeypatch, gap, forbids)
    job.cloud.deliver("share")


@pytest.mark.slow
@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("by", FORBIDDEN_BY)
def test_what_is_forbidden_by_the_last_reading_is_not_published(
    job: Job, by: str, gap: str, monkeypatch: pytest.MonkeyPatch, *, looks: bool
) -> None:
    """Whether who forbids it has looked for records or will do so later."""
    deliver_while_forbidden(job, by, gap, monkeypatch, looks=looks)
    assert job.is_out()
    assert job.cloud.pending["share"] == []


@pytest.mark.parametrize("by", FORBIDDEN_BY)
def test_what_is_forbidden_after_the_last_reading_is_found_by_its_record(job: Job, by: str) -> None:
    job.cloud.deliver("share")
    assert list(job.cloud.archives()) == [job.image]
    job.forbid(by)
    job.look(by)
    assert job.is_out()


# --- deliveries that die, and come again ----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("gap", GAPS[1:])
@pytest.mark.parametrize("by", FORBIDDEN_BY)
def test_what_is_forbidden_after_a_delivery_has_died_is_not_published(
    job: Job, by: str, gap: str, monkeypatch: pytest.MonkeyPatch, *, looks: bool
) -> None:
    with monkeypatch.context() as patch:
        in_gap(patch, gap, dies)
        job.cloud.deliver("share")
    assert len(job.cloud.pending["share"]) == 1
    job.forbid(by)
    if looks:
        job.look(by)
    job.cloud.deliver("share")
    assert job.is_out()
    assert job.cloud.pending["share"] == []


@pytest.mark.slow
@pytest.mark.parametrize("step", ["delete", "mark_withdrawn", "delete again"])
@pytest.mark.parametrize("by", FORBIDDEN_BY)
def test_a_withdrawal_that_dies_is_finished_by_the_message_that_comes_again(
    job: Job, by: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = dataset.delete, list[str]()

    def counts(client: Any, bucket: str, key: str) -> None:
        calls.append(key)
        if len(calls) == (2 if step == "delete again" else 1):
            dies()
        real(client, bucket, key)

    with monkeypatch.context() as patch:
        in_gap(patch, "before the reading", lambda: job.forbid(by))
        if step == "mark_withdrawn":
            patch.setattr(Sharing, "mark_withdrawn", dies)
        else:
            patch.setattr(dataset, "delete", counts)
        job.cloud.deliver("share")
    assert len(job.cloud.pending["share"]) == 1
    job.cloud.deliver("share")
    assert job.is_out()
    assert job.cloud.pending["share"] == []


@pytest.mark.parametrize("gap", GAPS[1:])
def test_a_delivery_that_died_is_done_again_and_publishes_once(
    job: Job, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_gap(patch, gap, dies)
        job.cloud.deliver("share")
    job.cloud.clock.pass_seconds(24 * 3600)
    job.cloud.deliver("share")
    assert list(job.cloud.archives()) == [job.image]
    assert len(job.cloud.rows("SHARED")) == 1
    assert job.cloud.pending["share"] == []


# --- two deliveries at once -----------------------------------------------------------------------


@pytest.mark.parametrize("gap", GAPS[1:])
def test_two_deliveries_at_once_publish_one_image(
    job: Job, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_gap(monkeypatch, gap, job.event)
    job.cloud.deliver("share")
    assert list(job.cloud.archives()) == [job.image]
    (record,) = job.cloud.rows("SHARED")
    assert "withdrawn_at" not in record
    assert int(record["size"]["N"]) == len(next(iter(job.cloud.laion().values())))


@pytest.mark.slow
@pytest.mark.parametrize("gap", GAPS[1:])
@pytest.mark.parametrize("by", FORBIDDEN_BY)
def test_of_two_deliveries_at_once_none_brings_back_what_the_other_withdrew(
    job: Job, by: str, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publishes_then_forbids() -> None:
        job.event()
        job.forbid(by)
        job.look(by)
        assert job.is_out()

    in_gap(monkeypatch, gap, publishes_then_forbids)
    job.cloud.deliver("share")
    assert job.is_out()


@pytest.mark.parametrize("gap", GAPS[1:])
def test_what_the_operator_withdrew_meanwhile_stays_withdrawn(
    job: Job, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing forbids it: only its record tells."""

    def publishes_then_withdraws() -> None:
        job.event()
        job.withdraw(job.image)

    in_gap(monkeypatch, gap, publishes_then_withdraws)
    job.cloud.deliver("share")
    assert job.is_out()


def test_what_died_before_the_operator_withdrew_it_is_deleted_when_it_comes_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def publishes_then_withdraws() -> None:
        job.event()
        job.withdraw(job.image)

    with monkeypatch.context() as patch:
        in_gap(patch, "before the file", publishes_then_withdraws)
        patch.setattr(Sharing, "mark_shared", dies_if_withdrawn(Sharing.mark_shared))
        job.cloud.deliver("share")
    assert job.cloud.laion() != {}  # written after the withdrawal, and dead before it was known
    job.cloud.deliver("share")
    assert job.is_out()


def dies_if_withdrawn(real: Callable[..., None]) -> Callable[..., None]:
    def mark(room: Sharing, image: Any, *arguments: Any) -> None:
        shared = room.get(image.generation_id)
        if shared is not None and shared.withdrawn_at is not None:
            dies()
        real(room, image, *arguments)

    return mark


def test_a_file_that_a_second_delivery_writes_during_a_withdrawal_is_deleted(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.cloud.deliver("share")
    ((key, archive),) = job.cloud.laion().items()
    real = Sharing.mark_withdrawn

    def late(room: Sharing, shared: Shared, *reason: Any) -> None:
        assert job.cloud.laion() == {}
        dataset.write(job.cloud.s3, job.cloud.bucket("Laion"), key, archive)
        real(room, shared, *reason)

    monkeypatch.setattr(Sharing, "mark_withdrawn", late)
    job.withdraw(job.image)
    assert job.is_out()


def test_a_record_that_is_younger_than_the_reading_is_withdrawn_too(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read of several items is no snapshot: it may see the flag, and miss an older record."""
    job.cloud.deliver("share")
    job.forbid("drawer")
    real = Sharing.context

    def misses(room: Sharing, *asked: Any) -> Any:
        return replace(real(room, *asked), shared=None)

    monkeypatch.setattr(Sharing, "context", misses)
    job.event()
    assert job.is_out()
    assert len(job.cloud.rows("SHARED")) == 1


# --- what was held back ---------------------------------------------------------------------------


@pytest.fixture
def held(cloud: Cloud) -> Job:
    """A stranger's image that is held back; its release is asked for."""
    stranger, _ = cloud.register("stranger")
    user, key = cloud.register("ada", kudos=100)
    request = cloud.generate(key, shared=True).body["id"]
    (image,) = cloud.draw(cloud.worker_key(stranger))
    cloud.settle_async()
    assert list(cloud.archives("Held")) == [image]
    cloud.set_flags(stranger, trusted=True)
    cloud.sweep()
    return Job(cloud, image, request, user, stranger)


@pytest.mark.slow
@pytest.mark.parametrize("gap", GAPS)
@pytest.mark.parametrize("by", FORBIDDEN_BY)
def test_what_is_forbidden_while_it_is_released_is_dropped(
    held: Job, by: str, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver_while_forbidden(held, by, gap, monkeypatch)
    assert held.is_out()
    assert (held.cloud.objects_of("Held"), held.cloud.rows("HELD")) == ({}, [])


@pytest.mark.slow
@pytest.mark.parametrize("gap", GAPS[1:])
@pytest.mark.parametrize("by", FORBIDDEN_BY)
def test_what_is_forbidden_after_a_release_has_died_is_dropped(
    held: Job, by: str, gap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_gap(patch, gap, dies)
        held.cloud.deliver("share")
    held.forbid(by)
    held.look(by)
    held.cloud.deliver("share")
    assert held.is_out()
    assert (held.cloud.objects_of("Held"), held.cloud.rows("HELD")) == ({}, [])


def test_a_release_that_died_between_record_and_reading_is_finished(
    held: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        in_gap(patch, "before the reading", dies)
        held.cloud.deliver("share")
    held.cloud.deliver("share")
    assert list(held.cloud.archives()) == [held.image]
    assert (held.cloud.objects_of("Held"), held.cloud.rows("HELD")) == ({}, [])


def test_an_image_that_is_forbidden_while_it_is_held_back_is_dropped(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, _ = cloud.register("stranger")
    request = cloud.generate().body["id"]
    (image,) = cloud.draw(cloud.worker_key(stranger))
    job = Job(cloud, image, request, 0, stranger)
    in_gap(monkeypatch, "before the file", lambda: job.forbid("drawer"))
    cloud.deliver("share")
    assert (cloud.objects_of("Held"), cloud.rows("HELD")) == ({}, [])
