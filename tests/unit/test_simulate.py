"""The simulator: it loses no image, and shows what tickets by work win and lose."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from horde.rules import tickets
from horde.rules.tickets import SLOTS
from infra.simulate import plot
from infra.simulate.__main__ import compare, loads, table
from infra.simulate.fleet import (
    DISPATCHED_S,
    TICKET_S,
    Arrival,
    Endpoint,
    Luck,
    by_batch,
    by_work,
    simulate,
)

ENDPOINT = Endpoint()
DOCS = Path(__file__).resolve().parents[2] / "docs"
IMAGE = 512 * 512 * 30
LOADS = loads(1)
BURST = next(name for name in LOADS if name.startswith("burst"))
NOT_FOREVER_S = 30 * 60
"""Far more than the longest wait that any load has without bad luck."""


def workers_needed(images: int) -> int:
    """Return the workers that the passes of so many images need, given what a start costs."""
    asked = tickets.work(images, images * IMAGE, ENDPOINT.speed)
    per_ticket = tickets.ms_per_ticket(ENDPOINT.costs, asked)
    return math.ceil(math.ceil(asked.ms / per_ticket) / SLOTS)


@pytest.mark.parametrize("load", LOADS)
def test_every_image_is_drawn_whoever_calls_the_workers(load: str) -> None:
    images = sum(arrival.images for arrival in LOADS[load])
    for found in compare(LOADS[load], ENDPOINT).values():
        assert len(found.waits) == images


def test_a_hundred_single_images_call_no_more_workers_than_their_25_passes_need() -> None:
    ways = compare(LOADS[BURST], ENDPOINT)
    before, now = ways["a ticket per batch"], ways["tickets by work"]
    assert (before.tickets, before.starts) == (100, 50)
    assert (now.tickets, now.starts, now.passes) == (20, 10, 25)
    assert now.starts <= workers_needed(100) < 25
    assert now.gpu_s < before.gpu_s < ways["one job per request"].gpu_s
    assert now.wait(0.5) > before.wait(0.5)  # its price


@pytest.mark.parametrize("cold", [1, 5, 30, 60, 300])
@pytest.mark.parametrize("wait", [30, 90, 600])
def test_they_do_so_whatever_a_start_costs(cold: int, wait: int) -> None:
    costs = replace(ENDPOINT.costs, cold_start_s=cold, max_wait_s=wait)
    found = simulate(LOADS[BURST], by_work, replace(ENDPOINT, costs=costs))
    asked = tickets.work(100, 100 * IMAGE, ENDPOINT.speed)
    needed = math.ceil(asked.ms / tickets.ms_per_ticket(costs, asked))
    assert found.most_workers <= math.ceil(needed / SLOTS) <= 25


@pytest.mark.parametrize("lag", [0, 1, 5, 3600])
def test_however_late_runpod_says_what_it_has_a_burst_calls_no_more_workers(lag: float) -> None:
    blind = replace(ENDPOINT, luck=Luck(health_lag_s=lag))
    assert simulate(LOADS[BURST], by_work, blind).most_workers <= workers_needed(100)


def test_a_lone_image_waits_for_its_ticket_a_start_and_its_pass_alone() -> None:
    lone = [Arrival(0, 1, ENDPOINT.speed)]
    for policy in (by_work, by_batch):
        found = simulate(lone, policy, ENDPOINT)
        paid = ENDPOINT.costs.cold_start_s + 1 + ENDPOINT.pass_s
        assert found.wait(1) == pytest.approx(DISPATCHED_S + TICKET_S + paid)
        assert found.gpu_s == pytest.approx(paid + ENDPOINT.idle_s)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize(
    "luck",
    [
        Luck(lost=1 / 3),
        Luck(refused=1 / 2),
        Luck(dead=1 / 10),
        Luck(lost=0.2, refused=0.2, dead=0.05, health_lag_s=2),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_waits_for_ever_for_a_lost_ticket_a_dead_worker_or_a_refused_call(
    load: str, luck: Luck, seed: int
) -> None:
    unlucky = replace(ENDPOINT, luck=replace(luck, seed=seed))
    found = simulate(LOADS[load], by_work, unlucky)
    assert len(found.waits) == sum(arrival.images for arrival in LOADS[load])
    assert found.wait(1) < NOT_FOREVER_S


def test_an_image_whose_every_dispatch_is_refused_waits_for_two_sweeps_and_a_start() -> None:
    refused = replace(ENDPOINT, luck=Luck(refused=1))
    (_, wait) = simulate([Arrival(1, 1, IMAGE)], by_work, refused).waits[0]
    assert wait < 2 * 60 + ENDPOINT.costs.cold_start_s + 10


def test_who_paid_is_drawn_before_the_others() -> None:
    load = next(name for name in LOADS if name.startswith("mixed priorities"))
    found = simulate(LOADS[load], by_work, ENDPOINT)
    assert found.wait(0.95, 1) < found.wait(0.5, 0)


def test_equal_seeds_make_equal_tables() -> None:
    results = {BURST: compare(loads(2)[BURST], ENDPOINT)}
    assert table(results, ENDPOINT) == table(results, ENDPOINT)
    assert loads(2) == loads(2) != loads(3)


def test_the_page_has_the_table_and_the_plot_that_the_simulator_makes() -> None:
    results = {load: compare(asked, ENDPOINT) for load, asked in LOADS.items()}
    again = "python -m infra.simulate --plot docs/tickets.svg"
    assert table(results, ENDPOINT) in (DOCS / "scale.md").read_text(), again
    assert plot.plotted(results) == (DOCS / "tickets.svg").read_text(), again
    ET.fromstring(plot.plotted(results))
