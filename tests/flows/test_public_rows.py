"""What a reader of the data set, or of the table, can do with what is written there: nothing."""

import hashlib
import importlib
import json
from typing import Any

import pytest

from horde import aws
from horde.edge.ratelimit import By
from horde.rules.hashes import Purpose, keyed
from tests.support.api_calls import ADDRESS, ANONYMOUS, UNKNOWN
from tests.support.cloud import Cloud
from tests.support.template import functions, of_type

GENERATE = "POST /api/v2/generate/async"
RATE = "POST /api/v2/generate/rate/{id}"
SECRET = b"of the tests"


@pytest.fixture
def fleet(cloud: Cloud, owner: int, worker: str) -> str:
    """The key of a worker whose images are published at once."""
    cloud.set_flags(owner, fleet=True, trusted=True)
    return worker


def published(cloud: Cloud) -> list[dict[str, Any]]:
    """Publish what was drawn; returns the rows as a reader of the data set has them."""
    cloud.settle_async()
    return [row for _, row in cloud.archives().values()]


def test_no_text_of_a_row_is_a_capability(cloud: Cloud, fleet: str) -> None:
    _, key = cloud.register(kudos=100)
    request = cloud.generate(key, shared=True, params={"n": 2}).body["id"]
    job = cloud.pop(fleet, amount=1).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(fleet, job["id"]).status == 200
    (row,) = published(cloud)
    for text in {str(value) for value in row.values()} - {""}:
        for answer in (cloud.check(text), cloud.status(text), cloud.cancel(text)):
            assert answer.status == 404, (text, answer)
        rating = cloud.call(RATE, {"ratings": [{"id": row["id"], "rating": 9}]}, id=text)
        assert rating.status == 404
        assert cloud.call("GET /api/v2/find_user", key=text).status == 404
        assert cloud.call("GET /api/v2/sharedkeys/{id}", id=text).status == 404
    assert cloud.check(request).body["waiting"] == 1
    assert request not in json.dumps(row)


@pytest.mark.lengthy
def test_images_of_one_request_have_one_set_and_those_of_another_have_another(
    cloud: Cloud, fleet: str
) -> None:
    cloud.generate(params={"n": 3})
    cloud.generate()
    cloud.draw(fleet)
    sets = [row["set"] for row in published(cloud)]
    assert sorted(map(sets.count, set(sets))) == [1, 3]


@pytest.mark.lengthy
def test_a_rows_time_fits_all_authors_of_its_day(cloud: Cloud, fleet: str) -> None:
    now = cloud.clock.now_ms()
    cloud.clock.freeze(now - now % 86_400_000 + 3_600_000)
    seen: dict[int, float] = {}
    for number in range(10):
        author, key = cloud.register(f"author{number}", kudos=100)
        cloud.generate(key, shared=True)
        cloud.draw(fleet)
        seen[author] = cloud.clock.now_ms()  # when public counters of the author move
        cloud.clock.pass_seconds(1)
    rows = published(cloud)
    assert len(rows) == 10
    days = {importlib.import_module("horde.rules.dates").day(ms) for ms in seen.values()}
    for row in rows:
        assert {row["created_on"]} == days
        assert not [name for name in row if name.endswith("_at")]


def test_a_published_object_has_no_metadata_of_its_own(cloud: Cloud, fleet: str) -> None:
    cloud.generate()
    cloud.draw(fleet)
    assert published(cloud)
    bucket = cloud.bucket("Laion")
    for one in cloud.s3.list_objects_v2(Bucket=bucket)["Contents"]:
        assert cloud.s3.head_object(Bucket=bucket, Key=one["Key"])["Metadata"] == {}
        assert cloud.s3.get_object_tagging(Bucket=bucket, Key=one["Key"])["TagSet"] == []


# --- addresses in the table -----------------------------------------------------------------


@pytest.fixture
def limited(cloud: Cloud) -> Cloud:
    cloud.overrides["RATE_LIMITS"] = "true"
    return cloud


def counted(cloud: Cloud) -> list[str]:
    """Return the keys of the items that count addresses."""
    keys = [row["pk"]["S"] for row in cloud.db.scan(TableName=cloud.table)["Items"]]
    return [key for key in keys if key.startswith("RATELIMIT#") and "anonymous" not in key]


def test_a_known_address_is_not_found_in_the_table_by_hashing_it(limited: Cloud) -> None:
    limited.call(GENERATE, {"prompt": "x", "dry_run": True}, key=ANONYMOUS)
    limited.register()
    keys = counted(limited)
    assert len(keys) == 2
    for hashed in (hashlib.sha256, hashlib.sha1, hashlib.md5):
        digest = hashed(ADDRESS.encode()).hexdigest()
        assert not [key for key in keys if digest[:16] in key]


def test_an_address_has_another_name_in_each_window(limited: Cloud) -> None:
    now = limited.clock.now_ms()
    limited.clock.freeze(now - now % 60_000)
    for _ in range(2):
        limited.call(GENERATE, {"prompt": "x", "dry_run": True}, key=ANONYMOUS)
        limited.clock.pass_seconds(60)
    names = {key.split("#")[2] for key in counted(limited)}
    assert len(names) == 2


def test_a_limit_counted_in_memory_reads_no_secret(
    limited: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = limited.register(kudos=100)
    request = limited.generate(key).body["id"]

    def no_secret(_arn: str) -> bytes:
        raise AssertionError

    monkeypatch.setattr(aws, "secret", no_secret)
    assert limited.check(request).status == 200
    assert limited.status(request).status == 200
    assert limited.call("PUT /api/v2/sharedkeys", {"name": "friends"}, key=key).status == 200


def test_a_process_reads_the_secret_once(limited: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    client = aws._client

    def counting(name: str, *more: Any) -> Any:
        made.append(name)
        return client(name, *more)

    monkeypatch.setattr(aws, "_client", counting)
    for _ in range(3):
        limited.call(GENERATE, {"prompt": "x", "dry_run": True}, key=ANONYMOUS)
    assert made.count("secretsmanager") == 1


def test_a_request_fails_if_the_secret_cannot_be_read_and_the_next_tries_again(
    limited: Cloud,
) -> None:
    (arn,) = [name for name in limited.names.values() if ":secretsmanager:" in name]
    before = limited.secrets.get_secret_value(SecretId=arn)["SecretString"]
    limited.overrides["HASH_SECRET"] = UNKNOWN
    assert limited.generate().status == 500
    limited.overrides.pop("HASH_SECRET")
    aws.clear_settings()
    assert limited.generate().status == 202
    assert limited.secrets.get_secret_value(SecretId=arn)["SecretString"] == before


# --- the secret -----------------------------------------------------------------------------


def test_hashes_of_two_purposes_or_secrets_differ() -> None:
    hashes = {
        keyed(secret, purpose, text)
        for secret in (SECRET, b"another")
        for purpose in Purpose
        for text in ("a", "b")
    }
    assert len(hashes) == 2 * len(Purpose) * 2
    assert {len(one) for one in hashes} == {32}


def test_no_configuration_shows_the_secret(template: dict[str, Any]) -> None:
    (made,) = of_type(template, "AWS::SecretsManager::Secret").values()
    assert set(made["Properties"]) == {"Description", "GenerateSecretString"}
    assert "{{resolve:" not in json.dumps(template)


def test_a_function_that_counts_addresses_exactly_is_told_the_secret(
    template: dict[str, Any],
) -> None:
    counting = {
        file
        for file in functions(template)
        for route in getattr(importlib.import_module(file), "ROUTES", {}).values()
        for limit in route.limits
        if limit.exact and limit.by is not By.KEY
    }
    told = {
        file
        for file, (_, found) in functions(template).items()
        if "HASH_SECRET" in found["Environment"]["Variables"]
    }
    assert told == counting | {"share", "release"}
