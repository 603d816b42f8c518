"""Shared images whose copy into the data set was lost, and what becomes of their files."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

import recover
from horde import dataset
from horde.records import SHARED_DAYS
from horde.store.items import KEEP_S
from horde.wire.seam import AwsError
from infra.operate import withdraw_command
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud

DAY_S = 24 * 3600


def drawn(cloud: Cloud, worker: str, key: str = ANONYMOUS, n: int = 1, **fields: Any) -> list[str]:
    """Have a shared request's images drawn; their files are written by the cloud's clock."""
    assert cloud.generate(key, params={"n": n}, shared=True, **fields).status == 202
    images = cloud.draw(worker)
    cloud.date_files()
    return images


def lose_messages(cloud: Cloud) -> None:
    """Lose what waits for ``share``, as an operator does who purges the queue."""
    url, _ = cloud._queue_of("share")
    while got := cloud.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
        for message in got:
            cloud.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    cloud.pending["share"].clear()


def files(cloud: Cloud) -> list[str]:
    return [key for key in cloud.objects_of("Outputs") if key.startswith("shared/")]


def expire_items(cloud: Cloud) -> None:
    """Do what DynamoDB does with items whose time is over."""
    now = cloud.clock.now_ms() // 1000
    for item in list(cloud.items()):
        if int(item.get("gone_at", {"N": str(now + 1)})["N"]) <= now:
            key = {name: item[name] for name in ("pk", "sk")}
            cloud.db.delete_item(TableName=cloud.table, Key=key)


@contextmanager
def broken() -> Iterator[None]:
    """Have the LAION bucket take nothing."""

    def refuses(*_: object) -> None:
        raise AwsError("AccessDenied", status=403)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "write", refuses)
        yield


def look_everywhere(cloud: Cloud) -> dict[str, int]:
    """Look through all files at once, at one time."""
    counts: Counter[str] = Counter()
    real = recover.slice_of
    for part in range(recover.SLICES):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recover, "slice_of", lambda _, part=part: real(part))
            counts.update(cloud.invoke("recover", {}))
    return dict(counts)


# --- found ----------------------------------------------------------------------------------------


def test_an_image_whose_copy_was_lost_is_found_and_copied(cloud: Cloud, worker: str) -> None:
    images = drawn(cloud, worker, n=2)
    lose_messages(cloud)
    counts = cloud.look_for_lost_copies()
    assert counts == {"files": 2, "asked": 2, "deleted": 0}
    cloud.deliver("share")
    assert sorted(cloud.archives()) == sorted(images)


def test_what_is_lost_is_not_asked_for_while_its_message_is_still_tried(
    cloud: Cloud, worker: str
) -> None:
    drawn(cloud, worker)
    lose_messages(cloud)
    cloud.clock.pass_seconds(recover.LOST_S - 60)
    assert look_everywhere(cloud)["files"] == 0
    cloud.clock.pass_seconds(60)
    assert look_everywhere(cloud)["asked"] == 1
    cloud.deliver("share")


@pytest.mark.slow
def test_a_copy_that_fails_for_days_is_made_as_long_as_its_file_lives(
    cloud: Cloud, worker: str
) -> None:
    (image,) = drawn(cloud, worker)
    with broken():
        for _ in range(2 * (SHARED_DAYS - 1)):
            cloud.sweep()
            lose_messages(cloud)
            cloud.look_for_lost_copies()
            expire_items(cloud)
            cloud.deliver("share")
            assert cloud.pending["share"], "it is not asked for any more"
            assert cloud.laion() == {}
    cloud.deliver("share")
    assert list(cloud.archives()) == [image]
    assert cloud.archives()[image][1]["prompt"]


def test_a_lost_images_request_is_forgotten_soon_after_its_file(cloud: Cloud, worker: str) -> None:
    drawn(cloud, worker)
    written = cloud.clock.now_ms() // 1000
    lose_messages(cloud)
    cloud.sweep()
    cloud.look_for_lost_copies()
    kept = [int(row["gone_at"]["N"]) for k in ("REQUEST", "GENERATION") for row in cloud.rows(k)]
    assert len(kept) == 2
    assert all(at <= written + (SHARED_DAYS + 1) * DAY_S for at in kept)
    assert min(kept) > written + SHARED_DAYS * DAY_S
    cloud.deliver("share")


def test_what_is_not_lost_is_kept_no_longer(cloud: Cloud, worker: str) -> None:
    drawn(cloud, worker)
    cloud.settle_async()
    before = [row["gone_at"] for row in cloud.rows("GENERATION")]
    cloud.look_for_lost_copies()
    assert [row["gone_at"] for row in cloud.rows("GENERATION")] == before
    assert int(before[0]["N"]) <= cloud.clock.now_ms() // 1000 + KEEP_S


def test_a_request_that_is_still_open_keeps_no_end(cloud: Cloud, worker: str) -> None:
    assert cloud.generate(ANONYMOUS, params={"n": 2}).status == 202
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"]).status == 200
    cloud.date_files()
    lose_messages(cloud)
    (request,) = cloud.rows("REQUEST")
    cloud.clock.pass_seconds(recover.LOST_S + 1)
    assert look_everywhere(cloud)["asked"] == 1
    assert cloud.rows("REQUEST") == [request]
    cloud.deliver("share")


# --- not asked for without end --------------------------------------------------------------------


@pytest.mark.lengthy
def test_what_is_published_held_or_withdrawn_is_not_asked_for(cloud: Cloud, worker: str) -> None:
    published, withdrawn = drawn(cloud, worker, n=2)
    stranger, _ = cloud.register("stranger")
    cloud.generate(ANONYMOUS)
    cloud.draw(cloud.worker_key(stranger), name="a stranger's")
    cloud.date_files()
    cloud.settle_async()
    assert withdraw_command.withdraw(cloud.store, cloud.s3, cloud.bucket("Laion"), withdrawn) == 1
    cloud.clock.pass_seconds(recover.LOST_S)
    counts = look_everywhere(cloud)
    assert (counts["files"], counts["asked"]) == (3, 0)
    assert list(cloud.archives()) == [published]


@pytest.mark.parametrize("what", ["author", "owner", "request"])
def test_what_is_forbidden_is_never_asked_for(
    cloud: Cloud, owner: int, worker: str, what: str
) -> None:
    ada, key = cloud.register("ada", kudos=100)
    (image,) = drawn(cloud, worker, key)
    lose_messages(cloud)
    if what == "author":
        cloud.set_flags(ada, deleted=True)
    elif what == "owner":
        cloud.set_flags(owner, flagged=True)
    else:
        (row,) = cloud.rows("GENERATION")
        cloud.db.update_item(
            TableName=cloud.table,
            Key={name: {"S": text} for name, text in request_key(row).items()},
            UpdateExpression="SET csam = :true",
            ExpressionAttributeValues={":true": {"BOOL": True}},
        )
    cloud.clock.pass_seconds(DAY_S)
    assert look_everywhere(cloud) == {"files": 1, "asked": 0, "deleted": 1}
    assert image not in " ".join(files(cloud))


def request_key(generation: dict[str, Any]) -> dict[str, str]:
    return {"pk": f"REQUEST#{generation['request_id']['S']}", "sk": "REQUEST"}


def test_a_file_that_lost_the_race_of_two_submits_is_never_asked_for(
    cloud: Cloud, worker: str
) -> None:
    (image,) = drawn(cloud, worker)
    cloud.settle_async()
    other = f"shared/{image}/{64 * 'a'}.webp"
    cloud.s3.put_object(Bucket=cloud.bucket("Outputs"), Key=other, Body=b"lost")
    lose_messages(cloud)
    cloud.date_files()
    assert cloud.look_for_lost_copies()["asked"] == 0


def test_an_image_that_is_not_settled_is_neither_asked_for_nor_deleted(
    cloud: Cloud, worker: str
) -> None:
    cloud.generate(ANONYMOUS)
    job = cloud.pop(worker).body["id"]
    key = f"shared/{job}/{64 * 'a'}.webp"
    cloud.s3.put_object(Bucket=cloud.bucket("Outputs"), Key=key, Body=b"early")
    lose_messages(cloud)
    cloud.date_files()
    cloud.clock.pass_seconds(2 * DAY_S)
    assert look_everywhere(cloud) == {"files": 1, "asked": 0, "deleted": 0}
    assert files(cloud) == [key]
    assert cloud.deliver("share") == 0


@pytest.mark.lengthy
def test_nothing_more_is_asked_for_while_the_queue_is_full_but_it_is_kept(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(cloud, worker, n=3)
    lose_messages(cloud)
    cloud.pay()
    cloud.clock.pass_seconds(recover.LOST_S)
    cloud.sweep()
    monkeypatch.setattr(recover, "MAX_QUEUED", 1)
    assert look_everywhere(cloud)["asked"] == 1
    ends = {int(row["gone_at"]["N"]) for row in cloud.rows("GENERATION")}
    assert min(ends) > cloud.clock.now_ms() // 1000 + 15 * DAY_S
    monkeypatch.undo()
    cloud.look_for_lost_copies()
    cloud.deliver("share")
    assert len(cloud.archives()) == 3


# --- deleted --------------------------------------------------------------------------------------


@pytest.mark.lengthy
def test_a_copied_file_is_kept_for_a_day_and_then_deleted(cloud: Cloud, worker: str) -> None:
    drawn(cloud, worker)
    cloud.settle_async()
    cloud.clock.pass_seconds(DAY_S - 60)
    assert look_everywhere(cloud)["deleted"] == 0
    assert len(files(cloud)) == 1
    cloud.clock.pass_seconds(60)
    assert look_everywhere(cloud)["deleted"] == 1
    assert files(cloud) == []
    assert len(cloud.laion()) == 1


def test_a_held_images_file_is_deleted_and_its_archive_stays(cloud: Cloud) -> None:
    stranger, _ = cloud.register("stranger")
    (image,) = drawn(cloud, cloud.worker_key(stranger))
    cloud.settle_async()
    cloud.clock.pass_seconds(DAY_S)
    assert look_everywhere(cloud)["deleted"] == 1
    assert files(cloud) == []
    cloud.set_flags(stranger, trusted=True)
    cloud.sweep()
    cloud.deliver("share")
    assert list(cloud.archives()) == [image]


@pytest.mark.lengthy
def test_a_lost_file_is_not_deleted_however_old_it_is(cloud: Cloud, worker: str) -> None:
    drawn(cloud, worker)
    lose_messages(cloud)
    for _ in range(8):
        assert cloud.look_for_lost_copies()["deleted"] == 0
    assert len(files(cloud)) == 1
    cloud.deliver("share")
    assert len(cloud.archives()) == 1


# --- all files, in bounded time -------------------------------------------------------------------


def test_twelve_hours_look_through_each_id_once() -> None:
    parts = [recover.slice_of(hour) for hour in range(100, 112)]
    for first in range(256):
        key = f"shared/{first:02x}345678-1234-4234-8234-123456789abc/{64 * 'a'}.webp"
        assert [low < key < high for low, high in parts].count(True) == 1
    assert recover.slice_of(5) == recover.slice_of(5 + 12)


class Pages:
    """A bucket of many files, listed in small pages."""

    def __init__(self, keys: list[str], size: int) -> None:
        self.keys, self.size, self.calls = keys, size, 0

    def list_objects_v2(self, *, Bucket: str, Prefix: str, StartAfter: str) -> dict[str, Any]:  # noqa: N803
        self.calls += 1
        left = [key for key in self.keys if key > StartAfter and key.startswith(Prefix)]
        found = [{"Key": key, "LastModified": datetime(2027, 1, 1, tzinfo=UTC)} for key in left]
        return {"Contents": found[: self.size], "IsTruncated": len(left) > self.size}


def test_a_list_is_read_page_by_page_and_no_further_than_its_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = [f"shared/{n:02x}/x.webp" for n in range(256)]
    made = Pages(keys, 10)
    monkeypatch.setattr("horde.aws.s3", lambda: made)
    found = [file.key for file in recover.files("b", "shared/10", "shared/40")]
    assert found == [f"shared/{n:02x}/x.webp" for n in range(0x10, 0x40)]
    assert made.calls == 5


def test_a_part_with_too_many_files_rings_and_has_done_what_it_could(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(cloud, worker, n=2)
    lose_messages(cloud)
    monkeypatch.setattr(recover, "WORKED_S", -1)
    with pytest.raises(TimeoutError):
        cloud.look_for_lost_copies()
    monkeypatch.undo()
    cloud.look_for_lost_copies()
    cloud.deliver("share")
    assert len(cloud.archives()) == 2


def test_a_message_is_like_s3s_own(cloud: Cloud, worker: str) -> None:
    drawn(cloud, worker)
    lose_messages(cloud)
    cloud.look_for_lost_copies()
    url = cloud._queue_of("share")[0]
    (message,) = cloud.sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]
    (record,) = json.loads(message["Body"])["Records"]
    assert [record["s3"]["object"]["key"]] == files(cloud)
    cloud.sqs.change_message_visibility(
        QueueUrl=url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0
    )
    cloud.deliver("share")
