"""Fixtures of all suites; nothing heavy is imported before a test needs it."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# On a slow machine an example takes long; that is no finding.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """The synthesized template."""
    from tests.support.template import synthesize

    return synthesize()
