"""The flows of these modules once more, on the thin client and over HTTP."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from horde import aws
from horde.wire.thin import ThinClient
from tests.support.thin_wire import ThinCloud, moto_over_http, thin_cloud

pytestmark = pytest.mark.slow
"""Slow: every call goes over HTTP."""

AGAIN = ("test_worker", "test_painting", "test_publication", "test_webhooks", "test_lost_copies")
"""Modules whose tests are run again, with their fixtures."""

for _module in AGAIN:
    for _name, _value in vars(importlib.import_module(f"tests.flows.{_module}")).items():
        if _name.startswith("test_") or "fixture" in type(_value).__name__.lower():
            globals()[f"{_name}_of_{_module}" if _name.startswith("test_") else _name] = _value


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The address of moto."""
    with moto_over_http() as url:
        yield url


@pytest.fixture
def cloud(template: dict[str, Any], clients: dict[str, Any], moto_url: str) -> Iterator[ThinCloud]:
    """A fresh cloud; its books are proven after every test."""
    with thin_cloud(template, clients, moto_url) as made:
        yield made
        assert isinstance(aws.dynamodb(), ThinClient)
        made.audit()
