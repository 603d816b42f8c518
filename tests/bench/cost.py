"""What it costs: prices and counted quantities in, dollars out.

``python -m tests.bench cost`` prints it. Everything here is pure; ``quantities`` counts.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PRICES = Path(__file__).with_name("prices.toml")
MILLION = 1_000_000
VCPU_MB = 1769
"""Memory at which Lambda gives a whole vCPU (AWS Lambda, "Configure function memory")."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars for ``per`` of a unit, where it is from, and whether it was looked up."""

    name: str
    dollars: float
    per: float
    unit: str
    source: str
    date: str
    from_memory: bool

    @property
    def each(self) -> float:
        """Dollars for one."""
        return self.dollars / self.per


@dataclass(frozen=True, slots=True)
class Assumed:
    """A number that cannot be measured here, and why it is this one."""

    name: str
    value: float
    unit: str
    why: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a bill: how much of what, at which price."""

    name: str
    price: Price
    quantity: float

    @property
    def dollars(self) -> float:
        """What it costs."""
        return self.quantity * self.price.each


@dataclass(frozen=True, slots=True)
class Inputs:
    """All prices and assumptions, by name."""

    region: str
    prices: Mapping[str, Price]
    assumed: Mapping[str, Assumed]

    def value(self, name: str) -> float:
        """Return an assumption's number."""
        return self.assumed[name].value


def load(path: Path = PRICES) -> Inputs:
    """Return the inputs of a file; raises KeyError where one lacks its source or date."""
    found = tomllib.loads(path.read_text())
    prices = {
        name: Price(
            name=name,
            dollars=float(one["dollars"]),
            per=float(one["per"]),
            unit=one["unit"],
            source=one["source"],
            date=str(one["date"]),
            from_memory="quoted" in one,
        )
        for name, one in found["price"].items()
    }
    assumed = {
        name: Assumed(name=name, value=float(one["value"]), unit=one["unit"], why=one["why"])
        for name, one in found["assumed"].items()
    }
    return Inputs(found["region"], prices, assumed)


@dataclass(frozen=True, slots=True)
class Use:
    """What something uses, by the names of the prices: a request, a life, a month."""

    of: Mapping[str, float] = field(default_factory=dict)

    def __add__(self, other: "Use") -> "Use":
        """Return both together."""
        names = {**self.of, **other.of}
        return Use({name: self.of.get(name, 0) + other.of.get(name, 0) for name in names})

    def __mul__(self, times: float) -> "Use":
        """Return so many of it."""
        return Use({name: quantity * times for name, quantity in self.of.items()})


def bill(inputs: Inputs, use: Use) -> list[Line]:
    """Return the lines of what is used, the dearest first; raises KeyError without a price."""
    lines = [
        Line(inputs.prices[name].unit, inputs.prices[name], quantity)
        for name, quantity in use.of.items()
        if quantity
    ]
    return sorted(lines, key=lambda line: -line.dollars)


def total(lines: Iterable[Line]) -> float:
    """Return the sum in dollars."""
    return sum(line.dollars for line in lines)


def gb_seconds(memory_mb: float, cpu_ms: float, wait_ms: float) -> float:
    """Return what a run costs: CPU in ms of a whole core, and ms that it waits for others.

    Lambda gives a share of a core in proportion to the memory, and bills whole milliseconds.
    """
    lasts_ms = cpu_ms * max(1.0, VCPU_MB / memory_mb) + wait_ms
    return memory_mb / 1024 * max(1.0, lasts_ms) / 1000


def monthly(at_rest: float, a_life: float, images: float) -> float:
    """Return dollars a month for so many images a month."""
    return at_rest + a_life * images
