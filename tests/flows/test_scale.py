"""The pages' counted figures are the counter's. ``make cost`` writes them anew."""

from typing import Any

import pytest

from tests.bench import counted, quantities, report, scale
from tests.bench.life import LIVES, lives, warm
from tests.support.cloud import Cloud
from tests.support.template import ROOT


@pytest.fixture(scope="module")
def counts(template: dict[str, Any], clients: dict[str, Any]) -> counted.Counts:
    return counted.count(template, clients)


@pytest.mark.slow
def test_the_figures_of_the_scale_page_are_the_counters(counts: counted.Counts) -> None:
    bills = counted.bills(counts, quantities.measured_cpu())
    page = (ROOT / "docs" / "scale.md").read_text()
    assert scale.table(scale.figures(counts, bills)) in page, "make cost writes it"


@pytest.mark.slow
def test_the_bills_of_the_performance_page_are_the_counters(counts: counted.Counts) -> None:
    bills = counted.bills(counts, quantities.measured_cpu())
    page = report.PAGE.read_text()
    assert report.bill_table(bills) in page, "make cost writes it"
    assert report.months_table(bills) in page, "make cost writes it"


@pytest.mark.lengthy
def test_a_life_is_counted_by_step_and_by_key(cloud: Cloud) -> None:
    _, key = cloud.register("me")
    worker = cloud.new_worker("operator", fleet=True)
    warm(cloud, key, worker)
    found = lives(cloud, key, worker, count=2)
    once = {name: meter.invocations.total() / 2 for name, meter in found.items()}
    assert once["accept"] == once["check"] == once["pop"] == once["submit"] == 1
    assert found["check"].write_units == found["status"].write_units == 0
    whole = scale.whole(found)
    assert whole.write_units == sum(meter.write_units for meter in found.values())
    assert whole.of("table") + sum(map(whole.of, ("waiting", "due", "listed"))) == (
        whole.write_units
    )
    in_and_out = 2 * 2
    assert whole.of("waiting") >= in_and_out
    assert 0 < scale.hottest(found, "waiting") <= whole.of("waiting") / LIVES


@pytest.mark.lengthy
def test_a_workers_safety_score_costs_no_write_unit(cloud: Cloud) -> None:
    _, key = cloud.register("me")
    worker = cloud.new_worker("operator", fleet=True)
    warm(cloud, key, worker)
    # The first also pays for what is written once an hour after a rest.
    _, without, scored = (
        lives(cloud, key, worker, count=2, inline=inline) for inline in (False, False, True)
    )
    assert {step: meter.write_units for step, meter in scored.items()} == {
        step: meter.write_units for step, meter in without.items()
    }
