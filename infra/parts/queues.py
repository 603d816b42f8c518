"""Queues: work that is retried, and dead letters that raise an alarm."""

from aws_cdk import Duration
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from infra.parts.alarms import Alarms


class DeadLetters(Construct):
    """A dead-letter queue with its alarm; messages are kept for 14 days."""

    def __init__(self, scope: Construct, name: str, *, alarms: Alarms) -> None:
        super().__init__(scope, name)
        self.queue = sqs.Queue(
            self,
            "Queue",
            retention_period=Duration.days(14),
            encryption=sqs.QueueEncryption.SQS_MANAGED,
        )
        metric = self.queue.metric_approximate_number_of_messages_visible(statistic="Maximum")
        alarms.on(
            name, metric, f"{name}: there are dead letters; docs/operations.md says what to do"
        )


class WorkQueue(Construct):
    """A queue with its dead-letter queue and alarm.

    A message that fails is retried after ``minutes``; after ``tries`` it becomes a dead letter.
    """

    def __init__(
        self, scope: Construct, name: str, *, minutes: int, tries: int, alarms: Alarms
    ) -> None:
        super().__init__(scope, name)
        dead = DeadLetters(self, f"{name}Dead", alarms=alarms)
        self.queue = sqs.Queue(
            self,
            "Queue",
            visibility_timeout=Duration.minutes(minutes),
            encryption=sqs.QueueEncryption.SQS_MANAGED,
            dead_letter_queue=sqs.DeadLetterQueue(queue=dead.queue, max_receive_count=tries),
        )
        self.env = {f"{name.upper()}_QUEUE_URL": self.queue.queue_url}
        """The environment of a function that sends messages or extends their visibility timeout."""

    def drain_into(self, function: lambda_.Function, *, batch: int) -> None:
        """Feed a function up to ``batch`` messages at once; only failed ones are retried."""
        function.add_event_source(
            sources.SqsEventSource(self.queue, batch_size=batch, report_batch_item_failures=True)
        )


def allow_sending(function: lambda_.Function, *queues: WorkQueue) -> None:
    """Let a function send messages to these queues."""
    for work in queues:
        work.queue.grant_send_messages(function)
