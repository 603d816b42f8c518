"""The rules table of the design, each line once on the deployed stack.

A volunteer's worker draws, so that the test decides what is delivered, censored or faulted. The
lines about the four usual requests are in test_whole_path.
"""

from typing import Any

import pytest

from infra.local.api_client import Client
from tests.e2e.conftest import OperatedCloud, small
from tests.support.images import png_base64, webp
from tests.support.numbers import FLOOR, MAX_FAULTS, SMALL_COST_SHARED, TAX, TAX_SHARED

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def deliver(worker: Client, model: str, **submit: Any) -> str:
    """Pop one image, upload a picture for it and submit it so."""
    job = worker.pop(models=[model])
    assert worker.fetch("PUT", job["r2_upload"], webp(width=64)).status == 200
    assert worker.submit(job["id"], **submit).status == 200
    return str(job["id"])


def test_the_tax_is_flat(cloud: OperatedCloud, model: str) -> None:
    client = cloud.user(kudos=10_000)
    for params in ({"width": 64, "height": 64, "steps": 1}, {"width": 1024, "height": 1024}):
        body = {"prompt": "x", "params": params, "models": [model]}
        private, shared = (client.dry_run({**body, "shared": flag}) for flag in (False, True))
        assert private - shared == TAX - TAX_SHARED


@pytest.mark.parametrize("field", ["shared", "share"])
def test_shared_and_share_are_the_same_field(cloud: OperatedCloud, model: str, field: str) -> None:
    client = cloud.user()
    accepted = client.generate({**small(models=[model]), field: True})
    assert accepted["kudos"] == SMALL_COST_SHARED
    assert client.status(accepted["id"])["shared"] is True


def test_source_processing_without_a_source_image_is_text_to_image(
    cloud: OperatedCloud, model: str
) -> None:
    client = cloud.user()
    body = small(models=[model], source_processing="img2img", shared=True)
    assert client.status(client.generate(body)["id"])["shared"] is True
    with_image = client.generate({**body, "source_image": png_base64()})
    assert client.status(with_image["id"])["shared"] is False
    assert "never" in with_image["message"]


def test_censored_flagged_and_faulted_images_are_never_shared(
    cloud: OperatedCloud, model: str
) -> None:
    client, worker = cloud.user(), cloud.worker(fleet=True)
    before = client.kudos()
    never = []
    for submit in (
        {"state": "censored"},
        {"state": "csam"},
        {"gen_metadata": [{"type": "censorship", "value": "nsfw"}]},
    ):
        client.generate(small(models=[model], shared=True))
        never.append(deliver(worker, model, **submit))
    assert client.kudos() == before - 3 * TAX_SHARED  # the tax is kept, the price given back
    client.generate(small(models=[model], shared=True))
    never += [deliver(worker, model, state="faulted") for _ in range(MAX_FAULTS)]
    assert client.kudos() == before - 3 * TAX_SHARED
    client.generate(small(models=[model], shared=True))
    cloud.shared_soon(deliver(worker, model))
    cloud.all_judged()
    assert [cloud.shared(generation) for generation in never] == [None] * len(never)


def test_priority_is_by_kudos_and_sharing_buys_none(cloud: OperatedCloud, model: str) -> None:
    rich, poor, worker = cloud.user(kudos=5000), cloud.user(kudos=100), cloud.worker()
    assert worker.pop(models=[model])["id"] is None  # anonymous users get drawn models only
    asked = [
        cloud.anonymous.generate(small(models=[model])),
        poor.generate(small(models=[model], shared=True)),
        rich.generate(small(models=[model])),
    ]
    popped = [
        cloud.local.store.requests.generation(worker.pop(models=[model])["id"]) for _ in asked
    ]
    assert [found.request_id for found in popped if found] == [
        answer["id"] for answer in asked[::-1]
    ]


def test_dry_run_is_what_is_charged_and_the_floor_holds(cloud: OperatedCloud, model: str) -> None:
    client = cloud.user(kudos=5)
    for body in (small(models=[model]), small(models=[model], n=3, shared=True)):
        before, dry = client.kudos(), client.dry_run(body)
        assert client.generate(body)["kudos"] == dry
        assert client.kudos() == max(FLOOR, before - dry)
    assert client.kudos() == FLOOR
