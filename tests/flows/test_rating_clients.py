"""The ratings API as other people's clients speak it, unmodified, over HTTP."""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from horde.rules import raters
from horde.rules.ruleset import IN_FORCE
from tests.support.cloud import Cloud
from tests.support.numbers import FLOOR, HANG_S
from tests.support.rating import gold_share, pooled, prove, rate_next
from tests.support.template import ROOT
from tests.support.wsgi import Gateway

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parent
PYTHON = ROOT / "build" / "clients-venv" / "bin" / "python"


class Quiet(WSGIRequestHandler):
    """Writes no log."""

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture
def address(cloud: Cloud) -> Iterator[str]:
    with make_server("127.0.0.1", 0, Gateway(cloud), handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with gold_share(0):
            yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def play(command: list[str], task: dict[str, Any]) -> dict[str, Any]:
    """Run a client's script to its end; returns what it reports."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*command, json.dumps(task)],
        env=ours,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def test_the_npm_client_rates_image_after_image(cloud: Cloud, address: str) -> None:
    images = pooled(cloud, 2)
    user, key = cloud.register()
    prove(cloud, user)
    task = {"api": address, "key": key, "model": "stable_diffusion"}
    seen = play(["node", str(HERE / "rating_client.mjs")], task)
    assert (seen["dataset"]["id"], seen["dataset"]["image_count"]) == (raters.DATASET_ID, 2)
    assert seen["teams"] == []
    assert {seen["first"]["id"], seen["second"]["id"]} == set(images)
    assert seen["first"]["url"].startswith("https://")
    assert seen["done"]["reward"] == seen["again"]["reward"] == IN_FORCE.per_pool_rating
    assert seen["masked"] == {"reward": IN_FORCE.per_pool_rating}
    assert seen["refused"]["status"] == 400
    assert seen["nothing"]["status"] == 404
    assert "no image for you to rate" in seen["nothing"]["message"]
    assert seen["nobody"]["status"] == 403
    assert cloud.kudos(user) == FLOOR + 2 * IN_FORCE.per_pool_rating
    rated = cloud.store.raters.rating(seen["first"]["id"], user)
    assert rated is not None
    assert rated.artifacts == 1


def test_horde_sdk_reads_what_was_rated(cloud: Cloud, address: str, moderator: str) -> None:
    assert PYTHON.exists(), "the clients are not installed here: run 'make setup' first"
    pooled(cloud, 3)
    user, key = cloud.register()
    for rating in (2, 9, 5):
        rate_next(cloud, key, rating)
        cloud.clock.pass_seconds(1)
    task = {"api": address, "key": key, "moderator": moderator, "user": str(user)}
    seen = play([str(PYTHON), str(HERE / "rating_client_sdk.py")], task)
    assert seen["own"]["is"] == "UserRatingsResponse"
    assert [one["rating"] for one in seen["own"]["ratings"]] == [5, 9, 2]
    assert seen["validate"]["is"] == "UserValidateResponse"
    assert seen["validate"]["total"] == 3
    assert (seen["check"]["is"], seen["check"]["ratings_in_timeframe"]) == ("UserCheckResponse", 3)
