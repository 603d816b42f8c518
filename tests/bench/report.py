"""The results as a table, as JSON, and on the pages."""

import json
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.bench import plots, scale
from tests.bench.cost import MILLION, Line, bill, monthly
from tests.bench.counted import Bills, Counts
from tests.bench.goals import GOALS, Goal, Group

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
SCALE_PAGE = ROOT / "docs" / "scale.md"
DATA = ROOT / "docs" / "performance.json"
GOALS_PLOT, COST_PLOT = ROOT / "docs" / "performance.svg", ROOT / "docs" / "cost.svg"
Results = Mapping[str, Mapping[str, Any]]
"""By row: ``value`` against the goal, ``least`` of the least disturbed run; or ``why`` there is no
value."""


def machine() -> dict[str, str]:
    """Return where and when this runs."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    model = re.search(r"model name\s*: (.+)", _cpuinfo())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": commit or "unknown",
        "machine": model[1] if model else platform.machine(),
        "cores": str(_cores()),
    }


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def _cores() -> int:
    import os

    return os.cpu_count() or 1


def shown(number: float) -> str:
    """Return a number with three figures."""
    return f"{number:.0f}" if number >= 100 or number == int(number) else f"{number:.3g}"


def _cells(goal: Goal, results: Results) -> list[str]:
    found = results.get(goal.name, {"why": "not measured in this run"})
    wanted = f"<= {shown(goal.most)}" + (f", stretch {shown(goal.stretch)}" if goal.stretch else "")
    if "value" not in found:
        return [goal.name, goal.before, found["why"], "", wanted, ""]
    value, least = found["value"], found.get("least")
    met = value <= goal.most + 1e-9
    return [
        goal.name,
        goal.before,
        shown(value),
        "" if least is None else shown(least),
        wanted,
        "yes" if met else "no",
    ]


HEADER = ["row", "before", "median", "least", "goal", "met"]


def table(results: Results, goals: Iterable[Goal] = GOALS) -> list[str]:
    """Return the lines of the table for a terminal."""
    cells = [HEADER, *(_cells(goal, results) for goal in goals)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(HEADER))]
    return ["  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)) for row in cells]


def markdown(results: Results) -> str:
    """Return the table for the page: what is measured by group, and every row."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    for goal in GOALS:
        name, *rest = _cells(goal, results)
        lines.append(f"| `{name}` | {' | '.join(cell or '-' for cell in rest)} |")
    return "\n".join(lines)


def load_table(load: Mapping[str, Any]) -> str:
    """Return the load test's table for the page."""
    lines = [
        "| where | requests | a second | p50 | p95 | p99 | errors | findings |",
        "|---" * 8 + "|",
    ]
    for where, found in load.items():
        if "why" in found:
            lines.append(f"| {where} | {found['why']} | - | - | - | - | - | - |")
            continue
        ms = found["ms"]["all"]
        cuts = " | ".join(f"{ms[cut]:.0f} ms" for cut in ("p50", "p95", "p99"))
        lines.append(
            f"| {where} | {found['requests']} | {found['per_second']:.0f} | {cuts} | "
            f"{found['errors']} | {found['findings']} |"
        )
    return "\n".join(lines)


def units_table(lives: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Return write units by step and kind of life for the page."""
    steps = list(next(iter(lives.values())))
    lines = [f"| step | {' | '.join(lives)} |", "|---" * (len(lives) + 1) + "|"]
    for step in steps:
        cells = " | ".join(shown(round(life[step]["writes"], 2)) for life in lives.values())
        lines.append(f"| {step} | {cells} |")
    sums = (shown(round(sum(s["writes"] for s in life.values()), 2)) for life in lives.values())
    lines.append(f"| all | {' | '.join(sums)} |")
    return "\n".join(lines)


def lines_of(lines: Iterable[Line], times: float) -> list[str]:
    """Return a bill for a terminal."""
    return [
        f"  {line.dollars * times:10.3f}  {line.quantity * times:16,.1f}  {line.name}"
        + ("  (price from memory)" if line.price.from_memory else "")
        for line in lines
    ]


def bill_table(bills: Bills) -> str:
    """Return what each step of a million lives costs, for the page."""
    names = [name for name in bills.inputs.prices if bills.life.of.get(name)]
    lines = ["| step | dollars a million | of which |", "|---|---|---|"]
    for step, use in bills.steps.items():
        found = bill(bills.inputs, use)
        parts = ", ".join(
            f"{line.price.name} {line.dollars * MILLION:.2f}"
            for line in found
            if line.dollars * MILLION >= 0.005
        )
        lines.append(f"| {step} | {bills.dollars(use) * MILLION:.2f} | {parts} |")
    whole = bills.dollars(bills.life) * MILLION
    lines.append(f"| a life | {whole:.2f} | {len(names)} prices |")
    lines.append(
        f"| the release of an image | {bills.dollars(bills.release) * MILLION:.2f} | "
        + ", ".join(
            f"{line.price.name} {line.dollars * MILLION:.2f}"
            for line in bill(bills.inputs, bills.release)
            if line.dollars * MILLION >= 0.005
        )
        + " |"
    )
    rest = ", ".join(
        f"{line.price.name} {line.dollars:.2f}" for line in bill(bills.inputs, bills.rest)
    )
    lines.append(f"| a month at rest | {bills.dollars(bills.rest):.2f} | {rest} |")
    return "\n".join(lines)


def months_table(bills: Bills) -> str:
    """Return dollars a month by images a month, for the page."""
    rest, life = bills.dollars(bills.rest), bills.dollars(bills.life + bills.release)
    lines = ["| images a month | dollars a month |", "|---|---|"]
    lines += [f"| {images:,} | {monthly(rest, life, images):,.2f} |" for images in plots.MONTHS]
    return "\n".join(lines)


def put(page: str, name: str, body: str) -> str:
    """Return a page with a new body between a part's two marks."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        message = f"the page has no part {name}"
        raise ValueError(message)
    return f"{head}{begin}\n{body}\n{end}{tail}"


def write_bench(data: Mapping[str, Any]) -> None:
    """Write the results and their parts of the page."""
    DATA.write_text(json.dumps(data, indent=1) + "\n")
    GOALS_PLOT.write_text(plots.goals(data["rows"]))
    run = data["run"]
    about = (
        f"Measured on {run['date']} at commit `{run['commit']}`: {run['machine']}, "
        f"{run['cores']} cores, Python {run['python']}."
    )
    page = PAGE.read_text()
    page = put(page, "run", about)
    page = put(page, "goals", markdown(data["rows"]))
    page = put(page, "units", units_table(data["lives"]))
    PAGE.write_text(put(page, "load", load_table(data["load"])))


def write_cost(counts: Counts, bills: Bills) -> None:
    """Write the cost's parts of the page, and the figures of the page about scale."""
    an_image = bills.dollars(bills.life + bills.release)
    COST_PLOT.write_text(plots.dollars(bills.dollars(bills.rest), an_image))
    page = put(PAGE.read_text(), "bill", bill_table(bills))
    PAGE.write_text(put(page, "months", months_table(bills)))
    figures = scale.table(scale.figures(counts, bills))
    SCALE_PAGE.write_text(put(SCALE_PAGE.read_text(), "figures", figures))


def groups_of(names: Iterable[str]) -> set[Group]:
    """Return the groups of rows, or of groups, by their names; raises ValueError."""
    found = set()
    for name in names:
        rows = [goal.group for goal in GOALS if name in (goal.name, goal.name.replace(" ", "-"))]
        found |= {*rows} if rows else {Group(name)}
    return found
