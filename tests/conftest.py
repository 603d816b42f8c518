"""Fixtures of all suites; nothing heavy is imported before a test needs it."""

import atexit
import gc
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# On a slow machine an example takes long; that is no finding.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
# What is imported, torch among it, is walked in each full collection: a tenth of the tests' CPU.
gc.set_threshold(100_000, 20, 50)
# So it is at the end of each process, several times.
atexit.register(gc.freeze)
ALL_SLOW = re.compile(r"^pytestmark = (\[[^]]*)?pytest\.mark\.(slow|e2e)\b", re.MULTILINE)
"""How a file says that all its tests are slow."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file of slow tests alone where they are left out: torch takes seconds."""
    if collection_path.suffix == ".py" and "not slow" in config.getoption("markexpr"):
        return ALL_SLOW.search(collection_path.read_text(encoding="utf-8")) is not None or None
    return None


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """The synthesized template."""
    from tests.support.template import synthesize

    return synthesize()
