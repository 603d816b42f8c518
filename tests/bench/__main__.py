"""``make bench`` and ``make cost``: measure the goals' rows, and what it all costs.

``python -m tests.bench bench [ROWS...]`` measures; without rows all, and writes docs/performance.*.
``python -m tests.bench cost`` counts, and takes the CPU of requests from docs/performance.json.
"""

import json
import statistics
import sys
import time
from typing import Any

from infra.local.processes import LocalCloudError
from layers import build
from layers.bytecode import RUNTIME, BuildError, python_for
from tests.bench import coldstart, counted, cpu, load, quantities, report, shards
from tests.bench.cost import MILLION, bill
from tests.bench.goals import GOALS, Group
from tests.bench.life import LIVES

COLD_RUNS = 11
BEGUN = time.monotonic()
Row = dict[str, Any]


def say(text: str) -> None:
    """Print progress, with the seconds since the start."""
    print(f"[{time.monotonic() - BEGUN:4.0f} s] {text}", file=sys.stderr, flush=True)


def cold() -> dict[str, Row]:
    """Measure cold starts; rows say why there is no value."""
    say(f"cold starts: {COLD_RUNS} fresh processes of each function")
    bare, plain, *ours = coldstart.starts(COLD_RUNS)
    rows = {}
    for one in ours:
        ratios = [
            (pick(one.cpu) - pick(bare.cpu)) / (pick(plain.cpu) - pick(bare.cpu))
            for pick in (statistics.median, min)
        ]
        above = 1000 * (statistics.median(one.cpu) - statistics.median(bare.cpu))
        rows[f"cold {one.name}"] = {"value": ratios[0], "least": ratios[1], "above_ms": above}
    return rows


def without(group: Group, why: str) -> dict[str, Row]:
    """Return the rows of a group that cannot be measured here."""
    return {goal.name: {"why": why} for goal in GOALS if goal.group is group}


def loaded() -> tuple[dict[str, Row], dict[str, Any]]:
    """Run both load tests."""
    found: dict[str, Any] = {"in process": load.in_process(say)}
    try:
        found["on loopback"] = load.on_loopback(say)
    except LocalCloudError as error:
        found["on loopback"] = {"why": f"the local cloud does not start: {error}"}
    done = [one for one in found.values() if "why" not in one]
    rows = {
        f"load {what}": {"value": sum(one[what] for one in done)} for what in ("errors", "findings")
    }
    return rows, found


def lives_of(counts: counted.Counts) -> dict[str, dict[str, dict[str, float]]]:
    """Return the figures of each kind of life by step, for one life."""
    return {
        kind: {
            step: {
                "calls": meter.asked / LIVES,
                "writes": meter.write_units / LIVES,
                "reads": meter.read_units / LIVES,
            }
            for step, meter in life.items()
        }
        for kind, life in counts.lives.items()
    }


def bench(names: list[str]) -> int:
    """Measure the rows, print them, and write them if they are all."""
    wanted = report.groups_of(names) if names else set(Group)
    # First, since the dollars of a release need its rows.
    rows = shards.measure(say) if wanted & {Group.RELEASE, Group.DOLLARS} else {}
    data: dict[str, Any] = {"run": report.machine()}
    try:
        data["run"]["python"] = ".".join(map(str, RUNTIME))
        python_for(RUNTIME)
        if Group.COLD in wanted:
            rows |= cold()
        if wanted & {Group.CPU, Group.DOLLARS}:
            rows |= cpu.measure(say)
    except BuildError as error:
        data["run"]["python"] = "none of the runtime's version"
        rows |= without(Group.COLD, str(error)) | without(Group.CPU, str(error))
    if wanted & {Group.CALLS, Group.UNITS, Group.DOLLARS}:
        counts = counted.counted(say)
        rows |= {name: {"value": value} for name, value in counted.rows(counts).items()}
        data["lives"] = lives_of(counts)
        times = {name: row["ms"] for name, row in rows.items() if "ms" in row}
        if "cpu check" in times:
            bills = counted.bills(counts, times)
            rows |= {name: {"value": value} for name, value in bills.rows().items()}
        else:
            rows |= without(Group.DOLLARS, "needs the CPU of requests")
    if Group.LOAD in wanted:
        found, data["load"] = loaded()
        rows |= found
    data["rows"] = rows
    print("\n".join(report.table(rows, [goal for goal in GOALS if goal.group in wanted])))
    if "load" in data:
        print(report.load_table(data["load"]))
    if not names:
        report.write_bench(data)
        if "why" not in rows["dollars life"]:
            report.write_cost(counts, bills)
        say("written: docs/performance.md, .json and .svg, docs/scale.md, docs/cost.svg")
    return 0


def cost() -> int:
    """Print what a request, a life and a month cost, and write it into the page."""
    counts = counted.counted(say)
    found = counted.bills(counts, quantities.measured_cpu())
    for title, use, times in (
        ("a million requests accepted", found.accept, MILLION),
        ("a million shared images, to their end", found.life, MILLION),
        ("a million images released", found.release, MILLION),
        ("a month at rest", found.rest, 1),
    ):
        print(f"{title}: ${found.dollars(use) * times:.2f}")
        print("     dollars          quantity  of what")
        print("\n".join(report.lines_of(bill(found.inputs, use), times)))
    print("by step, dollars a million")
    for name, use in found.steps.items():
        print(f"  {found.dollars(use) * MILLION:10.2f}  {name}")
    print(report.months_table(found))
    data = json.loads(report.DATA.read_text())
    data["rows"] |= {name: {"value": value} for name, value in counted.rows(counts).items()}
    data["rows"] |= {name: {"value": value} for name, value in found.rows().items()}
    data["lives"] = lives_of(counts)
    report.write_bench(data)
    report.write_cost(counts, found)
    say("written: docs/performance.md, .json and .svg, docs/scale.md, docs/cost.svg")
    return 0


def main(arguments: list[str]) -> int:
    """Run one of the two."""
    match arguments:
        case ["bench", *names]:
            return bench(names)
        case ["cost"]:
            return cost()
    print("usage: python -m tests.bench bench [ROWS...] | cost", file=sys.stderr)
    return 2


if __name__ == "__main__":
    assert build.ROOT == report.ROOT
    sys.exit(main(sys.argv[1:]))
