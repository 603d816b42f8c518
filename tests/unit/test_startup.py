"""The start of a function: it connects on Lambda alone, cannot fail, and survives a snapshot."""

import gc
import importlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from types import ModuleType

import pytest

from horde import aws, overview, runpod, startup
from horde.edge import ratelimit
from horde.wire import sockets
from tests.support import scripted_server
from tests.support.scripted_server import ScriptedServer
from tests.support.template import ROOT

HANDLERS = sorted(path.stem for path in (ROOT / "functions").glob("*.py"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """AWS for a Lambda, on loopback."""
    with scripted_server.serving() as made:
        made.script(scripted_server.answer())
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        lambdas = {
            "AWS_LAMBDA_FUNCTION_NAME": "generate",
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_ENDPOINT_URL": made.url,
        }
        for name, value in lambdas.items():
            monkeypatch.setenv(name, value)
        aws.clear_cache()
        yield made
        aws.clear_cache()
        gc.unfreeze()


class Hooks(ModuleType):
    """The module of Lambda's runtime that calls functions around a snapshot."""

    def __init__(self) -> None:
        super().__init__("snapshot_restore_py")
        self.before: list[Callable[[], None]] = []
        self.after: list[Callable[[], None]] = []
        self.register_before_snapshot = self.before.append
        self.register_after_restore = self.after.append

    def snapshot(self) -> None:
        for hook in reversed(self.before):
            hook()

    def restore(self) -> None:
        for hook in self.after:
            hook()


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> Hooks:
    """A start whose memory will be kept."""
    made = Hooks()
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", made)
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    return made


def idle() -> list[HTTPConnection]:
    return [link for links in sockets._idle.values() for _, link in links]


def unreachable() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def test_the_first_call_takes_the_connection_that_the_start_has_opened(
    server: ScriptedServer,
) -> None:
    startup.ready("dynamodb")
    assert len(idle()) == 1
    aws.dynamodb().get_item(TableName="horde", Key={"pk": {"S": "A"}})
    assert ([heard.link for heard in server.heard], server.links) == ([1], 1)


def test_outside_of_lambda_nothing_is_connected(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME")
    startup.ready("dynamodb", "sqs")
    assert idle() == []
    assert aws.dynamodb.cache_info().currsize == 0


def test_a_start_without_a_network_does_not_fail_and_tries_once(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", unreachable())
    tried: list[str] = []
    warm = aws.warm

    def counted(name: str) -> None:
        tried.append(name)
        warm(name)

    monkeypatch.setattr(aws, "warm", counted)
    startup.ready("dynamodb", "sqs")
    assert tried == ["dynamodb"]
    assert idle() == []


def test_a_start_without_credentials_or_region_does_not_fail(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_REGION")
    startup.ready("dynamodb")


def test_botocore_connects_at_its_first_call(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CLIENT", "botocore")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    startup.ready("dynamodb", "secretsmanager")
    assert (server.links, server.heard) == (0, [])
    assert aws.dynamodb.cache_info().currsize == 1


def test_no_connection_and_no_credentials_are_in_a_snapshot(
    server: ScriptedServer, hooks: Hooks
) -> None:
    startup.ready("dynamodb")
    (link,) = idle()
    hooks.snapshot()
    assert idle() == []
    assert link.sock is None
    assert aws.dynamodb.cache_info().currsize == 0
    assert aws._credentials.cache_info().currsize == 0


def test_a_process_from_a_snapshot_connects_anew_and_with_its_own_credentials(
    server: ScriptedServer, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup.ready("dynamodb")
    hooks.snapshot()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "later")
    hooks.restore()
    aws.dynamodb().get_item(TableName="horde", Key={"pk": {"S": "A"}})
    (heard,) = server.heard
    assert (heard.link, server.links) == (2, 2)
    assert "Credential=later/" in heard.headers["authorization"]


def test_two_processes_from_one_snapshot_draw_different_random_numbers(
    server: ScriptedServer, hooks: Hooks
) -> None:
    startup.ready("dynamodb")
    hooks.snapshot()
    kept, drawn = random.getstate(), []
    for _ in range(2):
        random.setstate(kept)
        hooks.restore()
        drawn.append(random.random())
    assert drawn[0] != drawn[1]


def test_a_restore_without_a_network_does_not_fail(
    server: ScriptedServer, hooks: Hooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup.ready("dynamodb")
    hooks.snapshot()
    monkeypatch.setenv("AWS_ENDPOINT_URL", unreachable())
    hooks.restore()
    assert idle() == []


def test_a_start_fills_no_cache_that_has_a_time_or_a_secret(
    server: ScriptedServer, hooks: Hooks
) -> None:
    """Such caches would be in a snapshot: the census, statistics, limits, keys and secrets."""
    from horde import store

    for cached in (store._connected, runpod.connect, aws.secret):
        cached.cache_clear()
    overview.clear_cache()
    ratelimit.clear_cache()
    importlib.import_module("browse")._cached.clear()
    startup.ready("dynamodb", "secretsmanager")
    assert not overview._cached
    assert not importlib.import_module("browse")._cached
    for cached in (store._connected, runpod.connect, aws.secret):
        assert cached.cache_info().currsize == 0
    assert server.heard == []


STARTS = """
import gc, importlib, horde
for handler in {handlers}:
    gc.disable()
    importlib.import_module(handler)
    assert gc.isenabled(), handler
    print("started")
"""


def test_garbage_is_collected_again_after_a_start(server: ScriptedServer) -> None:
    gc.disable()
    try:
        startup.ready()
        assert gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.slow
def test_every_function_starts_on_a_lambda_whose_network_is_down() -> None:
    env = {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_ENDPOINT_URL": unreachable(),
        "AWS_LAMBDA_FUNCTION_NAME": "any",
        "AWS_REGION": "eu-central-1",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "PYTHONPATH": str(ROOT / "functions"),
    }
    done = subprocess.run(
        [sys.executable, "-c", STARTS.format(handlers=HANDLERS)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("started\n") == len(HANDLERS)
    assert done.stdout.count("not connected") == len(HANDLERS) - 1  # ``about`` asks nobody
