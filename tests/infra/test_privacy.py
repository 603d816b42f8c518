"""The periods of the privacy policy are those of the template and of the constants."""

import importlib
from typing import Any

import pytest

import recover
from horde.records import HELD_DAYS, PRIVATE, SHARED, UPLOADS
from horde.store.counters import STATS_KEEP_S
from horde.store.items import KEEP_S
from horde.store.releases import KEPT_DAYS
from horde.store.requests import UNTOUCHED_S
from horde.store.workers import WORKER_KEEP_S
from infra.parts.publishing import RELEASES
from tests.support.template import ROOT, of_type

DAY_S = 24 * 3600
PITR_DAYS = 35
"""The most and, where a template says nothing, the default of DynamoDB."""
POLICY = (ROOT / "functions" / "horde" / "edge" / "documents" / "privacy.md").read_text("utf-8")


def period_of(data: str) -> str:
    """Return how long the policy says that some data are kept."""
    (row,) = [line for line in POLICY.splitlines() if line.startswith("| ") and data in line]
    return row.strip("| ").split(" | ")[-1]


def lifetime(template: dict[str, Any], bucket: str, prefix: str | None = None) -> int:
    """Return the days after which a bucket's objects expire, those of a prefix if it has any."""
    (found,) = [
        one["Properties"]
        for name, one in of_type(template, "AWS::S3::Bucket").items()
        if name.startswith(bucket)
    ]
    (days,) = [
        int(rule["ExpirationInDays"])
        for rule in found["LifecycleConfiguration"]["Rules"]
        if "ExpirationInDays" in rule and rule.get("Prefix") == prefix
    ]
    return days


def test_requests_are_kept_as_long_as_the_policy_says() -> None:
    several, one = KEEP_S // DAY_S, UNTOUCHED_S // DAY_S
    assert period_of("a request: its prompt") == (
        f"{several} days after it ended; one of a single image, {one} days after it would have "
        "expired"
    )


@pytest.mark.parametrize("prefix", [UPLOADS, PRIVATE, None])
def test_private_images_are_kept_as_long_as_the_policy_says(
    template: dict[str, Any], prefix: str | None
) -> None:
    days = lifetime(template, "Outputs" if prefix else "Sources", prefix)
    assert period_of("the images drawn for you").startswith(f"{days} day;")


def test_a_shared_image_that_was_not_copied_is_kept_as_long_as_the_policy_says(
    template: dict[str, Any],
) -> None:
    days = lifetime(template, "Outputs", SHARED)
    said = f"at most {days} days, until it has been copied; its request a day longer"
    assert period_of("whose copy into the data set failed") == said
    assert (days + 1) * DAY_S == recover.KEPT_S


def test_held_images_are_kept_as_long_as_the_policy_says(template: dict[str, Any]) -> None:
    assert period_of("until the volunteer is trusted") == f"{HELD_DAYS} days"
    assert lifetime(template, "Held") <= HELD_DAYS


def test_addresses_are_kept_as_long_as_the_policy_says() -> None:
    windows = [
        limit.seconds
        for path in (ROOT / "functions").glob("*.py")
        for route in getattr(importlib.import_module(path.stem), "ROUTES", {}).values()
        for limit in route.limits
        if limit.exact
    ]
    assert period_of("hashes of your network address") == f"{2 * max(windows) // 3600} hours"


def test_workers_are_kept_as_long_as_the_policy_says() -> None:
    worker, statistics = WORKER_KEEP_S // DAY_S, STATS_KEEP_S // DAY_S
    said = period_of("your workers: ")
    assert said.startswith(f"{worker} days after")
    assert f"statistics {statistics} days after" in said


def test_backups_are_kept_as_long_as_the_policy_says(template: dict[str, Any]) -> None:
    (table,) = of_type(template, "AWS::DynamoDB::GlobalTable").values()
    (replica,) = table["Properties"]["Replicas"]
    recovery = replica["PointInTimeRecoverySpecification"]
    assert recovery["PointInTimeRecoveryEnabled"]
    days = recovery.get("RecoveryPeriodInDays", PITR_DAYS)
    assert period_of("backups of the whole table") == f"{days} days"


def test_dead_letters_are_kept_as_long_as_the_policy_says(template: dict[str, Any]) -> None:
    queues = [one["Properties"] for one in of_type(template, "AWS::SQS::Queue").values()]
    longest = max(queue.get("MessageRetentionPeriod", 4 * DAY_S) for queue in queues)
    assert period_of("whose processing failed") == f"{longest // DAY_S} days"


def test_logs_are_kept_as_long_as_the_policy_says(template: dict[str, Any]) -> None:
    kept = {
        one["Properties"]["RetentionInDays"]
        for one in of_type(template, "AWS::Logs::LogGroup").values()
    }
    assert {f"{days} days" for days in kept} == {period_of("logs: the route")}


def test_the_policy_knows_every_place_where_data_is_kept(template: dict[str, Any]) -> None:
    places = {
        "AWS::DynamoDB::GlobalTable": "the table",
        "AWS::S3::Bucket": "private bucket",
        "AWS::SQS::Queue": "dead-letter queues",
        "AWS::Logs::LogGroup": "CloudWatch",
        "AWS::SecretsManager::Secret": "Secrets Manager",
        "AWS::StepFunctions::StateMachine": "Step Functions",
    }
    stateless = (
        "AWS::ApiGatewayV2::",
        "AWS::CDK::",
        "AWS::CloudWatch::",
        "AWS::Events::",
        "AWS::IAM::",
        "AWS::Lambda::",
        "AWS::Logs::MetricFilter",
        "AWS::S3::BucketPolicy",
        "AWS::SNS::",
        "AWS::SQS::QueuePolicy",
        "Custom::",
    )
    kinds = {one["Type"] for one in template["Resources"].values()}
    assert {kind for kind in kinds if not kind.startswith(stateless)} == set(places)
    for place in places.values():
        assert place in POLICY


def test_what_is_kept_back_is_kept_as_long_as_the_policy_says(template: dict[str, Any]) -> None:
    assert period_of("that screening kept back") == f"{KEPT_DAYS} days"
    assert lifetime(template, "Held") == KEPT_DAYS


def test_what_a_release_is_made_of_is_kept_as_long_as_the_policy_says(
    template: dict[str, Any],
) -> None:
    days = lifetime(template, "ReleasesWork", RELEASES)
    assert period_of("wait for the next release").startswith(f"{days} days;")
