"""How many tickets there are for what waits."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.records import Census, Load
from horde.rules import tickets
from horde.rules.estimates import DEFAULT_SPEED
from horde.rules.tickets import SLOTS, START_SHARE, USUAL_WORK, Costs, Jobs, Work

COSTS = Costs(batch=4, cold_start_s=30, max_wait_s=90)
IMAGE_MS = 6000
SECONDS = 30
"""Behind one ticket, by these costs."""
WORKS = st.lists(st.integers(1, 10**6), min_size=1, max_size=200)
NOTHING = Work()
NO_JOBS = Jobs(queued=0, running=0)


def images(number: int, ms: int = IMAGE_MS) -> Work:
    return Work(number, number * ms)


def test_a_start_takes_its_share_of_a_workers_time_at_most_where_the_wait_allows_it() -> None:
    patient = Costs(batch=1, cold_start_s=30, max_wait_s=10_000)
    drawing = SLOTS * tickets.ms_per_ticket(patient, images(1, 1)) / 1000
    assert 30 / (30 + drawing) == pytest.approx(START_SHARE)


@pytest.mark.parametrize(("cold", "wait"), [(30, 40), (30, 31), (5, 10), (300, 400)])
def test_the_last_image_of_many_waits_no_longer_than_is_wanted(cold: float, wait: float) -> None:
    costs = Costs(batch=1, cold_start_s=cold, max_wait_s=wait)
    assert cold + SLOTS * tickets.ms_per_ticket(costs, images(1, 1)) / 1000 <= wait


@pytest.mark.parametrize("wait", [0, 60, 89])
def test_a_wait_that_a_start_alone_takes_leaves_one_pass_for_each_worker(wait: float) -> None:
    hasty = Costs(batch=4, cold_start_s=90, max_wait_s=wait)
    assert SLOTS * tickets.ms_per_ticket(hasty, images(3, 700)) == 4 * 700


def test_a_worker_starts_for_a_whole_pass_at_least_and_for_more_of_what_is_fast() -> None:
    assert SLOTS * tickets.ms_per_ticket(COSTS, images(1, 20_000)) == 4 * 20_000
    assert tickets.ms_per_ticket(COSTS, images(1, 1)) == SECONDS * 1000
    assert tickets.ms_per_ticket(Costs(1, 0, 1), NOTHING) == 1


@given(WORKS)
def test_requests_that_do_not_see_each_others_tickets_make_what_their_work_asks_for(
    works: list[int],
) -> None:
    mean = Costs(batch=1, cold_start_s=SECONDS, max_wait_s=90)
    made, before = 0, 0
    # All are of one size to the rule, which takes passes of the average image.
    for number, ms in enumerate(works):
        older, new = Work(10**6 * number, before), Work(10**6, ms)
        made += tickets.due(mean, older, new, 0)
        before += ms
    assert made == -(-sum(works) // tickets.ms_per_ticket(mean, NOTHING))


def test_a_request_that_is_alone_makes_a_ticket() -> None:
    assert tickets.due(COSTS, NOTHING, Work(1, 1), 7) == 1
    assert tickets.to_send(COSTS, NOTHING, Work(1, 1), NO_JOBS) == 1


def test_among_so_many_that_they_are_not_counted_tickets_are_right_on_average() -> None:
    dice = random.Random(1)
    made = sum(tickets.due(COSTS, None, images(1), dice.getrandbits(128)) for _ in range(10_000))
    assert made == pytest.approx(10_000 * IMAGE_MS / (SECONDS * 1000), rel=0.05)


@pytest.mark.parametrize(
    ("older", "new", "jobs", "sent"),
    [
        (0, 100, (0, 0), 20),
        (0, 100, (20, 0), 0),
        (0, 100, (3, 4), 13),
        (0, 1, (1, 0), 0),
        (0, 1, (0, 1), 1),  # a shift in progress may have popped its last
        (0, 1, (0, 9), 1),
        (4, 1, (0, 0), 0),  # the ticket of the first of them draws it
        (5, 1, (1, 0), 1),
        (5, 1, (2, 0), 0),
        (95, 10, (0, 0), 2),  # those of the older ones are theirs to send
    ],
)
def test_what_is_due_is_sent_but_what_runpod_has_already(
    older: int, new: int, jobs: tuple[int, int], sent: int
) -> None:
    assert tickets.to_send(COSTS, images(older), images(new), Jobs(*jobs)) == sent


@given(st.integers(0, 200), st.integers(1, 100), st.integers(0, 50), st.integers(0, 50))
def test_no_call_sends_more_than_its_own_images_ask_for(
    older: int, new: int, queued: int, running: int
) -> None:
    sent = tickets.to_send(COSTS, images(older), images(new), Jobs(queued, running))
    assert 0 <= sent <= -(-new * IMAGE_MS // (SECONDS * 1000))


@pytest.mark.parametrize(
    ("waiting", "jobs", "missing"),
    [
        (0, (0, 0), 0),
        (1, (0, 0), 1),
        (5, (0, 0), 1),
        (6, (0, 0), 2),
        (11, (1, 1), 1),
        (5, (0, 1), 0),
        (5, (9, 9), 0),
    ],
)
def test_all_work_that_waits_for_long_has_a_ticket_behind_it(
    waiting: int, jobs: tuple[int, int], missing: int
) -> None:
    assert tickets.missing(COSTS, images(waiting), Jobs(*jobs)) == missing


def test_work_is_measured_by_the_speed_of_one_of_a_models_workers() -> None:
    measured = Load(workers=3, measured=2, speed=5_000_000)
    census = Census(at=1, workers=3, threads=3, models={"m": measured, "n": Load(workers=1)})
    assert tickets.speed_of(census, "m") == 2_500_000
    assert tickets.speed_of(census, "n") == tickets.speed_of(census, "other") == DEFAULT_SPEED
    assert tickets.work(2, 2 * USUAL_WORK, DEFAULT_SPEED) == images(2)
    assert tickets.work(1, 1, 10**9).ms == 1


def test_two_pass_samplers_work_twice() -> None:
    payload = {"width": 512, "height": 512, "ddim_steps": 30, "sampler_name": "k_euler"}
    assert tickets.pixelsteps(payload) == USUAL_WORK
    assert tickets.pixelsteps(payload | {"sampler_name": "k_heun"}) == 2 * USUAL_WORK
