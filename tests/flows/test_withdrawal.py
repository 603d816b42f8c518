"""Taking shared images back."""

import json

import pytest

from horde.records import Shared
from horde.store.table import ConditionFailed
from infra.operate import commands
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud


def shared(cloud: Cloud, key: str, n: int = 1) -> list[str]:
    cloud.generate(key, params={"n": n}, shared=True)
    owner, _ = cloud.register("owner")
    cloud.set_flags(owner, trusted=True)
    drawn = cloud.draw(cloud.worker_key(owner), name=f"w{owner}")
    cloud.settle_async()
    return drawn


def withdraw(cloud: Cloud, what: str) -> int:
    return commands.withdraw(cloud.store, cloud.s3, cloud.bucket("Laion"), what)


def test_one_image_is_taken_back_by_its_id(cloud: Cloud) -> None:
    first, second = shared(cloud, ANONYMOUS, n=2)
    assert withdraw(cloud, first) == 1
    left = " ".join(cloud.laion())
    assert first not in left
    assert left.count(second) == 2


def test_an_account_takes_back_all_that_it_shared_and_nothing_else(cloud: Cloud) -> None:
    user, key = cloud.register("ada", kudos=1000)
    mine = shared(cloud, key, n=2)
    (other,) = shared(cloud, ANONYMOUS)
    assert withdraw(cloud, f"ada#{user}") == 2
    left = " ".join(cloud.laion())
    assert not any(one in left for one in mine)
    assert left.count(other) == 2


def test_taking_back_twice_is_as_good_as_once(cloud: Cloud) -> None:
    (image,) = shared(cloud, ANONYMOUS)
    assert withdraw(cloud, image) == 1
    assert withdraw(cloud, image.upper()) == 0
    assert cloud.laion() == {}


def test_an_event_that_comes_again_does_not_bring_a_withdrawn_image_back(cloud: Cloud) -> None:
    (image,) = shared(cloud, ANONYMOUS)
    assert withdraw(cloud, image) == 1
    (row,) = (row for row in cloud.rows("GENERATION") if row["id"]["S"] == image)
    again = {"s3": {"object": {"key": f"shared/{image}/{row['sha256']['S']}.webp"}}}
    message = {
        "messageId": "1",
        "receiptHandle": "1",
        "body": json.dumps({"Records": [again]}),
        "attributes": {"ApproximateReceiveCount": "2"},
    }
    assert cloud.invoke("share", {"Records": [message]}) == {"batchItemFailures": []}
    assert cloud.laion() == {}


def test_what_was_never_shared_cannot_be_taken_back(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=100)
    cloud.generate(key)
    (image,) = cloud.draw(cloud.new_worker())
    cloud.settle_async()
    with pytest.raises(commands.OperatorError, match="no image"):
        withdraw(cloud, image)


def test_a_withdrawal_that_nothing_records_is_an_error(cloud: Cloud) -> None:
    unknown = Shared("11111111-2222-4333-8444-555555555555", 1, "incoming/x.webp")
    with pytest.raises(ConditionFailed):
        cloud.store.sharing.mark_withdrawn(unknown)
