"""Which states may reach the data set, what who is overruled reads, and what is stored."""

from dataclasses import replace

import pytest

from horde.records import State
from horde.rules.sharing import Reason, decide, reaches_data_set
from tests.support.records import IMAGE, REQUEST

SHARED = replace(REQUEST, shared=True)


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
