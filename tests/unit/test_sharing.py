"""The sharing decision, every case of it."""

from itertools import product

import pytest

from horde.rules.sharing import Reason, decide

CASES = list(product([False, True], repeat=3))


@pytest.mark.parametrize(("flag", "anonymous", "uses_images"), CASES)
def test_the_sharing_rules(flag: bool, anonymous: bool, uses_images: bool) -> None:
    decision = decide(flag=flag, anonymous=anonymous, uses_images=uses_images)
    assert decision.shared is (not uses_images and (anonymous or flag))
    assert (decision.message is not None) is (decision.shared is not flag)


def test_the_reason_names_the_rule() -> None:
    assert decide(flag=True, anonymous=True, uses_images=True).reason is Reason.SOURCE_IMAGE
    assert decide(flag=True, anonymous=True, uses_images=False).reason is Reason.ANONYMOUS
    assert decide(flag=True, anonymous=False, uses_images=False).reason is Reason.REQUESTED
    assert decide(flag=False, anonymous=False, uses_images=False).reason is Reason.NOT_REQUESTED
