"""Queues and hand-overs: work that is retried, and dead letters that raise an alarm."""

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_destinations as destinations
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.parts.alarms import Alarms

RETRIED_AFTER_MINUTES = 3
"""Six times the timeout of the function that the queue feeds, as Lambda's pages advise."""


class DeadLetters(Construct):
    """A dead-letter queue with its alarm; messages are kept for 14 days.

    ``text`` says what has happened if there is one.
    """

    def __init__(self, scope: Construct, name: str, text: str, *, alarms: Alarms) -> None:
        super().__init__(scope, name)
        self.alarms = alarms
        self.queue = sqs.Queue(
            self,
            "Queue",
            retention_period=Duration.days(14),
            encryption=sqs.QueueEncryption.SQS_MANAGED,
        )
        metric = self.queue.metric_approximate_number_of_messages_visible(statistic="Maximum")
        alarms.on(name, metric, f"{text}: see {name} in docs/operations.md")


class WorkQueue(Construct):
    """A queue with its dead-letter queue and alarm.

    A message that fails is retried after some minutes; after ``tries`` it becomes a dead letter.
    ``text`` says what has happened then.
    """

    def __init__(
        self, scope: Construct, name: str, text: str, *, tries: int, alarms: Alarms
    ) -> None:
        super().__init__(scope, name)
        self._alarms, dead = alarms, DeadLetters(self, f"{name}Dead", text, alarms=alarms)
        self.queue = sqs.Queue(
            self,
            "Queue",
            visibility_timeout=Duration.minutes(RETRIED_AFTER_MINUTES),
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            dead_letter_queue=sqs.DeadLetterQueue(queue=dead.queue, max_receive_count=tries),
        )
        self.env = {f"{name.upper()}_QUEUE_URL": self.queue.queue_url}
        """The environment of a function that sends messages or extends their visibility timeout."""

    def drain_into(self, function: lambda_.Function, *, batch: int) -> None:
        """Feed a function up to ``batch`` messages at once; only failed ones are retried."""
        self._alarms.on_crash(function)
        function.add_event_source(
            sources.SqsEventSource(self.queue, batch_size=batch, report_batch_item_failures=True)
        )


class HandOver:
    """What one function hands over to another that runs later. Lambda itself keeps it meanwhile.

    Unlike a queue it is not polled, which costs $0.26 a month for each empty one. A run that fails
    comes again after a minute, then after two (AWS Lambda, "How Lambda handles errors and retries
    with asynchronous invocation"); after ``tries``, at most three, it leaves a dead letter.
    """

    def __init__(self, function: lambda_.Function, *, tries: int, dead: DeadLetters) -> None:
        self.function = function
        function.configure_async_invoke(
            retry_attempts=tries - 1, on_failure=destinations.SqsDestination(dead.queue)
        )
        self.env = {f"{function.node.id.upper()}_FUNCTION": function.function_name}
        """The environment of a function that hands over."""


def allow_sending(function: lambda_.Function, *queues: WorkQueue) -> None:
    """Let a function send messages to these queues."""
    for work in queues:
        work.queue.grant_send_messages(function)


def allow_handing(function: lambda_.Function, *edges: HandOver) -> None:
    """Let a function hand over on these edges."""
    for edge in edges:
        function.add_to_role_policy(
            iam.PolicyStatement(
                actions=["lambda:InvokeFunction"], resources=[edge.function.function_arn]
            )
        )
