"""Doubles what ``cdk deploy`` makes: tables, queues, buckets and environments, from the template.

All come from the synthesized template, so renaming a key or dropping a route there turns a flow
red. What is not made: the API (``api_calls`` finds routes by itself), event source mappings
(``delivery`` reads them), roles (``rights`` holds calls to their actions, tests/e2e to their
resources), alarms, and life cycle rules.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from horde import store
from horde.wire.over_botocore import over
from tests.support import lambda_limits, moto_aws, rights
from tests.support import template as templates
from tests.support.clock import Clock
from tests.support.fake_runpod import FakeRunPod
from tests.support.moto_aws import ACCOUNT, REGION

Item = dict[str, Any]
"""An item in DynamoDB's own JSON."""


class Deployment:
    """The resources of one template, and its Lambdas, each with its own environment."""

    def __init__(self, template: Item, clients: dict[str, Any], fake_runpod: FakeRunPod) -> None:
        self.template, self.runpod, self.clock = template, fake_runpod, Clock()
        self.db, self.streams = clients["dynamodb"], clients["dynamodbstreams"]
        self.sqs, self.s3, self.ssm = clients["sqs"], clients["s3"], clients["ssm"]
        self.secrets = clients["secretsmanager"]
        self.names: dict[str, str] = {}
        """Tables, queues' URLs, buckets and functions, by logical id."""
        self.table = ""
        self.overrides: dict[str, str] = {}
        """Environment variables that a test sets, where a function has them."""
        if clients.get("made_from") is not template:
            self._make()
            made = {"made_from": template, "names": self.names, "table": self.table}
            clients.update(made)
        self.names, self.table = clients["names"], clients["table"]
        self.functions = templates.functions(template)
        self.routes = templates.routes(template)
        if "allowed" not in clients or clients.get("allowed_of") is not template:
            found = {file: templates.actions(template, file) for file in self.functions}
            clients.update(allowed=found, allowed_of=template)
        self.allowed: dict[str, set[str]] = clients["allowed"]
        """The actions of each function's role."""
        self.store = store.Store(self.table, over(self.db))

    def _make(self) -> None:
        self._make_table("horde")
        self._make_secrets()
        for name in templates.of_type(self.template, "AWS::SQS::Queue"):
            url = self.sqs.create_queue(QueueName=name)["QueueUrl"]
            self.names[name] = url
        for file, (name, _) in templates.functions(self.template).items():
            self.names[name] = file
            self.sqs.create_queue(QueueName=moto_aws.HANDED + file)
        for name in templates.of_type(self.template, "AWS::S3::Bucket"):
            self.names[name] = name.lower()
            self.s3.create_bucket(Bucket=name.lower())
        for custom in templates.of_type(self.template, "Custom::S3BucketNotifications").values():
            self._notify(custom["Properties"])

    def _make_table(self, name: str) -> None:
        ((table_id, table),) = templates.of_type(
            self.template, "AWS::DynamoDB::GlobalTable"
        ).items()
        properties = table["Properties"]
        self.table = self.names[table_id] = name
        self.db.create_table(
            TableName=self.table,
            KeySchema=properties["KeySchema"],
            AttributeDefinitions=properties["AttributeDefinitions"],
            GlobalSecondaryIndexes=[
                {key: index[key] for key in ("IndexName", "KeySchema", "Projection")}
                for index in properties["GlobalSecondaryIndexes"]
            ],
            BillingMode=properties["BillingMode"],
            StreamSpecification={"StreamEnabled": True, **properties["StreamSpecification"]},
        )

    def _notify(self, properties: dict[str, Any]) -> None:
        queues = [
            {
                "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:{entry['QueueArn']['Fn::GetAtt'][0]}",
                "Events": entry["Events"],
                "Filter": entry["Filter"],
            }
            for entry in properties["NotificationConfiguration"]["QueueConfigurations"]
        ]
        self.s3.put_bucket_notification_configuration(
            Bucket=self.names[properties["BucketName"]["Ref"]],
            NotificationConfiguration={"QueueConfigurations": queues},
        )

    def environment(self, file: str) -> dict[str, str]:
        """Return a function's environment with its references resolved."""
        variables = self.functions[file][1]["Environment"]["Variables"]
        found = {key: self._resolve(value) for key, value in variables.items()}
        if "RUNPOD_URL" in found:
            found["RUNPOD_URL"] = self.runpod.url
        if "RUNPOD_MANAGEMENT_URL" in found:
            found["RUNPOD_MANAGEMENT_URL"] = self.runpod.management_url
        return found | {key: self.overrides[key] for key in self.overrides if key in found}

    def _make_secrets(self) -> None:
        for name, found in templates.of_type(self.template, "AWS::SecretsManager::Secret").items():
            wanted = found["Properties"]["GenerateSecretString"]
            text = self.secrets.get_random_password(
                PasswordLength=wanted["PasswordLength"],
                ExcludePunctuation=wanted["ExcludePunctuation"],
            )["RandomPassword"]
            made = self.secrets.create_secret(Name=name.lower(), SecretString=text)
            self.names[name] = made["ARN"]

    def _resolve(self, value: Any) -> str:
        if isinstance(value, str):
            return value
        ((kind, inner),) = value.items()
        if kind == "Ref":
            known = {"AWS::Region": REGION, "AWS::URLSuffix": "amazonaws.com"}
            return known.get(inner) or self.names[inner]
        if kind == "Fn::If":
            return self._resolve(inner[1])  # the only condition: the partition is ``aws``
        if kind == "Fn::GetAtt" and inner[1] == "Id":
            return self.names[inner[0]]
        if kind == "Fn::Join":
            return str(inner[0]).join(self._resolve(part) for part in inner[1])
        raise NotImplementedError(kind)

    def bucket(self, part: str) -> str:
        """Return the name of the bucket whose logical id starts so."""
        (name,) = [
            found
            for found in templates.of_type(self.template, "AWS::S3::Bucket")
            if found.startswith(part)
        ]
        return name.lower()

    def invoke(self, file: str, event: dict[str, Any]) -> Any:
        """Run one Lambda in this process, with its own environment and nothing else of ours.

        An answer that Lambda would refuse, or a call that the role does not allow, fails the test.
        """
        with _environ(self.environment(file)), rights.held_to(file, self.allowed[file]):
            handler: Callable[[Any, Any], Any] = importlib.import_module(file).handler
            answer = handler(event, None)
        lambda_limits.check_answer(file, answer)
        return answer


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
