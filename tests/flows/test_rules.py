"""The rules table of the design, one test a line, through the real handlers."""

import pytest

from horde.rules.ruleset import IN_FORCE
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud
from tests.support.images import png_base64
from tests.support.numbers import (
    COST,
    COST_SHARED,
    FLOOR,
    FLOOR_ANONYMOUS,
    MAX_FAULTS,
    MAX_STEPS,
    PRICE,
    TAX,
    TAX_SHARED,
)

PARAMS = {"width": 512, "height": 512, "steps": 30}


def test_an_image_that_is_not_shared_pays_the_full_tax(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    answer = cloud.generate(key, params={**PARAMS, "n": 2})
    assert answer.status == 202
    assert answer.body["kudos"] == 2 * COST
    assert cloud.kudos(user) == FLOOR + 1000 - 2 * COST
    assert cloud.ledger(user)[-1]["postings"] == {"price": 2 * PRICE, "tax": 2 * TAX}


def test_a_shared_image_pays_the_lower_tax(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    answer = cloud.generate(key, params={**PARAMS, "n": 2}, shared=True)
    assert answer.body["kudos"] == 2 * COST_SHARED
    assert cloud.kudos(user) == FLOOR + 1000 - 2 * COST_SHARED
    assert cloud.ledger(user)[-1]["postings"] == {"price": 2 * PRICE, "tax": 2 * TAX_SHARED}


@pytest.mark.parametrize(
    ("params", "models"),
    [
        ({"width": 64, "height": 64, "steps": 1}, ["stable_diffusion"]),
        ({"width": 1024, "height": 1024, "steps": MAX_STEPS}, ["SDXL 1.0"]),
        ({"width": 512, "height": 512, "steps": 20, "sampler_name": "k_heun"}, []),
    ],
)
def test_the_tax_is_flat(cloud: Cloud, params: dict[str, object], models: list[str]) -> None:
    user, key = cloud.register(kudos=100_000)
    cloud.generate(key, params=params, models=models)
    cloud.generate(key, params=params, models=models, shared=True)
    taxes = [entry["postings"]["tax"] for entry in cloud.ledger(user)[-2:]]
    assert taxes == [TAX, TAX_SHARED]


@pytest.mark.parametrize("field", ["shared", "share"])
def test_shared_and_share_are_the_same_field(cloud: Cloud, field: str) -> None:
    _, key = cloud.register(kudos=100)
    answer = cloud.generate(key, **{field: True})
    assert cloud.status(answer.body["id"]).body["shared"] is True
    assert "message" not in answer.body


@pytest.mark.parametrize("flag", [{}, {"shared": False}, {"shared": True}])
def test_anonymous_text_to_image_is_always_shared(cloud: Cloud, flag: dict[str, bool]) -> None:
    answer = cloud.generate(ANONYMOUS, **flag)
    assert answer.body["kudos"] == COST_SHARED
    assert cloud.status(answer.body["id"]).body["shared"] is True
    assert ("always shared" in answer.body.get("message", "")) is not flag.get("shared", False)


@pytest.mark.parametrize("anonymous", [True, False])
def test_an_image_made_from_a_source_image_is_never_shared(
    cloud: Cloud,
    anonymous: bool,
) -> None:
    key = ANONYMOUS if anonymous else cloud.register(kudos=100)[1]
    answer = cloud.generate(
        key, source_image=png_base64(), shared=True, params={"denoising_strength": 1.0}
    )
    assert answer.status == 202, answer
    assert answer.body["kudos"] == round(6.5 * float(IN_FORCE.source_image)) + TAX
    assert "never" in answer.body["message"]
    assert cloud.status(answer.body["id"]).body["shared"] is False
    worker = cloud.new_worker()
    assert len(cloud.draw(worker)) == 1
    cloud.settle_async()
    assert cloud.laion() == {}


def test_source_processing_without_a_source_image_is_text_to_image(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=100)
    answer = cloud.generate(
        key, source_processing="img2img", shared=True, params={"denoising_strength": 0.5}
    )
    assert answer.body["kudos"] == COST_SHARED
    assert cloud.status(answer.body["id"]).body["shared"] is True


@pytest.mark.parametrize("state", ["censored", "csam"])
def test_a_censored_image_is_never_shared_and_gets_its_price_but_not_its_tax_back(
    cloud: Cloud, state: str
) -> None:
    user, key = cloud.register(kudos=100)
    worker = cloud.new_worker()
    request = cloud.generate(key, shared=True).body["id"]
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    assert cloud.submit(worker, job["id"], state=state).status == 200
    assert cloud.kudos(user) == FLOOR + 100 - TAX_SHARED
    shown = cloud.status(request).body
    assert shown["generations"][0]["censored"] is True
    assert shown["kudos"] == TAX_SHARED
    cloud.settle_async()
    assert cloud.laion() == {}


def test_a_remark_of_censorship_censors_as_the_state_does(cloud: Cloud) -> None:
    worker = cloud.new_worker()
    request = cloud.generate().body["id"]
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    remarks = [{"type": "censorship", "value": "nsfw"}]
    assert cloud.submit(worker, job["id"], gen_metadata=remarks).status == 200
    generation = cloud.status(request).body["generations"][0]
    assert (generation["censored"], generation["gen_metadata"]) == (True, remarks)
    cloud.settle_async()
    assert cloud.laion() == {}


def test_a_faulted_image_is_never_shared(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=100)
    worker = cloud.new_worker(fleet=True)
    request = cloud.generate(key, shared=True).body["id"]
    for _ in range(MAX_FAULTS):
        job = cloud.pop(worker).body
        cloud.upload(job["r2_upload"])
        assert cloud.submit(worker, job["id"], state="faulted").body == {"reward": 0}
    assert cloud.status(request).body["faulted"] is True
    assert cloud.kudos(user) == FLOOR + 100
    cloud.settle_async()
    assert cloud.laion() == {}


def test_status_says_truthfully_what_is_shared(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=100)
    worker = cloud.new_worker()
    shared = cloud.generate(key, shared=True).body["id"]
    private = cloud.generate(key).body["id"]
    cloud.draw(worker)
    cloud.settle_async()
    assert cloud.status(shared).body["shared"] is True
    assert cloud.status(private).body["shared"] is False
    ids = {g["id"] for g in cloud.status(shared).body["generations"]}
    assert cloud.archives().keys() == ids


def test_priority_is_by_kudos_and_sharing_buys_none(cloud: Cloud) -> None:
    worker = cloud.new_worker()
    _, rich = cloud.register("rich", kudos=10_000)
    _, poor = cloud.register("poor", kudos=100)
    order = [
        cloud.generate(ANONYMOUS).body["id"],
        cloud.generate(poor, shared=True).body["id"],
        cloud.generate(rich).body["id"],
    ]
    popped = [cloud.store.requests.generation(cloud.pop(worker).body["id"]) for _ in order]
    assert [g.request_id for g in popped if g] == order[::-1]


def test_among_equals_the_oldest_comes_first(cloud: Cloud) -> None:
    worker = cloud.new_worker()
    order = []
    for _ in range(3):
        order.append(cloud.generate().body["id"])
        cloud.clock.pass_seconds(1)
    popped = [cloud.store.requests.generation(cloud.pop(worker).body["id"]) for _ in order]
    assert [g.request_id for g in popped if g] == order


def test_waiting_gains_five_kudos_of_priority_a_second(cloud: Cloud) -> None:
    worker = cloud.new_worker()
    _, key = cloud.register("ada", kudos=150 + FLOOR_ANONYMOUS - FLOOR)  # 150 above anonymous
    early = cloud.generate(ANONYMOUS).body["id"]
    cloud.clock.pass_seconds(29)
    cloud.generate(key)
    cloud.clock.pass_seconds(2)
    late = cloud.generate(ANONYMOUS).body["id"]
    owners = [cloud.store.requests.generation(cloud.pop(worker).body["id"]) for _ in range(2)]
    requests = [cloud.store.requests.get(g.request_id) for g in owners if g]
    assert [r.id == early for r in requests if r] == [False, True]
    assert late not in {r.id for r in requests if r}


def test_dry_run_answers_exactly_what_would_be_charged(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=1000)
    for fields in (
        {"params": {**PARAMS, "n": 3}},
        {"params": {**PARAMS, "n": 2}, "shared": True, "models": ["SDXL 1.0"]},
        {"slow_workers": False},
        {"source_image": png_base64()},
    ):
        before = cloud.kudos(user)
        dry = cloud.generate(key, dry_run=True, **fields)
        assert (dry.status, list(dry.body)) == (200, ["kudos"])
        assert cloud.kudos(user) == before
        assert cloud.generate(key, **fields).body["kudos"] == dry.body["kudos"]
        assert cloud.kudos(user) == before - dry.body["kudos"]


def test_the_anonymous_account_is_never_written(cloud: Cloud) -> None:
    worker = cloud.new_worker()
    cloud.generate(ANONYMOUS, params={"n": 2})
    cancelled = cloud.generate(ANONYMOUS).body["id"]
    cloud.cancel(cancelled)
    cloud.draw(worker)
    cloud.settle_async()
    written = cloud.db.query(
        TableName=cloud.table,
        KeyConditionExpression="pk = :pk",
        ExpressionAttributeValues={":pk": {"S": "USER#0"}},
    )["Items"]
    assert [item["sk"]["S"] for item in written] == ["STATS"]  # of payouts


def test_a_balance_never_falls_below_its_floor_and_the_rest_is_waived(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=6)
    answer = cloud.generate(key, params={**PARAMS, "n": 2})
    assert answer.body["kudos"] == 2 * COST
    assert cloud.kudos(user) == FLOOR
    charge = cloud.ledger(user)[-1]
    assert charge["amount"] == -6
    assert charge["postings"] == {"price": 2 * PRICE, "tax": 2 * TAX, "waiver": 6 - 2 * COST}


def test_the_operator_cannot_take_kudos_below_the_floor(cloud: Cloud) -> None:
    user, _ = cloud.register(kudos=6)
    assert cloud.store.accounts.grant(user, -7) is False
    assert cloud.kudos(user) == FLOOR + 6
    assert cloud.store.accounts.grant(user, -6) is True
    assert cloud.kudos(user) == FLOOR
    assert cloud.store.accounts.grant(user + 1, 5) is False


def test_a_refund_never_returns_more_than_was_paid(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=6)
    request = cloud.generate(key, params={**PARAMS, "n": 2}).body["id"]
    cloud.cancel(request)
    assert cloud.kudos(user) == FLOOR + 6
    assert [entry["amount"] for entry in cloud.ledger(user)[-2:]] == [
        max(0, 6 - COST),
        min(6, COST),
    ]


def test_a_heavy_request_needs_its_kudos_upfront(cloud: Cloud) -> None:
    user, key = cloud.register(kudos=10)
    heavy = {"params": {"width": 2048, "height": 2048}}
    for who in (key, ANONYMOUS):
        answer = cloud.generate(who, **heavy)
        assert (answer.status, answer.body["rc"]) == (403, "KudosUpfront")
    assert cloud.kudos(user) == FLOOR + 10
    _, rich = cloud.register("rich", kudos=10_000)
    assert cloud.generate(rich, **heavy).status == 202


def test_shared_is_true_exactly_when_an_image_reaches_the_data_set(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=1000)
    worker = cloud.new_worker()
    request = cloud.generate(key, params={"n": 2}, shared=True).body["id"]
    assert cloud.status(request).body["shared"] is True
    first, second = (cloud.pop(worker).body for _ in range(2))
    cloud.upload(first["r2_upload"])
    cloud.submit(worker, first["id"], state="censored")
    assert cloud.status(request).body["shared"] is True  # the other one still may be
    cloud.upload(second["r2_upload"])
    cloud.submit(worker, second["id"])
    answer = cloud.status(request).body
    assert answer["shared"] is True
    shown = {one["id"]: one["shared"] for one in answer["generations"]}
    assert shown == {first["id"]: False, second["id"]: True}
    cloud.settle_async()
    assert list(cloud.archives()) == [second["id"]]


def test_a_request_whose_images_were_all_censored_or_cancelled_is_not_shared(
    cloud: Cloud,
) -> None:
    _, key = cloud.register(kudos=1000)
    worker = cloud.new_worker()
    request = cloud.generate(key, params={"n": 2}, shared=True).body["id"]
    job = cloud.pop(worker).body
    cloud.upload(job["r2_upload"])
    cloud.submit(worker, job["id"], state="censored")
    assert cloud.cancel(request).body["shared"] is True  # as it was before
    assert cloud.status(request).body["shared"] is False
