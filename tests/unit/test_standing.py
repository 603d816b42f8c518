"""What a worker may hold and drop, and what it earns: pure decisions."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.records import ANONYMOUS_ID, NO_STATS, Dropped, Generation, State, WorkerStats
from horde.rules import kudos, standing
from horde.rules.lifecycle import faulted_by
from horde.rules.matching import has_faulted, skip_reason
from horde.rules.refusals import TooManyWorkers
from horde.rules.rewards import reward
from tests.support.numbers import PRICE, REWARD
from tests.support.records import CONTEXT, IMAGE, OWNER, REQUEST

FLEET, TRUSTED = replace(OWNER, fleet=True), replace(OWNER, trusted=True)
WORK = replace(IMAGE, pixels=512 * 512, steps=30, ttl=150)
"""A usual image."""


def measured(images_in_a_lease: float) -> WorkerStats:
    """Return the statistics of a worker that draws so many usual images in a lease."""
    speed = round(images_in_a_lease * WORK.pixelsteps / WORK.ttl) + 1
    return replace(NO_STATS, recent_ps=speed, recent_ms=1000)


@pytest.mark.parametrize(
    ("in_a_lease", "limit"), [(0.1, 2), (1, 2), (2, 2), (3, 3), (17.5, 17), (40, 40), (1000, 40)]
)
def test_a_worker_may_hold_what_it_can_draw_in_time(in_a_lease: float, limit: int) -> None:
    assert standing.held_limit(measured(in_a_lease), OWNER, WORK) == limit


def test_what_a_worker_can_draw_in_time_follows_from_the_smallest_work_too() -> None:
    tiny = replace(WORK, pixels=1, steps=1, ttl=10)
    slow = replace(NO_STATS, recent_ps=1, recent_ms=1000)
    assert standing.held_limit(slow, OWNER, tiny) == 10
    assert standing.held_limit(slow, OWNER, replace(tiny, steps=0)) == 10


def test_a_new_worker_may_hold_a_few_and_the_operators_own_as_many_as_it_likes() -> None:
    assert standing.held_limit(NO_STATS, OWNER, WORK) == standing.UNMEASURED_HELD == 10
    assert standing.held_limit(NO_STATS, TRUSTED, WORK) == standing.UNMEASURED_HELD
    assert standing.held_limit(measured(1), FLEET, WORK) is None


@pytest.mark.parametrize(("held", "reason"), [(9, None), (10, "performance")])
def test_a_worker_that_holds_enough_is_told_so(held: int, reason: str | None) -> None:
    stats = replace(NO_STATS, held=frozenset(str(number) for number in range(held)))
    offer: Any = _offer()
    assert skip_reason(WORK, replace(CONTEXT, stats=stats), offer) == reason
    assert skip_reason(WORK, replace(CONTEXT, stats=stats, owner=FLEET), offer) is None


def _offer() -> object:
    from horde.edge.bodies import PopRequest

    return PopRequest.model_validate({"name": "n"}).offer


def test_who_faulted_an_image_is_remembered_once() -> None:
    held = replace(IMAGE, state=State.PROCESSING, worker_id="w", worker_user=OWNER.id)
    once = replace(held, faulted_by=faulted_by(held))
    assert once.faulted_by == ["w", OWNER.id] == faulted_by(once)
    assert faulted_by(replace(once, worker_id="v", worker_user=8)) == ["w", OWNER.id, "v", 8]


@pytest.mark.parametrize(
    ("worker", "owner", "refused"),
    [
        ("w", OWNER, True),
        ("another", OWNER, True),
        ("w", TRUSTED, True),
        ("another", TRUSTED, False),
        ("w", FLEET, False),
        ("another", replace(OWNER, id=8), False),
    ],
)
def test_who_faulted_an_image_does_not_get_it_again(
    worker: str, owner: Any, *, refused: bool
) -> None:
    image = replace(IMAGE, faulted_by=["w", OWNER.id])
    assert has_faulted(image, worker, owner) is refused


def test_an_account_has_few_workers() -> None:
    standing.check_workers(OWNER, 2)
    standing.check_workers(TRUSTED, 19)
    standing.check_workers(FLEET, 10_000)
    for owner, count in ((OWNER, 3), (TRUSTED, 20)):
        with pytest.raises(TooManyWorkers):
            standing.check_workers(owner, count)


@pytest.mark.parametrize(
    ("owner", "by_worker", "by_owner", "too_many"),
    [
        (OWNER, 20, 20, False),
        (OWNER, 21, 21, True),
        (OWNER, 0, 60, False),
        (OWNER, 0, 61, True),
        (TRUSTED, 20, 400, False),
        (TRUSTED, 0, 401, True),
        (FLEET, 10_000, 10_000, False),
    ],
)
def test_a_worker_drops_too_many_alone_or_with_its_siblings(
    owner: Any, by_worker: int, by_owner: int, *, too_many: bool
) -> None:
    dropped = Dropped(by_worker=by_worker, by_owner=by_owner)
    assert standing.drops_too_many(owner, dropped) is too_many


# --- rewards --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"preferred": True},
        {"workers": ["w"]},
        {"workers": ["v"], "worker_blacklist": True},
    ],
)
@pytest.mark.parametrize(
    ("waived", "earned"), [(0, REWARD), (1, PRICE - 1), (PRICE, 0), (PRICE + 9, 0)]
)
def test_a_worker_earns_what_was_paid_by_whom_it_chose(
    change: dict[str, Any], waived: int, earned: int
) -> None:
    request = replace(REQUEST, waived=waived)
    image = replace(IMAGE, worker_user=OWNER.id, **change)
    assert reward(request, image, State.OK) == earned
    assert reward(request, image, State.CENSORED) == 0
    assert reward(replace(request, user_id=ANONYMOUS_ID), image, State.OK) == 0


def test_a_worker_that_draws_for_its_owner_earns_what_he_paid() -> None:
    image = replace(IMAGE, worker_user=REQUEST.user_id)
    assert reward(REQUEST, image, State.OK) == REWARD
    assert reward(REQUEST, image, State.CENSORED) == 0
    assert reward(replace(REQUEST, waived=PRICE), image, State.OK) == 0


def test_a_worker_that_chose_nobody_earns_the_whole_reward() -> None:
    image = replace(IMAGE, worker_user=OWNER.id)
    for state in (State.OK, State.CENSORED):
        for request in (REQUEST, replace(REQUEST, user_id=ANONYMOUS_ID)):
            assert reward(replace(request, waived=1000), image, state) == REWARD


def test_a_surcharge_does_not_raise_a_reward() -> None:
    request = replace(REQUEST, price=PRICE + 5)
    assert reward(request, replace(IMAGE, preferred=True), State.OK) == REWARD


@given(
    ends=st.lists(
        st.tuples(st.sampled_from(["ok", "censored", "cancelled"]), st.integers(0, 3)),
        min_size=1,
        max_size=20,
    ),
    price=st.integers(1, 30),
    tax=st.integers(0, 3),
    balance=st.integers(0, 700),
)
def test_rewards_never_exceed_what_was_paid_whatever_ends_first(
    ends: list[tuple[str, int]], price: int, tax: int, balance: int
) -> None:
    """A settlement may have read the waived kudos as they were some ends before."""
    charge = kudos.accept(1, balance=balance, floor=0, price=price, tax=tax, n=len(ends))
    paid, waived, earned = -charge.amount, [charge.waived], 0
    image: Generation = replace(IMAGE, preferred=True)
    for end, behind in ends:
        left = waived[-1]
        seen = waived[max(0, len(waived) - 1 - behind)]
        request = replace(REQUEST, price=price, tax=tax, reward=price, waived=seen)
        if end != "cancelled":
            earned += reward(request, image, State(end))
        if end != "ok":
            back = 0 if end == "censored" else tax
            refund = kudos.refund(1, price=price, tax=back, waived_left=left)
            paid -= refund.amount
            left -= refund.waived
        waived.append(left)
    assert earned <= paid
