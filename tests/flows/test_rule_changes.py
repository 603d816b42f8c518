"""A new ruleset is deployed while requests of the old one are under way.

Each request keeps the rules it was accepted under: its tax, what comes back of it, what its ratings
earn, how many faults end it. The audit judges it by them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from horde.rules import ruleset
from horde.rules.lifecycle import SLIDE_S
from horde.rules.ruleset import IN_FORCE, RULESETS, Ruleset
from infra.operate.audit.findings import Rule
from infra.operate.audit.run import audit
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud, fresh_cloud
from tests.support.numbers import FLOOR, OVER_S, PRICE
from tests.support.reading import Still

Deploy = Callable[[Ruleset], None]
NEW = replace(
    IN_FORCE,
    version="2099-01",
    tax_shared=IN_FORCE.tax_shared + 4,
    tax_private=IN_FORCE.tax_private + 6,
    per_rating=IN_FORCE.per_rating + 1,
    max_faults=IN_FORCE.max_faults + 1,
)
MUCH, LITTLE = 1000, 6
IMAGES = 2
"""Of each request."""


@pytest.fixture
def deploy(monkeypatch: pytest.MonkeyPatch) -> Deploy:
    """Put rules in force as a deployment does; to be named before ``cloud``, which it outlives."""

    def put(rules: Ruleset) -> None:
        monkeypatch.setattr(ruleset, "RULESETS", (*RULESETS, rules))
        monkeypatch.setattr(ruleset, "IN_FORCE", rules)

    return put


@dataclass
class Asked:
    """Requests that were accepted under one ruleset, by what becomes of them."""

    cloud: Cloud
    worker: str
    rules: Ruleset
    rich: tuple[int, str]
    poor: tuple[int, str]
    requests: dict[str, str]
    job: dict[str, Any]
    """That of ``leased``."""

    def pop(self, name: str, amount: int = IMAGES) -> dict[str, Any]:
        """Take images of one request: each waits in the queue of a model of its own."""
        version = self.rules.version
        models = [f"{name} {version}"]
        answer = self.cloud.pop(self.worker, name=version, models=models, amount=amount)
        job: dict[str, Any] = answer.body
        assert job["id"], name
        return job

    def submit(self, job: dict[str, Any], state: str = "ok") -> None:
        for one, url in zip(job["ids"], job["r2_uploads"], strict=True):
            self.cloud.upload(url)
            assert self.cloud.submit(self.worker, one, state=state).status == 200

    def consumed(self, name: str) -> int:
        """Return what a request cost, as its client reads it."""
        return int(self.cloud.check(self.requests[name]).body["kudos"])

    def settle(self) -> None:
        """Let each request end as its name says."""
        cloud, requests = self.cloud, self.requests
        for claim in range(1, self.rules.max_faults + 1):
            assert not cloud.check(requests["faulted"]).body["faulted"], claim
            self.submit(self.pop("faulted", amount=1), "faulted")
        assert cloud.check(requests["faulted"]).body["faulted"]
        cloud.cancel(requests["cancelled"])
        cloud.cancel(requests["waived"])
        self.submit(self.job)
        self.submit(self.pop("waiting"))
        shown = cloud.status(requests["shared"]).body["generations"]
        ratings = [{"id": one["id"], "rating": 8} for one in shown]
        reward = cloud.rate(requests["shared"], ratings=ratings).body["reward"]
        assert reward == IMAGES * self.rules.per_rating

    def check(self) -> None:
        """Assert that each request cost what its own rules say, and no account anything else."""
        shared, private = PRICE + self.rules.tax_shared, PRICE + self.rules.tax_private
        costs = {
            "shared": IMAGES * shared,
            "anonymous": IMAGES * shared,
            "censored": IMAGES * self.rules.tax_shared,
            "leased": IMAGES * private,
            "waiting": IMAGES * private,
            "cancelled": 0,
            "waived": 0,
            "faulted": 0,
        }
        assert {name: self.consumed(name) for name in costs} == costs
        spent = sum(costs.values()) - costs["anonymous"] - IMAGES * self.rules.per_rating
        expiring = IMAGES * shared
        assert self.cloud.kudos(self.rich[0]) == FLOOR + MUCH - spent - expiring
        assert self.cloud.kudos(self.poor[0]) == FLOOR + LITTLE


def ask(cloud: Cloud) -> Asked:
    """Bring requests into all the states that a deployment may find them in."""
    rich, poor = cloud.register("rich", kudos=MUCH), cloud.register("poor", kudos=LITTLE)
    asked = Asked(cloud, cloud.new_worker(fleet=True), ruleset.IN_FORCE, rich, poor, {}, {})
    for name, key, shared in (
        ("shared", rich[1], True),
        ("anonymous", ANONYMOUS, True),
        ("censored", rich[1], True),
        ("leased", rich[1], False),
        ("waived", poor[1], False),
        ("waiting", rich[1], False),
        ("cancelled", rich[1], True),
        ("faulted", rich[1], False),
        ("expired", rich[1], True),
    ):
        params = {"n": 1 if name == "faulted" else IMAGES}
        model = f"{name} {asked.rules.version}"
        cloud.pop(asked.worker, name=asked.rules.version, models=[model])  # it is drawn
        answer = cloud.generate(key, params=params, models=[model], shared=shared)
        assert answer.status == 202, answer
        asked.requests[name] = answer.body["id"]
    asked.submit(asked.pop("shared"))
    asked.submit(asked.pop("anonymous"))
    asked.submit(asked.pop("censored"), "censored")
    asked.job = asked.pop("leased")
    return asked


@pytest.mark.slow
def test_a_request_keeps_the_rules_it_was_accepted_under(deploy: Deploy, cloud: Cloud) -> None:
    old = ask(cloud)
    cloud.audit()
    deploy(NEW)
    cloud.audit()
    new = ask(cloud)
    cloud.audit()
    for asked in (old, new):
        asked.settle()
        cloud.audit()
    for asked in (old, new):
        asked.check()
    cloud.settle_async()
    assert len(cloud.laion()) == 2 * 2 * IMAGES
    cloud.clock.pass_seconds(OVER_S)
    cloud.sweep()
    for asked in (old, new):
        refund = cloud.ledger(asked.rich[0])[-1]
        assert refund["postings"] == {"price": -PRICE, "tax": -asked.rules.tax_shared}
    cloud.audit()


def test_a_new_account_opens_at_the_new_floor_and_an_old_one_keeps_its_own(
    deploy: Deploy, cloud: Cloud
) -> None:
    old, key = cloud.register("old", kudos=1)
    deploy(replace(NEW, floor=FLOOR + 20))
    new, _ = cloud.register("new")
    assert (cloud.kudos(old), cloud.kudos(new)) == (FLOOR + 1, FLOOR + 20)
    assert cloud.generate(key).status == 202
    assert cloud.kudos(old) == FLOOR


def test_a_deployment_lengthens_the_life_of_a_request_at_its_next_pop(
    deploy: Deploy, cloud: Cloud, worker: str
) -> None:
    cloud.clock.freeze()
    cloud.pop(worker, models=["one", "two"])
    untouched, popped = (cloud.generate(models=[name]).body["id"] for name in ("one", "two"))
    deploy(replace(NEW, request_life_s=2 * OVER_S))
    cloud.clock.pass_seconds(SLIDE_S)
    assert cloud.pop(worker, models=["two"]).body["id"]
    cloud.clock.pass_seconds(OVER_S)
    assert cloud.check(untouched).status == 404
    assert cloud.check(popped).status == 200


@pytest.mark.lengthy
def test_a_request_under_rules_that_were_not_its_own_is_found(
    deploy: Deploy, template: Any, clients: Any
) -> None:
    with fresh_cloud(template, clients) as cloud:
        asked = ask(cloud)
        deploy(NEW)
        asked.settle()
        cloud.pay()
        cloud.audit()
        for name, version, rule in (
            ("waiting", NEW.version, Rule.TAXED),
            ("cancelled", NEW.version, Rule.TAXED),
            ("shared", "2098-12", Rule.RULED),  # there is no such version; it was rated, too
        ):
            assert findings_under(cloud, asked, name, version) == {
                (f"REQUEST#{asked.requests[name]}/REQUEST", rule)
            }


def findings_under(cloud: Cloud, asked: Asked, name: str, version: str) -> set[tuple[str, Rule]]:
    """Return what the audit finds while a request names another version than its own."""
    row = {"pk": {"S": f"REQUEST#{asked.requests[name]}"}, "sk": {"S": "REQUEST"}}
    for named in (version, asked.rules.version):
        cloud.db.update_item(
            TableName=cloud.table,
            Key=row,
            UpdateExpression="SET ruleset = :version",
            ExpressionAttributeValues={":version": {"S": named}},
        )
        if named == version:
            report = audit(Still(cloud), segments=1, pauses=(0,))
    return {(finding.item, finding.rule) for finding in report.findings}
