"""A function's log in the local cloud, as readable lines."""

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from infra.local.dev.run_handler import DevError
from infra.local.dev.running import Cloud

EVERY_S = 1.0
OVERLAP_MS = 5_000
"""Milliseconds that a follower reads again, so that it misses no late events."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PLATFORM = re.compile(r"(START|END|REPORT) RequestId: ")
_SHOWN = {
    "timestamp",
    "level",
    "message",
    "location",
    "service",
    "exception",
    "exception_name",
    "stack_trace",
}


def seconds(text: str) -> int:
    """Return the seconds of a span like ``90s``, ``10m``, ``2h`` or ``1d``; raises ValueError."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        message = f"{text!r} is not a span of time, such as 90s, 10m, 2h or 1d"
        raise ValueError(message)
    return int(match[1]) * UNITS[match[2]]


def line(event: dict[str, Any]) -> str | None:
    """Return the line of a log event, or None for Lambda's own START, END and REPORT."""
    text = str(event["message"]).rstrip("\n")
    if _PLATFORM.match(text):
        return None
    at = datetime.fromtimestamp(event["timestamp"] / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    try:
        row = json.loads(text)
    except ValueError:
        row = None
    if not isinstance(row, dict) or "message" not in row:
        return f"{at} {text}"
    more = "".join(
        f" {name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in row.items()
        if name not in _SHOWN
    )
    trace = f"\n{row['exception']}" if row.get("exception") else ""
    return f"{at} {row.get('level', ''):7} {row['message']}{more}{trace}"


def read(cloud: Cloud, function: str, since_s: int, *, follow: bool) -> Iterator[str]:
    """Yield a function's lines of the last ``since_s`` seconds; ``follow`` waits for new ones."""
    group = cloud.function(function)["LoggingConfig"]["LogGroup"]
    pages = cloud.aws("logs").get_paginator("filter_log_events")
    start = int(time.time() - since_s) * 1000
    seen: set[tuple[str, int, str]] = set()
    while True:
        new = set()
        for page in pages.paginate(logGroupName=group, startTime=start):
            for event in page["events"]:
                key = (event["logStreamName"], event["timestamp"], event["message"])
                new.add(key)
                shown = line(event)
                if key not in seen and shown is not None:
                    yield shown
        if not follow:
            return
        seen = new
        if new:
            start = max(start, max(at for _, at, _ in new) - OVERLAP_MS)
        time.sleep(EVERY_S)


def show(cloud: Cloud, function: str, since: str, *, follow: bool) -> None:
    """Print a function's log, with ``follow`` until Ctrl-C; raises DevError."""
    try:
        span = seconds(since)
    except ValueError as error:
        raise DevError(str(error)) from None
    if follow:
        print(f"following {function}; Ctrl-C ends it", file=sys.stderr, flush=True)
    empty = True
    with contextlib.suppress(*((KeyboardInterrupt,) if follow else ())):  # the normal end
        for text in read(cloud, function, span, follow=follow):
            print(text, flush=True)
            empty = False
    if empty and not follow:
        print(f"{function} has logged nothing in the last {since}", file=sys.stderr)
