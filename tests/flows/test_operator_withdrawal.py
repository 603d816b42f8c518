"""``bin/operator withdraw``: by id, account, prompt words, hash list, days and worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horde import detector, gallery
from horde.release import versions
from horde.wire.over_botocore import over
from horde.wire.seam import AwsError
from infra.operate import OperatorError, commands
from infra.operate.audit.objects import Bucket
from infra.operate.audit.run import audit
from tests.support.api_calls import UNKNOWN
from tests.support.cloud import Cloud
from tests.support.images import webp
from tests.support.reading import Still
from tests.support.releasing import age, manifest, mentions, released, removed, share
from tests.support.step_functions import Machine


@pytest.fixture(autouse=True)
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds nothing, and takes no time."""
    score(monkeypatch, 0.01)


def score(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(detector, "_detector", lambda _name: lambda *_: (value, "none 1"))


def operator(cloud: Cloud, *words: str) -> list[str]:
    """Run ``bin/operator withdraw``; returns its lines."""
    options = commands.parser().parse_args(["withdraw", *words])
    buckets = [cloud.bucket(name) for name in ("Laion", "Held", "Gallery")]
    text = commands.run(cloud.store, options, buckets[0], cloud.s3, buckets[1], buckets[2])
    return text.splitlines()


def release(cloud: Cloud) -> None:
    age(cloud)
    Machine(cloud).run()


@pytest.mark.slow
def test_images_are_withdrawn_by_words_of_their_prompts_wherever_they_are(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (out,) = share(cloud, worker, prompt="Harry  Potter, oil on canvas")
    (left,) = share(cloud, worker, prompt="a potter at work")
    release(cloud)
    score(monkeypatch, 0.9)
    (kept,) = share(cloud, worker, prompt="by harry_potter")
    release(cloud)
    (waits,) = share(cloud, worker, prompt="HARRY POTTER")
    stranger, _ = cloud.register("stranger")
    (held,) = share(cloud, cloud.worker_key(stranger), name="w2", prompt="(harry potter:1.2)")
    dry = operator(cloud, "--words", "harry potter", "--dry-run")
    assert sorted(dry[:-1]) == sorted([out, kept, waits, held])
    assert dry[-1] == "4 images would be withdrawn"
    assert cloud.store.sharing.withdrawn([out, kept, waits, held]) == set()
    words = tmp_path / "words.txt"
    words.write_text("# a list\nnothing\n\nharry potter\n")
    assert operator(cloud, "--words", str(words), "--reason", "safety") == ["4 images withdrawn"]
    assert operator(cloud, "--words", "harry potter") == ["0 images withdrawn"]
    for image in (kept, waits, held):
        assert mentions(cloud, image) == []  # at once, but for the release
    score(monkeypatch, 0.01)
    cloud.set_flags(stranger, trusted=True)
    cloud.invoke("sweep", {})
    cloud.settle_async()
    release(cloud)
    assert released(cloud) == {left}
    assert [(row["id"], row["reason"]) for row in removed(cloud, tmp_path)] == [(out, "safety")]


@pytest.mark.lengthy
def test_images_are_withdrawn_by_a_list_of_hashes(
    cloud: Cloud, worker: str, tmp_path: Path
) -> None:
    (out,) = share(cloud, worker)
    file, _ = cloud.archives()[out]
    release(cloud)
    (waits,) = share(cloud, worker)
    seen = detector.screened(file, "any")
    path = tmp_path / "hashes.txt"
    path.write_text("# none\n" + "0" * 32 + "\n")
    assert operator(cloud, "--hashes", str(path)) == ["0 images withdrawn"]
    path.write_text(f"{int(seen.phash, 16) ^ 0b11:016x}\n")
    assert operator(cloud, "--hashes", str(path)) == ["2 images withdrawn"]
    path.write_text("no hash\n")
    with pytest.raises(OperatorError, match="line 1"):
        operator(cloud, "--hashes", str(path))
    with pytest.raises(OperatorError, match="No such file"):
        operator(cloud, "--hashes", str(tmp_path / "none"))
    release(cloud)
    assert released(cloud) == set()
    assert mentions(cloud, waits) == []


@pytest.mark.slow
def test_images_are_withdrawn_by_the_days_of_their_delivery(cloud: Cloud, worker: str) -> None:
    (first,) = share(cloud, worker)
    cloud.clock.pass_seconds(24 * 3600)
    (second,) = share(cloud, worker)
    cloud.clock.pass_seconds(24 * 3600)
    (third,) = share(cloud, worker)
    release(cloud)
    assert released(cloud) == {first, second, third}
    assert operator(cloud, "--date", "2027-01-16..2027-01-16") == ["1 images withdrawn"]
    release(cloud)
    assert released(cloud) == {first, third}
    assert operator(cloud, "--date", "2027-01-01..2027-01-31") == ["2 images withdrawn"]
    release(cloud)
    assert released(cloud) == set()


@pytest.mark.lengthy
def test_images_are_withdrawn_by_the_worker_that_drew_them(
    cloud: Cloud, worker: str, owner: int
) -> None:
    (gone,) = share(cloud, worker)
    (left,) = share(cloud, cloud.new_worker("other"), name="w2")
    release(cloud)
    assert operator(cloud, "--worker", f"owner#{owner}") == ["1 images withdrawn"]
    release(cloud)
    assert released(cloud) == {left}
    assert mentions(cloud, gone) == []


@pytest.mark.lengthy
def test_an_account_is_withdrawn_with_what_is_drawn_meanwhile(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register("ada", kudos=1000)
    share(cloud, worker, key)
    cloud.generate(key, shared=True)
    assert operator(cloud, f"ada#{user}", "--dry-run")[-1] == "1 images would be withdrawn"
    assert cloud.store.withdrawals.pending(10) == []
    assert operator(cloud, f"ada#{user}") == ["1 images withdrawn"]
    cloud.draw(worker)
    cloud.settle_async()
    assert cloud.laion() == {}
    release(cloud)
    assert released(cloud) == set()


def test_one_image_is_withdrawn_by_its_id_before_its_copy(cloud: Cloud, worker: str) -> None:
    cloud.generate()
    (image,) = cloud.draw(worker)
    assert operator(cloud, image) == ["1 images withdrawn"]
    assert operator(cloud, image) == ["0 images withdrawn"]
    cloud.deliver("share")
    assert cloud.laion() == {}
    with pytest.raises(OperatorError, match="no image"):
        operator(cloud, UNKNOWN)


def test_a_withdrawn_image_leaves_the_pool_at_once(cloud: Cloud, worker: str) -> None:
    (image,) = share(cloud, worker)
    file, row = cloud.archives()[image]
    in_pool: dict[str, Any] = {
        "image_id": image,
        "body": file,
        "row": row,
        "user_id": 1,
        "worker_user": 2,
    }
    assert gallery.offer(cloud.store, cloud.s3, cloud.bucket("Gallery"), **in_pool)
    operator(cloud, image)
    assert cloud.objects_of("Gallery") == {}
    assert cloud.store.pool.get(image) is None


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--date", "yesterday"),
        ("a", "--words", "b"),
        ("--date", "2027-1-1"),
        ("a", "--reason", "x"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(cloud: Cloud, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        operator(cloud, *words)


# --- the audit ------------------------------------------------------------------------------------


@pytest.mark.lengthy
def test_the_audit_gives_the_next_release_the_promised_time(cloud: Cloud, worker: str) -> None:
    """An owner's mark comes before the file is deleted."""
    _, key = cloud.register("ada", kudos=1000)
    share(cloud, worker, key)
    (image,) = cloud.archives()
    cloud.call("DELETE /api/v2/shared/images/{id}", key=key, id=image)

    def found() -> list[str]:
        bucket = Bucket(cloud.s3, cloud.bucket("Laion"))
        report = audit(Still(cloud), segments=1, pauses=(0,), bucket=bucket)
        return [str(one.found) for one in report.findings]

    assert found() == []
    cloud.clock.pass_seconds(3 * 24 * 3600 + 60)
    assert found() == ["in the bucket"]
    Machine(cloud).run()
    assert found() == []


# --- buckets that keep versions -------------------------------------------------------------------


def all_versions(cloud: Cloud) -> set[str]:
    listed = cloud.s3.list_object_versions(Bucket=cloud.bucket("Laion"))
    return {one["Key"] for kind in ("Versions", "DeleteMarkers") for one in listed.get(kind, [])}


@pytest.fixture
def versioned(cloud: Cloud, clients: dict[str, Any]) -> Iterator[Cloud]:
    """A cloud whose data set lies in a bucket that keeps versions, which no other test gets."""
    cloud.s3.put_bucket_versioning(
        Bucket=cloud.bucket("Laion"), VersioningConfiguration={"Status": "Enabled"}
    )
    yield cloud
    clients.pop("made_from")


@pytest.mark.slow
def test_of_a_part_that_is_written_anew_no_version_stays_in_a_bucket_that_keeps_them(
    versioned: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloud = versioned
    rights = cloud.allowed["release"] | {"s3:ListBucketVersions", "s3:DeleteObjectVersion"}
    monkeypatch.setitem(cloud.allowed, "release", rights)  # as LAION's role has them
    assert cloud.generate(params={"n": 2}).status == 202
    gone, left = cloud.draw(worker)
    cloud.settle_async()
    Machine(cloud).run()
    (before,) = manifest(cloud).parts()
    assert {before.shard, before.table} <= all_versions(cloud)
    operator(cloud, gone)
    Machine(cloud).run()
    assert released(cloud) == {left}
    assert not {before.shard, before.table} & all_versions(cloud)
    assert not [key for key in all_versions(cloud) if gone in key]


class Denied:
    """A role that may delete objects, but not list or delete their versions."""

    def __init__(self, client: Any, code: str) -> None:
        self._client, self._code = client, code

    def delete_objects(self, **arguments: Any) -> Any:
        return self._client.delete_objects(**arguments)

    def list_object_versions(self, **_: Any) -> Any:
        raise AwsError(self._code, "no")


def test_where_versions_may_not_be_deleted_they_are_left_to_the_lifecycle(versioned: Cloud) -> None:
    cloud = versioned
    bucket = cloud.bucket("Laion")
    for key in ("a", "ab"):
        cloud.s3.put_object(Bucket=bucket, Key=key, Body=webp())
    versions.delete(Denied(over(cloud.s3), "AccessDenied"), bucket, ["a"])
    assert set(cloud.laion()) == {"ab"}
    assert all_versions(cloud) == {"a", "ab"}
    with pytest.raises(AwsError):
        versions.delete(Denied(over(cloud.s3), "SlowDown"), bucket, ["a"])
    versions.delete(over(cloud.s3), bucket, ["a"])
    assert all_versions(cloud) == {"ab"}


def test_a_bucket_without_versions_is_not_asked_for_them(cloud: Cloud) -> None:
    bucket = cloud.bucket("Laion")
    cloud.s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    versions.delete(Denied(over(cloud.s3), "SlowDown"), bucket, ["a", "never there"])
    assert cloud.laion() == {}
