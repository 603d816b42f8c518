"""What becomes of a delivered file, and who is behind it."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import Generation, Request, State, User
from horde.rules.sharing import (
    ACCEPTED,
    TRUSTED_AFTER_S,
    Context,
    DrawnBy,
    Verdict,
    drawn_by,
    earns_trust,
    forbidden,
    judge,
    judge_context,
)
from tests.support.records import IMAGE, OWNER, REQUEST

HASH = "a" * 64
SHARED = replace(REQUEST, shared=True)
DELIVERED = replace(IMAGE, state=State.OK, sha256=HASH, screened=ACCEPTED)
AUTHOR = replace(OWNER, id=8, alias="author")
TRUSTED, FLEET = replace(OWNER, trusted=True), replace(OWNER, fleet=True)


@pytest.mark.parametrize(
    ("request_is", "image", "sha256", "verdict"),
    [
        (SHARED, DELIVERED, HASH, Verdict.SHARE),
        (SHARED, replace(DELIVERED, state=State.PROCESSING, sha256=None), HASH, Verdict.LATER),
        (SHARED, replace(DELIVERED, state=State.CENSORED), HASH, Verdict.NEVER),
        (SHARED, replace(DELIVERED, state=State.WAITING), HASH, Verdict.NEVER),
        (SHARED, DELIVERED, "b" * 64, Verdict.NEVER),
        (SHARED, replace(DELIVERED, screened=None), HASH, Verdict.NEVER),
        (SHARED, replace(DELIVERED, screened="refused"), HASH, Verdict.NEVER),
        (replace(SHARED, csam=True), DELIVERED, HASH, Verdict.SHARE),  # ``forbidden`` tells
        (REQUEST, DELIVERED, HASH, Verdict.NEVER),
        (REQUEST, replace(DELIVERED, state=State.PROCESSING, sha256=None), HASH, Verdict.NEVER),
        (None, DELIVERED, HASH, Verdict.NEVER),
        (SHARED, None, HASH, Verdict.NEVER),
    ],
)
def test_a_delivered_file_is_shared_now_later_or_never(
    request_is: Request | None, image: Generation | None, sha256: str, verdict: Verdict
) -> None:
    assert judge(request_is, image, sha256) is verdict


@pytest.mark.parametrize(
    ("request_is", "author", "owner", "hold", "verdict"),
    [
        (SHARED, AUTHOR, TRUSTED, True, Verdict.SHARE),
        (SHARED, AUTHOR, FLEET, True, Verdict.SHARE),
        (SHARED, AUTHOR, OWNER, True, Verdict.HOLD),
        (SHARED, AUTHOR, OWNER, False, Verdict.SHARE),
        (SHARED, replace(AUTHOR, flagged=True), TRUSTED, True, Verdict.SHARE),
        (SHARED, AUTHOR, replace(TRUSTED, deleted=True), True, Verdict.SHARE),
        (SHARED, replace(AUTHOR, deleted=True), TRUSTED, True, Verdict.NEVER),
        (SHARED, None, TRUSTED, True, Verdict.NEVER),
        (SHARED, AUTHOR, None, False, Verdict.NEVER),
        (SHARED, AUTHOR, replace(TRUSTED, flagged=True), False, Verdict.NEVER),
        (SHARED, AUTHOR, replace(OWNER, flagged=True), True, Verdict.NEVER),
        (replace(SHARED, csam=True), AUTHOR, TRUSTED, True, Verdict.NEVER),
        (None, AUTHOR, TRUSTED, True, Verdict.SHARE),
        (None, AUTHOR, OWNER, True, Verdict.HOLD),
    ],
)
def test_an_image_is_published_held_or_dropped_by_its_request_and_who_is_behind_it(
    request_is: Request | None,
    author: User | None,
    owner: User | None,
    *,
    hold: bool,
    verdict: Verdict,
) -> None:
    context = Context(request=request_is, author=author, owner=owner, shared=None)
    assert judge_context(context, hold=hold) is verdict
    assert forbidden(context) is (verdict is Verdict.NEVER)


@pytest.mark.parametrize(
    ("owner", "who"),
    [
        (OWNER, DrawnBy.UNTRUSTED),
        (None, DrawnBy.UNTRUSTED),
        (TRUSTED, DrawnBy.TRUSTED),
        (replace(TRUSTED, fleet=True), DrawnBy.ENDPOINT),
        (FLEET, DrawnBy.ENDPOINT),
    ],
)
def test_who_drew_an_image_follows_from_its_workers_owner(owner: User | None, who: DrawnBy) -> None:
    assert drawn_by(owner) is who


@pytest.mark.parametrize(
    ("fields", "images", "age", "earned"),
    [
        ({"fulfilled": 10}, 10, TRUSTED_AFTER_S, True),
        ({"fulfilled": 9}, 10, TRUSTED_AFTER_S, False),
        ({"fulfilled": 10}, 10, TRUSTED_AFTER_S - 1, False),
        ({"fulfilled": 10}, None, TRUSTED_AFTER_S, False),
        ({"fulfilled": 10, "flagged": True}, 10, TRUSTED_AFTER_S, False),
        ({"fulfilled": 10, "deleted": True}, 10, TRUSTED_AFTER_S, False),
    ],
)
def test_a_volunteer_earns_trust_by_images_and_a_week_in_good_standing(
    fields: dict[str, Any], images: int | None, age: int, *, earned: bool
) -> None:
    owner = replace(OWNER, created_at=1000, **fields)
    assert earns_trust(owner, images=images, now=1000 + age) is earned
