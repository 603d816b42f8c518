"""moto's transactions stay all or nothing with our way of rolling back."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from moto.dynamodb.models import dynamodb_backends

from tests.support.moto_aws import ACCOUNT, REGION

KEYS = [("pk", "HASH"), ("sk", "RANGE")]


@pytest.fixture
def db(clients: dict[str, Any]) -> Iterator[Any]:
    client = clients["dynamodb"]
    client.create_table(
        TableName="t",
        KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in KEYS],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n, _ in KEYS],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )
    yield client
    client.delete_table(TableName="t")


def part(kind: str, key: str, condition: str, **more: Any) -> dict[str, Any]:
    row = {"pk": {"S": key}, "sk": {"S": "x"}}
    named = {"Item": row} if kind == "Put" else {"Key": row}
    return {kind: {"TableName": "t", **named, "ConditionExpression": condition, **more}}


def count() -> dict[str, Any]:
    add = {"UpdateExpression": "ADD n :n", "ExpressionAttributeValues": {":n": {"N": "1"}}}
    return part("Update", "old", "attribute_exists(pk)", **add)


@pytest.mark.parametrize("also", [count(), part("Delete", "old", "attribute_exists(pk)")])
def test_a_refused_transaction_leaves_every_item_and_the_stream_as_they_were(
    db: Any, also: dict[str, Any]
) -> None:
    db.put_item(TableName="t", Item={"pk": {"S": "old"}, "sk": {"S": "x"}, "n": {"N": "1"}})
    before, streamed = db.scan(TableName="t")["Items"], stream_length()
    free, taken = "attribute_not_exists(pk)", "attribute_exists(pk)"
    with pytest.raises(ClientError) as refused:
        db.transact_write_items(
            TransactItems=[also, part("Put", "new", free), part("ConditionCheck", "gone", taken)]
        )
    reasons = refused.value.response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["None", "None", "ConditionalCheckFailed"]
    assert db.scan(TableName="t")["Items"] == before
    assert stream_length() == streamed
    db.transact_write_items(TransactItems=[also, part("Put", "new", free)])
    assert len(db.scan(TableName="t")["Items"]) == (2 if "Update" in also else 1)
    assert stream_length() == streamed + 2


def stream_length() -> int:
    shard = dynamodb_backends[ACCOUNT][REGION].tables["t"].stream_shard
    assert shard is not None
    return len(shard.items)


@pytest.mark.parametrize("kilobytes", [399, 401])
def test_an_item_is_no_larger_than_dynamodb_takes(db: Any, kilobytes: int) -> None:
    item = {"pk": {"S": "large"}, "sk": {"S": "x"}, "text": {"S": "x" * kilobytes * 1024}}
    put = {"Put": {"TableName": "t", "Item": item}}
    writes: list[Callable[[], Any]] = [
        lambda: db.put_item(TableName="t", Item=item),
        lambda: db.transact_write_items(TransactItems=[put]),
    ]
    for write in writes:
        if kilobytes > 400:
            with pytest.raises(ClientError, match="Item size has exceeded"):
                write()
        else:
            write()
