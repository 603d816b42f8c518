"""Flows: the handlers on moto, everything made from the synthesized template."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.cloud import Cloud, fresh_cloud
from tests.support.moto_aws import moto_clients


@pytest.fixture(scope="session")
def clients() -> Iterator[dict[str, Any]]:
    """moto, started once."""
    with moto_clients() as made:
        yield made


@pytest.fixture
def cloud(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[Cloud]:
    """A fresh cloud; its books are proven after every test."""
    with fresh_cloud(template, clients) as made:
        yield made
        made.audit()
