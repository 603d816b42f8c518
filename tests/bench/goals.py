"""The goals, as rows: what is measured, how it is compared, and how much it may be."""

from dataclasses import dataclass
from enum import StrEnum


class Group(StrEnum):
    """Rows that are measured together."""

    COLD = "cold"
    CPU = "cpu"
    CALLS = "calls"
    UNITS = "units"
    DOLLARS = "dollars"
    LOAD = "load"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Goal:
    """A row of the table. ``before`` is what was measured on 2026-11-24, before the work on it."""

    name: str
    group: Group
    what: str
    unit: str
    before: str
    most: float
    stretch: float | None = None


_COLD = "CPU of a cold start above the runtime client alone, against powertools and boto3"
_CPU = "CPU of one request, against one GetItem of boto3"
_CALLS = "calls of DynamoDB for one request"

GOALS = (
    Goal("cold generate", Group.COLD, _COLD, "x", "2.2-2.4", 0.75, 0.5),
    Goal("cold status", Group.COLD, _COLD, "x", "2.2-2.4", 0.75, 0.5),
    Goal("cold worker", Group.COLD, _COLD, "x", "2.2-2.4", 0.75, 0.5),
    Goal("cpu accept", Group.CPU, _CPU, "x", "7", 2),
    Goal("cpu check", Group.CPU, _CPU, "x", "5", 1),
    Goal("cpu pop", Group.CPU, _CPU, "x", "12", 3),
    Goal("cpu submit", Group.CPU, _CPU, "x", "8.5", 3),
    Goal("calls accept", Group.CALLS, _CALLS, "calls", "6", 4),
    Goal("calls check", Group.CALLS, f"{_CALLS} that waits", "calls", "3", 2),
    Goal("calls pop", Group.CALLS, f"{_CALLS} that finds one image", "calls", "7", 5),
    Goal("calls submit", Group.CALLS, _CALLS, "calls", "6", 4),
    Goal("units accept", Group.UNITS, "write units to accept one image", "units", "16", 12, 10),
    Goal("units life", Group.UNITS, "write units to an image's end", "units", "39-55", 26),
    Goal("dollars accept", Group.DOLLARS, "dollars for a million accepted", "$", "12.7", 9),
    Goal("dollars life", Group.DOLLARS, "dollars for a million shared images", "$", "81", 50),
    Goal("dollars rest", Group.DOLLARS, "dollars a month at rest", "$", "3", 3),
    Goal("dollars release", Group.DOLLARS, "dollars to release a million images", "$", "-", 5),
    Goal("load errors", Group.LOAD, "errors under load, in process and on loopback", "", "-", 0),
    Goal("load findings", Group.LOAD, "findings of the audit after it", "", "-", 0),
    Goal("release memory", Group.RELEASE, "peak of packing 10,000 images", "MB", "-", 512),
    Goal("release pack", Group.RELEASE, "CPU of packing an image", "ms", "-", 5),
    Goal("release screen", Group.RELEASE, "CPU of screening an image", "ms", "-", 100),
)
