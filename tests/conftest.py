"""Fixtures of all suites; nothing heavy is imported before a test needs it."""

import gc
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


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """The synthesized template."""
    from tests.support.template import synthesize

    return synthesize()
