"""One endpoint draws two models: a request for each is drawn by the one worker that there is."""

from collections.abc import Iterator
from functools import partial

import pytest

from horde.store.audit import AuditStore
from infra.local.api_client import Client, until
from infra.local.local_cloud import EMOJI_MODEL, TINY_MODEL, LocalCloud
from infra.local.processes import LocalCloudError
from infra.models import ModelSettings
from infra.operate import account_commands
from infra.operate.audit.run import audit
from tests.e2e.conftest import PATIENCE_S, small

pytestmark = pytest.mark.e2e

NOISE, EMOJI = "Noise 1", "emoji"
FAMILY = "stable_diffusion_1"


@pytest.fixture(scope="module")
def both() -> Iterator[LocalCloud]:
    models = {
        NOISE: (ModelSettings(endpoint=None, baseline=FAMILY), TINY_MODEL),
        EMOJI: (ModelSettings(endpoint=None, baseline=FAMILY), EMOJI_MODEL),
    }
    try:
        with LocalCloud("e2e-models", models=models, rate_limits=False) as cloud:
            yield cloud
    except LocalCloudError as error:
        pytest.fail(error.tail())


def is_done(client: Client, request_id: str) -> bool:
    return bool(client.check(request_id)["done"])


def test_one_worker_draws_both_models(both: LocalCloud) -> None:
    account = both.client().register("both")
    account_commands.grant(both.store, account["username"], 1000)
    client = both.client(account["api_key"])
    asked = {model: client.generate(small(models=[model], n=2))["id"] for model in (NOISE, EMOJI)}
    workers = set()
    for model, request_id in asked.items():
        until(model, partial(is_done, client, request_id), seconds=PATIENCE_S)
        found = client.status(request_id)["generations"]
        assert [(one["model"], one["state"]) for one in found] == [(model, "ok")] * 2
        workers |= {one["worker_id"] for one in found}
    assert len(workers) == 1
    assert not audit(AuditStore(both.store.table)).findings
