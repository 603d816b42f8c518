"""Alarms: one topic for all of them, and an e-mail address that may subscribe to it."""

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct

from infra.contract import FLEET_DROP, NEEDS_ATTENTION


class Alarms(Construct):
    """A topic, and an alarm for everything that must not happen."""

    def __init__(self, scope: Construct, name: str, *, email: str | None) -> None:
        super().__init__(scope, name)
        self.topic = sns.Topic(self, "Topic")
        if email:
            self.topic.add_subscription(subscriptions.EmailSubscription(email))

    def on(self, name: str, metric: cloudwatch.IMetric, text: str, *, above: int = 0) -> None:
        """Alarm when a metric is above a number, mostly zero, for five minutes."""
        alarm = cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            threshold=above,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=text,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))

    def on_crash(self, function: lambda_.Function) -> None:
        """Alarm when a function raises or runs out of time.

        It is for those that a queue or a stream feeds, since these try again for long before they
        leave a dead letter. A crash of the others rings at once by itself: one behind the API is a
        5xx answer, and one that was started asynchronously leaves its dead letter in minutes.
        """
        file = function.node.id.lower()
        metric = function.metric_errors(statistic="Sum")
        self.on(f"{function.node.id}Errors", metric, f"{file} crashes; its log says where")

    def on_line(
        self, name: str, message: str, text: str, *functions: lambda_.Function, above: int = 0
    ) -> None:
        """Alarm when functions together log a message more than ``above`` times in five minutes.

        Each has a filter of its own, and all feed one metric, since metrics are what is paid for.
        """
        filters = [
            function.log_group.add_metric_filter(
                name,
                metric_namespace=Stack.of(self).stack_name,
                metric_name=name,
                filter_pattern=logs.FilterPattern.string_value("$.message", "=", message),
            )
            for function in functions
        ]
        self.on(name, filters[0].metric(statistic="Sum"), text, above=above)

    def on_fleet(self, worker: lambda_.Function, sweep: lambda_.Function) -> None:
        """Alarm when the operator's own workers drop many images, or an endpoint needs attention.

        Each thing that an endpoint needs counts as one dropped image too many: another metric with
        an alarm would cost more than half of what a quiet month does.
        """
        many = 20
        self.on_line("FleetDrops", FLEET_DROP, "own workers fail", worker, sweep, above=many)
        sweep.log_group.add_metric_filter(
            "NeedsAttention",
            metric_namespace=Stack.of(self).stack_name,
            metric_name="FleetDrops",
            metric_value=str(many + 1),
            filter_pattern=logs.FilterPattern.string_value("$.message", "=", NEEDS_ATTENTION),
        )
