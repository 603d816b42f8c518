"""The table, its stream, and what a function may do to it."""

from typing import TYPE_CHECKING, Any

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from constructs import Construct

from infra.contract import (
    DUE,
    LISTED,
    NEW_CSAM_MARK,
    NEW_REQUEST,
    NEW_WEBHOOK,
    PENDING_REWARD,
    PK,
    SK,
    TTL,
    WAITING,
)
from infra.parts.queues import DeadLetters

if TYPE_CHECKING:
    from horde.store.items import Index

READ_ITEM = ("GetItem",)
READ = (*READ_ITEM, "BatchGetItem", "Query")
"""Read items and lists, and write nothing."""
READ_WRITE_ITEM = (*READ_ITEM, "PutItem", "UpdateItem")
"""Read and write single items, alone or in transactions."""
READ_WRITE = (*READ, "PutItem", "UpdateItem")
"""Read items and lists, and write items: accounts, the end of a request with its refunds."""
MANAGE = (*READ_WRITE_ITEM, "DeleteItem")
"""Create, change and delete single items: shared keys, workers."""
MANAGE_LISTS = (*READ_WRITE, "DeleteItem")
"""List, add, change and delete what an account has: its API keys, its styles."""
ACCEPT = READ_WRITE
"""Charge and record a request, count waiting images, and read a key with the marks of queues."""
SETTLE = (*READ_WRITE, "ConditionCheckItem")
"""End an image, or requeue it on the condition that its request is still open."""
PUBLISH = (*MANAGE, "BatchGetItem", "ConditionCheckItem")
"""Read and write marks of shared and held images, on the condition that they may be published."""
WITHDRAW = (*READ_WRITE_ITEM, "BatchGetItem")
"""Mark shared images, requests and accounts as withdrawn."""
RECOVER = ("BatchGetItem", "UpdateItem")
"""Look up what lost images need, and keep it longer."""
COUNT = ("GetItem", "Query")
"""Read what waits for an endpoint, and the census."""
PAY = ("BatchGetItem", "PutItem", "UpdateItem")
"""Post the stream's events."""


PAYOUTS_WAIT_S = 5
"""Seconds that rewards and counts are gathered: a batch writes each counter once, whatever is in
it, and alone an image's counters and reward cost 19 write units."""


OUTBOX_AT_ONCE = 10
"""Batches of a shard that leave the outbox at once, Lambda's most: each record is a call of its
own, of some 15 ms, and a shard may have hundreds of new requests a second."""


class HordeTable(Construct):
    """The table, its stream and its sparse indexes; ``horde.store`` defines its items."""

    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name)
        keys_only = dynamodb.ProjectionType.KEYS_ONLY
        self.table = dynamodb.TableV2(
            self,
            "Table",
            partition_key=_text(PK),
            sort_key=_text(SK),
            billing=dynamodb.Billing.on_demand(),
            dynamo_stream=dynamodb.StreamViewType.NEW_IMAGE,
            time_to_live_attribute=TTL,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=RemovalPolicy.RETAIN,
            global_secondary_indexes=[
                _index(WAITING),
                _index(DUE, projection_type=keys_only),
                _index(LISTED, projection_type=keys_only),
            ],
        )

    def feed_payouts(self, function: lambda_.Function, *, dead: DeadLetters) -> None:
        """Feed a function every new request and every pending reward, at least once."""
        request, reward = _pattern(NEW_REQUEST), _pattern(PENDING_REWARD)
        self._feed(function, dead, {"Keys": request}, {"NewImage": reward}, wait_s=PAYOUTS_WAIT_S)

    def feed_outbox(self, function: lambda_.Function, *, dead: DeadLetters) -> None:
        """Feed a function every new request, webhook and CSAM mark, at least once."""
        wanted = (NEW_REQUEST, NEW_WEBHOOK, NEW_CSAM_MARK)
        patterns = [{"Keys": _pattern(one)} for one in wanted]
        self._feed(function, dead, *patterns, at_once=OUTBOX_AT_ONCE)

    def _feed(
        self,
        function: lambda_.Function,
        dead: DeadLetters,
        *patterns: Any,
        wait_s: int = 0,
        at_once: int = 1,
    ) -> None:
        """Feed a function the new items that match a pattern; five failures make a dead letter.

        A batch that is not full waits for ``wait_s`` seconds for more. ``at_once`` batches of a
        shard run in parallel, those of one item in order.
        """
        dead.alarms.on_crash(function)
        function.add_event_source(
            sources.DynamoEventSource(
                self.table,
                starting_position=lambda_.StartingPosition.TRIM_HORIZON,
                batch_size=100,
                max_batching_window=Duration.seconds(wait_s) if wait_s else None,
                retry_attempts=5,
                bisect_batch_on_error=True,
                parallelization_factor=at_once,
                report_batch_item_failures=True,
                on_failure=sources.SqsDlq(dead.queue),
                filters=[
                    lambda_.FilterCriteria.filter(
                        {"eventName": lambda_.FilterRule.is_equal("INSERT"), "dynamodb": pattern}
                    )
                    for pattern in patterns
                ],
            )
        )

    def allow(self, function: lambda_.Function, *verbs: str) -> None:
        """Allow a function these actions on the table, such as ``GetItem``."""
        self.table.grant(function, *(f"dynamodb:{verb}" for verb in verbs))


def _pattern(wanted: dict[str, str]) -> dict[str, Any]:
    """Return the filter that selects items with these texts."""
    return {name: {"S": lambda_.FilterRule.is_equal(text)} for name, text in wanted.items()}


def _text(name: str) -> dynamodb.Attribute:
    return dynamodb.Attribute(name=name, type=dynamodb.AttributeType.STRING)


def _index(index: "Index", **more: Any) -> dynamodb.GlobalSecondaryIndexPropsV2:
    return dynamodb.GlobalSecondaryIndexPropsV2(
        index_name=index.name,
        partition_key=_text(index.partition),
        sort_key=dynamodb.Attribute(name=index.sort, type=dynamodb.AttributeType.NUMBER),
        **more,
    )
