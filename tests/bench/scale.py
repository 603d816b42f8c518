"""What a rate of requests asks of each limit: the figures of docs/scale.md, from the counters.

A request is one shared image of an account, drawn by a worker of the operator, polled as often as
``prices.toml`` assumes. The limits are AWS's defaults in us-east-1, by the pages that docs/scale.md
names.
"""

from collections import defaultdict
from collections.abc import Mapping

from horde.store.due import Due
from tests.bench.cost import Inputs
from tests.bench.counted import Bills, Counts
from tests.bench.life import LIVES
from tests.bench.meter import TABLE, Meter
from tests.bench.quantities import API
from tests.support import template as templates

RATES = (10, 1_000, 10_000)
"""Requests a second."""
PARTITION_WRITES, PARTITION_READS = 1_000, 3_000
"""Units a second of one partition key, in the table and in each index."""
TABLE_UNITS = 40_000
"""Write units, and read units, a second of an on-demand table, before the quota is raised."""
FIRST_WRITES = 4_000
"""Write units a second that a new on-demand table takes at once."""
API_REQUESTS = 10_000
"""Requests a second of an account's APIs in a region, before the quota is raised."""
CONCURRENCY, RUNS_OF_ONE = 1_000, 10
"""Environments of an account's functions at once, before the quota is raised; and the runs a second
of each of them."""
S3_WRITES = 3_500
"""PUTs a second of a prefix."""


def whole(life: Mapping[str, Meter]) -> Meter:
    """Return all steps together."""
    found = Meter()
    for meter in life.values():
        found.add(meter)
    return found


def hottest(life: Mapping[str, Meter], where: str, prefix: str = "") -> float:
    """Return the write units that one life costs the busiest partition of a table or index."""
    by_key: dict[str, float] = defaultdict(float)
    for (name, key), units in whole(life).writes.items():
        if name == where and key.startswith(prefix):
            by_key[key] += units / LIVES
    return max(by_key.values(), default=0.0)


def _written(life: Mapping[str, Meter], where: str, prefix: str) -> float:
    """Return the write units that one life costs the partitions whose keys begin so."""
    writes = whole(life).writes.items()
    return sum(n for (name, key), n in writes if name == where and key.startswith(prefix)) / LIVES


def runs(life: Mapping[str, Meter], inputs: Inputs, *, api: bool) -> float:
    """Return runs of functions for one life; ``api`` for those of the API alone."""
    polls = inputs.value("polls")
    return sum(
        meter.invocations.total() / LIVES * (polls if name == "check" else 1)
        for name, meter in life.items()
        if not api or name in API
    )


def concurrency(counts: Counts, bills: Bills) -> float:
    """Return the seconds that one life keeps environments busy: Little's law, at one a second."""
    functions = templates.functions(dict(counts.template))
    seconds = 0.0
    for name, use in bills.steps.items():
        if name not in counts.usual:
            continue  # what no function calls
        files = list(counts.usual[name].invocations)
        memory = functions[files[0]][1].get("MemorySize", 128)
        seconds += use.of["lambda_gb_second"] / (memory / 1024)
    return seconds


def figures(counts: Counts, bills: Bills) -> list[tuple[str, float, float]]:
    """Return what one request a second asks for, and the limit of it."""
    life, inputs = counts.usual, bills.inputs
    all_of = whole(life)
    polls = life["check"].read_units / LIVES * (inputs.value("polls") - 1)
    puts = bills.life.of["s3_write"]
    return [
        ("requests to the API", runs(life, inputs, api=True), API_REQUESTS),
        ("runs of functions", runs(life, inputs, api=False), CONCURRENCY * RUNS_OF_ONE),
        ("environments at once", concurrency(counts, bills), CONCURRENCY),
        ("write units, table and indexes", all_of.write_units / LIVES, TABLE_UNITS),
        ("read units", all_of.read_units / LIVES + polls, TABLE_UNITS),
        ("writes to the index `waiting`", all_of.of("waiting") / LIVES, PARTITION_WRITES),
        *(
            (
                f"writes to the index `due`, a shard of `{kind}`",
                _written(life, "due", f"{kind}#") / kind.shards,
                PARTITION_WRITES,
            )
            for kind in (Due.LEASE, Due.REQUEST, Due.REWARD)
        ),
        ("writes to the index `listed`, one list", hottest(life, "listed"), PARTITION_WRITES),
        (
            "writes to one account that asks for all",
            hottest(life, TABLE, "USER#"),
            PARTITION_WRITES,
        ),
        ("writes to the statistics", hottest(life, TABLE, "STATS"), PARTITION_WRITES),
        (
            "messages sent to SQS",
            bills.steps["announce"].of.get("sqs_request", 0) + 1,
            float("inf"),
        ),
        ("PUTs to S3", puts, S3_WRITES),
    ]


def _shown(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def table(found: list[tuple[str, float, float]]) -> str:
    """Return the page's table; bold is what is over the limit."""
    heads = " | ".join(f"at {rate:,} requests/s" for rate in RATES)
    lines = [f"| a second | one request | {heads} | limit | reached at |", "|---" * 7 + "|"]
    for name, each, limit in found:
        cells = []
        for rate in RATES:
            shown = _shown(each * rate)
            cells.append(f"**{shown}**" if each * rate > limit else shown)
        most = "none" if limit == float("inf") else f"{limit:,.0f}"
        reached = "never" if limit == float("inf") or not each else f"{_shown(limit / each)}/s"
        lines.append(f"| {name} | {_shown(each)} | {' | '.join(cells)} | {most} | {reached} |")
    return "\n".join(lines)
