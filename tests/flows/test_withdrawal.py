"""Taking shared images back."""

import json
from typing import Any

import pytest

from horde.records import Shared
from horde.store.table import ConditionFailed
from infra.operate import OperatorError, withdraw_command
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
    return withdraw_command.withdraw(cloud.store, cloud.s3, cloud.bucket("Laion"), what)


def test_one_image_is_taken_back_by_its_id(cloud: Cloud) -> None:
    first, second = shared(cloud, ANONYMOUS, n=2)
    assert withdraw(cloud, first) == 1
    left = " ".join(cloud.laion())
    assert first not in left
    assert left.count(second) == 1


@pytest.mark.lengthy
def test_an_account_takes_back_all_that_it_shared_and_nothing_else(cloud: Cloud) -> None:
    user, key = cloud.register("ada", kudos=1000)
    mine = shared(cloud, key, n=2)
    (other,) = shared(cloud, ANONYMOUS)
    assert withdraw(cloud, f"ada#{user}") == 2
    left = " ".join(cloud.laion())
    assert not any(one in left for one in mine)
    assert left.count(other) == 1


def test_taking_back_twice_is_as_good_as_once(cloud: Cloud) -> None:
    (image,) = shared(cloud, ANONYMOUS)
    assert withdraw(cloud, image) == 1
    assert withdraw(cloud, image.upper()) == 0
    assert cloud.laion() == {}


def event(cloud: Cloud, image: str) -> Any:
    """Deliver the event of an image once more."""
    (row,) = (row for row in cloud.rows("GENERATION") if row["id"]["S"] == image)
    again = {"s3": {"object": {"key": f"shared/{image}/{row['sha256']['S']}.webp"}}}
    message = {
        "messageId": "1",
        "receiptHandle": "1",
        "body": json.dumps({"Records": [again]}),
        "attributes": {"ApproximateReceiveCount": "2"},
    }
    return cloud.invoke("share", {"Records": [message]})


def test_an_event_that_comes_again_does_not_bring_a_withdrawn_image_back(cloud: Cloud) -> None:
    (image,) = shared(cloud, ANONYMOUS)
    assert withdraw(cloud, image) == 1
    assert event(cloud, image) == {"batchItemFailures": []}
    assert cloud.laion() == {}


def test_what_was_never_shared_cannot_be_taken_back(cloud: Cloud) -> None:
    _, key = cloud.register(kudos=100)
    cloud.generate(key)
    (image,) = cloud.draw(cloud.new_worker())
    cloud.settle_async()
    with pytest.raises(OperatorError, match="no image"):
        withdraw(cloud, image)


def test_a_withdrawal_that_nothing_records_is_an_error(cloud: Cloud) -> None:
    unknown = Shared("11111111-2222-4333-8444-555555555555", 1, "incoming/x.webp")
    with pytest.raises(ConditionFailed):
        cloud.store.sharing.mark_withdrawn(unknown)


# --- images of before image and row were one object -----------------------------------------------


def as_two_files(cloud: Cloud, image: str) -> None:
    """Store a shared image as it was stored before there were archives."""
    (key,) = [name for name in cloud.laion() if image in name]
    early = key.replace(".tar", ".webp")
    for name in (early, key.replace(".tar", ".json")):
        cloud.s3.put_object(Bucket=cloud.bucket("Laion"), Key=name, Body=b"early")
    cloud.s3.delete_object(Bucket=cloud.bucket("Laion"), Key=key)
    cloud.db.update_item(
        TableName=cloud.table,
        Key={"pk": {"S": f"SHARED#{image}"}, "sk": {"S": "SHARED"}},
        UpdateExpression="SET object_key = :early REMOVE #size",
        ExpressionAttributeNames={"#size": "size"},
        ExpressionAttributeValues={":early": {"S": early}},
    )


def test_both_files_of_an_early_image_are_taken_back(cloud: Cloud) -> None:
    first, second = shared(cloud, ANONYMOUS, n=2)
    as_two_files(cloud, first)
    as_two_files(cloud, second)
    assert withdraw(cloud, first) == 1
    left = " ".join(cloud.laion())
    assert first not in left
    assert left.count(second) == 2


def test_an_early_image_is_not_written_anew_by_its_event(cloud: Cloud) -> None:
    (image,) = shared(cloud, ANONYMOUS)
    as_two_files(cloud, image)
    before = cloud.laion()
    assert event(cloud, image) == {"batchItemFailures": []}
    assert cloud.laion() == before
    assert len(before) == 2
    assert withdraw(cloud, image) == 1
    assert event(cloud, image) == {"batchItemFailures": []}
    assert cloud.laion() == {}
