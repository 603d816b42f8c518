"""The stream to the queues: ten messages a call, and what SQS takes only in part."""

from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from tests.support.cloud import Cloud

BATCH = 10


class Sqs:
    """Refuses messages of ``SendMessageBatch`` as a test says, and notes what was sent."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        """Messages of each call."""
        self.refused: set[int] = set()
        """Numbers of the messages, counted from 0 over all calls, that are refused."""
        self.throttled: set[int] = set()
        """Numbers of the calls that are refused as a whole."""
        self._real = vars(BaseClient)["_make_api_call"]

    def call(self, client: Any, operation: str, params: dict[str, Any]) -> Any:
        if operation != "SendMessageBatch":
            return self._real(client, operation, params)
        number, sent = len(self.calls), sum(self.calls)
        self.calls.append(len(params["Entries"]))
        if number in self.throttled:
            raise ClientError({"Error": {"Code": "RequestThrottled"}}, operation)
        entries = list(enumerate(params["Entries"], start=sent))
        taken = [entry for index, entry in entries if index not in self.refused]
        failed = [
            {"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"}
            for index, entry in entries
            if index in self.refused
        ]
        answer = self._real(client, operation, {**params, "Entries": taken}) if taken else {}
        return {**answer, "Failed": failed}


@pytest.fixture
def sqs(monkeypatch: pytest.MonkeyPatch) -> Sqs:
    made = Sqs()

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


def test_messages_are_sent_ten_at_a_time(cloud: Cloud, sqs: Sqs) -> None:
    requests = asked(cloud, 23)
    cloud.stream()
    assert sqs.calls == [BATCH, BATCH, 3]
    assert sorted(ticketed(cloud)) == sorted(requests)


@pytest.mark.parametrize("number", [0, 4, 12, 22])
def test_a_message_that_sqs_refuses_comes_again_and_few_others_twice(
    cloud: Cloud, sqs: Sqs, number: int
) -> None:
    requests = asked(cloud, 23)
    sqs.refused = {number}
    cloud.stream()
    made = ticketed(cloud)
    assert set(made) == requests
    assert len(made) - len(requests) < BATCH
    assert cloud.dead_records == []


def test_a_call_that_sqs_throttles_comes_again(cloud: Cloud, sqs: Sqs) -> None:
    requests = asked(cloud, 23)
    sqs.throttled = {1}
    cloud.stream()
    made = ticketed(cloud)
    assert sorted(made) == sorted(requests)  # none twice: the first ten were not given back


def test_a_record_that_cannot_be_read_does_not_hold_up_those_before_it(
    cloud: Cloud, sqs: Sqs
) -> None:
    asked(cloud, 3)
    records = cloud.records_of_the_stream()
    new = [record for record in records if record["dynamodb"]["Keys"]["sk"]["S"] == "REQUEST"]
    del new[2]["dynamodb"]["NewImage"]["model"]
    answer = cloud.invoke("enqueue", {"Records": new})
    third = new[2]["dynamodb"]["SequenceNumber"]
    assert answer == {"batchItemFailures": [{"itemIdentifier": third}]}
    assert sqs.calls == [2]
