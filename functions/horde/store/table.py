"""One table: reads, conditional writes and transactions.

No other module of this package handles the errors of AWS, except ``attempts``. A call that DynamoDB
throttles raises Throttled, whichever it is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from horde.rules.refusals import Throttled
from horde.store.attempts import CONFLICT_TRIES, ask, pause, retry_on_conflict
from horde.store.items import LISTED, Index, Item, encode, encode_all
from horde.store.transaction import EXISTS, new, sets, update
from horde.wire.seam import AwsError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

DECISION_TRIES = 30
"""Tries of a decision whose item others change meanwhile; more than a request has images."""
_IN_LIST = f"{LISTED.partition} = :list"
BATCH = 100
"""Items that DynamoDB reads or writes in one call."""


class ConditionFailed(Exception):  # noqa: N818 - an expected result, not an error
    """A condition did not hold, so nothing was written. ``which``: indexes of the failed parts."""

    def __init__(self, which: tuple[int, ...] = ()) -> None:
        super().__init__(which)
        self.which = which


class Table:
    """One DynamoDB table, read and written through one client."""

    def __init__(self, name: str, client: "DynamoDBClient") -> None:
        self.name = name
        self.client = client

    def get(self, key: Item) -> Item | None:
        """Read one item with strong consistency."""
        answer = ask(self.client.get_item, TableName=self.name, Key=key, ConsistentRead=True)
        return answer.get("Item")

    def put(self, item: Item) -> None:
        """Write an item, replacing any that exists."""
        ask(self.client.put_item, TableName=self.name, Item=item)

    def batch(self, wanted: Iterable[Item]) -> list[Item]:
        """Read items by their keys, in no order; missing items are left out.

        DynamoDB leaves keys unread if it is asked for too much. Raises Throttled if it does so too
        often.
        """
        keys, found, tries = list(wanted), [], 0
        while keys:
            page, keys = keys[:BATCH], keys[BATCH:]
            answer = ask(
                self.client.batch_get_item,
                RequestItems={self.name: {"Keys": page, "ConsistentRead": True}},
            )
            found += answer["Responses"][self.name]
            rest = answer.get("UnprocessedKeys", {}).get(self.name)
            if rest:
                keys += rest["Keys"]
                tries += 1
                if tries >= CONFLICT_TRIES:
                    raise Throttled
                pause(tries)
        return found

    def query(self, condition: str, values: Mapping[str, Any], **options: Any) -> dict[str, Any]:
        """Read one page of a query. ``values`` are plain Python values by placeholder."""
        answer: Any = ask(
            self.client.query,
            TableName=self.name,
            KeyConditionExpression=condition,
            ExpressionAttributeValues=encode_all(values),
            **options,
        )
        return dict(answer)

    def pages(
        self, condition: str, values: Mapping[str, Any], **options: Any
    ) -> Iterator[list[Item]]:
        """Yield all pages of a query, one read per page."""
        read = partial(self.query, condition, values, **options)
        yield from ([dict(item) for item in answer["Items"]] for answer in _answers(read))

    def first(
        self, condition: str, values: Mapping[str, Any], limit: int, **options: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the answers of a query that looks at up to ``limit`` items, one read per page."""
        read = partial(self.query, condition, values, **options)
        start: dict[str, Any] = {}
        while limit > 0:
            answer = read(Limit=limit, **start)
            yield answer
            limit -= int(answer["ScannedCount"])
            if "LastEvaluatedKey" not in answer:
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def scan(self, **options: Any) -> Iterator[list[Item]]:
        """Yield the whole table, or the items that a filter selects, a page at a time."""
        read = partial(ask, self.client.scan, TableName=self.name, **options)
        yield from ([dict(item) for item in answer["Items"]] for answer in _answers(read))

    def read_list(
        self, name: str, limit: int, *, last_first: bool = False, since: int | None = None
    ) -> list[Item]:
        """Read the keys of up to ``limit`` items of a list, in its order.

        ``last_first`` reverses the order. ``since`` leaves out items up to this sort value.
        """
        later = {} if since is None else {"since": since}
        condition = f"{_IN_LIST} AND {LISTED.sort} > :since" if later else _IN_LIST
        values, forward = {"list": name, **later}, not last_first
        answer = self.query(
            condition, values, IndexName=LISTED.name, ScanIndexForward=forward, Limit=limit
        )
        return [dict(item) for item in answer["Items"]]

    def list_pages(self, name: str, **options: Any) -> Iterator[list[Item]]:
        """Yield the keys of all items of a list, in its order, a page at a time."""
        return self.pages(_IN_LIST, {"list": name}, IndexName=LISTED.name, **options)

    def count(self, index: Index, of: str, limit: int, **options: Any) -> int:
        """Count items of one partition of an index, among the first ``limit``.

        It reads page by page, of 1 MB each. A filter leaves items out of the count, not out of the
        limit.
        """
        answers = self._of(index, of, limit, Select="COUNT", **options)
        return sum(int(answer["Count"]) for answer in answers)

    def ids(self, index: Index, of: str, limit: int, **options: Any) -> Iterator[str]:
        """Yield the ``id`` of the items that ``count`` would count."""
        for answer in self._of(index, of, limit, ProjectionExpression="id", **options):
            yield from (item["id"]["S"] for item in answer["Items"])

    def _of(self, index: Index, of: str, limit: int, **options: Any) -> Iterator[dict[str, Any]]:
        values = {"of": of, **options.pop("values", {})}
        condition = f"{index.partition} = :of{options.pop('more', '')}"
        return self.first(condition, values, limit, IndexName=index.name, **options)

    def add(self, key: Item, expression: str, values: Mapping[str, Any]) -> Item:
        """Update or create one item and return the updated attributes."""
        answer = ask(
            self.client.update_item,
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
        """Set attributes of an existing item; None or False removes one.

        ``seen`` are attributes that must not have changed. Returns the item, or None if the item is
        gone or has changed.
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
        """Update one item outside a transaction; returns it, or None if the condition failed."""
        part = update(key, expression, condition, values, names)["Update"]
        answer = self._if_it_holds(self.client.update_item, ReturnValues="ALL_NEW", **part)
        return None if answer is None else answer["Attributes"]

    def try_put(self, item: Item) -> bool:
        """Write a new item outside a transaction; returns False if there is one already."""
        return self._if_it_holds(self.client.put_item, **new(item)["Put"]) is not None

    def _if_it_holds(self, write: Callable[..., Any], **arguments: Any) -> Any:
        """Write one item outside a transaction; returns None if the condition failed."""
        try:
            return retry_on_conflict(write, TableName=self.name, **arguments)
        except AwsError as error:
            if error.code == "ConditionalCheckFailedException":
                return None
            raise

    def try_transact(self, parts: list[Item]) -> bool:
        """Write all parts; returns False if a condition failed and nothing was written."""
        try:
            self.transact(parts)
        except ConditionFailed:
            return False
        return True

    def transact(self, parts: list[Item]) -> None:
        """Write all parts or none; raises ConditionFailed, Busy or Throttled.

        The client token makes a retry after a lost response safe for ten minutes; the conditions
        of the parts make it safe for good.
        """
        items = [
            {verb: {"TableName": self.name, **body} for verb, body in part.items()}
            for part in parts
        ]
        token = str(uuid4())
        write = self.client.transact_write_items
        try:
            retry_on_conflict(write, TransactItems=items, ClientRequestToken=token)
        except AwsError as error:
            failed = tuple(
                index
                for index, reason in enumerate(error.reasons)
                if reason == "ConditionalCheckFailed"
            )
            if failed:
                raise ConditionFailed(failed) from None
            raise


def _answers(read: Callable[..., Any]) -> Iterator[Any]:
    """Yield the answers to a read, each from where the one before it ended."""
    start: dict[str, Any] = {}
    while True:
        answer = read(**start)
        yield answer
        if "LastEvaluatedKey" not in answer:
            return
        start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}
