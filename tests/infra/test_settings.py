"""A stage's settings: what they are, and what is refused before anything is deployed."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from horde.rules import admission, pricing
from horde.rules.ruleset import IN_FORCE
from infra import app, stages
from infra.models import BASELINES, MAX_MODELS
from infra.operate import OperatorError, commands, deployed
from infra.settings import MAX_BATCH, StackSettings
from infra.stages import SettingsError
from tests.support.template import ROOT, functions, of_type, synthesize

MODELS = {"stable_diffusion": {"endpoint": "abc123", "baseline": "stable_diffusion_1"}}
FLAGS = json.loads((ROOT / "cdk.json").read_text())["context"]


@pytest.fixture
def context(tmp_path: Path) -> dict[str, Any]:
    """The context of a deploy with no option, but for where the settings are."""
    write(tmp_path, {})
    return {**FLAGS, "settings": str(tmp_path)}


def write(folder: Path, settings: dict[str, Any] | str, stage: str = "prod") -> None:
    if isinstance(settings, dict):
        settings = json.dumps(
            {"models": MODELS, "layer": "functions", "functions": "functions", **settings}
        )
    (folder / f"{stage}.json").write_text(settings)


def refusal(context: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as refused:
        stages.read(context)
    (line,) = str(refused.value).splitlines()
    return line.replace(f"{context['settings']}/", "")


def model(**fields: Any) -> dict[str, Any]:
    return {"models": {"sdxl": {"endpoint": "abc", "baseline": "stable_diffusion_xl", **fields}}}


ROLE = "arn:aws:iam::123456789012:role/writer"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"image_per_ticket": 4}, "image_per_ticket: is not a setting (did you mean 'images_per_"),
    ({"tax": 2}, "tax: is not a setting"),
    ({"models": {}}, "models: {} is empty"),
    (
        {"models": {f"{n:090}": MODELS["stable_diffusion"] for n in range(MAX_MODELS + 1)}},
        f"has more than {MAX_MODELS} entries",
    ),
    (
        {"screening_words": [f"{n:090}" for n in range(40)]},
        "and its functions have room for 2000; lists/words.txt in the work bucket takes any",
    ),
    (model(max_pixels=4095), "models.sdxl.max_pixels: 4095"),
    (model(max_workers=0), "models.sdxl.max_workers: 0 is less than 1"),
    (model(max_workers="9"), 'models.sdxl.max_workers: "9" is not a whole number'),
    (model(max_workers=1001), "models.sdxl.max_workers: 1001 is more than 1000"),
    (model(max_pixels="1024x1024"), 'models.sdxl.max_pixels: "1024x1024"'),
    ({"models": "sdxl"}, 'models: "sdxl" is not an object'),
    ({"models": {"sdxl": "abc"}}, 'models.sdxl: "abc" is not an object'),
    ({"models": {" ": MODELS["stable_diffusion"]}}, 'models[" "]: " " is not a model\'s name'),
    (
        {"models": {"sdxl": {"baseline": "stable_diffusion_xl"}}},
        "models.sdxl.endpoint: is missing; null means that volunteers alone draw it",
    ),
    ({"models": {"sdxl": {"endpoint": None}}}, "models.sdxl.baseline: is missing"),
    (model(default={}), "models.sdxl.default: is not a setting (did you mean 'defaults'?)"),
    (model(defaults={"step": 4}), "defaults.step: is not a setting (did you mean 'steps'?)"),
    (model(defaults={"steps": 0}), "models.sdxl.defaults.steps: 0 is less than 1"),
    (model(defaults={"cfg_scale": 1.234}), "defaults.cfg_scale: 1.234 has more than two decimals"),
    (model(defaults={"width": 1000}), "models.sdxl.defaults.width: 1000 is not a multiple of 64"),
    (model(defaults={"sampler_name": "k_euler_b"}), "is not a sampler (did you mean 'k_"),
    (model(source="sdxl"), 'source: "sdxl" is not a path in the worker, or ORG/NAME of the hub'),
    (model(source="a/b/c"), 'source: "a/b/c" is not a path in the worker, or ORG/NAME of the hub'),
    (model(source="a/b", revision="main"), 'revision: "main" is not a commit of the hub'),
    (model(source="/a", revision="a" * 40), "needs a source on the hub, ORG/NAME"),
    (model(memory_gb=0), "models.sdxl.memory_gb: 0 "),
    (model(controlnets="a/b"), 'controlnets: "a/b" is not a path in the worker'),
    (model(native_size=1000), "models.sdxl.native_size: 1000 is not a multiple of 64"),
    (model(price_family="sdxl"), 'models.sdxl.price_family: "sdxl" is not a model family'),
    (model(endpoint=""), 'models.sdxl.endpoint: "" is not the id of a RunPod endpoint'),
    (model(endpoint="YOUR_ID"), 'models.sdxl.endpoint: "YOUR_ID" is not the id'),
    (
        model(endpoint="https://api.runpod.ai/v2/abc"),
        'models.sdxl.endpoint: "https://api.runpod.ai/v2/abc" is not the id of a RunPod endpoint',
    ),
    (model(endpoint=7), "models.sdxl.endpoint: 7 is not a text"),
    (model(baseline="stable_difusion_xl"), "is not a model family (did you mean 'stable_diffusion"),
    (model(baseline=""), 'models.sdxl.baseline: "" is not a model family'),
    (model(end_point="x"), "models.sdxl.end_point: is not a setting (did you mean 'endpoint'?)"),
    (
        {"models": {"SD 1.5": {"endpoint": "A", "baseline": "stable_diffusion_1"}}},
        'models["SD 1.5"].endpoint: "A" is not the id',
    ),
    ({"images_per_ticket": 0}, "images_per_ticket: 0 is less than 1"),
    ({"images_per_ticket": -4}, "images_per_ticket: -4 is less than 1"),
    ({"images_per_ticket": MAX_BATCH + 1}, f"images_per_ticket: {MAX_BATCH + 1} is more than"),
    ({"images_per_ticket": "4"}, 'images_per_ticket: "4" is not a whole number'),
    ({"images_per_ticket": 2.5}, "images_per_ticket: 2.5 is not a whole number"),
    ({"images_per_ticket": True}, "images_per_ticket: true is not a whole number"),
    ({"images_per_ticket": None}, "images_per_ticket: null is not a whole number"),
    ({"cold_start_seconds": -1}, "cold_start_seconds: -1 is less than 0"),
    ({"max_wait_seconds": 0}, "max_wait_seconds: 0 is less than 1"),
    ({"max_wait_seconds": 3601}, "max_wait_seconds: 3601 is more than 3600"),
    ({"runpod_management_url": "http://api.runpod.io/v2"}, "is not an https address"),
    ({"runpod_management_url": 7}, "runpod_management_url: 7 is not a text"),
    ({"runpod_url": "http://api.runpod.ai/v2"}, "is not an https address"),
    ({"runpod_url": "http://127.0.0.1:8090/v2"}, "plain http is for the local cloud alone"),
    ({"runpod_url": "api.runpod.ai/v2"}, 'runpod_url: "api.runpod.ai/v2" is not an https address'),
    ({"runpod_url": "https://"}, 'runpod_url: "https://" is not an https address'),
    ({"runpod_url": "https://[bad/v2"}, "runpod_url: "),
    ({"runpod_url": "https://a.org/v2?key=1"}, "has more than a host and a path"),
    ({"endpoint_url": "https://aws.example.org"}, "endpoint_url: "),
    ({"endpoint_url": "http://10.0.0.1:4566"}, "is not the local cloud"),
    ({"runpod_key_parameter": ""}, 'runpod_key_parameter: "" is not the name of an SSM parameter'),
    ({"runpod_key_parameter": "/a//b"}, 'runpod_key_parameter: "/a//b" is not the name'),
    ({"runpod_key_parameter": "a/b"}, 'runpod_key_parameter: "a/b" is not the name'),
    ({"runpod_key_parameter": "/key!"}, 'runpod_key_parameter: "/key!" is not the name'),
    ({"runpod_key_parameter": "/aws/key"}, "AWS keeps 'aws' and 'ssm' to itself"),
    ({"laion_bucket": "My_Bucket"}, 'laion_bucket: "My_Bucket" is not the name of an S3 bucket'),
    ({"laion_bucket": "ab"}, 'laion_bucket: "ab" is not the name'),
    ({"laion_bucket": "a..b"}, 'laion_bucket: "a..b" is not the name'),
    ({"laion_bucket": "192.168.0.1"}, 'laion_bucket: "192.168.0.1" is not the name'),
    ({"laion_bucket": "s3://laion-art"}, 'laion_bucket: "s3://laion-art" is not the name'),
    ({"laion_bucket": "art--x-s3"}, "AWS keeps such names to itself"),
    ({"laion_bucket": ""}, 'laion_bucket: "" is not the name'),
    ({"laion_bucket": "laion", "laion_role": "writer"}, 'laion_role: "writer" is not the ARN'),
    (
        {"laion_bucket": "laion", "laion_role": "arn:aws:iam::1234:role/writer"},
        'laion_role: "arn:aws:iam::1234:role/writer" is not the ARN of a role',
    ),
    (
        {"laion_bucket": "laion", "laion_role": "arn:aws:iam::123456789012:user/ada"},
        "is not the ARN of a role",
    ),
    ({"laion_role": ROLE}, f'laion_role: "{ROLE}" needs laion_bucket'),
    ({"laion_region": "eu-west-1"}, 'laion_region: "eu-west-1" needs laion_bucket'),
    ({"laion_bucket": "laion", "laion_region": "Ireland"}, '"Ireland" is not an AWS region'),
    ({"laion_external_id": "horde-7"}, 'laion_external_id: "horde-7" needs laion_role'),
    (
        {"laion_bucket": "laion", "laion_external_id": "horde-7"},
        'laion_external_id: "horde-7" needs laion_role',
    ),
    (
        {"laion_bucket": "laion", "laion_role": ROLE, "laion_external_id": "a b"},
        'laion_external_id: "a b" is not an external id',
    ),
    ({"laion_readers": ["laion"]}, 'laion_readers[0]: "laion" is not an account\'s 12 digits or'),
    ({"laion_readers": ["*"]}, 'laion_readers[0]: "*" is not an account'),
    (
        {"laion_readers": ["arn:aws:iam::123456789012:group/all"]},
        "laion_readers[0]: ",
    ),
    (
        {"laion_bucket": "laion", "laion_readers": ["123456789012"]},
        'laion_readers: ["123456789012"] is for the stack\'s own bucket',
    ),
    ({"laion_requester_pays": True}, "laion_requester_pays: true needs laion_readers"),
    ({"alarm_email": "ada"}, 'alarm_email: "ada" is not an e-mail address'),
    ({"alarm_email": "ada@localhost"}, 'alarm_email: "ada@localhost" is not an e-mail address'),
    ({"rate_limits": "false"}, 'rate_limits: "false" is neither true nor false'),
    ({"trusted_ips": "10.0.0.0/8"}, 'trusted_ips: "10.0.0.0/8" is not a list'),
    ({"trusted_ips": None}, "trusted_ips: null is not a list"),
    (
        {"trusted_ips": ["10.0.0.0/8", "10.0.0.0/33"]},
        'trusted_ips[1]: "10.0.0.0/33" is not an IP address or network',
    ),
    (
        {"trusted_ips": ["10.1.2.3/8"]},
        "trusted_ips[0]: \"10.1.2.3/8\" has host bits set (did you mean '10.0.0.0/8'?)",
    ),
    ({"trusted_ips": ["example.org"]}, 'trusted_ips[0]: "example.org" is not an IP address'),
    ({"trusted_ips": [""]}, 'trusted_ips[0]: "" is not an IP address'),
    ({"admins": ["ada"]}, 'admins[0]: "ada" is not a whole number'),
    ({"admins": ["7"]}, 'admins[0]: "7" is not a whole number'),
    ({"admins": [1, -7]}, "admins[1]: -7 is less than 1"),
    ({"admins": [0]}, "admins[0]: 0 is less than 1"),
    ({"admins": "1,2"}, 'admins: "1,2" is not a list'),
    ({"monthly_kudos": -1}, "monthly_kudos: -1 is less than 0"),
    ({"snap_start": ["generat"]}, 'snap_start[0]: "generat" is not a function behind the API (did'),
    ({"snap_start": ["share"]}, 'snap_start[0]: "share" is not a function behind the API'),
    ({"snap_start": True}, "snap_start: true is not a list"),
    ({"contact": None}, "contact: null is not a text"),
    ({"layer": "build/nowhere"}, "layer: there is no folder 'build/nowhere'"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=lambda part: str(part)[:60])
def test_a_wrong_setting_is_refused_in_one_line_that_names_file_and_key(
    context: dict[str, Any], tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    write(tmp_path, settings)
    line = refusal(context)
    assert line.startswith("prod.json: ")
    assert said in line


def test_all_wrong_settings_are_named_at_once(context: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, {"admins": [0], "monthly_kudos": -1, "colour": "red"})
    line = refusal(context)
    assert all(f"{key}: " in line for key in ("admins[0]", "monthly_kudos", "colour"))


def test_a_long_or_many_lined_value_stays_one_short_line(
    context: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, {"laion_bucket": "x\ny" * 1000})
    assert len(refusal(context)) < 200


def test_an_api_key_in_place_of_its_parameter_is_refused_and_not_shown(
    context: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, {"runpod_key_parameter": "rpa_SECRET"})
    line = refusal(context)
    assert "runpod_key_parameter: is a RunPod API key" in line
    assert "SECRET" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "prod.json: is not JSON: Expecting value, line 1, column 1"),
        ('{\n  "admins": [1,]\n}', "prod.json: is not JSON: "),
        ("[]", "prod.json: [] is not an object"),
        ('{"admins": [1], "admins": [2]}', 'prod.json: is not JSON: "admins" is there twice'),
    ],
)
def test_a_file_that_holds_no_settings_is_refused_in_one_line(
    context: dict[str, Any], tmp_path: Path, text: str, said: str
) -> None:
    write(tmp_path, text)
    assert refusal(context).startswith(said)


def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    context: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "prod.json"
    file.write_bytes(b"\xff\xfe")
    assert refusal(context).startswith("prod.json: is not JSON: ")
    file.unlink()
    file.mkdir()
    assert refusal(context).startswith("prod.json: cannot be read: ")


def test_a_stage_without_a_file_is_refused_and_the_stages_are_named(
    context: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path, {}, "test")
    said = "prd.json: there is no such stage (did you mean 'prod'?); stages here: prod, test"
    assert refusal(context | {"stage": "prd"}) == said


@pytest.mark.parametrize("stage", ["", "../prod", "Prod", "a b", "9", "x" * 40])
def test_a_stages_name_is_no_path(context: dict[str, Any], stage: str) -> None:
    assert refusal(context | {"stage": stage}).startswith(f"-c stage={stage}: is not the name")


@pytest.mark.parametrize("key", [*StackSettings.model_fields])
def test_a_setting_given_as_cdk_context_is_refused_and_not_ignored(
    context: dict[str, Any], key: str
) -> None:
    assert (
        refusal(context | {key: "x"}) == f"-c {key}: is not read any more; set {key!r} in prod.json"
    )


@pytest.mark.parametrize("key", ["stge", "modles", "anything"])
def test_context_that_nothing_reads_is_refused_and_not_ignored(
    context: dict[str, Any], key: str
) -> None:
    line = refusal(context | {key: "x"})
    assert line.startswith(f"-c {key}: is not read")
    assert line.endswith("the stage's settings are in prod.json")


def test_the_cdks_own_context_is_let_through(context: dict[str, Any]) -> None:
    own = {"aws:cdk:bundling-stacks": [], "@aws-cdk/core:x": True, "cli-telemetry": False}
    assert stages.read(context | own)[0] == "prod"


def test_settings_that_are_right_are_taken_as_they_are(
    context: dict[str, Any], tmp_path: Path
) -> None:
    volunteers: dict[str, Any] = {"endpoint": None, "baseline": "stable_diffusion_1"}
    all_models: dict[str, dict[str, Any]] = {**MODELS, "SD 1.5": volunteers}
    wanted = {
        "models": {
            name: {
                **model,
                "max_workers": 60,
                "max_pixels": 3072 * 3072,
                "max_steps": 8,
                "price_family": "stable_diffusion_xl",
                "defaults": {
                    "steps": 4,
                    "cfg_scale": 1.5,
                    "sampler_name": "lcm",
                    "karras": False,
                    "clip_skip": 2,
                    "width": 1024,
                    "height": 1024,
                },
                "source": "stabilityai/sdxl-turbo",
                "revision": "f" * 40,
                "memory_gb": 9.5,
                "controlnets": "/runpod-volume/controlnets/mine",
                "native_size": 1024,
                "features": ["lora", "canny", "RealESRGAN_x4plus"],
                "license": "CreativeML OpenRAIL-M",
                "sha256": "a" * 64,
            }
            for name, model in all_models.items()
        },
        "images_per_ticket": MAX_BATCH,
        "cold_start_seconds": 60,
        "max_wait_seconds": 600,
        "runpod_url": "https://api.runpod.ai/v2",
        "runpod_management_url": None,
        "runpod_key_parameter": "/horde/test/runpod-key",
        "laion_bucket": "laion.art-2026",
        "laion_region": "cn-northwest-1",
        "laion_role": "arn:aws-cn:iam::123456789012:role/path/writer@horde",
        "laion_external_id": "horde:commons/7@laion",
        "laion_readers": [],
        "laion_requester_pays": False,
        "alarm_email": "ada+alarms@example.org",
        "rate_limits": False,
        "trusted_ips": ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"],
        "admins": [1, 77],
        "hold_hours": 48,
        "aesthetic_scorer": "lists/scorer.onnx",
        "detector": "https://detector.example.org/score",
        "nsfw_threshold": 0.2,
        "screening_words": ["a word", "another"],
        "more_layers": False,
        "hold_volunteers": False,
        "trusted_after_images": 500,
        "account_keys_pop": True,
        "monthly_kudos": 50,
        "snap_start": ["generate", "worker"],
        "contact": "[us](mailto:us@example.org)",
        "aws_client": "botocore",
        "layer": "functions",
        "functions": "functions",
    }
    write(tmp_path, wanted)
    _, settings = stages.read(context)
    assert settings.model_dump(exclude={"endpoint_url"}) == wanted


def test_a_second_deploy_needs_no_option(context: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path, {"admins": [7]})
    assert stages.read(context) == stages.read(context)
    assert stages.read(context)[1].admins == [7]
    assert set(FLAGS) - {"stage"} == {key for key in FLAGS if key.startswith("@aws-cdk/")}


def test_the_committed_stage_spells_out_every_default() -> None:
    committed = json.loads((ROOT / "settings" / "prod.json").read_text())
    model = {"endpoint": None, "baseline": "stable_diffusion_1"}
    defaults = StackSettings.model_validate({"models": {"stable_diffusion": model}}).model_dump()
    for_the_local_cloud = {"layer", "more_layers", "functions", "endpoint_url"}
    assert committed == {key: defaults[key] for key in defaults if key not in for_the_local_cloud}
    assert stages.load(ROOT / "settings" / "prod.json")


def test_every_family_that_a_rule_names_can_be_configured() -> None:
    named = {name for name, _ in (*IN_FORCE.families, *IN_FORCE.families_hires_fix)}
    named |= {*pricing.SLOW_BASELINES, *pricing.NATIVE_SIDE, *admission.FREE_SIDE}
    assert named <= set(BASELINES)


def test_a_stage_has_a_stack_of_its_own() -> None:
    names = [stages.stack_of(stage) for stage in ("prod", "test", "local")]
    assert names == ["HordeCommons", "HordeCommons-test", "HordeCommons-local"]


def test_the_operator_speaks_to_the_stage_that_a_deploy_without_option_makes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def outputs_of(_session: object, stack: str) -> dict[str, str]:
        asked.append(stack)
        message = "seen"
        raise OperatorError(message)

    monkeypatch.setattr(deployed, "outputs_of", outputs_of)
    for options in ([], ["--stage", "test"], ["--stack", "Mine"]):
        with pytest.raises(SystemExit, match="seen"):
            commands.main([*options, "user", "ada#7"])
    assert asked == [stages.stack_of(FLAGS["stage"]), "HordeCommons-test", "Mine"]


@pytest.mark.slow
def test_lists_reach_the_functions_as_they_read_them() -> None:
    from horde.edge import ratelimit

    template = synthesize(trusted_ips=["10.0.0.0/8", "192.0.2.7"], admins=[1, 77])
    environment = functions(template)["users"][1]["Environment"]["Variables"]
    assert ratelimit.is_trusted("192.0.2.7", environment["TRUSTED_IPS"])
    assert ratelimit.is_trusted("10.9.9.9", environment["TRUSTED_IPS"])
    assert not ratelimit.is_trusted("192.0.2.8", environment["TRUSTED_IPS"])
    ids = environment["ADMINS"].split(",")
    assert ids == ["1", "77"]


@pytest.mark.lengthy
def test_the_app_ends_with_one_line_on_stderr_and_no_traceback(
    context: dict[str, Any],
    tmp_path: Path,
) -> None:
    import subprocess
    import sys

    write(tmp_path, {"images_per_ticket": 0})
    env = os.environ | {"CDK_CONTEXT_JSON": json.dumps(context)}
    done = subprocess.run(
        [sys.executable, "-m", "infra.app"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path}/prod.json: images_per_ticket: 0 is less than 1\n"
    assert done.stdout == ""


def test_a_refusal_does_not_wait_for_the_cdk(
    context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDK_CONTEXT_JSON", json.dumps(context | {"models": "x"}))
    monkeypatch.setitem(__import__("sys").modules, "aws_cdk", None)
    with pytest.raises(SystemExit, match="-c models: is not read any more"):
        app.main()


@pytest.mark.slow
def test_two_stages_in_one_account_share_no_name() -> None:
    template = synthesize("test")
    kinds = ("Function", "Queue", "Bucket", "Table", "Topic", "Role", "LogGroup", "Alarm", "Layer")
    names = [*(f"{kind}Name" for kind in kinds), "Name"]
    for logical, resource in template["Resources"].items():
        given = {name: resource.get("Properties", {}).get(name) for name in names}
        if resource["Type"] == "AWS::ApiGatewayV2::Api":
            given.pop("Name")  # a label, not an identity
        fixed = {name: value for name, value in given.items() if isinstance(value, str)}
        assert not fixed, logical
    assert not [one for one in template.get("Outputs", {}).values() if "Export" in one]
    assert of_type(template, "AWS::DynamoDB::GlobalTable")


@pytest.mark.slow
def test_the_operators_first_model_is_the_first_of_the_file() -> None:
    one = {"endpoint": None, "baseline": "stable_diffusion_1"}
    template = synthesize(models={"z first": one, "a second": one})
    environment = functions(template)["generate"][1]["Environment"]["Variables"]["MODELS"]
    assert list(json.loads(environment)) == ["z first", "a second"]
