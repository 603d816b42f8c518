"""What a worker marks as CSAM is censored and flagged, and nothing of its request is shared."""

from typing import Any

import pytest

from infra.operate import OperatorError, image_commands
from tests.support.api_calls import ANONYMOUS, refused
from tests.support.cloud import Cloud

MARKS: list[dict[str, Any]] = [
    {"state": "csam"},
    {"gen_metadata": [{"type": "censorship", "value": "csam"}]},
]


def drawn_with_a_mark(cloud: Cloud, worker: str, key: str, mark: dict[str, Any]) -> list[str]:
    """Draw a request of two images; publish the first, then mark the second."""
    assert cloud.generate(key, shared=True, params={"n": 2}).status == 202
    jobs = cloud.pop(worker, amount=2, mixed_batch=True).body["jobs"]
    for job in jobs:
        cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, jobs[0]["id"]).status == 200
    cloud.settle_async()
    assert len(cloud.laion()) == 1
    assert cloud.submit(worker, jobs[1]["id"], **mark).status == 200
    return [job["id"] for job in jobs]


@pytest.mark.parametrize("mark", MARKS)
def test_a_mark_takes_all_images_of_its_request_out_of_the_data_set(
    cloud: Cloud, worker: str, mark: dict[str, Any]
) -> None:
    _, key = cloud.register("ada", kudos=200)
    drawn_with_a_mark(cloud, worker, key, mark)
    cloud.settle_async()
    cloud.settle_async()
    assert cloud.laion() == {}


def test_nothing_of_a_marked_request_is_published_later(cloud: Cloud, worker: str) -> None:
    assert cloud.generate(ANONYMOUS, params={"n": 2}).status == 202
    first, second = cloud.pop(worker, amount=2, mixed_batch=True).body["jobs"]
    for job in (first, second):
        cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, first["id"], state="csam").status == 200
    assert cloud.submit(worker, second["id"]).status == 200
    for _ in range(3):
        cloud.settle_async()
    assert cloud.laion() == {}


def test_nothing_is_earned_by_rating_a_marked_request(cloud: Cloud, worker: str) -> None:
    _, key = cloud.register("ada", kudos=200)
    first, _ = drawn_with_a_mark(cloud, worker, key, MARKS[0])
    (request,) = cloud.rows("REQUEST")
    answer = cloud.rate(request["id"]["S"], ratings=[{"id": first, "rating": 5}])
    refused(answer, "AestheticsNotPublic")


def test_a_marked_image_refunds_its_price_as_a_censored_one(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register("ada", kudos=200)
    before = cloud.kudos(user)
    request = cloud.generate(key, shared=True).body
    (job,) = cloud.pop(worker, mixed_batch=True).body["jobs"]
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"], state="csam").status == 200
    status = cloud.status(request["id"]).body
    assert status["generations"][0]["censored"] is True
    assert before - cloud.kudos(user) == status["kudos"]


def test_the_operator_sees_the_request_its_author_and_the_worker(
    cloud: Cloud, owner: int, worker: str
) -> None:
    user, key = cloud.register("ada", kudos=200)
    _, marked = drawn_with_a_mark(cloud, worker, key, MARKS[0])
    (line,) = image_commands.flagged(cloud.store)
    (request,) = cloud.rows("REQUEST")
    for seen in (marked, request["id"]["S"], f"ada#{user}", "'w1'", f"owner#{owner}"):
        assert seen in line


def test_the_operator_takes_a_mark_off_the_list_and_the_request_stays_unpublished(
    cloud: Cloud, worker: str
) -> None:
    _, key = cloud.register("ada", kudos=200)
    first, marked = drawn_with_a_mark(cloud, worker, key, MARKS[0])
    assert "stays unpublished" in image_commands.clear_flag(cloud.store, marked.upper())
    assert image_commands.flagged(cloud.store) == ["no image is marked as CSAM"]
    cloud.settle_async()
    assert cloud.laion() == {}
    with pytest.raises(OperatorError, match="not marked"):
        image_commands.clear_flag(cloud.store, first)


def test_a_mark_raises_the_alarm_even_if_its_first_delivery_fails(
    cloud: Cloud, worker: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, key = cloud.register("ada", kudos=200)
    drawn_with_a_mark(cloud, worker, key, MARKS[0])
    with monkeypatch.context() as patch:
        patch.setattr(type(cloud.store.sharing), "mark_withdrawn", dies)
        cloud.settle_async()
    assert cloud.rows("SHARED")[0].get("withdrawn_at") is None
    cloud.deliver("share")
    assert cloud.laion() == {}
    assert cloud.rows("SHARED")[0]["withdrawn_at"]
    assert "csam marked" in caplog.messages


def dies(*_: object) -> None:
    """Stand for a process that is killed."""
    raise ConnectionError
