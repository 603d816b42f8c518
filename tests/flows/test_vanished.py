"""What has vanished, or changes without end, between a read and its write: an error, never silence.

Nothing that the system does leads here. If a bug or an operator's hand does, the write must fail
loudly, change nothing, and be tried again by whoever called.
"""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from horde import ending
from horde.records import Generation, Request, Settlement, State, User, Worker
from horde.rules.refusals import Busy
from horde.store import endings, requests
from horde.store.audit_read import read
from horde.store.items import Item, Kind, key
from horde.store.queue import HoldsEnough
from horde.store.table import ConditionFailed
from tests.support.cloud import Cloud, fresh_cloud
from tests.support.numbers import FLOOR


@pytest.fixture
def bare(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[Cloud]:
    """A cloud that nobody audits after the test."""
    with fresh_cloud(template, clients) as cloud:
        yield cloud


def remove(cloud: Cloud, item_key: Item) -> None:
    cloud.db.delete_item(TableName=cloud.table, Key=item_key)


def asked(cloud: Cloud, *, kudos: int = 100) -> tuple[User, Request, Generation]:
    """Ask for an image as a new account."""
    user_id, api_key = cloud.register("ada", kudos=kudos)
    request = cloud.store.requests.get(cloud.generate(api_key).body["id"])
    user = cloud.store.accounts.get(user_id)
    assert request is not None
    assert user is not None
    (image,) = cloud.store.requests.generations(request)
    return user, request, image


def again(request: Request, image: Generation) -> tuple[Request, list[Generation]]:
    """Return a request and its image like these, with ids of their own."""
    new_request, new_image = str(uuid.uuid4()), str(uuid.uuid4())
    return (
        replace(request, id=new_request, generations=[new_image]),
        [replace(image, id=new_image, request_id=new_request)],
    )


def test_a_refund_to_an_account_that_is_gone_is_an_error(bare: Cloud) -> None:
    user, request, image = asked(bare)
    remove(bare, key(Kind.USER, user.id))
    with pytest.raises(ConditionFailed):
        bare.store.endings.end_undelivered(request, image, State.CANCELLED)
    assert bare.store.requests.generation(image.id) == image


def test_a_refund_of_a_request_that_is_gone_is_an_error(bare: Cloud) -> None:
    _, request, image = asked(bare, kudos=0)
    assert request.waived
    remove(bare, key(Kind.REQUEST, request.id))
    with pytest.raises(ConditionFailed):
        bare.store.endings.end_undelivered(request, image, State.CANCELLED)
    assert bare.store.requests.generation(image.id) == image


def test_an_expired_image_whose_request_is_gone_is_an_error(bare: Cloud) -> None:
    _, request, image = asked(bare)
    remove(bare, key(Kind.REQUEST, request.id))
    with pytest.raises(RuntimeError, match="cannot be refunded"):
        ending.end_image(bare.store, image, request.expires_at)
    assert bare.store.requests.generation(image.id) == image


def test_a_worker_that_is_gone_claims_nothing(bare: Cloud) -> None:
    _, _, image = asked(bare)
    worker = Worker(id="w", name="w", user_id=7, created_at=0, seen_at=0, gone_at=0)
    with pytest.raises(HoldsEnough):
        bare.store.queue.claim(image, worker, lease_until=9, held_limit=1)
    assert bare.store.requests.generation(image.id) == image


def test_a_reward_to_an_account_that_is_gone_is_an_error(bare: Cloud) -> None:
    owner, _ = bare.register("owner")
    worker = bare.worker_key(owner)
    bare.generate()
    bare.draw(worker)
    remove(bare, key(Kind.USER, owner))
    (entry,) = (item for item in bare.items() if item.get("kind") == {"S": "REWARD"})
    settlement = bare.store.payouts.pending(owner, entry["sk"]["S"])
    assert isinstance(settlement, Settlement)
    with pytest.raises(ConditionFailed):
        bare.store.payouts.post([settlement])


def test_a_charge_to_an_account_that_is_gone_is_busy(bare: Cloud) -> None:
    user, request, image = asked(bare)
    remove(bare, key(Kind.USER, user.id))
    with pytest.raises(Busy):
        bare.store.requests.accept(*again(request, image), user)


def test_a_charge_that_others_overtake_without_end_is_busy(
    bare: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, request, image = asked(bare)
    assert user.kudos == FLOOR + 100 - request.price - request.tax
    monkeypatch.setattr(requests, "DECISION_TRIES", 0)
    with pytest.raises(Busy):
        bare.store.requests.accept(*again(request, image), user)


def test_a_refund_that_others_overtake_without_end_is_busy(
    bare: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, request, image = asked(bare)
    monkeypatch.setattr(endings, "DECISION_TRIES", 0)
    with pytest.raises(Busy):
        bare.store.endings.end_undelivered(request, image, State.CANCELLED)


def test_a_worker_that_is_gone_is_not_deleted_again(bare: Cloud) -> None:
    owner, _ = bare.register("owner")
    bare.pop(bare.worker_key(owner))
    (worker_id,) = bare.store.workers.ids_of(owner, 9)
    worker = bare.store.workers.get(worker_id)
    assert worker is not None
    assert bare.store.workers.delete(worker) is True
    assert bare.store.workers.delete(worker) is False


@pytest.mark.parametrize("kind", ["REQUEST", "GENERATION"])
def test_an_id_that_is_not_a_lowercase_uuid_is_unreadable_to_the_audit(
    bare: Cloud, kind: str
) -> None:
    asked(bare)
    (item,) = (item for item in bare.items() if item["sk"]["S"] == kind)
    assert read(item) is not None
    loud = item["pk"]["S"].partition("#")[2].upper()
    with pytest.raises(ValueError, match="is not a lowercase UUID"):
        read({**item, "pk": {"S": f"{kind}#{loud}"}, "id": {"S": loud}})
