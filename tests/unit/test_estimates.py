"""Speeds, waits and the census: each number at its boundary."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import Census, Load, QueueSize, Settlement, Worker, WorkerStats
from horde.rules import estimates
from horde.rules.lifecycle import Progress

STATE = Progress(
    finished=0, processing=0, waiting=0, restarted=0, done=False, faulted=False, kudos=0
)


def worker(name: str, *models: str, **fields: Any) -> Worker:
    times = {"created_at": 0, "seen_at": 0, "gone_at": 0}
    return Worker(
        **{"id": name, "name": name, "user_id": 1, "models": list(models), **times, **fields}
    )


def test_a_speed_is_shown_in_megapixelsteps() -> None:
    assert estimates.performance(None) == "No requests fulfilled yet"
    assert estimates.performance(1_250_000) == "1.2 megapixelsteps per second"
    assert estimates.performance(0) == "0.0 megapixelsteps per second"


def test_a_models_average_speed_is_that_of_its_measured_workers() -> None:
    assert estimates.average_speed(Load(speed=7, measured=2, workers=9)) == 3
    assert estimates.average_speed(Load(speed=7)) == 0
    assert estimates.average_speed(Load(speed=7, measured=1)) == 7


@pytest.mark.parametrize(
    ("load", "speed"),
    [
        (Load(), estimates.DEFAULT_SPEED),
        (Load(workers=1, measured=1), 1),
        (Load(workers=1, measured=1, speed=7), 7),
        (Load(workers=3, measured=1, speed=7), 7 + 2 * estimates.DEFAULT_SPEED),
        (Load(workers=1, measured=2, speed=7), 7),
        (Load(measured=1, speed=7), 7 + estimates.DEFAULT_SPEED),
    ],
)
def test_an_unmeasured_worker_counts_with_the_default_speed(load: Load, speed: int) -> None:
    assert estimates.throughput(load) == speed


def test_the_average_work_is_that_of_a_waiting_image() -> None:
    assert estimates.average_work(QueueSize(images=2, pixelsteps=7)) == 3
    assert estimates.average_work(QueueSize(images=1, pixelsteps=7)) == 7
    assert estimates.average_work(QueueSize(pixelsteps=7)) == 0


def test_a_queue_takes_its_work_over_the_speed_rounded_up_or_for_ever() -> None:
    one = Load(workers=1, measured=1, speed=10)
    assert estimates.eta(replace(one, pixelsteps=20), endpoint=False) == 2
    assert estimates.eta(replace(one, pixelsteps=21), endpoint=False) == 3
    assert estimates.eta(Load(pixelsteps=21), endpoint=False) == 10_000
    assert estimates.eta(Load(pixelsteps=21), endpoint=True) == 1


@pytest.mark.parametrize(
    ("state", "numbers", "wait"),
    [
        ({"done": True, "waiting": 3}, {}, 0),
        ({}, {}, 2),
        ({"waiting": 2}, {"ahead": 1}, 3),  # 21 / 10, rounded up
        ({"waiting": 2}, {}, 2),
        ({"processing": 1}, {"workers": 3}, 3),
        ({"processing": 1, "waiting": 3}, {"workers": 0}, 4),
        ({"processing": 2}, {"workers": 3}, 3),
        ({"waiting": 1}, {"speed": 0}, 10),
        ({"waiting": 1}, {"speed": 1}, 10),
    ],
)
def test_a_request_waits_for_the_work_ahead_and_its_own(
    state: dict[str, Any], numbers: dict[str, int], wait: int
) -> None:
    known = {"ahead": 0, "own": 10, "speed": 10, "workers": 1, **numbers}
    assert estimates.wait_seconds(replace(STATE, **state), **known) == wait


def settled(at: int, *, claimed: int, work: int) -> Settlement:
    """One image; times in ms."""
    return Settlement(
        entry_id="e",
        owner_id=2,
        generation_id="g",
        worker_id="w",
        user_id=1,
        model="m",
        pixelsteps=work,
        claimed_at=claimed,
        settled_at=at,
        tax=1,
        reward=1,
    )


def test_a_speed_is_the_work_by_the_time_with_weights_that_decay() -> None:
    before = WorkerStats(recent_ps=100, recent_ms=40, settled_at=1000)
    late = settled(3000, claimed=2500, work=20)
    assert estimates.moving_speed(before, [late]) == {
        "recent_ps": 115,  # 95 + 20
        "recent_ms": 538,  # 38 + 500
        "settled_at": 3000,
    }


def test_a_batch_counts_its_time_once_and_what_comes_late_no_time() -> None:
    batch = [settled(4000, claimed=2000, work=5), settled(3000, claimed=2000, work=5)]
    counted = estimates.moving_speed(WorkerStats(), batch)
    assert counted == {"recent_ps": 10, "recent_ms": 1950, "settled_at": 4000}
    late = estimates.moving_speed(WorkerStats(settled_at=9000), [settled(3000, claimed=1, work=5)])
    assert late == {"recent_ps": 5, "recent_ms": 1, "settled_at": 9000}
    busy = WorkerStats(recent_ms=100, settled_at=9000)
    late = estimates.moving_speed(busy, [settled(3000, claimed=1, work=5)])
    assert late == {"recent_ps": 5, "recent_ms": 95, "settled_at": 9000}


def test_a_census_names_the_operators_models_then_the_most_offered() -> None:
    workers = [worker("a", "x", "y"), worker("b", "y"), worker("c", "m")]
    assert estimates.models_of(["m"], workers) == ["m", "y", "x"]
    assert estimates.models_of(["m"], workers, limit=2) == ["m", "y"]
    many = [worker("a", *(str(n) for n in range(400)))]
    assert len(estimates.models_of(["m"], many)) == 300


def test_a_census_counts_workers_that_do_not_rest() -> None:
    measured = WorkerStats(recent_ps=7, recent_ms=1000)
    fleet = [
        (worker("a", "m", threads=2), measured),
        (worker("b", "m", "n"), WorkerStats()),
        (worker("c", "m", maintenance=True), measured),
        (worker("d", "m", paused=True), measured),
    ]
    queue = QueueSize(images=3, requests=2, pixelsteps=9)
    counted = estimates.census(5, fleet, {"m": queue, "o": QueueSize()}, {})
    assert [one.id for one in counted.drawers or ()] == ["a", "b"]
    assert counted == Census(
        at=5,
        workers=2,
        threads=3,
        models={
            "m": Load(
                images=3, requests=2, pixelsteps=9, workers=2, threads=3, measured=1, speed=7
            ),
            "o": Load(),
        },
        drawers=counted.drawers,
    )
