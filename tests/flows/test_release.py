"""A release of the data set: what is in it, what is not, and what a run that died leaves."""

import io
import json
import tarfile
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from horde import detector
from horde.release import batches, shard
from horde.rules.columns import AT_INTAKE, COLUMNS, IN_SHARD
from horde.rules.dates import DAY_S
from horde.rules.sharing import PROMISED_S
from horde.store.items import key_of
from horde.store.releases import HOLD_S, Releases
from infra.operate import keeping, withdraw_command, withdrawing
from tests.support.cloud import Cloud
from tests.support.releasing import HOLD_S as WAITED_S
from tests.support.releasing import (
    age,
    found_in_bucket,
    manifest,
    removed,
    rows,
    samples,
    share,
    untidy,
)
from tests.support.step_functions import ExecutionFailed, Machine


@pytest.fixture(autouse=True)
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds nothing, and takes no time."""
    monkeypatch.setattr(detector, "_detector", lambda _name: lambda *_: (0.01, "none 1"))


def by_part(cloud: Cloud) -> dict[str, list[str]]:
    """Return the ids of each part."""
    found: dict[str, list[str]] = {}
    for part in manifest(cloud).parts():
        with tarfile.open(fileobj=io.BytesIO(cloud.laion()[part.shard])) as archive:
            names = archive.getnames()
        found[part.name] = [one.removesuffix(".webp") for one in names if one.endswith(".webp")]
    return found


@pytest.mark.lengthy
def test_what_was_delivered_and_held_is_released_once_and_whole(
    cloud: Cloud, worker: str, tmp_path: Any
) -> None:
    ids = share(cloud, worker, count=3)
    before = cloud.archives()
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    found = samples(cloud)
    assert sorted(found) == ids
    for id_, (image, row) in found.items():
        assert image == before[id_][0]
        assert list(before[id_][1]) == [column.name for column in AT_INTAKE]
        assert int(before[id_][1]["phash"], 16) >= 0
        assert list(row) == [column.name for column in IN_SHARD]
        assert row == {**row, **before[id_][1]}
    assert [key for key in cloud.laion() if key.startswith("incoming/")] == []
    table = rows(cloud, "metadata.parquet", tmp_path)
    assert [list(row) for row in table] == [[column.name for column in COLUMNS]] * 3
    for row in table:
        shard = cloud.laion()[row["shard"]]
        assert shard[row["offset"] : row["offset"] + row["size"]] == found[row["id"]][0]
        assert {name: row[name] for name in found[row["id"]][1]} == found[row["id"]][1]
    cloud.audit()


@pytest.mark.lengthy
def test_what_is_not_held_for_long_enough_waits(cloud: Cloud, worker: str) -> None:
    (old,) = share(cloud, worker)
    cloud.clock.pass_seconds(WAITED_S)
    (new,) = share(cloud, worker)
    Machine(cloud).run()
    assert list(samples(cloud)) == [old]
    assert list(cloud.archives()) == [new]


@pytest.mark.lengthy
def test_a_second_run_without_news_changes_nothing(cloud: Cloud, worker: str) -> None:
    share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    before = cloud.laion()
    Machine(cloud).run()
    assert cloud.laion() == before


@pytest.mark.lengthy
def test_a_second_release_of_a_day_has_a_number_and_keeps_the_parts_before(
    cloud: Cloud, worker: str
) -> None:
    share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    first = manifest(cloud)
    share(cloud, worker, count=1)
    age(cloud)
    Machine(cloud).run()
    second = manifest(cloud)
    assert second.release == f"{first.release}.1"
    assert {one.path for one in first.of_images()} < {one.path for one in second.of_images()}
    assert len(samples(cloud)) == 3
    assert f"releases/{first.release}.json" in cloud.laion()


@pytest.mark.slow
def test_a_shard_is_bounded_in_images_and_bytes(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "MAX_IMAGES", 2)
    monkeypatch.setattr(batches, "BATCH", 1)
    share(cloud, worker, count=5)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    assert [len(ids) for ids in by_part(cloud).values()] == [2, 2, 1]
    monkeypatch.setattr(shard, "MAX_BYTES", 1)
    share(cloud, worker, count=2)
    age(cloud)
    Machine(cloud).run()
    assert [len(ids) for ids in by_part(cloud).values()] == [2, 2, 1, 1, 1]
    assert len(samples(cloud)) == 7


def deny(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Have S3 deny the reads of some objects, as a policy that was changed does."""
    real = BaseClient._make_api_call  # type: ignore[attr-defined]
    error = {"Error": {"Code": "AccessDenied", "Message": "no"}}

    def call(client: Any, operation: str, params: Any) -> Any:
        if operation == "GetObject" and part in params["Key"]:
            raise ClientError(error, operation)  # type: ignore[arg-type]
        return real(client, operation, params)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)


@pytest.mark.lengthy
def test_a_manifest_that_must_not_be_read_is_not_an_empty_data_set(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    before = cloud.laion()["manifest.json"], len(samples(cloud))
    share(cloud, worker)
    age(cloud)
    with monkeypatch.context() as patch:
        deny(patch, "manifest.json")
        with pytest.raises(ExecutionFailed):
            Machine(cloud).run()
    assert (cloud.laion()["manifest.json"], len(samples(cloud))) == before
    Machine(cloud).run()
    assert len(samples(cloud)) == 3


@pytest.mark.lengthy
def test_an_image_that_must_not_be_read_fails_the_run_and_waits(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)
    with monkeypatch.context() as patch:
        deny(patch, "incoming/")
        with pytest.raises(ExecutionFailed):
            Machine(cloud).run()
    assert samples(cloud) == {}
    Machine(cloud).run()
    assert sorted(samples(cloud)) == ids


# --- the audit -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_audit_proves_that_each_shared_image_is_once_where_it_belongs(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    share(cloud, worker, count=2)
    assert found_in_bucket(cloud) == set()
    score(monkeypatch, 0.9)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    assert found_in_bucket(cloud) == set()
    score(monkeypatch, 0.0)
    first, second, _ = share(cloud, worker, count=3)
    age(cloud)
    Machine(cloud).run()
    assert found_in_bucket(cloud) == set()
    withdraw(cloud, first)
    assert found_in_bucket(cloud) == set()
    cloud.clock.pass_seconds(4 * DAY_S)
    assert found_in_bucket(cloud) == {"shards: 1"}  # longer than promised
    Machine(cloud).run()
    assert found_in_bucket(cloud) == set()
    place = {"TableName": cloud.table, "Key": key_of((f"SHARED#{second}", "SHARED"))}
    record = cloud.db.get_item(**place)["Item"]
    cloud.db.delete_item(**place)
    assert "its record: no such item" in found_in_bucket(cloud)
    cloud.db.put_item(TableName=cloud.table, Item=record)


@pytest.mark.lengthy
def test_the_audit_finds_a_part_that_is_lost_or_another(cloud: Cloud, worker: str) -> None:
    share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    (part,) = manifest(cloud).parts()
    cloud.s3.put_object(Bucket=cloud.bucket("Laion"), Key=part.shard, Body=b"other")
    assert found_in_bucket(cloud) == {"the file: none, or another length"}
    cloud.s3.delete_object(Bucket=cloud.bucket("Laion"), Key=part.table)
    assert len(found_in_bucket(cloud)) > 1


# --- screening -----------------------------------------------------------------------------------


def kept(cloud: Cloud) -> dict[str, str]:
    return {one.id: one.reasons for one in cloud.store.releases.kept_back(100)}


def score(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr(detector, "_detector", lambda _name: lambda *_: (value, "none 1"))


@pytest.mark.lengthy
def test_what_scores_too_high_is_kept_back_counted_and_listed(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id_,) = share(cloud, worker)
    cloud.clock.pass_seconds(WAITED_S)
    score(monkeypatch, 0.5)
    Machine(cloud).run()
    assert samples(cloud) == {}
    assert kept(cloud) == {id_: "nsfw score"}
    assert manifest(cloud).kept_back == {"nsfw score": 1}
    assert [key for key in cloud.laion() if key.startswith("incoming/")] == []
    assert list(cloud.objects_of("Held")) == [f"kept/{id_}.tar"]
    score(monkeypatch, 0.0)
    age(cloud)
    Machine(cloud).run()
    assert samples(cloud) == {}
    cloud.audit()


@pytest.mark.lengthy
@pytest.mark.parametrize("prompt", ["a LOLI", "child  porn", "child_porn, x", "(loli:1.2)"])
def test_what_a_listed_word_asks_for_is_kept_back(cloud: Cloud, worker: str, prompt: str) -> None:
    (id_,) = share(cloud, worker, prompt=prompt)
    (harmless,) = share(cloud, worker, prompt="a lollipop, children of port")
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    assert kept(cloud) == {id_: "prompt"}
    assert list(samples(cloud)) == [harmless]


@pytest.mark.lengthy
def test_words_of_the_operators_list_keep_back_beside_those_of_the_settings(
    cloud: Cloud, worker: str
) -> None:
    listed = share(cloud, worker, prompt="a Secret-Project, oil") + share(
        cloud, worker, prompt="loli"
    )
    (harmless,) = share(cloud, worker, prompt="a secret, a project")
    list_words(cloud, "\ufeff# a list, written on Windows\n\nsecret project  # not yet public\n")
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    assert kept(cloud) == dict.fromkeys(listed, "prompt")
    assert list(samples(cloud)) == [harmless]


def list_words(cloud: Cloud, text: str) -> None:
    """Put a list of words into the work bucket."""
    bucket = cloud.bucket("ReleasesWork")
    cloud.s3.put_object(Bucket=bucket, Key="lists/words.txt", Body=text.encode())


@pytest.mark.parametrize("text", ["a fox\nx\n", "x" * 101])
def test_a_list_of_words_that_cannot_be_meant_delays_and_never_skips(
    cloud: Cloud, worker: str, text: str
) -> None:
    ids = share(cloud, worker)
    list_words(cloud, text)
    cloud.clock.pass_seconds(WAITED_S)
    with pytest.raises(ExecutionFailed):
        Machine(cloud).run()
    assert samples(cloud) == {}
    assert sorted(cloud.archives()) == ids


@pytest.mark.parametrize("how", ["md5", "phash", "phash of another encoding"])
def test_what_is_on_the_list_of_hashes_is_kept_back(cloud: Cloud, worker: str, how: str) -> None:
    (id_,) = share(cloud, worker)
    file, _ = cloud.archives()[id_]
    seen = detector.screened(file, "any")
    line = seen.md5 if how == "md5" else seen.phash
    if how.endswith("encoding"):
        line = f"{int(seen.phash, 16) ^ 0b1111:016x}"
    cloud.s3.put_object(
        Bucket=cloud.bucket("ReleasesWork"), Key="lists/hashes.txt", Body=f"# a list\n{line}\n"
    )
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    assert kept(cloud) == {id_: "hash list"}
    assert samples(cloud) == {}


@pytest.mark.lengthy
def test_a_detector_that_is_down_delays_and_never_skips(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)

    def down(_name: str) -> Any:
        raise detector.DetectorError("it is down")

    monkeypatch.setattr(detector, "_detector", down)
    with pytest.raises(ExecutionFailed):
        Machine(cloud).run()
    assert samples(cloud) == {}
    assert sorted(cloud.archives()) == ids
    score(monkeypatch, 0.01)
    Machine(cloud).run()
    assert sorted(samples(cloud)) == ids


@pytest.mark.slow
@pytest.mark.parametrize("answer", [2.0, -0.1, float("nan"), "0.1", None])
def test_a_detector_that_gives_no_score_lets_nothing_pass(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    ids = share(cloud, worker)
    cloud.clock.pass_seconds(WAITED_S)
    score(monkeypatch, answer)
    with pytest.raises(ExecutionFailed):
        Machine(cloud).run()
    assert samples(cloud) == {}
    assert sorted(cloud.archives()) == ids


@pytest.mark.lengthy
@pytest.mark.parametrize("body", [b"", b"no archive", bytes(10240)])
def test_a_file_that_is_no_image_with_its_row_is_kept_back(
    cloud: Cloud, worker: str, body: bytes
) -> None:
    (id_, other) = share(cloud, worker, count=2)
    (key,) = [name for name in cloud.laion() if id_ in name]
    cloud.s3.put_object(Bucket=cloud.bucket("Laion"), Key=key, Body=body)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    assert kept(cloud) == {id_: "unreadable"}
    assert list(samples(cloud)) == [other]


def buckets(cloud: Cloud) -> withdrawing.Buckets:
    return withdrawing.Buckets(cloud.s3, cloud.bucket("Laion"), cloud.bucket("Held"))


class OneBucket:
    """A client that reaches one bucket alone, as one by a role of another account does."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    def __getattr__(self, name: str) -> Any:
        def call(**asked: Any) -> Any:
            assert asked["Bucket"] == self._bucket
            return getattr(self._client, name)(**asked)

        return call


def elsewhere(cloud: Cloud) -> withdrawing.Buckets:
    """The buckets, if the data set's belongs to another account."""
    laion, held = cloud.bucket("Laion"), cloud.bucket("Held")
    return withdrawing.Buckets(
        OneBucket(cloud.s3, laion), laion, held, own=OneBucket(cloud.s3, held)
    )


@pytest.mark.lengthy
def test_what_the_operator_has_looked_at_is_released(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id_,) = share(cloud, worker, prompt="a loli")
    file, _ = cloud.archives()[id_]
    cloud.clock.pass_seconds(WAITED_S)
    score(monkeypatch, 0.9)
    Machine(cloud).run()
    assert keeping.listed(cloud.store)[0].endswith("score 0.9000  nsfw score, prompt")
    assert keeping.release(cloud.store, elsewhere(cloud), id_)
    assert not keeping.release(cloud.store, buckets(cloud), id_)
    assert keeping.listed(cloud.store) == ["no image is kept back"]
    age(cloud)
    Machine(cloud).run()
    image, row = samples(cloud)[id_]
    assert image == file
    assert (row["screened_by"], row["nsfw_score"]) == ("operator", 0.9)
    assert cloud.objects_of("Held") == {}
    assert found_in_bucket(cloud) == set()


@pytest.mark.lengthy
def test_what_the_operator_destroys_is_gone(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (id_,) = share(cloud, worker)
    cloud.clock.pass_seconds(WAITED_S)
    score(monkeypatch, 0.9)
    Machine(cloud).run()
    assert keeping.destroy(cloud.store, elsewhere(cloud), id_)
    assert cloud.objects_of("Held") == {}
    assert not [body for body in cloud.laion().values() if id_.encode() in body]
    score(monkeypatch, 0.0)
    Machine(cloud).run()
    assert samples(cloud) == {}
    assert found_in_bucket(cloud) == set()


# --- withdrawal ----------------------------------------------------------------------------------


def withdraw(cloud: Cloud, id_: str) -> None:
    withdraw_command.withdraw(cloud.store, cloud.s3, cloud.bucket("Laion"), id_)


@pytest.mark.lengthy
def test_what_is_withdrawn_during_the_hold_is_never_released_and_has_no_tombstone(
    cloud: Cloud, worker: str, tmp_path: Any
) -> None:
    gone, left = share(cloud, worker, count=2)
    withdraw(cloud, gone)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    assert list(samples(cloud)) == [left]
    assert removed(cloud, tmp_path) == []
    assert list(cloud.store.releases.tombstones()) == []


@pytest.mark.lengthy
def test_what_is_withdrawn_from_a_release_leaves_it_with_the_next_one(
    cloud: Cloud, worker: str, tmp_path: Any
) -> None:
    gone, *left = share(cloud, worker, count=3)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    (before,) = manifest(cloud).parts()
    withdraw(cloud, gone)
    Machine(cloud).run()
    assert sorted(samples(cloud)) == left
    (after,) = manifest(cloud).parts()
    assert after == before.rewritten()
    assert not {before.shard, before.table} & set(cloud.laion())
    (tombstone,) = removed(cloud, tmp_path)
    assert tombstone["id"] == gone
    assert tombstone["reason"] == "operator"
    assert gone not in {row["id"] for row in rows(cloud, "metadata.parquet", tmp_path)}
    assert list(cloud.store.releases.tombstones()) == []
    assert manifest(cloud).removed == 1
    assert not [key for key, body in cloud.laion().items() if gone in key]


@pytest.mark.lengthy
def test_a_part_of_which_all_is_withdrawn_is_gone(cloud: Cloud, worker: str) -> None:
    (gone,) = share(cloud, worker)
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    withdraw(cloud, gone)
    Machine(cloud).run()
    assert samples(cloud) == {}
    assert manifest(cloud).parts() == []
    assert not [key for key in cloud.laion() if key.startswith(("images/", "metadata/"))]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["screen", "pack", "select", "publish"])
def test_what_is_withdrawn_while_a_release_is_made_leaves_it_or_the_next_one(
    cloud: Cloud, worker: str, step: str
) -> None:
    gone, left = share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)
    done: list[bool] = []

    def upset(file: str, event: dict[str, Any]) -> None:
        if not done and step in (file, event.get("step")):
            done.append(True)
            withdraw(cloud, gone)

    Machine(cloud, upset).run()
    assert done
    if step != "publish":
        assert list(samples(cloud)) == [left]
    Machine(cloud).run()
    assert list(samples(cloud)) == [left]
    assert list(cloud.store.releases.tombstones()) == []


@pytest.mark.lengthy
def test_an_event_that_comes_again_brings_nothing_back(cloud: Cloud, worker: str) -> None:
    ids = share(cloud, worker, count=2)
    keys = [key for key in cloud.objects_of("Outputs") if key.startswith("shared/")]
    cloud.clock.pass_seconds(WAITED_S)
    Machine(cloud).run()
    withdraw(cloud, ids[0])
    for key in keys:
        body = {"Records": [{"s3": {"object": {"key": key}}}]}
        record = {"messageId": "1", "body": json.dumps(body), "receiptHandle": "r"}
        record["attributes"] = {"ApproximateReceiveCount": "1"}  # type: ignore[assignment]
        cloud.invoke("share", {"Records": [record]})
    assert cloud.archives() == {}
    age(cloud)
    Machine(cloud).run()
    assert list(samples(cloud)) == [ids[1]]


# --- runs that meet, and runs that die -----------------------------------------------------------


@pytest.mark.lengthy
def test_of_two_runs_at_once_one_makes_the_release(cloud: Cloud, worker: str) -> None:
    ids = share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)
    others: list[dict[str, Any]] = []

    def upset(file: str, event: dict[str, Any]) -> None:
        if file != "release" or event["step"] != "plan":
            others.append(Machine(cloud).run(f"another {len(others)}"))

    Machine(cloud, upset).run("one")
    assert sorted(samples(cloud)) == ids
    assert {one["release"] for one in others} == {""}


@pytest.mark.lengthy
def test_a_run_that_died_is_taken_over_when_its_time_is_over(cloud: Cloud, worker: str) -> None:
    ids = share(cloud, worker, count=2)
    cloud.clock.pass_seconds(WAITED_S)

    class Died(BaseException):
        pass

    def upset(file: str, _event: dict[str, Any]) -> None:
        if file == "pack":
            raise Died

    with pytest.raises(Died):
        Machine(cloud, upset).run("one")
    assert Machine(cloud).run("two")["release"] == ""
    cloud.clock.pass_seconds(HOLD_S + 1)
    Machine(cloud).run("three")
    assert sorted(samples(cloud)) == ids


@pytest.mark.lengthy
def test_a_run_that_lost_its_turn_does_not_publish_over_later_releases(
    cloud: Cloud, worker: str
) -> None:
    ids = share(cloud, worker, count=2)
    age(cloud)
    later: list[str] = []

    def upset(file: str, event: dict[str, Any]) -> None:
        if file == "release" and event["step"] == "publish" and not later:
            later.append("")
            cloud.clock.pass_seconds(HOLD_S + 1)
            Machine(cloud).run("two")
            later.extend(share(cloud, worker))
            age(cloud)
            Machine(cloud).run("three")

    Machine(cloud, upset).run("one")
    assert sorted(samples(cloud)) == sorted([*ids, *later[1:]])
    assert untidy(cloud) == set()
    assert manifest(cloud).release == cloud.store.releases.last()


@pytest.mark.lengthy
def test_a_withdrawal_that_nothing_heeds_fails_the_run_before_its_time_is_over(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = share(cloud, worker, count=2)
    age(cloud)
    Machine(cloud).run()
    withdraw(cloud, first)
    monkeypatch.setattr(Releases, "heeded", lambda *_: None)
    Machine(cloud).run()
    cloud.clock.pass_seconds(PROMISED_S - DAY_S + 1)
    with pytest.raises(ExecutionFailed) as failed:
        Machine(cloud).run()
    assert "is published with what was withdrawn on" in str(failed.value.__cause__)
    monkeypatch.undo()
    score(monkeypatch, 0.01)
    Machine(cloud).run()


@pytest.mark.slow
def test_a_run_that_dies_before_any_write_leaves_the_release_before_or_the_whole_new_one(
    cloud: Cloud, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run dies one write later than the one before; the next one ends what it began.

    Here Step Functions dies too. What it tries again is for ``test_crashes``.
    """
    monkeypatch.setattr(batches, "BATCH", 1)
    alive: set[str] = set()
    for cut in range(100):
        fresh = set(share(cloud, worker, count=2))
        gone = sorted(alive)[:-1]
        for one in gone:
            withdraw(cloud, one)
        age(cloud)
        before, wanted = set(samples(cloud)), (alive | fresh) - set(gone)
        was_cut = run_cut_at(cloud, monkeypatch, cut)
        assert set(samples(cloud)) in [before, wanted], cut
        cloud.clock.pass_seconds(HOLD_S + 1)
        Machine(cloud).run(f"repair {cut}")
        age(cloud)
        Machine(cloud).run(f"rest {cut}")
        alive = wanted
        assert set(samples(cloud)) == alive, cut
        assert not [key for key in cloud.laion() if key.startswith("incoming/")], cut
        assert untidy(cloud) == set()
        assert found_in_bucket(cloud) == set(), cut
        if not was_cut:
            break
    else:
        pytest.fail("a run has more calls than that")
    assert cut > 15


def run_cut_at(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, cut: int) -> bool:
    """Run the machine, which dies before its write number ``cut``; returns whether that came."""

    class Died(BaseException):
        pass

    calls: list[str] = []
    real = BaseClient._make_api_call  # type: ignore[attr-defined]

    def call(client: Any, operation: str, params: Any) -> Any:
        if not operation.startswith(("Get", "List", "Head", "Batch", "Query", "Describe")):
            calls.append(operation)
            if len(calls) - 1 == cut:
                raise Died
        return real(client, operation, params)

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", call)
        try:
            Machine(cloud).run(f"cut {cut}")
        except Died:
            return True
    return False
