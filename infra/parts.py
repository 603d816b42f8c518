"""The kinds of part the stack is made of, each with what always comes with it."""

import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aws_cdk import ArnFormat, CfnOutput, Duration, RemovalPolicy, Stack
from aws_cdk import aws_apigatewayv2 as apigateway
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_cloudwatch_actions as actions
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_lambda_destinations as destinations
from aws_cdk import aws_lambda_event_sources as sources
from aws_cdk import aws_logs as logs
from aws_cdk import aws_s3 as s3
from aws_cdk import aws_s3_notifications as notifications
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sns_subscriptions as subscriptions
from aws_cdk import aws_sqs as sqs
from aws_cdk.aws_apigatewayv2_integrations import HttpLambdaIntegration
from constructs import Construct

from infra.settings import StackSettings

CORS_HEADERS = [
    "Accept",
    "Content-Type",
    "Accept-Encoding",
    "X-CSRF-Token",
    "apikey",
    "Client-Agent",
    "X-Fields",
    "X-Forwarded-For",
    "Proxied-For",
    "Proxy-Authorization",
]
EXPOSED = [
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "Retry-After",
    "Horde-Node",
]

WRITING = ("GetItem", "PutItem", "UpdateItem")
"""What it takes to read and write single items, alone or in transactions."""
LISTING = (*WRITING, "BatchGetItem", "Query")
"""What it takes to show accounts, and to change them."""
SHARING = (*WRITING, "DeleteItem")
"""What it takes to make shared keys, and to take them away."""
ENDING = ("GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem")
"""What it takes to end a request's images with their refunds."""
REQUEUING = (*ENDING, "ConditionCheckItem")
"""What it takes to put an image back into the queue as well."""
COUNTING = ("BatchGetItem", "PutItem", "UpdateItem")
"""What it takes to count what the stream tells, once."""
SEEING = ("GetItem", "BatchGetItem", "Query")
"""What it takes to look at lists, and to change nothing."""
ACCEPTING = (*WRITING, "Query")
"""What it takes to charge and record a request, and to count what waits."""


class Alarms(Construct):
    """A topic, and an alarm for everything that must not happen."""

    def __init__(self, scope: Construct, name: str, *, email: str | None) -> None:
        super().__init__(scope, name)
        self.topic = sns.Topic(self, "Topic")
        if email:
            self.topic.add_subscription(subscriptions.EmailSubscription(email))

    def on(self, name: str, metric: cloudwatch.IMetric, text: str) -> None:
        """Alarm when a metric is above zero for five minutes."""
        alarm = cloudwatch.Alarm(
            self,
            name,
            metric=metric,
            threshold=0,
            evaluation_periods=1,
            comparison_operator=cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
            treat_missing_data=cloudwatch.TreatMissingData.NOT_BREACHING,
            alarm_description=text,
        )
        alarm.add_alarm_action(actions.SnsAction(self.topic))


class DeadLetters(Construct):
    """Where an async edge leaves what it gave up on, with its alarm; kept 14 days."""

    def __init__(self, scope: Construct, name: str, *, alarms: Alarms) -> None:
        super().__init__(scope, name)
        self.queue = sqs.Queue(
            self,
            "Queue",
            retention_period=Duration.days(14),
            encryption=sqs.QueueEncryption.SQS_MANAGED,
        )
        metric = self.queue.metric_approximate_number_of_messages_visible(statistic="Maximum")
        alarms.on(name, metric, f"{name}: messages were given up on; see the README's runbook")


class WorkQueue(Construct):
    """A queue with its DLQ and alarm; a message that fails comes back after so many minutes."""

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
        self.told = {f"{name.upper()}_QUEUE_URL": self.queue.queue_url}
        """What a function is told that sends to it, or hides its messages for longer."""

    def drain_into(self, function: lambda_.Function, *, batch: int) -> None:
        """Feed a function; what fails of a batch comes back alone."""
        function.add_event_source(
            sources.SqsEventSource(self.queue, batch_size=batch, report_batch_item_failures=True)
        )


class HordeTable(Construct):
    """The table, its stream and its sparse indexes; ``horde.store`` knows what is in it."""

    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name)
        text, number = dynamodb.AttributeType.STRING, dynamodb.AttributeType.NUMBER
        self.table = dynamodb.TableV2(
            self,
            "Table",
            partition_key=dynamodb.Attribute(name="pk", type=text),
            sort_key=dynamodb.Attribute(name="sk", type=text),
            billing=dynamodb.Billing.on_demand(),
            dynamo_stream=dynamodb.StreamViewType.NEW_IMAGE,
            time_to_live_attribute="gone_at",
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            removal_policy=RemovalPolicy.RETAIN,
            global_secondary_indexes=[
                dynamodb.GlobalSecondaryIndexPropsV2(
                    index_name="waiting",
                    partition_key=dynamodb.Attribute(name="wait_model", type=text),
                    sort_key=dynamodb.Attribute(name="priority", type=number),
                ),
                dynamodb.GlobalSecondaryIndexPropsV2(
                    index_name="due",
                    partition_key=dynamodb.Attribute(name="due_shard", type=text),
                    sort_key=dynamodb.Attribute(name="due_at", type=number),
                    projection_type=dynamodb.ProjectionType.KEYS_ONLY,
                ),
                dynamodb.GlobalSecondaryIndexPropsV2(
                    index_name="listed",
                    partition_key=dynamodb.Attribute(name="listed", type=text),
                    sort_key=dynamodb.Attribute(name="listed_at", type=number),
                    projection_type=dynamodb.ProjectionType.KEYS_ONLY,
                ),
            ],
        )

    def feed_payouts(self, function: lambda_.Function, *, dead: DeadLetters) -> None:
        """Feed a function every new request and every reward of the ledger, at least once."""
        reward = {"kind": {"S": lambda_.FilterRule.is_equal("REWARD")}}
        request = {"sk": {"S": lambda_.FilterRule.is_equal("REQUEST")}}
        self._feed(function, dead, {"Keys": request}, {"NewImage": reward})

    def feed_outbox(self, function: lambda_.Function, *, dead: DeadLetters) -> None:
        """Feed a function every new request and webhook, in order per item, at least once."""
        kinds = {"sk": {"S": lambda_.FilterRule.or_("REQUEST", "WEBHOOK")}}
        self._feed(function, dead, {"Keys": kinds})

    def _feed(self, function: lambda_.Function, dead: DeadLetters, *new: Any) -> None:
        """Feed a function the new items that match one of the patterns; what fails comes again."""
        function.add_event_source(
            sources.DynamoEventSource(
                self.table,
                starting_position=lambda_.StartingPosition.TRIM_HORIZON,
                batch_size=100,
                retry_attempts=5,
                bisect_batch_on_error=True,
                report_batch_item_failures=True,
                on_failure=sources.SqsDlq(dead.queue),
                filters=[
                    lambda_.FilterCriteria.filter(
                        {"eventName": lambda_.FilterRule.is_equal("INSERT"), "dynamodb": pattern}
                    )
                    for pattern in new
                ],
            )
        )

    def allow(self, function: lambda_.Function, *verbs: str) -> None:
        """Let a function do just these things to the table."""
        self.table.grant(function, *(f"dynamodb:{verb}" for verb in verbs))


def _bucket(scope: Construct, name: str, *, removal: RemovalPolicy, **more: Any) -> s3.Bucket:
    return s3.Bucket(
        scope,
        name,
        block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
        enforce_ssl=True,
        object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
        removal_policy=removal,
        **more,
    )


def private_bucket(scope: Construct, name: str, *, days: int) -> s3.Bucket:
    """Return a bucket nobody outside sees into but by presigned URL; it forgets after days."""
    everywhere = s3.CorsRule(
        allowed_methods=[s3.HttpMethods.GET], allowed_origins=["*"], allowed_headers=["*"]
    )
    forget = s3.LifecycleRule(
        expiration=Duration.days(days),
        abort_incomplete_multipart_upload_after=Duration.days(1),
    )
    return _bucket(
        scope,
        name,
        removal=RemovalPolicy.DESTROY,
        lifecycle_rules=[forget],
        cors=[everywhere],
    )


def open_data_bucket(scope: Construct, name: str, *, existing: str | None) -> s3.IBucket:
    """Return the LAION bucket: the named one, maybe of another account, or our own."""
    if existing:
        return s3.Bucket.from_bucket_name(scope, name, existing)
    return _bucket(scope, name, removal=RemovalPolicy.RETAIN)


class Functions(Construct):
    """Makes the Lambdas: one file of ``functions/`` each, arm64, with the wheels layer."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        settings: StackSettings,
        *,
        alarms: Alarms,
        table: HordeTable,
    ) -> None:
        super().__init__(scope, name)
        self._settings, self._alarms, self._table = settings, alarms, table
        self._layer = lambda_.LayerVersion(
            self,
            "Wheels",
            code=lambda_.Code.from_asset(settings.layer),
            compatible_runtimes=[lambda_.Runtime.PYTHON_3_13],
            compatible_architectures=[lambda_.Architecture.ARM_64],
        )
        self._code = lambda_.Code.from_asset(
            "functions", exclude=["**/__pycache__", "**/*.pyc", "**/.*"]
        )

    def make(
        self,
        name: str,
        *told: Mapping[str, str],
        may: Sequence[str] = (),
        memory: int = 512,
        seconds: int = 15,
    ) -> lambda_.Function:
        """Return the Lambda of ``functions/<name>.py`` with an alarm on its errors.

        ``told`` is its environment; ``may`` is what it may do to the table, and all that it may.
        """
        endpoint = self._settings.endpoint_url
        stack = Stack.of(self)
        function = lambda_.Function(
            self,
            name.capitalize(),
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"{name}.handler",
            code=self._code,
            layers=[self._layer],
            memory_size=memory,
            timeout=Duration.seconds(seconds),
            environment={
                **{key: value for part in told for key, value in part.items()},
                # Presigned URLs must name the region, or new buckets answer them by redirects.
                "AWS_ENDPOINT_URL_S3": endpoint or f"https://s3.{stack.region}.{stack.url_suffix}",
                **({"AWS_ENDPOINT_URL": endpoint} if endpoint else {}),
            },
            logging_format=lambda_.LoggingFormat.JSON,
            system_log_level_v2=lambda_.SystemLogLevel.WARN,
            log_group=logs.LogGroup(
                self,
                f"{name.capitalize()}Logs",
                retention=logs.RetentionDays.ONE_MONTH,
                removal_policy=RemovalPolicy.DESTROY,
            ),
        )
        metric = function.metric_errors(statistic="Sum")
        if may:
            self._table.allow(function, *may)
        self._alarms.on(f"{name.capitalize()}Errors", metric, f"{name} fails; see its log")
        return function


class Api(Construct):
    """The HTTP API: each route goes to one function; everything else to the catch-all.

    A handler answers its own faults with a JSON 500, which Lambda does not count as an error;
    the alarm on the API's 5xx answers does.
    """

    def __init__(self, scope: Construct, name: str, *, alarms: Alarms) -> None:
        super().__init__(scope, name)
        methods = apigateway.CorsHttpMethod
        self.http = apigateway.HttpApi(
            self,
            "Http",
            cors_preflight=apigateway.CorsPreflightOptions(
                allow_origins=["*"],
                allow_headers=CORS_HEADERS,
                expose_headers=EXPOSED,
                allow_methods=[
                    methods.GET,
                    methods.POST,
                    methods.PUT,
                    methods.PATCH,
                    methods.DELETE,
                    methods.OPTIONS,
                ],
                max_age=Duration.days(1),
            ),
        )
        metric = self.http.metric_server_error(statistic="Sum")
        alarms.on("ApiFaults", metric, "clients were answered 5xx; the functions' logs say why")

    def route(self, function: lambda_.Function, file: str) -> None:
        """Send the routes that ``functions/<file>.py`` answers to its Lambda."""
        integration = HttpLambdaIntegration(f"To{function.node.id}", function)
        for route in routes_of(file):
            method, _, path = route.partition(" ")
            key = (
                apigateway.HttpRouteKey.with_(path, apigateway.HttpMethod[method])
                if path
                else apigateway.HttpRouteKey.DEFAULT
            )
            name = "".join(
                part.strip("{}$").capitalize() for part in route.replace(" ", "/").split("/")
            )
            apigateway.HttpRoute(
                self, name, http_api=self.http, route_key=key, integration=integration
            )


def routes_of(file: str) -> list[str]:
    """Return the routes that ``functions/<file>.py`` answers, as API Gateway names them."""
    functions = str(Path(__file__).resolve().parents[1] / "functions")
    if functions not in sys.path:
        sys.path.insert(0, functions)
    return list(importlib.import_module(file).ROUTES)


def run_every_minute(function: lambda_.Function, *, dead: DeadLetters) -> None:
    """Run a function every minute; a run that failed or never came leaves a dead letter.

    A failed run is not tried again: the next one comes within the minute.
    """
    function.configure_async_invoke(
        retry_attempts=0, on_failure=destinations.SqsDestination(dead.queue)
    )
    events.Rule(
        function,
        "EveryMinute",
        schedule=events.Schedule.rate(Duration.minutes(1)),
        targets=[targets.LambdaFunction(function, dead_letter_queue=dead.queue)],
    )


def allow_secret(function: lambda_.Function, parameter: str) -> None:
    """Let a function read one SecureString parameter."""
    arn = Stack.of(function).format_arn(
        service="ssm",
        resource="parameter",
        resource_name=parameter.lstrip("/"),
        arn_format=ArnFormat.SLASH_RESOURCE_NAME,
    )
    function.add_to_role_policy(iam.PolicyStatement(actions=["ssm:GetParameter"], resources=[arn]))


def announce_uploads(bucket: s3.Bucket, work: WorkQueue) -> None:
    """Send a message for every object that arrives in a bucket; S3 tries again by itself."""
    bucket.add_event_notification(
        s3.EventType.OBJECT_CREATED, notifications.SqsDestination(work.queue)
    )


def allow_publishing(function: lambda_.Function, bucket: s3.IBucket, *, role: str | None) -> None:
    """Let a function write the open data, by another account's role where there is one."""
    if role:
        function.add_to_role_policy(
            iam.PolicyStatement(actions=["sts:AssumeRole"], resources=[role])
        )
    else:
        bucket.grant_put(function, "incoming/*")


def edge(settings: StackSettings) -> dict[str, str]:
    """Return what every function behind the API is told."""
    return {
        "RATE_LIMITS": as_json(settings.rate_limits),
        "TRUSTED_IPS": settings.trusted_ips,
        "ADMINS": settings.admins,
    }


def show(stack: Stack, **values: str) -> None:
    """Add the stack's outputs."""
    for name, value in values.items():
        CfnOutput(stack, name, value=value)


def place_of(laion: s3.IBucket, role: str | None) -> dict[str, str]:
    """Return what the function is told that writes the open data."""
    return {"LAION_BUCKET": laion.bucket_name, "LAION_ROLE": role or ""}


def as_json(value: Any) -> str:
    """Return a setting as a Lambda's environment takes it."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
