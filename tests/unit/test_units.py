"""Capacity units, by DynamoDB's rules."""

import pytest

from tests.support.units import Index, Item, read_units, size_of, write_units

ALL = Index("waiting", "queue", "at", ("pk", "sk"), keys_only=False)
KEYS = Index("due", "queue", "at", ("pk", "sk"), keys_only=True)


def item(size: int = 0, **more: object) -> Item:
    made = {"pk": {"S": "A"}, "sk": {"S": "B"}}
    for name, value in more.items():
        made[name] = {"N": str(value)} if isinstance(value, int) else {"S": str(value)}
    missing = size - size_of({**made, "pad": {"S": ""}})
    return {**made, "pad": {"S": "x" * missing}} if size else made


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ({"S": "häh"}, 4),
        ({"N": "0"}, 1),
        ({"N": "7"}, 2),
        ({"N": "1200"}, 2),
        ({"N": "-123.45"}, 5),
        ({"BOOL": True}, 1),
        ({"NULL": True}, 1),
        ({"SS": ["ab", "c"]}, 3),
        ({"L": [{"S": "ab"}, {"BOOL": True}]}, 3 + 1 + 2 + 1 + 1),
        ({"M": {"ab": {"S": "c"}}}, 3 + 1 + 2 + 1),
    ],
)
def test_an_item_is_as_large_as_its_names_and_values(value: dict[str, object], size: int) -> None:
    assert size_of({"name": value}) == len("name") + size


@pytest.mark.parametrize(("size", "units"), [(10, 1), (1024, 1), (1025, 2), (4096, 4)])
def test_a_write_costs_a_unit_for_each_kilobyte_and_twice_that_in_a_transaction(
    size: int, units: int
) -> None:
    assert write_units(None, item(size)) == units
    assert write_units(None, item(size), transaction=True) == 2 * units


def test_the_larger_of_both_items_is_paid_for() -> None:
    assert write_units(item(3000), item(100)) == 3
    assert write_units(item(3000), None) == 3


def test_a_write_of_nothing_and_a_read_of_nothing_cost_one_unit() -> None:
    assert write_units(None, None) == 1
    assert (read_units(0, consistent=True), read_units(0, consistent=False)) == (1, 0.5)


@pytest.mark.parametrize(("size", "units"), [(4096, 1), (4097, 2), (20_000, 5)])
def test_a_read_costs_a_unit_for_each_four_kilobytes_and_half_if_it_may_be_old(
    size: int, units: int
) -> None:
    assert read_units(size, consistent=True) == units
    assert read_units(size, consistent=False) == units / 2


@pytest.mark.parametrize(
    ("before", "after", "everything", "keys_alone"),
    [
        pytest.param(None, item(queue="q", at=1), [("q", 1)], [("q", 1)], id="put"),
        pytest.param(item(queue="q", at=1), None, [("q", 1)], [("q", 1)], id="deleted"),
        pytest.param(item(queue="q", at=1), item(), [("q", 1)], [("q", 1)], id="taken out"),
        pytest.param(
            item(queue="q", at=1),
            item(queue="q", at=2),
            [("q", 1), ("q", 1)],
            [("q", 1), ("q", 1)],
            id="sort key changed",
        ),
        pytest.param(
            item(queue="q", at=1),
            item(queue="r", at=1),
            [("q", 1), ("r", 1)],
            [("q", 1), ("r", 1)],
            id="partition changed",
        ),
        pytest.param(
            item(queue="q", at=1), item(queue="q", at=1, n=2), [("q", 1)], [], id="other attribute"
        ),
        pytest.param(item(queue="q", at=1), item(queue="q", at=1), [], [], id="unchanged"),
        pytest.param(item(), item(n=1), [], [], id="not in the index"),
        pytest.param(None, item(3000, queue="q", at=1), [("q", 3)], [("q", 1)], id="large"),
    ],
)
def test_an_index_is_paid_for_what_changes_in_it(
    before: Item | None,
    after: Item | None,
    everything: list[tuple[str, int]],
    keys_alone: list[tuple[str, int]],
) -> None:
    assert list(ALL.writes(before, after)) == everything
    assert list(KEYS.writes(before, after)) == keys_alone
