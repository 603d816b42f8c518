"""A small cloud for the flow tests: the deployed definition on moto, run step by step.

``Cloud`` is what tests see. What it doubles is in files of its own: ``deployment`` (resources and
environments), ``api_calls`` (API Gateway and its callers), ``delivery`` (streams, queues, retries),
``moto_aws`` (AWS), ``fake_runpod`` and ``clock``; ``reading`` looks at what is stored. moto is not
atomic under threads: races are tested on the local cloud, with ``arena``.
"""

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import pytest
import requests

from horde import aws, clock, overview, runpod, store
from horde.edge import ratelimit
from horde.store import places, registry, workers
from tests.support.api_calls import ApiCalls
from tests.support.delivery import Delivery
from tests.support.fake_runpod import FakeRunPod
from tests.support.moto_aws import empty
from tests.support.numbers import HANG_S

C = TypeVar("C", bound="Cloud")


class Cloud(ApiCalls, Delivery):
    """The deployed system on moto. Async edges move only when a test moves them."""

    def kudos(self, user_id: int) -> int:
        """Return a balance, rewards included."""
        self.pay()
        user = self.store.accounts.get(user_id)
        assert user is not None
        return user.kudos

    def find_user(self, key: str) -> Any:
        """Ask for the account of a key, rewards included."""
        self.pay()
        answer = self.call("GET /api/v2/find_user", key=key)
        assert answer.status == 200, answer
        return answer.body


def new_processes() -> None:
    """Forget what the functions' processes remember, as new ones do."""
    runpod.connect.cache_clear()
    store._connected.cache_clear()
    aws.clear_settings()
    aws.secret.cache_clear()
    ratelimit.clear_cache()
    overview.clear_cache()
    for room in (registry, places, workers):
        room.clear_cache()
    importlib.import_module("browse")._cached.clear()
    importlib.import_module("rate")._counted.clear()


def fresh_cloud(
    template: dict[str, Any], clients: dict[str, Any]
) -> AbstractContextManager["Cloud"]:
    """Make a cloud for one test."""
    return cloud_of(Cloud, template, clients)


@contextmanager
def cloud_of(kind: type[C], template: dict[str, Any], clients: dict[str, Any]) -> Iterator[C]:
    """Make a cloud of a kind, from nothing or from an earlier one of this template."""
    if clients.get("made_from") is template:
        empty()
    else:
        requests.post("http://motoapi.amazonaws.com/moto-api/reset", timeout=HANG_S)
    clients["ssm"].put_parameter(
        Name="/horde-commons/runpod-api-key",
        Value=FakeRunPod.key,
        Type="SecureString",
        Overwrite=True,
    )
    new_processes()
    with FakeRunPod().serving() as fake, pytest.MonkeyPatch.context() as patch:
        made = kind(template, clients, fake)
        patch.setattr(clock, "now_ms", made.clock.now_ms)
        # One request in 64, by its random id, makes a call more: it would make counts random.
        patch.setattr(registry, "is_counted", lambda _: False)
        yield made
