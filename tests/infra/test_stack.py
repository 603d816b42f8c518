"""The synthesized template: what each function may do, and what happens when it fails."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from horde.edge import http
from horde.ending import FLEET_DROP
from horde.records import GALLERY_DAYS, HELD_DAYS, SHARED_DAYS
from horde.release import shard
from infra.settings import API_FUNCTIONS
from tests.support.template import ROOT, actions, functions, of_type, routes, synthesize

Template = dict[str, Any]
FILES = sorted(path.stem for path in (ROOT / "functions").glob("*.py"))

READ_IMAGES = {"s3:GetBucket*", "s3:GetObject*", "s3:List*"}
PUT = {
    "s3:Abort*",
    "s3:PutObject",
    "s3:PutObjectLegalHold",
    "s3:PutObjectRetention",
    "s3:PutObjectTagging",
    "s3:PutObjectVersionTagging",
}
CONSUME = {
    "sqs:ChangeMessageVisibility",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:GetQueueUrl",
    "sqs:ReceiveMessage",
}
SECRET = {"secretsmanager:GetSecretValue"}
SEND = {"sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:SendMessage"}
HAND_OVER = {"lambda:InvokeFunction"}


def listed(one: Any) -> list[Any]:
    """What a policy writes alone if it is one, and as a list if they are several."""
    return one if isinstance(one, list) else [one]


def verbs(*names: str) -> set[str]:
    return {f"dynamodb:{name}" for name in names}


ENDING = verbs("GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem")
MAY = {
    "about": set(),
    "generate": verbs("GetItem", "BatchGetItem", "PutItem", "UpdateItem", "Query") | PUT | SECRET,
    "enqueue": verbs("DescribeStream", "GetRecords", "GetShardIterator", "ListStreams")
    | SEND
    | HAND_OVER,
    "dispatch": verbs("GetItem", "Query") | SEND | {"ssm:GetParameter"},
    "worker": ENDING | verbs("ConditionCheckItem") | PUT | READ_IMAGES | {"s3:DeleteObject*"},
    "status": ENDING | verbs("ConditionCheckItem") | READ_IMAGES,
    "users": verbs("GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem") | SECRET,
    "keys": verbs("GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"),
    "payouts": verbs("DescribeStream", "GetRecords", "GetShardIterator", "ListStreams")
    | verbs("BatchGetItem", "PutItem", "UpdateItem")
    | SEND,
    "browse": verbs("GetItem", "BatchGetItem", "Query"),
    "manage": verbs("GetItem", "PutItem", "UpdateItem", "DeleteItem"),
    "styles": verbs("GetItem", "BatchGetItem", "Query", "PutItem", "UpdateItem", "DeleteItem"),
    "rate": ENDING | verbs("ConditionCheckItem") | READ_IMAGES,
    "webhook": verbs("GetItem") | SEND | READ_IMAGES,
    "transfer": verbs("GetItem", "PutItem", "UpdateItem", "DeleteItem"),
    "share": verbs("GetItem", "BatchGetItem", "PutItem", "UpdateItem", "DeleteItem")
    | verbs("ConditionCheckItem")
    | CONSUME
    | PUT
    | READ_IMAGES
    | {"s3:DeleteObject*"}
    | SECRET,
    "recover": verbs("BatchGetItem", "UpdateItem") | SEND | {"s3:ListBucket", "s3:DeleteObject*"},
    "release": verbs("GetItem", "BatchGetItem", "PutItem", "UpdateItem", "Query", "DeleteItem")
    | verbs("ConditionCheckItem")
    | PUT
    | READ_IMAGES
    | {"s3:DeleteObject*"}
    | SECRET,
    "screen": verbs("GetItem", "BatchGetItem", "PutItem", "UpdateItem")
    | PUT
    | READ_IMAGES
    | {"s3:DeleteObject*"},
    "withdraw": verbs("GetItem", "BatchGetItem", "PutItem", "UpdateItem") | SECRET,
    "pack": verbs("GetItem", "BatchGetItem", "PutItem", "UpdateItem")
    | PUT
    | READ_IMAGES
    | {"s3:DeleteObject*"},
    "finish": ENDING | verbs("ConditionCheckItem") | SEND | {"s3:DeleteObject*"},
    "sweep": ENDING
    | verbs("ConditionCheckItem")
    | SEND
    | HAND_OVER
    | {"s3:DeleteObject*", "ssm:GetParameter"},
}


def test_every_file_in_functions_is_one_lambda(template: Template) -> None:
    assert sorted(functions(template)) == FILES


@pytest.mark.parametrize("file", FILES)
def test_a_function_may_do_what_the_table_says_and_nothing_more(
    template: Template, file: str
) -> None:
    assert actions(template, file) == MAY[file]


def test_no_function_may_do_everything_to_anything(template: Template) -> None:
    for policy in of_type(template, "AWS::IAM::Policy").values():
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            listed = statement["Action"]
            if listed not in ("dynamodb:ListStreams", "s3:PutBucketNotification"):
                assert statement["Resource"] != "*", statement


OBJECTS = {
    "worker": {
        "s3:PutObject": {"uploads/*", "shared/*", "private/*"},
        "s3:GetObject*": {"uploads/*"},
        "s3:DeleteObject*": {"uploads/*"},
    },
    "status": {"s3:GetObject*": {"shared/*", "private/*"}},
    "webhook": {"s3:GetObject*": {"shared/*", "private/*"}},
    "share": {"s3:GetObject*": {"shared/*"}},
    "recover": {"s3:DeleteObject*": {"shared/*"}},
}
"""What may be done to which objects of the outputs bucket."""


def test_only_a_submit_reads_an_upload_and_only_it_writes_what_is_delivered(
    template: Template,
) -> None:
    (outputs,) = [
        name for name in of_type(template, "AWS::S3::Bucket") if name.startswith("Outputs")
    ]
    files = {value[1]["Role"]["Fn::GetAtt"][0]: f for f, value in functions(template).items()}
    found: dict[str, dict[str, set[str]]] = {}
    for policy in of_type(template, "AWS::IAM::Policy").values():
        (role,) = policy["Properties"]["Roles"]
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            resources, listed = statement["Resource"], statement["Action"]
            for resource in resources if isinstance(resources, list) else [resources]:
                if not isinstance(resource, dict) or "Fn::Join" not in resource:
                    continue
                where, path = resource["Fn::Join"][1][0], resource["Fn::Join"][1][-1]
                if where != {"Fn::GetAtt": [outputs, "Arn"]}:
                    continue
                for action in [listed] if isinstance(listed, str) else listed:
                    if action in {"s3:GetObject*", "s3:PutObject", "s3:DeleteObject*"}:
                        kinds = found.setdefault(files[role["Ref"]], {})
                        kinds.setdefault(action, set()).add(path.removeprefix("/"))
    assert found == OBJECTS


def test_share_hears_of_what_is_delivered_and_may_be_shared_alone(template: Template) -> None:
    (notified,) = of_type(template, "Custom::S3BucketNotifications").values()
    (queue,) = notified["Properties"]["NotificationConfiguration"]["QueueConfigurations"]
    assert queue["Filter"]["Key"]["FilterRules"] == [{"Name": "prefix", "Value": "shared/"}]


def test_share_and_what_makes_releases_alone_reach_the_laion_bucket(template: Template) -> None:
    (laion,) = [name for name in of_type(template, "AWS::S3::Bucket") if name.startswith("Laion")]
    writers = {
        policy["Properties"]["Roles"][0]["Ref"]
        for policy in of_type(template, "AWS::IAM::Policy").values()
        if laion in json.dumps(policy["Properties"]["PolicyDocument"])
    }
    files = ("share", "release", "screen", "pack")
    found = functions(template)
    assert writers == {found[file][1]["Role"]["Fn::GetAtt"][0] for file in files}


def test_every_route_of_the_api_has_its_handler(template: Template) -> None:
    answered = {
        route: file
        for file in FILES
        for route in getattr(importlib.import_module(file), "ROUTES", {})
    }
    assert routes(template) == answered


@pytest.mark.parametrize("file", FILES)
def test_a_function_is_told_exactly_what_its_settings_ask_for(
    template: Template, file: str
) -> None:
    env = set(functions(template)[file][1]["Environment"]["Variables"])
    settings = importlib.import_module(file).Settings
    assert env - {"AWS_ENDPOINT_URL_S3", "AWS_CA_BUNDLE"} == {
        name.upper() for name in settings.model_fields
    }


@pytest.mark.slow
def test_functions_that_start_from_snapshots_are_called_by_their_published_version() -> None:
    template = synthesize(snap_start=["generate", "worker"])
    for file, (name, function) in functions(template).items():
        chosen = file in {"generate", "worker"}
        assert ("SnapStart" in function) is chosen
        if not chosen:
            continue
        assert function["SnapStart"] == {"ApplyOn": "PublishedVersions"}
        (version,) = [
            key
            for key, found in of_type(template, "AWS::Lambda::Version").items()
            if found["Properties"]["FunctionName"] == {"Ref": name}
        ]
        assert template["Resources"][version].get("DeletionPolicy", "Delete") == "Delete"
        (alias,) = [
            key
            for key, found in of_type(template, "AWS::Lambda::Alias").items()
            if found["Properties"]["FunctionName"] == {"Ref": name}
        ]
        number = template["Resources"][alias]["Properties"]["FunctionVersion"]
        assert number == {"Fn::GetAtt": [version, "Version"]}
        targets = [
            found["Properties"]["IntegrationUri"]
            for found in of_type(template, "AWS::ApiGatewayV2::Integration").values()
        ]
        assert {"Ref": alias} in targets
        assert {"Fn::GetAtt": [name, "Arn"]} not in targets
        allowed = [
            found["Properties"]["FunctionName"]
            for found in of_type(template, "AWS::Lambda::Permission").values()
        ]
        assert {"Ref": alias} in allowed


def test_without_the_setting_no_version_is_published(template: Template) -> None:
    assert of_type(template, "AWS::Lambda::Version") == {}
    assert of_type(template, "AWS::Lambda::Alias") == {}


def test_every_function_behind_the_api_and_no_other_may_have_a_snapshot() -> None:
    behind = {file for file in FILES if hasattr(importlib.import_module(file), "ROUTES")}
    assert set(API_FUNCTIONS) == behind


def test_every_queue_that_feeds_a_function_has_a_dlq(template: Template) -> None:
    for mapping in of_type(template, "AWS::Lambda::EventSourceMapping").values():
        properties = mapping["Properties"]
        assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        source = template["Resources"][properties["EventSourceArn"]["Fn::GetAtt"][0]]
        if source["Type"] == "AWS::SQS::Queue":
            assert source["Properties"]["RedrivePolicy"]["deadLetterTargetArn"]
        else:
            assert properties["DestinationConfig"]["OnFailure"]["Destination"]
            assert properties["MaximumRetryAttempts"] > 0


def test_payouts_waits_for_more_records_and_no_other_reader_of_the_stream_does(
    template: Template,
) -> None:
    waits = {
        mapping["Properties"]["FunctionName"]["Ref"]: mapping["Properties"].get(
            "MaximumBatchingWindowInSeconds", 0
        )
        for mapping in of_type(template, "AWS::Lambda::EventSourceMapping").values()
        if "FilterCriteria" in mapping["Properties"]
    }
    names = {file: name for file, (name, _) in functions(template).items()}
    assert waits.pop(names["payouts"]) > 0
    assert waits == {names["enqueue"]: 0}


def test_the_sweep_has_a_dlq_for_a_run_that_failed_and_for_one_that_never_came(
    template: Template,
) -> None:
    assert schedules(template) == {
        "sweep": "rate(1 minute)",
        "recover": "rate(1 hour)",
        "the state machine": "cron(17 3 * * ? *)",
    }
    assert handed(template)["sweep"]["MaximumRetryAttempts"] == 0


def schedules(template: Template) -> dict[str, str]:
    """When each function runs that nobody calls; a run that never starts leaves a dead letter."""
    files, found = {name: file for file, (name, _) in functions(template).items()}, {}
    for rule in of_type(template, "AWS::Events::Rule").values():
        (target,) = rule["Properties"]["Targets"]
        assert target["DeadLetterConfig"]["Arn"]
        arn = target["Arn"]
        name = files[arn["Fn::GetAtt"][0]] if "Fn::GetAtt" in arn else "the state machine"
        found[name] = rule["Properties"]["ScheduleExpression"]
    return found


def test_an_hours_look_for_lost_copies_ends_before_the_next_one_begins(template: Template) -> None:
    assert functions(template)["recover"][1]["Timeout"] < 3600
    assert (
        functions(template)["recover"][1]["Timeout"] > importlib.import_module("recover").WORKED_S
    )


def handed(template: Template) -> dict[str, Any]:
    """How Lambda runs each function that is started asynchronously, by file."""
    files = {name: file for file, (name, _) in functions(template).items()}
    return {
        files[one["Properties"]["FunctionName"]["Ref"]]: one["Properties"]
        for one in of_type(template, "AWS::Lambda::EventInvokeConfig").values()
    }


def watched(template: Template) -> set[str]:
    """The queues, functions and APIs of which an alarm tells somebody within five minutes."""
    found = set()
    for alarm in of_type(template, "AWS::CloudWatch::Alarm").values():
        properties = alarm["Properties"]
        assert properties["AlarmActions"]
        assert properties["Period"] * properties["EvaluationPeriods"] <= 300
        for dimension in properties.get("Dimensions", []):
            ((kind, value),) = dimension["Value"].items()
            found.add(value[0] if kind == "Fn::GetAtt" else value)
    return found


def test_every_dlq_has_an_alarm(template: Template) -> None:
    fed = {
        mapping["Properties"]["EventSourceArn"]["Fn::GetAtt"][0]
        for mapping in of_type(template, "AWS::Lambda::EventSourceMapping").values()
    }
    assert set(of_type(template, "AWS::SQS::Queue")) - fed <= watched(template)


@pytest.mark.parametrize("file", FILES)
def test_a_crash_of_any_function_rings(template: Template, file: str) -> None:
    name, rings = functions(template)[file][0], watched(template)
    if file in routes(template).values():  # API Gateway turns a crash into a 5xx answer
        (api,) = of_type(template, "AWS::ApiGatewayV2::Api")
        assert api in rings
    elif file in handed(template):  # after at most two more tries, one and two minutes later
        target = handed(template)[file]["DestinationConfig"]["OnFailure"]["Destination"]
        assert handed(template)[file]["MaximumRetryAttempts"] <= 2
        assert target["Fn::GetAtt"][0] in rings
    elif file in {"release", "screen", "pack"}:  # Step Functions tries again, and fails then
        (machine,) = of_type(template, "AWS::StepFunctions::StateMachine")
        assert machine in rings
    else:  # a queue or a stream tries again for long
        assert name in rings


def test_a_function_is_started_by_those_alone_that_hand_over_to_it(template: Template) -> None:
    files = {name: file for file, (name, _) in functions(template).items()}
    roles = {found["Role"]["Fn::GetAtt"][0]: f for f, (_, found) in functions(template).items()}
    (machine,) = of_type(template, "AWS::StepFunctions::StateMachine").values()
    roles[machine["Properties"]["RoleArn"]["Fn::GetAtt"][0]] = "the state machine"
    found = {
        (roles[policy["Properties"]["Roles"][0]["Ref"]], files[target["Fn::GetAtt"][0]])
        for policy in of_type(template, "AWS::IAM::Policy").values()
        for one in policy["Properties"]["PolicyDocument"]["Statement"]
        if one["Action"] == "lambda:InvokeFunction"
        for target in listed(one["Resource"])
        if "Fn::GetAtt" in target  # else a version of one of them
    }
    steps = {("the state machine", file) for file in ("release", "screen", "pack")}
    assert found - steps == {("enqueue", "dispatch"), ("enqueue", "webhook"), ("sweep", "finish")}
    assert found >= steps


def test_the_operators_own_workers_ring_if_they_drop_many_images(template: Template) -> None:
    alarms = {
        alarm["Properties"]["MetricName"]: alarm["Properties"]
        for alarm in of_type(template, "AWS::CloudWatch::Alarm").values()
    }
    filters = [
        found["Properties"]
        for found in of_type(template, "AWS::Logs::MetricFilter").values()
        if FLEET_DROP in found["Properties"]["FilterPattern"]
    ]
    logs = {json.dumps(found["LogGroupName"]) for found in filters}
    assert logs == {
        json.dumps(functions(template)[file][1]["LoggingConfig"]["LogGroup"])
        for file in ("worker", "sweep")
    }
    for found in filters:  # both feed one metric, which is the alarm's
        (counted,) = found["MetricTransformations"]
        alarm = alarms[counted["MetricName"]]
        assert (alarm["Namespace"], alarm["Threshold"]) == (counted["MetricNamespace"], 20)


def test_an_answer_of_5xx_rings_although_the_function_did_not_fail(template: Template) -> None:
    (api,) = of_type(template, "AWS::ApiGatewayV2::Api")
    alarms = [alarm["Properties"] for alarm in of_type(template, "AWS::CloudWatch::Alarm").values()]
    assert [
        alarm["MetricName"]
        for alarm in alarms
        if alarm.get("Dimensions") == [{"Name": "ApiId", "Value": {"Ref": api}}]
    ] == ["5xx"]


def test_a_message_stays_hidden_for_six_times_its_function(template: Template) -> None:
    for mapping in of_type(template, "AWS::Lambda::EventSourceMapping").values():
        source = template["Resources"][mapping["Properties"]["EventSourceArn"]["Fn::GetAtt"][0]]
        if source["Type"] == "AWS::SQS::Queue":
            function = template["Resources"][mapping["Properties"]["FunctionName"]["Ref"]]
            timeout = function["Properties"]["Timeout"]
            assert source["Properties"]["VisibilityTimeout"] >= 6 * timeout


def test_an_early_upload_event_outlives_the_longest_ordinary_lease(template: Template) -> None:
    share = importlib.import_module("share")
    (queue,) = [
        found["Properties"]
        for name, found in of_type(template, "AWS::SQS::Queue").items()
        if name.startswith("Uploads") and "RedrivePolicy" in found["Properties"]
    ]
    tries = queue["RedrivePolicy"]["maxReceiveCount"]
    assert sum(share.pause_seconds(receive) for receive in range(1, tries)) > 3600


def test_buckets_and_the_table_are_private_encrypted_and_kept(template: Template) -> None:
    for name, bucket in of_type(template, "AWS::S3::Bucket").items():
        assert all(bucket["Properties"]["PublicAccessBlockConfiguration"].values())
        kept = "Retain" if name.startswith("Laion") else "Delete"
        assert bucket["DeletionPolicy"] == kept
    (table,) = of_type(template, "AWS::DynamoDB::GlobalTable").values()
    assert table["DeletionPolicy"] == "Retain"
    (replica,) = table["Properties"]["Replicas"]
    assert replica["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


EXPIRES: dict[str, dict[str, int]] = {
    "Outputs": {"uploads/": 1, "private/": 1, "shared/": SHARED_DAYS},
    "Sources": {"": 1},
    "Held": {"": HELD_DAYS},
    "Gallery": {"": GALLERY_DAYS},
    "ReleasesWork": {"2": 14},  # the releases; the operator's lists stay
    "Laion": {},
}
"""The days after which the objects of each bucket expire, by their prefix."""


def test_an_image_in_the_private_buckets_is_forgotten_in_time(template: Template) -> None:
    found: dict[str, dict[str, int]] = {}
    for name, bucket in of_type(template, "AWS::S3::Bucket").items():
        rules = bucket["Properties"]["LifecycleConfiguration"]["Rules"]
        assert all(rule["Status"] == "Enabled" for rule in rules)
        (kind,) = [kind for kind in EXPIRES if name.startswith(kind)]
        found[kind] = {
            rule.get("Prefix", ""): rule["ExpirationInDays"]
            for rule in rules
            if "ExpirationInDays" in rule
        }
    assert found == EXPIRES


def test_a_shared_file_outlives_the_dead_letter_that_asks_for_its_copy(template: Template) -> None:
    queues = of_type(template, "AWS::SQS::Queue").values()
    longest = max(one["Properties"].get("MessageRetentionPeriod", 0) for one in queues)
    assert EXPIRES["Outputs"]["shared/"] * 24 * 3600 > longest == 14 * 24 * 3600


def test_every_bucket_states_its_encryption_aborts_uploads_and_keeps_no_versions(
    template: Template,
) -> None:
    for bucket in of_type(template, "AWS::S3::Bucket").values():
        found = bucket["Properties"]
        (rule,) = found["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
        assert "VersioningConfiguration" not in found
        rules = found["LifecycleConfiguration"]["Rules"]
        (abort,) = [one for one in rules if "AbortIncompleteMultipartUpload" in one]
        assert abort["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
        assert "Prefix" not in abort


def test_no_bucket_is_read_or_written_without_tls(template: Template) -> None:
    refused = set()
    for policy in of_type(template, "AWS::S3::BucketPolicy").values():
        for one in policy["Properties"]["PolicyDocument"]["Statement"]:
            if one["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}:
                assert (one["Effect"], one["Action"]) == ("Deny", "s3:*")
                refused.add(policy["Properties"]["Bucket"]["Ref"])
    assert refused == set(of_type(template, "AWS::S3::Bucket"))


def test_a_preflight_promises_what_the_functions_answers_say(template: Template) -> None:
    answered = http.serve({}, {"routeKey": "$default"})["headers"]
    (api,) = of_type(template, "AWS::ApiGatewayV2::Api").values()
    cors = api["Properties"]["CorsConfiguration"]
    assert cors["AllowOrigins"] == [answered["Access-Control-Allow-Origin"]]
    assert ", ".join(cors["AllowHeaders"]) == answered["Access-Control-Allow-Headers"]
    assert ", ".join(cors["AllowMethods"]) == answered["Access-Control-Allow-Methods"]
    assert ", ".join(cors["ExposeHeaders"]) == answered["Access-Control-Expose-Headers"]
    assert {"apikey", "Client-Agent", "Content-Type"} <= set(cors["AllowHeaders"])
    assert {"GET", "POST", "DELETE", "OPTIONS"} <= set(cors["AllowMethods"])


def test_the_functions_are_told_which_endpoint_draws_a_model(template: Template) -> None:
    env = functions(template)["dispatch"][1]["Environment"]["Variables"]
    assert json.loads(env["MODELS"])["SDXL 1.0"] == {
        "endpoint": "ep2",
        "baseline": "stable_diffusion_xl",
    }


def test_no_file_of_what_is_deployed_is_long() -> None:
    deployed = [*(ROOT / "infra").glob("*.py"), *(ROOT / "infra" / "parts").glob("*.py")]
    assert {path.name for path in deployed if len(path.read_text().splitlines()) > 250} == set()


def test_the_stack_reads_as_one_page() -> None:
    lines = (ROOT / "infra" / "stack.py").read_text().splitlines()
    assert len(lines) <= 130


def test_functions_import_no_heavy_or_foreign_module() -> None:
    for path in [*(ROOT / "functions").glob("*.py"), *(ROOT / "functions/horde").glob("*.py")]:
        text = path.read_text()
        for module in ("boto3", "import runpod", "aws_xray", "Tracer", "infra", "gpu_worker"):
            needle = module if " " in module else f"import {module}"
            if module == "import runpod" and "from horde" in text:
                needle = "\nimport runpod"
            assert needle not in text, (path, module)
            assert f"from {module} " not in text, (path, module)


OWN_LAYERS = {"release": "release", "pack": "release", "screen": "screening"}
"""The functions with a layer of their own, and the locked group that it holds."""
WORKS = {"screen": "from horde.detector import _opennsfw; _opennsfw()"}
"""What such a function imports later."""


def layer_of(group: str, folder: Path) -> Path:
    """Link what a locked group has in this environment, as its layer would have it."""
    from importlib.metadata import files

    for line in (ROOT / "requirements" / f"{group}.txt").read_text().splitlines():
        if "==" not in line:
            continue
        for name in {file.parts[0] for file in files(line.partition("==")[0]) or ()} - {".."}:
            if not (folder / name).is_symlink():  # a package may have a pin for each Python
                (folder / name).symlink_to(Path(pytest.__file__).parents[1] / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_function_imports_with_its_layers_alone(file: str, tmp_path: Path) -> None:
    import subprocess

    from layers import build

    folders = [str(build.functions("host")), str(build.layer("host") / "python")]
    if file in OWN_LAYERS:
        folders.append(str(layer_of(OWN_LAYERS[file], tmp_path)))
    code = f"import sys; sys.path[:0] = {folders!r}; import {file}; {file}.handler"
    code = f"{code}; {WORKS.get(file, '')}"
    python = sys._base_executable  # type: ignore[attr-defined]  # without this environment
    done = subprocess.run(
        [python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_makes_releases_has_the_disk_that_its_tables_need(template: Template) -> None:
    """Of one part up to a gigabyte of rows, as lines and as a table; of a release those of all."""
    disks = {
        file: found["EphemeralStorage"]["Size"]
        for file, (_, found) in functions(template).items()
        if "EphemeralStorage" in found
    }
    assert disks == {"release": 10_240, "pack": 4096}
    assert disks["pack"] * 2**20 > 2 * shard.MAX_BYTES
