"""What becomes of an upload, and what a shared image's row says of its file."""

from dataclasses import replace

import pytest

from horde.records import Generation, Request, State
from horde.rules.sharing import Verdict, judge, row
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
