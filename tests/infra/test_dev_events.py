"""The sample events are what the deployed triggers send."""

import hashlib
import json
from typing import Any

import pytest

from infra.local.dev.letters import matches
from tests.support.template import ROOT, functions, of_type, routes

EVENTS = ROOT / "infra" / "local" / "events"
API = {"pop": "worker", "price": "generate"}
TRIGGERS = {**API, "upload": "share", "request": "enqueue", "minute": "sweep"}


def event(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return found


def source(template: dict[str, Any], function: str) -> dict[str, Any]:
    """The event source mapping of a function."""
    logical = functions(template)[function][0]
    (found,) = (
        mapping["Properties"]
        for mapping in of_type(template, "AWS::Lambda::EventSourceMapping").values()
        if mapping["Properties"]["FunctionName"]["Ref"] == logical
    )
    return dict(found)


def test_every_sample_is_checked_here() -> None:
    assert {path.stem for path in EVENTS.glob("*.json")} == set(TRIGGERS)


@pytest.mark.parametrize("name", API)
def test_an_api_event_names_a_route_of_its_function(template: dict[str, Any], name: str) -> None:
    found = event(name)
    assert found["version"] == "2.0"
    assert routes(template)[found["routeKey"]] == API[name]
    http = found["requestContext"]["http"]
    assert found["routeKey"] == f"{http['method']} {found['rawPath']}"
    assert isinstance(json.loads(found["body"]), dict)


def test_the_queue_s_event_is_an_upload_s(template: dict[str, Any]) -> None:
    (record,) = event("upload")["Records"]
    assert record["eventSource"] == "aws:sqs"
    assert record["md5OfBody"] == hashlib.md5(record["body"].encode()).hexdigest()
    (upload,) = json.loads(record["body"])["Records"]
    (notified,) = of_type(template, "Custom::S3BucketNotifications").values()
    (queue,) = notified["Properties"]["NotificationConfiguration"]["QueueConfigurations"]
    assert any(
        f"s3:{upload['eventName']}".startswith(wanted.rstrip("*")) for wanted in queue["Events"]
    )
    (prefix,) = [rule["Value"] for rule in queue["Filter"]["Key"]["FilterRules"]]
    assert upload["s3"]["object"]["key"].startswith(prefix)
    assert source(template, "share")["EventSourceArn"] == queue["QueueArn"]


def test_the_stream_s_event_passes_its_filter(template: dict[str, Any]) -> None:
    (record,) = event("request")["Records"]
    filters = source(template, "enqueue")["FilterCriteria"]["Filters"]
    assert any(matches(json.loads(one["Pattern"]), record) for one in filters)
    assert record["dynamodb"]["Keys"].items() <= record["dynamodb"]["NewImage"].items()


def test_the_schedule_s_event_is_for_the_function_on_a_schedule(template: dict[str, Any]) -> None:
    assert (event("minute")["source"], event("minute")["detail-type"]) == (
        "aws.events",
        "Scheduled Event",
    )
    (target,) = [
        target
        for rule in of_type(template, "AWS::Events::Rule").values()
        if rule["Properties"]["ScheduleExpression"] == "rate(1 minute)"
        for target in rule["Properties"]["Targets"]
    ]
    assert target["Arn"]["Fn::GetAtt"][0] == functions(template)["sweep"][0]
