"""One table: reads, conditional writes, transactions, and trying again where writes meet.

The only file that knows botocore's errors.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from botocore.exceptions import ClientError

from horde.rules.refusals import Busy
from horde.store.items import LISTED, Index, Item, encode, encode_all
from horde.store.transaction import EXISTS, sets, update

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

T = TypeVar("T")

CONFLICT_TRIES = 30
"""Tries of a write that meets others on its item: about five seconds; docs/contention.md."""
DECISION_TRIES = 30
"""Decisions from an item that others change meanwhile: more than a request has images."""
BATCH = 100
"""Items that DynamoDB reads or writes at once."""


class ConditionFailed(Exception):  # noqa: N818 - not an error, an answer
    """A condition did not hold; nothing was written. ``which`` are the indexes of the parts."""

    def __init__(self, which: tuple[int, ...] = ()) -> None:
        super().__init__(which)
        self.which = which


class Table:
    """One table of one client."""

    def __init__(self, name: str, client: "DynamoDBClient") -> None:
        self.name = name
        self.client = client

    def get(self, key: Item) -> Item | None:
        """Read one item, consistently."""
        return self.client.get_item(TableName=self.name, Key=key, ConsistentRead=True).get("Item")

    def put(self, item: Item) -> None:
        """Write an item, whatever was there."""
        self.client.put_item(TableName=self.name, Item=item)

    def batch(self, wanted: Iterable[Item]) -> list[Item]:
        """Read items by their keys, in no order; those that are not there are left out.

        Raises Busy where DynamoDB leaves keys unread too often.
        """
        keys, found, tries = list(wanted), [], 0
        while keys:
            page, keys = keys[:BATCH], keys[BATCH:]
            answer = self.client.batch_get_item(
                RequestItems={self.name: {"Keys": page, "ConsistentRead": True}}
            )
            found += answer["Responses"][self.name]
            rest = answer.get("UnprocessedKeys", {}).get(self.name)
            if rest:
                keys += rest["Keys"]
                tries += 1
                if tries >= CONFLICT_TRIES:
                    raise Busy
                _pause(tries)
        return found

    def query(self, condition: str, values: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Read one page of a query; ``values`` are plain, by their names."""
        answer: Any = self.client.query(
            TableName=self.name,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=encode_all(values),
            **options,
        )
        return dict(answer)

    def pages(
        self, condition: str, values: Mapping[str, Any], **options: Any
    ) -> Iterator[list[Item]]:
        """Yield all pages of a query, one read at a time."""
        start: dict[str, Any] = {}
        while True:
            answer = self.query(condition, values, **options, **start)
            yield [dict(item) for item in answer["Items"]]
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def scan(self, **options: Any) -> Iterator[list[Item]]:
        """Yield the whole table, or what a filter leaves of it, a page at a time."""
        for page in self.client.get_paginator("scan").paginate(TableName=self.name, **options):
            yield [dict(item) for item in page["Items"]]

    def read_list(
        self, name: str, limit: int, *, last_first: bool = False, since: int | None = None
    ) -> list[Item]:
        """Read the keys of up to ``limit`` items of a list; ``since``: those after it."""
        later = {} if since is None else {"since": since}
        condition = f"{LISTED.partition} = :list"
        condition += f" AND {LISTED.sort} > :since" if later else ""
        answer = self.query(
            condition,
            {"list": name, **later},
            IndexName=LISTED.name,
            ScanIndexForward=not last_first,
            Limit=limit,
        )
        return [dict(item) for item in answer["Items"]]

    def count(self, index: Index, of: str, limit: int, **options: Any) -> int:
        """Count up to ``limit`` items of one partition of an index."""
        values = {"of": of, **options.pop("values", {})}
        more = options.pop("more", "")
        answer = self.query(
            f"{index.partition} = :of{more}",
            values,
            IndexName=index.name,
            Select="COUNT",
            Limit=limit,
            **options,
        )
        return int(answer["Count"])

    def add(self, key: Item, expression: str, values: Mapping[str, Any]) -> Item:
        """Update one item, made if it is not there, and return what was updated."""
        answer = self.client.update_item(
            TableName=self.name,
            Key=key,
            UpdateExpression=expression,
            ExpressionAttributeValues=encode_all(values),
            ReturnValues="UPDATED_NEW",
        )
        return answer["Attributes"]

    def change(
        self, key: Item, changes: Mapping[str, Any], seen: Mapping[str, Any] | None = None
    ) -> Item | None:
        """Set attributes of an existing item, or remove those that are None or False.

        ``seen`` are attributes as they must still be. Returns the item, None if a condition failed.
        """
        expression, names, values = sets(changes)
        conditions = [EXISTS]
        for name, value in (seen or {}).items():
            names[f"#{name}"], values[f":seen_{name}"] = name, encode(value)
            conditions.append(f"#{name} = :seen_{name}")
        return self.try_update(key, expression, " AND ".join(conditions), values, names)

    def try_update(
        self,
        key: Item,
        expression: str,
        condition: str,
        values: Item,
        names: Mapping[str, str] | None = None,
    ) -> Item | None:
        """Update one item by itself and return it; None if its condition does not hold."""
        part = update(key, expression, condition, values, names)["Update"]
        try:
            answer = retry_on_conflict(
                self.client.update_item, TableName=self.name, ReturnValues="ALL_NEW", **part
            )
        except ClientError as error:
            if _code(error) == "ConditionalCheckFailedException":
                return None
            raise
        return answer["Attributes"]

    def try_transact(self, parts: list[Item]) -> bool:
        """Write all parts; False if a condition failed and nothing was written."""
        try:
            self.transact(parts)
        except ConditionFailed:
            return False
        return True

    def transact(self, parts: list[Item]) -> None:
        """Write all parts or none; raises ConditionFailed or Busy.

        The token makes a retry of a lost answer safe for ten minutes, the parts' conditions for
        ever.
        """
        items = [
            {verb: {"TableName": self.name, **body} for verb, body in part.items()}
            for part in parts
        ]
        token = str(uuid4())
        write = self.client.transact_write_items
        try:
            retry_on_conflict(write, TransactItems=items, ClientRequestToken=token)
        except ClientError as error:
            failed = tuple(
                index
                for index, reason in enumerate(_reasons(error))
                if reason == "ConditionalCheckFailed"
            )
            if failed:
                raise ConditionFailed(failed) from None
            raise


# --- writes that meet -----------------------------------------------------------------------


def retry_on_conflict(write: Callable[..., T], **arguments: Any) -> T:
    """Write, and where that meets a transaction on the same item, write again; raises Busy.

    Nothing queues on an item: of two transactions at once, or a transaction and a plain write,
    DynamoDB refuses one, which is tried again here with jitter.
    """
    for attempt in range(CONFLICT_TRIES):
        try:
            return write(**arguments)
        except ClientError as error:
            if not _is_conflict(error):
                raise
        _pause(attempt)
    raise Busy


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "")


def _reasons(error: ClientError) -> list[str]:
    found: Any = error.response.get("CancellationReasons", [])
    return [str(reason.get("Code", "None")) for reason in found]


def _is_conflict(error: ClientError) -> bool:
    reasons = _reasons(error)
    if "ConditionalCheckFailed" in reasons:
        return False  # an answer: it would not have been written anyhow
    return _code(error) in {"TransactionInProgressException", "TransactionConflictException"} or (
        "TransactionConflict" in reasons or "ThrottlingError" in reasons
    )


def _pause(attempt: int) -> None:
    time.sleep(pause_s(attempt))


def pause_s(attempt: int) -> float:
    """Return how long to wait after a refused write, in seconds: more each time, never alike."""
    return random.uniform(0.005, min(0.4, 0.02 * 2**attempt))  # noqa: S311 - jitter
