"""One local cloud for the whole run, with IAM enforced, and what the tests ask of it."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from horde.store.audit import AuditStore
from infra.local.api_client import Client, until
from infra.local.local_cloud import TINY_MODEL, LocalCloud
from infra.local.processes import LocalCloudError, say
from infra.operate import account_commands
from infra.operate.audit.run import audit
from tests.support.archives import opened
from tests.support.numbers import SMALL

PATIENCE_S = 600
"""Until something that should happen counts as hanging; no test measures how long it takes."""


def small(prompt: str = "a fox", *, n: int = 1, **fields: Any) -> dict[str, Any]:
    """The body of a request for small images."""
    params = {**SMALL, "sampler_name": "k_euler", "n": n}
    return {"prompt": prompt, "params": params, "nsfw": False, "censor_nsfw": False, **fields}


@dataclass(frozen=True)
class OperatedCloud:
    """The cloud, with the things that only its operator can see or do."""

    local: LocalCloud

    @property
    def anonymous(self) -> Client:
        return self.local.client()

    def user(self, kudos: int = 1000) -> Client:
        """A new account with this much above its floor."""
        account = self.local.client().register(f"user{uuid.uuid4().hex[:8]}")
        account_commands.grant(self.local.store, account["username"], kudos)
        return self.local.client(account["api_key"])

    def worker(self, *, fleet: bool = False) -> Client:
        """The worker of a new volunteer, or one of the operator's own, which nothing limits."""
        return self.volunteer(fleet=fleet)[1]

    def volunteer(self, *, fleet: bool = False) -> tuple[Client, Client]:
        """A new trusted volunteer: the account, and its worker, which pops and submits only."""
        account, api_key = account_commands.register(self.local.store, "volunteer")
        assert self.local.store.accounts.change(account, {"trusted": True})
        worker_key = account_commands.worker_key(self.local.store, account.username, fleet=fleet)
        return self.local.client(api_key), self.local.client(worker_key)

    def done(self, client: Client, request_id: str, sweeping: bool = False) -> Any:
        """Wait until a request is done; returns its status."""

        def probe() -> bool:
            if sweeping:
                self.sweep()
            return bool(client.check(request_id)["done"])

        until(f"{request_id} to be done", probe, seconds=PATIENCE_S, every=0.5)
        return client.status(request_id)

    def sweep(self) -> None:
        """Do now what is done every minute; that it fails is for its alarm, not for the caller."""
        self.local.aws("lambda").invoke(FunctionName=self.local.function("sweep"))

    def set_generation(self, generation_id: str, **numbers: int) -> None:
        """Move an image's times."""
        self.local.aws("dynamodb").update_item(
            TableName=self.local.outputs["TableName"],
            Key={"pk": {"S": f"GENERATION#{generation_id}"}, "sk": {"S": "GENERATION"}},
            ConditionExpression="attribute_exists(pk)",
            UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in numbers),
            ExpressionAttributeValues={f":{k}": {"N": str(v)} for k, v in numbers.items()},
        )

    def generations(self, request_id: str) -> list[str]:
        request = self.local.store.requests.get(request_id)
        assert request is not None
        return request.generations

    def lose_worker(self, generation_id: str) -> None:
        """Let a lease run out, and the sweep see it."""
        past = int(time.time()) - 1
        self.set_generation(generation_id, lease_until=past, due_at=past)
        self.sweep()

    def shared(self, generation_id: str) -> dict[str, Any] | None:
        """The metadata of an image in the LAION bucket, or None."""
        s3, bucket = self.local.aws("s3"), self.local.outputs["LaionBucket"]
        found = s3.list_objects_v2(Bucket=bucket, Prefix="incoming/").get("Contents", [])
        keys = {row["Key"].rpartition("/")[2]: row["Key"] for row in found}
        name = f"{generation_id}.tar"
        if name not in keys:
            return None
        _, row = opened(s3.get_object(Bucket=bucket, Key=keys[name])["Body"].read())
        return row

    def shared_soon(self, generation_id: str) -> dict[str, Any]:
        what = f"{generation_id} in the LAION bucket"
        return until(what, lambda: self.shared(generation_id), seconds=PATIENCE_S)

    def all_judged(self) -> None:
        """Wait until every upload has been shared, or found not to be for sharing."""
        until("uploads", lambda: self.local.uploads_waiting() == 0, seconds=PATIENCE_S)


@pytest.fixture(scope="session")
def cloud() -> Iterator[OperatedCloud]:
    try:
        with LocalCloud("e2e", auth=True, model=TINY_MODEL, rate_limits=False) as cloud:
            yield OperatedCloud(cloud)
            say(audit(AuditStore(cloud.store.table)).lines()[-1])
    except LocalCloudError as error:
        pytest.exit(error.tail(), returncode=1)


@pytest.fixture
def model() -> str:
    """A model that no endpoint draws, so that only the test's own worker pops it."""
    return f"volunteer_{uuid.uuid4().hex[:8]}"


def together(count: int, call: Any) -> list[Any]:
    """Call at once from many threads."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


@pytest.fixture(autouse=True)
def proven(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prove the table after each test, while the last of what it did may still be under way."""
    yield
    if "cloud" in request.fixturenames:
        local = request.getfixturevalue("cloud").local
        report = audit(
            AuditStore(local.store.table), segments=1, pauses=(0.05, 0.2, 0.5, 1, 3, 10, 20, 40)
        )
        assert not report.findings, "\n".join(report.lines())
