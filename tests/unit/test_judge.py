"""What becomes of an upload, and what a shared image's row says of its file."""

from dataclasses import replace

import pytest

from horde.records import Generation, Request, State
from horde.rules.sharing import Reason, Verdict, decide, judge, reaches_data_set, row
from tests.support.records import IMAGE, PAYLOAD, REQUEST

SHARED = replace(REQUEST, shared=True)
DELIVERED = replace(IMAGE, state=State.OK, attempt=2)


@pytest.mark.parametrize(
    ("request_is", "image", "attempt", "verdict"),
    [
        (SHARED, DELIVERED, 2, Verdict.SHARE),
        (SHARED, replace(DELIVERED, state=State.PROCESSING), 2, Verdict.LATER),
        (SHARED, replace(DELIVERED, state=State.CENSORED), 2, Verdict.NEVER),
        (SHARED, DELIVERED, 1, Verdict.NEVER),
        (SHARED, replace(DELIVERED, state=State.PROCESSING), 1, Verdict.NEVER),
        (REQUEST, DELIVERED, 2, Verdict.NEVER),
        (None, DELIVERED, 2, Verdict.NEVER),
        (SHARED, None, 2, Verdict.NEVER),
    ],
)
def test_an_upload_is_shared_now_later_or_never(
    request_is: Request | None, image: Generation | None, attempt: int, verdict: Verdict
) -> None:
    assert judge(request_is, image, attempt) is verdict


def test_a_row_names_its_file_and_says_that_it_is_uncensored_webp() -> None:
    found = row(replace(SHARED, payload=PAYLOAD), DELIVERED, sha256="s", size=7)
    assert (found["file_name"], found["format"]) == (f"{DELIVERED.id}.webp", "webp")
    assert (found["censored"], found["sha256"], found["bytes"]) == (False, "s", 7)


@pytest.mark.parametrize(
    ("state", "may"),
    [
        (State.WAITING, True),
        (State.PROCESSING, True),
        (State.OK, True),
        (State.CENSORED, False),
        (State.FAULTED, False),
        (State.CANCELLED, False),
        (State.EXPIRED, False),
    ],
)
def test_an_image_may_reach_the_data_set_until_it_ends_without_a_picture(
    state: State, may: bool
) -> None:
    assert reaches_data_set(SHARED, [replace(IMAGE, state=state)]) is may
    assert not reaches_data_set(REQUEST, [replace(IMAGE, state=state)])


def test_who_is_overruled_is_told_why() -> None:
    always = decide(flag=False, anonymous=True, uses_images=False)
    assert always.message is not None
    assert "always shared" in always.message
    never = decide(flag=True, anonymous=False, uses_images=True)
    assert never.message is not None
    assert "will not be shared" in never.message


def test_a_reason_is_stored_as_deployed_tables_hold_it() -> None:
    assert [reason.value for reason in Reason] == [
        "requested",
        "not requested",
        "anonymous text-to-image is always shared",
        "image-to-image is never shared",
    ]
