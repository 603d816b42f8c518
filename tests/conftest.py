"""Fixtures of all suites; nothing heavy is imported before a test needs it."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    """The synthesized template."""
    from tests.support.template import synthesize

    return synthesize()
