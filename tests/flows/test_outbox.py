"""The stream to the functions that others start: one event a record, and what Lambda refuses."""

import json
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from tests.support.cloud import Cloud
from tests.support.numbers import PIXELSTEPS


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


MODELS = tuple(f"stable_diffusion {number}" for number in range(7))


@pytest.fixture
def models(cloud: Cloud) -> None:
    """Seven models with an endpoint each."""
    shown = {"baseline": "stable_diffusion_1"}
    named = {model: {"endpoint": f"e{number}", **shown} for number, model in enumerate(MODELS)}
    cloud.overrides["MODELS"] = json.dumps(named)


def asked(cloud: Cloud, requests: int) -> list[str]:
    """Ask for an image of each of so many models; returns the ids of the requests."""
    return [cloud.generate(models=[model]).body["id"] for model in MODELS[:requests]]


def ticketed(cloud: Cloud) -> list[str]:
    """Return for which requests tickets were made, in order."""
    cloud.deliver("dispatch")
    return [job["input"]["request_id"] for job in cloud.runpod.jobs]


@pytest.mark.lengthy
def test_requests_of_one_image_need_as_many_tickets_as_one_of_all_their_images(
    cloud: Cloud, invokes: Invokes
) -> None:
    cloud.overrides["RATE_LIMITS"] = "false"
    _, key = cloud.register(kudos=10_000)
    for _ in range(25):
        assert cloud.generate(key).status == 202
    cloud.stream()
    assert invokes.calls == 1
    cloud.deliver("dispatch")
    assert sum(job["input"]["images"] for job in cloud.runpod.jobs) == 25
    assert len(cloud.runpod.jobs) == 5  # of five images each, half a minute of drawing


@pytest.mark.lengthy
def test_no_dispatch_has_more_tickets_to_send_than_it_has_time_for(
    cloud: Cloud, invokes: Invokes
) -> None:
    cloud.overrides["RATE_LIMITS"] = "false"
    keys = [cloud.register(f"ada{number}", kudos=10_000)[1] for number in range(6)]
    for key in keys:
        assert cloud.generate(key, params={"n": 20}).status == 202
    cloud.stream()
    assert invokes.calls == 2
    cloud.deliver("dispatch")
    assert sum(job["input"]["images"] for job in cloud.runpod.jobs) == 120


@pytest.mark.usefixtures("models")
def test_each_model_is_handed_over_once(cloud: Cloud, invokes: Invokes) -> None:
    requests = asked(cloud, 7)
    cloud.stream()
    assert invokes.calls == len(requests)
    assert sorted(ticketed(cloud)) == sorted(requests)


@pytest.mark.lengthy
@pytest.mark.usefixtures("models")
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


def test_requests_that_were_sent_with_one_before_what_lambda_refuses_are_sent_again(
    cloud: Cloud, invokes: Invokes
) -> None:
    _, key = cloud.register(kudos=1000)
    for model in ("stable_diffusion", "another", "stable_diffusion"):
        assert cloud.generate(key, models=[model]).status == 202
    invokes.refused = {1}
    cloud.stream()
    images = [event["images"] for event in cloud.events_for("dispatch")]
    assert sum(images) == 4  # two at first, one of them again, and the other model's
    assert cloud.dead_records == []


@pytest.mark.usefixtures("models")
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
    cloud.clock.freeze()
    request = cloud.generate().body["id"]
    cloud.stream()
    url = cloud.sqs.get_queue_url(QueueName="handed-to-dispatch")["QueueUrl"]
    (message,) = cloud.sqs.receive_message(QueueUrl=url)["Messages"]
    wanted = {"v": 1, "request_id": request, "model": "stable_diffusion", "images": 1}
    wanted |= {"pixelsteps": PIXELSTEPS, "created_at": cloud.clock.now_ms()}
    assert json.loads(message["Body"]) == wanted
