"""Prices in, dollars out."""

import pytest

from tests.bench import releases
from tests.bench.cost import VCPU_MB, Use, bill, gb_seconds, load, monthly, total

INPUTS = load()


def test_every_price_names_its_unit_its_source_and_its_date() -> None:
    assert INPUTS.region == "us-east-1"
    for price in INPUTS.prices.values():
        assert price.unit, price.name
        assert price.source, price.name
        assert price.date.startswith("2026-"), price.name
        assert price.dollars > 0, price.name
        assert price.per >= 1, price.name


def test_every_assumption_says_why() -> None:
    assert all(one.why and one.unit for one in INPUTS.assumed.values())


def test_a_bill_has_a_line_for_all_that_is_used_the_dearest_first() -> None:
    lines = bill(INPUTS, Use({"api_request": 1e6, "write_unit": 16e6, "read_unit": 0}))
    assert [line.price.name for line in lines] == ["write_unit", "api_request"]
    assert [line.dollars for line in lines] == pytest.approx([10, 1])
    assert total(lines) == pytest.approx(11)


def test_what_has_no_price_is_no_bill() -> None:
    with pytest.raises(KeyError):
        bill(INPUTS, Use({"unicorns": 1}))


def test_uses_add_up_and_are_multiplied() -> None:
    both = Use({"a": 1, "b": 2}) + Use({"b": 3, "c": 4})
    assert both == Use({"a": 1, "b": 5, "c": 4})
    assert both * 2 == Use({"a": 2, "b": 10, "c": 8})


def test_a_run_pays_for_its_memory_while_it_works_and_while_it_waits() -> None:
    assert gb_seconds(1024, 0, 1000) == pytest.approx(1)
    assert gb_seconds(512, 0, 1000) == pytest.approx(0.5)
    slower = VCPU_MB / 512
    assert gb_seconds(512, 100, 0) == pytest.approx(0.5 * 0.1 * slower)
    assert gb_seconds(2 * VCPU_MB, 1000, 0) == pytest.approx(2 * VCPU_MB / 1024), "no core more"
    assert gb_seconds(1024, 0.1, 0) == pytest.approx(0.001), "a millisecond at least"


def test_a_month_costs_what_it_costs_at_rest_and_each_image_more() -> None:
    assert monthly(3, 50e-6, 0) == 3
    assert monthly(3, 50e-6, 2_000_000) == pytest.approx(103)


def test_the_release_of_an_image_is_read_twice_and_its_rows_are_never_free() -> None:
    functions = {
        name.title(): {
            "Type": "AWS::Lambda::Function",
            "Properties": {"Handler": f"{name}.handler", "MemorySize": 1024},
        }
        for name in ("screen", "pack", "release")
    }
    measured = {"release screen": 30.0, "release pack": 2.0}
    use = releases.of_image({"Resources": functions}, INPUTS, measured)
    assert use.of["s3_read"] == pytest.approx(2, rel=0.02)
    assert use.of["read_unit"] == 1
    assert use.of["transition"] == pytest.approx(2 / 250 + 2 / 10_000)
    slower = releases.of_image(
        {"Resources": functions}, INPUTS, measured | {"release screen": 60.0}
    )
    assert slower.of["lambda_gb_second"] > 1.5 * use.of["lambda_gb_second"]
