from __future__ import annotations

import base64
import json
import logging
import time
from collections import deque

import pytest

from gpu_worker import horde_client as protocol
from gpu_worker.horde_client import BadJobError, Horde, Job, RefusedError, UnavailableError, jobs_of
from tests.worker.fake_horde import PAYLOAD, FakeHorde


def a_job(**changes: object) -> Job:
    options = {"id": "j", "payload": dict(PAYLOAD), "deadline": 0.0} | changes
    return Job(**options)  # type: ignore[arg-type]


def test_a_pop_says_what_the_worker_can_and_cannot_do(horde: FakeHorde, client: Horde) -> None:
    client.pop()
    asked = horde.pops[0]
    assert asked["models"] == ["stable_diffusion"]
    assert (asked["amount"], asked["max_pixels"]) == (4, 1024 * 1024)
    assert asked["allow_img2img"]
    assert asked["mixed_batch"]
    unable = ("lora", "controlnet", "post_processing")
    assert not any(asked[f"allow_{name}"] for name in unable)


def test_nothing_waiting_is_an_empty_list(client: Horde) -> None:
    assert client.pop() == []


def test_our_horde_mixes_requests_in_one_pop(horde: FakeHorde, client: Horde) -> None:
    ids = [horde.add(prompt="a", seed="7"), horde.add(prompt="b", seed="900")]
    jobs = client.pop()
    assert [job.id for job in jobs] == ids
    assert [job.payload["prompt"] for job in jobs] == ["a", "b"]
    assert [job.seed for job in jobs] == [7, 900]


def test_an_ordinary_hordes_batch_counts_the_seed_up(horde: FakeHorde, client: Horde) -> None:
    horde.knows_mixed_batch = False
    ids = [horde.add(seed="41"), horde.add(seed="41"), horde.add(seed="41")]
    jobs = client.pop()
    assert [(job.id, job.seed) for job in jobs] == list(zip(ids, (41, 42, 43), strict=True))
    assert [ids[i] in str(job.upload_url) for i, job in enumerate(jobs)] == [True] * 3


def test_a_horde_with_one_upload_url_and_nulls_is_understood() -> None:
    answer = {"ids": ["a"], "payload": {"seed": "1"}, "r2_upload": "u", "r2_uploads": None}
    (job,) = jobs_of({**answer, "ttl": None, "source_image": None, "model": None}, now=100.0)
    assert (job.upload_url, job.source_image, job.model) == ("u", None, "")
    assert job.deadline == 100.0 + protocol.MIN_TTL_S


def test_a_pop_is_tried_again_while_the_horde_is_away(horde: FakeHorde, client: Horde) -> None:
    horde.add()
    horde.failures["pop"] = deque([503, 0, 429])
    assert len(client.pop()) == 1


@pytest.mark.lengthy
def test_a_pop_gives_up_in_the_end(horde: FakeHorde, client: Horde) -> None:
    horde.failures["pop"] = deque([500] * 10)
    with pytest.raises(UnavailableError, match="pop: 500 pop fails"):
        client.pop()
    assert horde.calls["pop"] == protocol.MAX_TRIES


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []

    def sleep(seconds: float) -> None:
        if seconds:  # the fake horde's are 0
            found.append(seconds)

    monkeypatch.setattr(time, "sleep", sleep)
    return found


@pytest.mark.lengthy
def test_a_retry_waits_as_long_as_the_horde_asks(
    horde: FakeHorde, client: Horde, pauses: list[float]
) -> None:
    horde.add()
    horde.failures["pop"], horde.retry_after = deque([429, 503]), "7"
    (job,) = client.pop()
    horde.failures["submit"], horde.retry_after = deque([429]), "60"
    client.submit(job, "ok")
    assert [pause for pause in pauses if pause > 1] == [7, 7, 60]


def test_a_pop_that_is_told_to_wait_for_long_gives_up(
    horde: FakeHorde, client: Horde, pauses: list[float]
) -> None:
    horde.failures["pop"], horde.retry_after = deque([429]), "60"
    with pytest.raises(UnavailableError, match="429"):
        client.pop()
    assert horde.calls["pop"] == 1
    assert not pauses


def test_a_submit_does_not_wait_past_the_lease(
    horde: FakeHorde, client: Horde, pauses: list[float]
) -> None:
    horde.add(ttl=100)
    (job,) = client.pop()
    horde.failures["submit"], horde.retry_after = deque([429] * 99), "200"
    with pytest.raises(UnavailableError, match="429"):
        client.submit(job, "ok")
    assert not pauses


@pytest.mark.parametrize("asked", ["soon", "-1", "Fri, 27 Nov 2026 12:00:00 GMT"])
def test_a_retry_after_that_is_no_number_of_seconds_changes_nothing(
    asked: str, horde: FakeHorde, client: Horde
) -> None:
    horde.failures["pop"], horde.retry_after = deque([503]), asked
    assert client.pop() == []


def test_a_refused_pop_is_not_tried_again(horde: FakeHorde, client: Horde) -> None:
    horde.failures["pop"] = deque([403])
    with pytest.raises(RefusedError, match="403 Failure: pop fails"):
        client.pop()
    assert horde.calls["pop"] == 1


def test_an_upload_has_no_content_type(horde: FakeHorde, client: Horde) -> None:
    horde.add()
    (job,) = client.pop()
    client.upload(job, b"webp")
    assert horde.uploads == {job.id: b"webp"}
    assert "content-type" not in horde.upload_headers[0]


LONGEST = (protocol.MAX_INLINE_BODY - protocol.REST_OF_BODY) // 4 * 3
"""The most bytes of an image that a submit carries."""


@pytest.mark.lengthy
def test_an_upload_by_form_is_bounded_by_its_signature(horde: FakeHorde, client: Horde) -> None:
    image = b"\0webp\r\n\xff" + b"x" * LONGEST
    horde.most_bytes = len(image)
    horde.add()
    (job,) = client.pop()
    horde.failures["upload"] = deque([503])
    client.upload(job, image)
    assert horde.uploads == {job.id: image}
    assert horde.upload_headers == []  # nothing came by PUT
    with pytest.raises(RefusedError, match="400"):
        client.upload(job, image + b"x")
    client.submit(job, "ok", image)
    assert horde.settled[job.id]["generation"] == "R2"


@pytest.mark.parametrize(("size", "uploads"), [(5, 0), (LONGEST, 0), (LONGEST + 1, 1)])
def test_a_horde_with_forms_gets_an_image_in_the_submit_if_that_costs_one_request(
    horde: FakeHorde, client: Horde, size: int, uploads: int
) -> None:
    horde.most_bytes, image = 10**6, b"\xff" * size
    horde.add(seed=str(2**32 - 1))
    (job,) = client.pop()
    horde.lose_answers["submit"] = 1
    client.upload(job, image)
    client.submit(job, "censored", image)
    assert (horde.calls["upload"], horde.calls["submit"]) == (uploads, 2)
    sent = horde.settled[job.id]
    assert len(json.dumps(sent)) <= protocol.MAX_INLINE_BODY
    if not uploads:
        assert base64.b64decode(sent["generation"]) == image


def test_another_horde_gets_every_image_by_its_upload_url(horde: FakeHorde, client: Horde) -> None:
    horde.add()
    (job,) = client.pop()
    client.upload(job, b"webp")
    client.submit(job, "ok", b"webp")
    assert horde.uploads == {job.id: b"webp"}
    assert horde.settled[job.id]["generation"] == "R2"


def test_a_submit_with_an_image_is_one_that_the_horde_takes_and_bills_once() -> None:
    from horde.edge.http import MAX_BODY

    headers = 8_000
    assert protocol.MAX_INLINE_BODY + headers <= min(MAX_BODY, 512_000)


def test_an_upload_is_tried_again(horde: FakeHorde, client: Horde) -> None:
    horde.add()
    horde.failures["upload"] = deque([503, 0])
    (job,) = client.pop()
    client.upload(job, b"webp")
    assert horde.calls["upload"] == 3


def test_without_an_upload_url_the_image_travels_in_the_submit(
    horde: FakeHorde, client: Horde
) -> None:
    horde.r2 = False
    horde.add()
    (job,) = client.pop()
    client.upload(job, b"webp")
    client.submit(job, "ok", b"webp")
    assert base64.b64decode(horde.settled[job.id]["generation"]) == b"webp"
    assert horde.calls["upload"] == 0


def test_a_submit_whose_answer_was_lost_has_won(horde: FakeHorde, client: Horde) -> None:
    horde.add(seed="5")
    (job,) = client.pop()
    horde.lose_answers["submit"] = 1
    client.submit(job, "ok")
    assert horde.calls["submit"] == 2
    assert horde.settled[job.id]["seed"] == 5


def test_a_submit_that_someone_else_won_is_refused(horde: FakeHorde, client: Horde) -> None:
    horde.add()
    (job,) = client.pop()
    client.submit(job, "ok")
    with pytest.raises(RefusedError, match="DuplicateGen"):
        client.submit(job, "ok")


def test_a_censored_submit_says_why(horde: FakeHorde, client: Horde) -> None:
    horde.add()
    (job,) = client.pop()
    client.submit(job, "censored")
    assert horde.settled[job.id]["gen_metadata"] == [{"type": "censorship", "value": "nsfw"}]


def test_a_submit_that_is_refused_for_good_is_not_tried_again(
    horde: FakeHorde, client: Horde
) -> None:
    horde.add()
    (job,) = client.pop()
    horde.failures["submit"] = deque([403])
    with pytest.raises(RefusedError, match="403"):
        client.deliver(job, "ok", b"webp")
    assert horde.calls["submit"] == 1


@pytest.mark.lengthy
def test_a_fault_is_not_told_forever(horde: FakeHorde, client: Horde) -> None:
    horde.add()
    (job,) = client.pop()
    horde.failures["submit"] = deque([503] * 99)
    with pytest.raises(UnavailableError):
        client.submit(job, "faulted")
    assert horde.calls["submit"] == protocol.MAX_TRIES


def test_a_source_image_comes_by_url_or_as_base64(horde: FakeHorde, client: Horde) -> None:
    horde.files["cat.webp"] = b"bytes"
    by_url = a_job(source_image=f"{horde.url}/get/cat.webp")
    inline = base64.b64encode(b"bytes").decode()
    assert client.fetch_source(by_url) == b"bytes"
    assert client.fetch_source(a_job(source_image=inline)) == b"bytes"
    assert client.fetch_source(a_job(source_image=f"data:image/webp;base64,{inline}")) == b"bytes"
    assert client.fetch_source(a_job()) is None


def test_a_source_image_is_read_up_to_its_limit(
    horde: FakeHorde, client: Horde, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_SOURCE_BYTES", 99)
    horde.files["big.webp"] = b"x" * 100
    for source in (f"{horde.url}/get/big.webp", base64.b64encode(b"x" * 120).decode()):
        with pytest.raises(BadJobError, match="larger"):
            client.fetch_source(a_job(source_image=source))


def test_what_is_neither_url_nor_base64_is_a_bad_job(client: Horde) -> None:
    with pytest.raises(BadJobError, match="neither"):
        client.fetch_source(a_job(source_image="!"))


def test_no_message_or_log_holds_a_key_or_a_presigned_url(
    horde: FakeHorde, client: Horde, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    horde.add()
    (job,) = client.pop()
    horde.failures["upload"] = deque([0] * protocol.MAX_TRIES)
    with pytest.raises(UnavailableError) as raised:
        client.upload(job, b"webp")
    assert str(raised.value) == f"upload: ConnectionError ({protocol.MAX_TRIES} tries)"
    assert "Signature" not in caplog.text
