"""Alarms: one topic for all of them, and an e-mail address that may subscribe to it."""

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from constructs import Construct


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

    def on_line(
        self, function: lambda_.Function, name: str, message: str, text: str, *, above: int = 0
    ) -> None:
        """Alarm when a function logs a message more than ``above`` times in five minutes."""
        found = function.log_group.add_metric_filter(
            name,
            metric_namespace=Stack.of(self).stack_name,
            metric_name=name,
            filter_pattern=logs.FilterPattern.string_value("$.message", "=", message),
        )
        self.on(name, found.metric(statistic="Sum"), text, above=above)
