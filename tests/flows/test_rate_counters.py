"""The counters of the rate limits: one write for all windows, each from its own start."""

from tests.support.clock import START_MS
from tests.support.cloud import Cloud

NOW = START_MS // 1000
"""A whole hour."""


def test_each_window_counts_from_its_own_start(cloud: Cloud) -> None:
    count = cloud.store.ratelimits.count
    assert count("a", [1, 60, 3600], NOW) == [1, 1, 1]
    assert count("a", [1, 60, 3600], NOW) == [2, 2, 2]
    assert count("a", [1, 60, 3600], NOW + 1) == [1, 3, 3]
    assert count("a", [1, 60, 3600], NOW + 60) == [1, 1, 4]
    assert count("a", [1, 60, 3600], NOW + 3599) == [1, 1, 5]
    assert count("a", [1, 60, 3600], NOW + 3600) == [1, 1, 1]
    assert count("b", [1, 60, 3600], NOW) == [1, 1, 1]


def test_a_window_is_kept_until_it_is_over_and_no_longer_than_twice_its_length(
    cloud: Cloud,
) -> None:
    cloud.store.ratelimits.count("a", [60, 3600], NOW + 7)
    (item,) = cloud.rows("RATELIMIT")
    assert item["pk"]["S"] == f"RATELIMIT#a#3600#{NOW // 3600}"
    assert item["gone_at"]["N"] == str(NOW + 7 + 7200)
    assert {name for name in item if name.startswith("w")} == {"w60_0", "w3600_0"}
