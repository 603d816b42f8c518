"""The rows that are counted, not measured: calls, units and dollars."""

import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from horde.log import logger
from tests.bench import cost, quantities, releases
from tests.bench.cost import Inputs, Use
from tests.bench.growth import measure
from tests.bench.life import LIVES, lives, warm
from tests.bench.meter import Meter, metered
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import fresh_cloud
from tests.support.cuts import seeded
from tests.support.moto_aws import moto_clients
from tests.support.template import synthesize

Say = Callable[[str], None]
WAITING = 100
"""Images before the one that is checked, for the calls of a check."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted: lives by who asks and who draws, an idle sweep, and a queue of 100."""

    lives: Mapping[str, Mapping[str, Meter]]
    idle_sweep: Meter
    queued: Mapping[str, Meter]
    template: Mapping[str, Any]

    @property
    def usual(self) -> Mapping[str, Meter]:
        """The life that the goals are about: an account's image, drawn by the operator."""
        return self.lives["account, own worker"]


def count(template: dict[str, Any], clients: dict[str, Any]) -> Counts:
    """Count all on moto, with the same ids and the same chance in each run."""
    random.seed(1)
    with seeded(random.Random(1)):
        return _counted(template, clients)


def _counted(template: dict[str, Any], clients: dict[str, Any]) -> Counts:
    found: dict[str, Mapping[str, Meter]] = {}
    for drawn_by, fleet in (("own worker", True), ("volunteer", False)):
        for asked_by in ("account", "anonymous"):
            with fresh_cloud(template, clients) as cloud:
                user, key = cloud.register("me")
                cloud.set_flags(user, trusted=True, concurrency=10 * LIVES)  # type: ignore[arg-type]
                key = ANONYMOUS if asked_by == "anonymous" else key
                worker = cloud.new_worker("operator", fleet=fleet)
                warm(cloud, key, worker)
                found[f"{asked_by}, {drawn_by}"] = lives(cloud, key, worker, inline=fleet)
    with fresh_cloud(template, clients) as cloud:
        cloud.sweep()
        with metered() as idle:
            cloud.sweep()
    with fresh_cloud(template, clients) as cloud:
        queued = measure(cloud, WAITING, drawable=True)
    return Counts(found, idle, queued, template)


def counted(say: Say) -> Counts:
    """Count all, with moto started for it."""
    say("counting calls and units of four kinds of lives")
    level = logger.log_level
    logger.setLevel("ERROR")
    template = synthesize()
    with moto_clients() as clients:
        found = count(template, clients)
    logger.setLevel(level)
    return found


def units_of(life: Mapping[str, Meter]) -> float:
    """Return the write units of one life, from its acceptance to the close of its request."""
    return sum(meter.write_units for meter in life.values()) / LIVES


def rows(found: Counts) -> dict[str, float]:
    """Return the rows of calls, of the usual request, and of units, of the average one."""
    usual = found.usual
    per = {name: statistics.median(usual[name].each) for name in ("accept", "pop", "submit")}
    return {
        **{f"calls {name}": calls for name, calls in per.items()},
        "calls check": float(found.queued["check"].of_the_table),
        "units accept": usual["accept"].write_units / LIVES,
        "units life": units_of(usual),
    }


@dataclass(frozen=True, slots=True)
class Bills:
    """What is used by a request, by each step of a life, and by a month at rest."""

    inputs: Inputs
    accept: Use
    steps: Mapping[str, Use]
    rest: Use
    release: Use
    """An image's way from ``incoming/`` into a shard, on a day with many."""

    @property
    def life(self) -> Use:
        """A whole life."""
        whole = Use()
        for use in self.steps.values():
            whole += use
        return whole

    def dollars(self, use: Use) -> float:
        """Return what it costs."""
        return cost.total(cost.bill(self.inputs, use))

    def rows(self) -> dict[str, float]:
        """Return the rows of dollars."""
        return {
            "dollars accept": self.dollars(self.accept) * cost.MILLION,
            "dollars life": self.dollars(self.life) * cost.MILLION,
            "dollars rest": self.dollars(self.rest),
            "dollars release": self.dollars(self.release) * cost.MILLION,
        }


def bills(found: Counts, cpu_ms: Mapping[str, float]) -> Bills:
    """Return the bills for what was counted, with the CPU of requests in ms by row."""
    inputs, template = cost.load(), dict(found.template)
    steps = quantities.of_life(found.usual, template, inputs, cpu_ms)
    rest = quantities.at_rest(found.idle_sweep, template, inputs, cpu_ms["cpu check"])
    release = releases.of_image(template, inputs, cpu_ms)
    return Bills(inputs, steps["accept"], steps, rest, release)
