"""One table: what is read to its end, what is tried again, and what is given up."""

import random
import time
from typing import Any

import pytest

from horde import throttling
from horde.rules.refusals import Busy, Throttled
from horde.store import attempts
from horde.store.items import DUE, Item
from horde.store.table import ConditionFailed, Table
from horde.store.transaction import ABSENT, EXISTS, check, delete, new, sets, update
from horde.wire.seam import AwsError

KEY: Item = {"pk": {"S": "p"}, "sk": {"S": "s"}}


def refusal(code: str, *reasons: str) -> AwsError:
    """A refusal by DynamoDB, with the reason for each part of a transaction."""
    return AwsError(code, body={"CancellationReasons": [{"Code": reason} for reason in reasons]})


class Client:
    """Stands for DynamoDB: gives its answers in turn, and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answers = list(answers)

    def __getattr__(self, verb: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.asked.append({"verb": verb, **arguments})
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def table(*answers: Any) -> tuple[Table, Client]:
    client = Client(*answers)
    return Table("t", client), client  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; none is waited for."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


# --- reads ---------------------------------------------------------------------------------------


def test_an_item_is_read_as_it_is_now() -> None:
    store, client = table({"Item": KEY})
    assert store.get(KEY) == KEY
    assert client.asked[0]["ConsistentRead"] is True
    assert table({})[0].get(KEY) is None


def answer(*items: Item, left: list[Item] | None = None) -> Any:
    unread = {"t": {"Keys": left}} if left else {}
    return {"Responses": {"t": list(items)}, "UnprocessedKeys": unread}


def test_a_batch_is_read_in_hundreds_and_to_its_end(pauses: list[float]) -> None:
    keys = [{"pk": {"S": str(number)}} for number in range(201)]
    store, client = table(answer(*keys[:100]), answer(*keys[100:199], left=[keys[199]]), answer())
    store.batch(keys)
    asked = [call["RequestItems"]["t"] for call in client.asked]
    assert [call["Keys"] for call in asked] == [keys[:100], keys[100:200], [keys[200], keys[199]]]
    assert all(call["ConsistentRead"] for call in asked)
    assert len(pauses) == 1
    assert table(answer(KEY, KEY))[0].batch([KEY]) == [KEY, KEY]
    assert table(answer())[0].batch([]) == []
    assert table({"Responses": {"t": [KEY]}})[0].batch([KEY]) == [KEY]


def test_a_batch_that_stays_unread_is_given_up(pauses: list[float]) -> None:
    store, client = table(answer(left=[KEY]))
    with pytest.raises(Throttled):
        store.batch([KEY])
    assert len(client.asked) == attempts.CONFLICT_TRIES
    assert len(pauses) == attempts.CONFLICT_TRIES - 1


def test_a_query_is_read_page_by_page_to_its_end() -> None:
    store, client = table({"Items": [KEY], "LastEvaluatedKey": KEY}, {"Items": []})
    assert list(store.pages("pk = :p", {"p": "x"}, Limit=3)) == [[KEY], []]
    first, second = client.asked
    assert first["KeyConditionExpression"] == "pk = :p"
    assert first["ExpressionAttributeValues"] == {":p": {"S": "x"}}
    assert (first["TableName"], first["Limit"]) == ("t", 3)
    assert "ExclusiveStartKey" not in first
    assert second["ExclusiveStartKey"] == KEY


def test_a_list_is_read_forwards_or_backwards_and_after_a_value() -> None:
    store, client = table({"Items": [KEY]})
    assert store.read_list("L", 5) == [KEY]
    store.read_list("L", 5, last_first=True, since=7)
    first, second = client.asked
    assert (first["IndexName"], first["Limit"], first["ScanIndexForward"]) == ("listed", 5, True)
    assert first["KeyConditionExpression"] == "listed = :list"
    assert first["ExpressionAttributeValues"] == {":list": {"S": "L"}}
    assert second["ScanIndexForward"] is False
    assert second["KeyConditionExpression"] == "listed = :list AND listed_at > :since"
    assert second["ExpressionAttributeValues"] == {":list": {"S": "L"}, ":since": {"N": "7"}}


def test_a_count_reads_no_items() -> None:
    store, client = table({"Count": 3, "ScannedCount": 3})
    assert store.count(DUE, "d", 9) == 3
    store.count(DUE, "d", 9, more=" AND due_at < :now", values={"now": 5}, ConsistentRead=False)
    first, second = client.asked
    assert (first["Select"], first["IndexName"], first["Limit"]) == ("COUNT", "due", 9)
    assert first["KeyConditionExpression"] == "due_shard = :of"
    assert second["KeyConditionExpression"] == "due_shard = :of AND due_at < :now"
    assert second["ExpressionAttributeValues"] == {":of": {"S": "d"}, ":now": {"N": "5"}}
    assert second["ConsistentRead"] is False


def test_a_count_follows_its_pages_to_its_limit_or_the_end() -> None:
    half = {"Count": 2, "ScannedCount": 4, "LastEvaluatedKey": KEY}
    store, client = table(half, half, {"Count": 1, "ScannedCount": 1})
    assert store.count(DUE, "d", 100) == 5
    assert [call["Limit"] for call in client.asked] == [100, 96, 92]
    assert [call.get("ExclusiveStartKey") for call in client.asked] == [None, KEY, KEY]
    store, client = table(half)
    assert store.count(DUE, "d", 8) == 4
    assert [call["Limit"] for call in client.asked] == [8, 4]


# --- writes --------------------------------------------------------------------------------------


def test_an_addition_returns_what_it_made() -> None:
    store, client = table({"Attributes": {"n": {"N": "2"}}})
    assert store.add(KEY, "ADD n :one", {"one": 1}) == {"n": {"N": "2"}}
    assert client.asked[0]["ReturnValues"] == "UPDATED_NEW"
    assert client.asked[0]["ExpressionAttributeValues"] == {":one": {"N": "1"}}


def test_a_change_holds_only_for_an_item_that_is_there_and_as_it_was_seen() -> None:
    store, client = table({"Attributes": KEY})
    assert store.change(KEY, {"a": 1, "b": None}, {"c": 2}) == KEY
    (asked,) = client.asked
    assert asked["UpdateExpression"] == "SET #a = :a REMOVE #b"
    assert asked["ConditionExpression"] == f"{EXISTS} AND #c = :seen_c"
    assert asked["ExpressionAttributeNames"] == {"#a": "a", "#b": "b", "#c": "c"}
    assert asked["ExpressionAttributeValues"] == {":a": {"N": "1"}, ":seen_c": {"N": "2"}}
    assert asked["ReturnValues"] == "ALL_NEW"


def test_a_plain_write_whose_condition_fails_changes_nothing_and_any_other_error_is_raised() -> (
    None
):
    assert table(refusal("ConditionalCheckFailedException"))[0].change(KEY, {"a": 1}) is None
    with pytest.raises(AwsError):
        table(refusal("ValidationException"))[0].change(KEY, {"a": 1})
    with pytest.raises(AwsError):
        table(AwsError(""))[0].change(KEY, {"a": 1})


def test_a_transaction_says_which_of_its_parts_failed() -> None:
    store, client = table(refusal("TransactionCanceledException", "None", "ConditionalCheckFailed"))
    with pytest.raises(ConditionFailed) as failed:
        store.transact([check(KEY, EXISTS), check(KEY, ABSENT)])
    assert failed.value.which == (1,)
    assert failed.value.args == ((1,),)
    assert len(client.asked) == 1
    assert not store.try_transact([check(KEY, EXISTS)])
    assert table({})[0].try_transact([check(KEY, EXISTS)])


def test_a_transaction_that_is_refused_otherwise_raises_the_error_itself() -> None:
    with pytest.raises(AwsError):
        table(refusal("TransactionCanceledException", "ValidationError"))[0].transact([])


def test_a_transaction_is_tried_again_with_the_same_token_and_another_with_its_own() -> None:
    store, client = table(refusal("TransactionInProgressException"), {})
    store.transact([check(KEY, EXISTS)])
    store.transact([check(KEY, EXISTS)])
    first, again, other = (call["ClientRequestToken"] for call in client.asked)
    assert first == again != other
    part = {"TableName": "t", "Key": KEY, "ConditionExpression": EXISTS}
    assert client.asked[0]["TransactItems"] == [{"ConditionCheck": part}]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (refusal("TransactionInProgressException"), True),
        (refusal("TransactionConflictException"), True),
        (refusal("TransactionCanceledException", "None", "TransactionConflict"), True),
        (refusal("TransactionCanceledException", "ThrottlingError"), True),
        (
            refusal(
                "TransactionCanceledException", "TransactionConflict", "ConditionalCheckFailed"
            ),
            False,
        ),
        (refusal("TransactionCanceledException", "None"), False),
        (refusal("ValidationException"), False),
    ],
)
def test_what_meets_another_write_is_tried_again_and_nothing_else(
    error: AwsError, again: bool, pauses: list[float]
) -> None:
    client = Client(error, "done")
    if again:
        assert attempts.retry_on_conflict(client.write, a=1) == "done"
        assert client.asked == [{"verb": "write", "a": 1}] * 2
    else:
        with pytest.raises(AwsError):
            attempts.retry_on_conflict(client.write)
        assert len(client.asked) == 1
    assert len(pauses) == again


def test_what_meets_others_without_end_is_given_up(pauses: list[float]) -> None:
    client = Client(refusal("TransactionConflictException"))
    with pytest.raises(Busy):
        attempts.retry_on_conflict(client.write)
    assert len(client.asked) == len(pauses) == attempts.CONFLICT_TRIES


THROTTLES = [
    refusal("ProvisionedThroughputExceededException"),
    refusal("ThrottlingException"),
    refusal("RequestLimitExceeded"),
    refusal("TransactionCanceledException", "None", "ThrottlingError"),
    refusal("TransactionCanceledException", "ProvisionedThroughputExceeded", "None"),
]
by_code = pytest.mark.parametrize("error", THROTTLES, ids=lambda error: str(error.code))


@by_code
def test_a_write_that_is_throttled_is_tried_again(error: AwsError, pauses: list[float]) -> None:
    client = Client(error, "done")
    assert attempts.retry_on_conflict(client.write) == "done"
    assert len(pauses) == 1


@by_code
def test_what_is_throttled_to_the_end_is_not_taken_for_busy(error: AwsError) -> None:
    with pytest.raises(Throttled) as raised:
        attempts.retry_on_conflict(Client(error).write)
    assert (raised.value.status, raised.value.body()["rc"]) == (503, "Throttled")
    assert int(raised.value.headers["Retry-After"]) > 0
    with pytest.raises(Busy) as busy:
        attempts.retry_on_conflict(Client(error, refusal("TransactionConflictException")).write)
    assert busy.value.body()["rc"] == "Locked"


def test_a_throttled_write_is_given_up_in_time_whatever_the_sdk_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    client = Client(refusal("ThrottlingException"))
    with pytest.raises(Throttled):
        attempts.retry_on_conflict(client.write)
    assert len(client.asked) == attempts.THROTTLED_S + 1


@by_code
@pytest.mark.parametrize(
    "read",
    [
        lambda store: store.get(KEY),
        lambda store: store.put(KEY),
        lambda store: store.batch([KEY]),
        lambda store: store.query("pk = :p", {"p": "x"}),
        lambda store: store.add(KEY, "ADD n :one", {"one": 1}),
        lambda store: store.change(KEY, {"a": 1}),
        lambda store: store.transact([check(KEY, EXISTS)]),
    ],
)
def test_every_call_that_is_throttled_says_so(read: Any, error: AwsError) -> None:
    with pytest.raises(Throttled):
        read(table(error)[0])


def test_a_condition_that_failed_beside_a_throttle_is_what_counts() -> None:
    error = refusal("TransactionCanceledException", "ThrottlingError", "ConditionalCheckFailed")
    with pytest.raises(ConditionFailed) as failed:
        table(error)[0].transact([check(KEY, EXISTS), check(KEY, ABSENT)])
    assert failed.value.which == (1,)


def test_what_is_no_error_of_aws_is_no_throttle() -> None:
    assert not throttling.is_throttle(ValueError("x"))
    assert not throttling.is_throttle(AwsError(""))
    assert not throttling.is_throttle(refusal("InternalServerError"))


def test_pauses_double_up_to_a_bound(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    monkeypatch.setattr(random, "uniform", lambda least, most: least + 1000 * most)
    assert [attempts.pause_s(attempt) for attempt in (0, 1, 4, 5, 29)] == [
        20.005,
        40.005,
        320.005,
        400.005,
        400.005,
    ]
    client = Client(
        refusal("TransactionConflictException"), refusal("TransactionConflictException"), 1
    )
    attempts.retry_on_conflict(client.write)
    assert pauses == [20.005, 40.005]


# --- the parts of a transaction ------------------------------------------------------------------


def test_parts_are_what_dynamodb_is_asked() -> None:
    assert EXISTS == "attribute_exists(pk)"
    assert ABSENT == "attribute_not_exists(pk)"
    assert new(KEY) == {"Put": {"Item": KEY, "ConditionExpression": ABSENT}}
    assert new(KEY, "a = :b", b=1) == {
        "Put": {
            "Item": KEY,
            "ConditionExpression": "a = :b",
            "ExpressionAttributeValues": {":b": {"N": "1"}},
        }
    }
    assert update(KEY, "SET a = :b", EXISTS, {":b": {"N": "1"}}, {"#a": "a"}) == {
        "Update": {
            "Key": KEY,
            "UpdateExpression": "SET a = :b",
            "ConditionExpression": EXISTS,
            "ExpressionAttributeNames": {"#a": "a"},
            "ExpressionAttributeValues": {":b": {"N": "1"}},
        }
    }
    assert update(KEY, "REMOVE a", "", {}) == {
        "Update": {"Key": KEY, "UpdateExpression": "REMOVE a"}
    }
    assert delete(KEY) == {"Delete": {"Key": KEY}}
    assert delete(KEY, "a = :b", {":b": {"N": "1"}}, {"#a": "a"}) == {
        "Delete": {
            "Key": KEY,
            "ConditionExpression": "a = :b",
            "ExpressionAttributeNames": {"#a": "a"},
            "ExpressionAttributeValues": {":b": {"N": "1"}},
        }
    }
    assert check(KEY, EXISTS) == {"ConditionCheck": {"Key": KEY, "ConditionExpression": EXISTS}}


@pytest.mark.parametrize(
    ("changes", "expression", "values"),
    [
        ({"a": 1, "b": "x"}, "SET #a = :a, #b = :b ", {":a": {"N": "1"}, ":b": {"S": "x"}}),
        ({"a": None, "b": False}, "REMOVE #a, #b", {}),
        ({"a": 0, "b": None}, "SET #a = :a REMOVE #b", {":a": {"N": "0"}}),
        ({}, "", {}),
    ],
)
def test_what_is_empty_is_removed_and_the_rest_is_set(
    changes: dict[str, Any], expression: str, values: Item
) -> None:
    assert sets(changes) == (expression, {f"#{name}": name for name in changes}, values)
