"""Times as text, and the start of a month, in UTC."""

import time
from datetime import datetime

import pytest

from horde.rules.dates import day, hour, iso, minute, month_start

AT = 1_795_412_520
"""2026-11-23T05:42:00Z, in seconds."""


def test_a_time_is_written_in_utc_to_the_millisecond() -> None:
    assert iso(AT * 1000 + 7) == "2026-11-23T05:42:00.007Z"
    assert iso(0) == "1970-01-01T00:00:00.000Z"
    assert minute(AT * 1000) == "2026-11-23T05:42"
    assert day(AT * 1000) == "2026-11-23"
    assert hour(AT) == "2026-11-23T05"
    assert hour(AT + 18 * 60 - 1) == "2026-11-23T05"
    assert hour(AT + 18 * 60) == "2026-11-23T06"


@pytest.mark.parametrize(
    ("at", "start"),
    [
        ("2026-11-23T05:42:07", "2026-11-01T00:00:00"),
        ("2026-11-01T00:00:00", "2026-11-01T00:00:00"),
        ("2026-10-31T23:59:59", "2026-10-01T00:00:00"),
        ("2024-02-29T12:00:30", "2024-02-01T00:00:00"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_a_month_starts_on_its_first_day_at_midnight_utc(
    at: str, start: str, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()

    def seconds(text: str) -> int:
        return int(datetime.fromisoformat(f"{text}+00:00").timestamp())

    try:
        assert month_start(seconds(at)) == seconds(start)
    finally:
        monkeypatch.undo()
        time.tzset()
