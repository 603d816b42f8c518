"""Calls, items read and capacity units do not grow with the queue, drawable or not."""

from typing import Any

import pytest

from tests.bench.growth import figures, measure
from tests.support.cloud import fresh_cloud

SHORT, LONG, LONGEST = 100, 10_000, 100_000
REQUESTS = {"accept", "check", "pop", "submit"}


def grown(
    template: dict[str, Any], clients: dict[str, Any], waiting: int, **more: bool
) -> dict[str, Any]:
    with fresh_cloud(template, clients) as cloud:
        found = measure(cloud, waiting, **more)
    assert found["pop"].found, "the image was not found"
    return {name: figures(meter) for name, meter in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("drawable", [True, False])
def test_no_request_costs_more_in_a_long_queue(
    template: dict[str, Any], clients: dict[str, Any], drawable: bool
) -> None:
    short = grown(template, clients, SHORT, drawable=drawable)
    long = grown(template, clients, LONG, drawable=drawable)
    assert set(short) > REQUESTS
    assert {name: long[name] for name in REQUESTS} == {name: short[name] for name in REQUESTS}


@pytest.mark.slow
@pytest.mark.parametrize("drawable", [True, False])
def test_nothing_costs_more_in_the_longest_queue(
    template: dict[str, Any], clients: dict[str, Any], drawable: bool
) -> None:
    """What counts the queue does so up to a bound, which ``LONG`` has passed: the sweep for its
    census, and the first check of a second. An image's item is some bytes longer or shorter by its
    random seed, so what a megabyte of them costs to read differs by a unit or two."""
    long = grown(template, clients, LONG, drawable=drawable, sweep=True)
    longest = grown(template, clients, LONGEST, drawable=drawable, sweep=True)
    for name in ("sweep", "first check"):
        assert longest.pop(name) == pytest.approx(long.pop(name), rel=0.02)
    assert longest == long
