"""The synthesized template: made once per change of ``infra/``, kept in ``build/``.

A synth takes ten seconds and more (jsii); everything that decides its result is in the hash.
"""

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

from infra import contract
from infra.settings import StackSettings

ROOT = Path(__file__).resolve().parent.parent.parent
Resource = dict[str, Any]


def synthesize(stage: str = "prod", **settings: Any) -> dict[str, Any]:
    """Return a stage's template with these settings, and cdk.json's feature flags."""
    chosen = StackSettings(
        **{
            "models": {
                "stable_diffusion": {"endpoint": "ep1", "baseline": "stable_diffusion_1"},
                "SDXL 1.0": {"endpoint": "ep2", "baseline": "stable_diffusion_xl"},
            },
            "layer": "tests/support",
            "more_layers": False,
            "functions": "tests/support",
            "rate_limits": False,
            **settings,
        }
    )
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    stamp = hashlib.sha256(json.dumps(context, sort_keys=True).encode())
    stamp.update(f"{stage} {chosen.model_dump_json()}".encode())
    agreed = {name: value for name, value in vars(contract).items() if name.isupper()}
    stamp.update(repr(sorted(agreed.items())).encode())
    for name in sorted(path.stem for path in (ROOT / "functions").glob("*.py")):
        stamp.update(repr(list(getattr(importlib.import_module(name), "ROUTES", []))).encode())
    deployed = [*(ROOT / "infra").glob("*.py"), *(ROOT / "infra" / "parts").glob("*.py")]
    for file in [*sorted(deployed), ROOT / "requirements" / "dev.txt"]:
        stamp.update(file.read_bytes())
    kept = ROOT / "build" / "templates" / f"{stamp.hexdigest()[:32]}.json"
    if not kept.exists():
        os.environ.setdefault("JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION", "1")
        from aws_cdk import App
        from aws_cdk.assertions import Template

        from infra.app import build

        app = App(context=context)
        template = Template.from_stack(build(app, stage, chosen)).to_json()
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(template))
        part.rename(kept)
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def of_type(template: dict[str, Any], kind: str) -> dict[str, Resource]:
    """Return the resources of a CloudFormation type by logical id."""
    return {
        name: resource
        for name, resource in template["Resources"].items()
        if resource["Type"] == kind
    }


def functions(template: dict[str, Any]) -> dict[str, tuple[str, Resource]]:
    """Return our Lambdas by file name: their logical id and properties."""
    return {
        resource["Properties"]["Handler"].removesuffix(".handler"): (name, resource["Properties"])
        for name, resource in of_type(template, "AWS::Lambda::Function").items()
        if resource["Properties"]["Handler"].endswith(".handler")
        and not resource["Properties"]["Handler"].startswith("index.")
    }


def actions(template: dict[str, Any], file: str) -> set[str]:
    """Return every action of a function's role beyond writing its log."""
    role = functions(template)[file][1]["Role"]["Fn::GetAtt"][0]
    found: set[str] = set()
    for policy in of_type(template, "AWS::IAM::Policy").values():
        if {"Ref": role} in policy["Properties"]["Roles"]:
            for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
                listed = statement["Action"]
                found.update([listed] if isinstance(listed, str) else listed)
    return found


def routes(template: dict[str, Any]) -> dict[str, str]:
    """Return the file that answers each route key."""
    by_id = {name: file for file, (name, _) in functions(template).items()}
    integrations = {
        name: by_id[resource["Properties"]["IntegrationUri"]["Fn::GetAtt"][0]]
        for name, resource in of_type(template, "AWS::ApiGatewayV2::Integration").items()
    }
    found = {}
    for resource in of_type(template, "AWS::ApiGatewayV2::Route").values():
        target = resource["Properties"]["Target"]["Fn::Join"][1][1]["Ref"]
        found[resource["Properties"]["RouteKey"]] = integrations[target]
    return found
