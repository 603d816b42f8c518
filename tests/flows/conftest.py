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


@pytest.fixture
def owned(cloud: Cloud) -> tuple[int, str]:
    """A trusted account that has a worker, and its account key."""
    user, key = cloud.register("owner")
    cloud.set_flags(user, trusted=True)
    return user, key


@pytest.fixture
def owner(owned: tuple[int, str]) -> int:
    """That account."""
    return owned[0]


@pytest.fixture
def owner_key(owned: tuple[int, str]) -> str:
    """That account's own key."""
    return owned[1]


@pytest.fixture
def worker(cloud: Cloud, owner: int) -> str:
    """The key of its worker."""
    return cloud.worker_key(owner)


@pytest.fixture
def fleet(cloud: Cloud) -> str:
    """The key of the operator's own workers, which may take again what they faulted."""
    return cloud.new_worker("operator", fleet=True)


@pytest.fixture
def admin(cloud: Cloud) -> str:
    """The key of an account that the operator named; it is the first one."""
    cloud.overrides["ADMINS"] = "77, 1"
    user, key = cloud.register("root")
    assert user == 1
    return key


@pytest.fixture
def moderator(cloud: Cloud, admin: str) -> str:
    """The key of an account that an admin made a moderator."""
    user, key = cloud.register("mod")
    assert cloud.change_user(admin, user, moderator=True).body == {"moderator": True}
    return key
