"""The page about performance has the code's goals, and its data are whole."""

import json

import pytest

from tests.bench import plots, report
from tests.bench.goals import GOALS, Goal
from tests.infra.test_docs import rows

PAGE = report.PAGE.read_text("utf-8")
DATA = json.loads(report.DATA.read_text("utf-8"))


def test_the_page_has_a_row_for_every_goal_and_no_other() -> None:
    listed = [(row[0].strip("`"), row[1], row[4]) for row in rows(PAGE, "| row | before")]
    made = []
    for goal in GOALS:
        name, before, *_, wanted, _ = report._cells(goal, {})
        made.append((name, before, wanted))
    assert listed == made


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: goal.name)
def test_a_goal_was_measured_or_says_why_not(goal: Goal) -> None:
    found = DATA["rows"][goal.name]
    assert ("value" in found) != ("why" in found)


def test_the_page_says_where_when_and_of_what_it_was_measured() -> None:
    for fact in ("date", "commit", "machine", "python"):
        assert DATA["run"][fact] in PAGE, fact


def test_the_table_and_the_plot_are_of_the_same_run() -> None:
    assert report.markdown(DATA["rows"]) in PAGE
    assert plots.goals(DATA["rows"]) == report.GOALS_PLOT.read_text("utf-8")


def test_a_part_of_a_page_is_replaced_and_nothing_else() -> None:
    page = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    assert report.put(page, "x", "new") == "a\n<!-- x -->\nnew\n<!-- end of x -->\nb\n"
    with pytest.raises(ValueError, match="no part y"):
        report.put(page, "y", "new")


@pytest.mark.parametrize("names", [["cpu"], ["cpu accept"], ["cpu-accept"]])
def test_rows_are_named_by_group_or_by_name(names: list[str]) -> None:
    assert report.groups_of(names) == {"cpu"}
