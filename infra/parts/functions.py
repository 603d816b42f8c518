"""Lambdas: one per file of ``functions/``, with its log, its alarm and its rights to the table."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from aws_cdk import ArnFormat, Aws, CfnCondition, Duration, Fn, RemovalPolicy, Size, Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_events_targets as targets
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_logs as logs
from constructs import Construct

from infra.parts.environment import MODELS_FILE, models_table
from infra.parts.horde_table import HordeTable
from infra.parts.queues import DeadLetters, HandOver
from infra.settings import StackSettings
from layers.build import IN_LAYER
from layers.trimmed import ALL_ROOTS_FILE, ROOTS_FILE

LIVE = "Live"


def reached(function: lambda_.Function) -> lambda_.IFunction:
    """Return what callers invoke: a function, or its published version that has a snapshot."""
    alias = function.node.try_find_child(LIVE)
    return function if alias is None else cast("lambda_.Alias", alias)


class Functions(Construct):
    """Makes the Lambdas: arm64, Python 3.13, with the wheels layer."""

    def __init__(
        self,
        scope: Construct,
        name: str,
        settings: StackSettings,
        *,
        table: HordeTable,
    ) -> None:
        super().__init__(scope, name)
        self._settings, self._table = settings, table
        self._layer = lambda_.LayerVersion(
            self,
            "Wheels",
            code=lambda_.Code.from_asset(settings.layer),
            compatible_runtimes=[lambda_.Runtime.PYTHON_3_13],
            compatible_architectures=[lambda_.Architecture.ARM_64],
        )
        self._code = lambda_.Code.from_asset(settings.functions)
        # Without a local endpoint alone: that is plain HTTP, and its layer is not in /opt.
        self._client = {} if settings.endpoint_url else {"AWS_CA_BUNDLE": self._bundle()}
        if settings.aws_client != "thin":
            self._client["AWS_CLIENT"] = settings.aws_client

    def _bundle(self) -> str:
        """Return the path of the roots that AWS is known by: few, since each costs CPU.

        Amazon's own sign AWS's endpoints; who signs those of China or of sovereign clouds is not
        documented, so there all roots are believed.
        """
        commercial = CfnCondition(
            self, "Commercial", expression=Fn.condition_equals(Aws.PARTITION, "aws")
        )
        few, all_roots = (f"{IN_LAYER}/python/{name}" for name in (ROOTS_FILE, ALL_ROOTS_FILE))
        return Fn.condition_if(commercial.logical_id, few, all_roots).to_string()

    def _more(self, group: str | None) -> list[lambda_.ILayerVersion]:
        """Return a function's own layer; the local cloud has such wheels in its environment."""
        if group is None or not self._settings.more_layers:
            return []
        found = self.node.try_find_child(group.capitalize())
        if found is None:
            found = lambda_.LayerVersion(
                self,
                group.capitalize(),
                code=lambda_.Code.from_asset(f"{self._settings.layer}-{group}"),
                compatible_runtimes=[lambda_.Runtime.PYTHON_3_13],
                compatible_architectures=[lambda_.Architecture.ARM_64],
            )
        return [cast("lambda_.LayerVersion", found)]

    def _models(self, env: Sequence[Mapping[str, str]]) -> list[lambda_.ILayerVersion]:
        """Return the layer of the table of models, if a function reads it from a file."""
        if not any(part.get("MODELS", "").startswith(IN_LAYER) for part in env):
            return []
        found = self.node.try_find_child("Models")
        if found is None:
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, MODELS_FILE).write_text(models_table(self._settings), "utf-8")
                code = lambda_.Code.from_asset(folder)
                found = lambda_.LayerVersion(self, "Models", code=code)
        return [cast("lambda_.LayerVersion", found)]

    def make(
        self,
        name: str,
        *env: Mapping[str, str],
        may: Sequence[str] = (),
        memory: int = 512,
        seconds: int = 15,
        layer: str | None = None,
        disk: int | None = None,
    ) -> lambda_.Function:
        """Return the Lambda of ``functions/<name>.py``; what feeds it watches its errors.

        ``env`` is its environment; ``may`` is all that it may do to the table, such as
        ``GetItem``; ``memory`` is in MB, ``seconds`` its timeout. ``layer`` is a layer of its own,
        beside that of all: the locked group whose wheels it holds. ``disk`` is its ``/tmp`` in MB,
        if it needs more than Lambda's 512.
        """
        endpoint, snapshot = self._settings.endpoint_url, name in self._settings.snap_start
        stack = Stack.of(self)
        function = lambda_.Function(
            self,
            name.capitalize(),
            runtime=lambda_.Runtime.PYTHON_3_13,
            architecture=lambda_.Architecture.ARM_64,
            handler=f"{name}.handler",
            code=self._code,
            layers=[self._layer, *self._more(layer), *self._models(env)],
            memory_size=memory,
            ephemeral_storage_size=Size.mebibytes(disk) if disk else None,
            timeout=Duration.seconds(seconds),
            environment={
                **{key: value for part in env for key, value in part.items()},
                # Presigned URLs must name the region, or new buckets answer them by redirects.
                "AWS_ENDPOINT_URL_S3": endpoint or f"https://s3.{stack.region}.{stack.url_suffix}",
                **({"AWS_ENDPOINT_URL": endpoint} if endpoint else {}),
                **self._client,
            },
            snap_start=lambda_.SnapStartConf.ON_PUBLISHED_VERSIONS if snapshot else None,
            logging_format=lambda_.LoggingFormat.JSON,
            system_log_level_v2=lambda_.SystemLogLevel.WARN,
            log_group=logs.LogGroup(
                self,
                f"{name.capitalize()}Logs",
                retention=logs.RetentionDays.ONE_MONTH,
                removal_policy=RemovalPolicy.DESTROY,
            ),
        )
        if snapshot:
            # An older version is deleted with its snapshot, which is charged as long as it exists.
            lambda_.Alias(function, LIVE, alias_name="live", version=function.current_version)
        if may:
            self._table.allow(function, *may)
        return function


def run_every_minute(function: lambda_.Function, *, dead: DeadLetters) -> None:
    """Run a function every minute. A run that fails or never starts leaves a dead letter.

    A failed run is not retried, since the next run starts within a minute.
    """
    HandOver(function, tries=1, dead=dead)
    _schedule(function, "EveryMinute", Duration.minutes(1), dead)


def run_every_hour(function: lambda_.Function, *, dead: DeadLetters) -> None:
    """Run a function every hour. A run that fails thrice, or never starts, leaves a dead letter."""
    HandOver(function, tries=3, dead=dead)
    _schedule(function, "EveryHour", Duration.hours(1), dead)


def _schedule(function: lambda_.Function, name: str, every: Duration, dead: DeadLetters) -> None:
    target = targets.LambdaFunction(function, dead_letter_queue=dead.queue)
    events.Rule(function, name, schedule=events.Schedule.rate(every), targets=[target])


def allow_secret(function: lambda_.Function, parameter: str) -> None:
    """Let a function read one SecureString parameter of Systems Manager."""
    arn = Stack.of(function).format_arn(
        service="ssm",
        resource="parameter",
        resource_name=parameter.lstrip("/"),
        arn_format=ArnFormat.SLASH_RESOURCE_NAME,
    )
    function.add_to_role_policy(iam.PolicyStatement(actions=["ssm:GetParameter"], resources=[arn]))
