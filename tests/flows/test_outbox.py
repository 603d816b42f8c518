"""The stream to the functions that others start: one event a record, and what Lambda refuses."""

import json
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from tests.support.cloud import Cloud


class Invokes:
    """Refuses some of the calls that hand an event over, and counts all."""

    def __init__(self) -> None:
        self.calls = 0
        self.refused: set[int] = set()
        """Numbers of the calls, from 0, that are throttled."""
        self._real = vars(BaseClient)["_make_api_call"]

    def call(self, client: Any, operation: str, params: dict[str, Any]) -> Any:
        if operation == "Invoke":
            self.calls += 1
            if self.calls - 1 in self.refused:
                raise ClientError({"Error": {"Code": "TooManyRequestsException"}}, operation)
        return self._real(client, operation, params)


@pytest.fixture
def invokes(monkeypatch: pytest.MonkeyPatch) -> Invokes:
    made = Invokes()

    def call(client: Any, operation: str, params: dict[str, Any]) -> Any:
        return made.call(client, operation, params)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)
    return made


def asked(cloud: Cloud, requests: int) -> set[str]:
    return {cloud.generate().body["id"] for _ in range(requests)}


def ticketed(cloud: Cloud) -> list[str]:
    """Return for which requests tickets were made, in order."""
    cloud.deliver("dispatch")
    return [job["input"]["request_id"] for job in cloud.runpod.jobs]


def test_each_new_request_is_handed_over_once(cloud: Cloud, invokes: Invokes) -> None:
    requests = asked(cloud, 7)
    cloud.stream()
    assert invokes.calls == len(requests)
    assert sorted(ticketed(cloud)) == sorted(requests)


@pytest.mark.parametrize("number", [0, 3, 6])
def test_what_lambda_refuses_comes_again_and_nothing_else(
    cloud: Cloud, invokes: Invokes, number: int
) -> None:
    requests = asked(cloud, 7)
    invokes.refused = {number}
    cloud.stream()
    assert invokes.calls == len(requests) + 1
    assert sorted(ticketed(cloud)) == sorted(requests)
    assert cloud.dead_records == []


def test_a_record_that_cannot_be_read_does_not_hold_up_those_before_it(
    cloud: Cloud, invokes: Invokes
) -> None:
    asked(cloud, 3)
    records = cloud.records_of_the_stream()
    new = [record for record in records if record["dynamodb"]["Keys"]["sk"]["S"] == "REQUEST"]
    del new[2]["dynamodb"]["NewImage"]["model"]
    answer = cloud.invoke("enqueue", {"Records": new})
    third = new[2]["dynamodb"]["SequenceNumber"]
    assert answer == {"batchItemFailures": [{"itemIdentifier": third}]}
    assert invokes.calls == 2


def test_an_event_is_as_small_as_what_its_function_needs(cloud: Cloud) -> None:
    (request,) = asked(cloud, 1)
    cloud.stream()
    url = cloud.sqs.get_queue_url(QueueName="handed-to-dispatch")["QueueUrl"]
    (message,) = cloud.sqs.receive_message(QueueUrl=url)["Messages"]
    wanted = {"v": 1, "request_id": request, "model": "stable_diffusion", "images": 1}
    assert json.loads(message["Body"]) == wanted
