"""The stages of a deployment: the settings file and the stack of each.

``cdk.json`` names the stage that ``cdk deploy`` means; ``-c stage=<name>`` chooses another. The
stage is CDK context, not an environment variable: ``cdk.json`` keeps it, so the next deploy needs
no option, and every CDK command reads it the same way. Nothing else is context, because the CDK
ignores a misspelt ``-c`` without a word.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from infra.models import Defaults, ModelSettings
from infra.settings import StackSettings
from infra.values import SecretError, did_you_mean

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "settings"
MAIN_STAGE = "prod"
"""The stage whose stack has the plain name."""
STACK = "HordeCommons"
CONTEXT = ("stage", "settings")
"""All that is CDK context: the stage, and the folder of its file if that is not ``settings/``."""
STAGE_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
SHOWN = 60
"""Characters of a wrong value that a message shows."""


class SettingsError(Exception):
    """The settings cannot be deployed. The message is one line with the file, the key and why."""

    def __init__(self, where: str, *what: str) -> None:
        super().__init__(" ".join(": ".join([where, *what]).split()))


def default_stage() -> str:
    """Return the stage that ``cdk deploy`` means without an option."""
    context = json.loads((ROOT / "cdk.json").read_text())["context"]
    return str(context.get("stage", MAIN_STAGE))


def stack_of(stage: str) -> str:
    """Return the name of a stage's stack; two stages can share an account and region."""
    return STACK if stage == MAIN_STAGE else f"{STACK}-{stage}"


def read(context: Mapping[str, Any]) -> tuple[str, StackSettings]:
    """Return the stage that the CDK's context names, and its settings; raises SettingsError."""
    stage = str(context["stage"] if "stage" in context else default_stage())
    option = f"-c stage={stage}"
    if not STAGE_NAME.fullmatch(stage):
        what = "is not the name of a stage: lower-case letters, digits and hyphens"
        raise SettingsError(option, what)
    file = ROOT / str(context.get("settings", FOLDER)) / f"{stage}.json"
    for key in context:
        option = f"-c {key}"
        if key in StackSettings.model_fields:
            raise SettingsError(option, f"is not read any more; set {key!r} in {_name(file)}")
        # The CDK's own keys have other characters too.
        if re.fullmatch(r"[a-z][a-z0-9_]*", key) and key not in CONTEXT:
            meant = did_you_mean(key, CONTEXT)
            what = f"is not read{meant}; the stage's settings are in {_name(file)}"
            raise SettingsError(option, what)
    settings = load(file)
    if not (ROOT / settings.layer).is_dir():
        what = f"there is no folder {settings.layer!r}; 'python -m layers.build' makes it"
        raise SettingsError(_name(file), "layer", what)
    return stage, settings


def load(file: Path) -> StackSettings:
    """Read and check a stage's file; raises SettingsError, which names every wrong key in it."""
    try:
        found = json.loads(file.read_text("utf-8"), object_pairs_hook=_no_key_twice)
    except FileNotFoundError:
        stages = sorted(path.stem for path in file.parent.glob("*.json"))
        known = ", ".join(stages) or "none"
        what = f"there is no such stage{did_you_mean(file.stem, stages)}; stages here: {known}"
        raise SettingsError(_name(file), what) from None
    except OSError as error:
        raise SettingsError(_name(file), "cannot be read", str(error.strerror)) from None
    except json.JSONDecodeError as error:
        what = f"{error.msg}, line {error.lineno}, column {error.colno}"
        raise SettingsError(_name(file), "is not JSON", what) from None
    except ValueError as error:  # not UTF-8, or a key twice
        raise SettingsError(_name(file), "is not JSON", str(error)) from None
    try:
        return StackSettings.model_validate(found)
    except ValidationError as error:
        problems = "; ".join(map(_problem, error.errors()))
        raise SettingsError(_name(file), problems) from None


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        (twice, *_) = (key for key in keys if keys.count(key) > 1)
        message = f"{json.dumps(twice)} is there twice"
        raise ValueError(message)
    return found


WRONG: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "value_error": lambda context: str(context["error"]),
    "greater_than_equal": lambda context: f"is less than {context['ge']}",
    "less_than_equal": lambda context: f"is more than {context['le']}",
    "multiple_of": lambda context: f"is not a multiple of {context['multiple_of']:g}",
    "too_short": lambda _: "is empty",
    "too_long": lambda context: f"has more than {context['max_length']} entries",
    "int_type": lambda _: "is not a whole number",
    "string_type": lambda _: "is not a text",
    "bool_type": lambda _: "is neither true nor false",
    "list_type": lambda _: "is not a list",
    "dict_type": lambda _: "is not an object",
    "model_type": lambda _: "is not an object",
}
"""What is wrong with a value, by pydantic's type of error."""


def _problem(error: ErrorDetails) -> str:
    """Return one error of pydantic in one line: the key, the value and what is wrong."""
    path, context = [part for part in error["loc"] if part != "[key]"], error.get("ctx", {})
    key = _path(path)
    if error["type"] == "extra_forbidden":
        model = (StackSettings, ModelSettings, Defaults)[min(2, len(path) // 2)]
        return f"{key}: is not a setting{did_you_mean(str(path[-1]), model.model_fields)}"
    if error["type"] == "missing":
        hint = "; null means that volunteers alone draw it" if path[-1] == "endpoint" else ""
        return f"{key}: is missing{hint}"
    explain = WRONG.get(error["type"])
    wrong = explain(context) if explain else f"is wrong: {error['msg']}"
    if isinstance(context.get("error"), SecretError):
        return f"{key}: {wrong}"
    value = json.dumps(error["input"], ensure_ascii=False)
    shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}..."
    return f"{key}: {shown} {wrong}" if key else f"{shown} {wrong}"


def _path(parts: Iterable[int | str]) -> str:
    """Return a value's path: ``models.sdxl.endpoint``, ``admins[1]``, ``models["SD 1.5"]``."""
    text = ""
    for part in parts:
        if isinstance(part, str) and re.fullmatch(r"[\w-]+", part):
            text += f".{part}" if text else part
        else:
            text += f"[{json.dumps(part)}]"
    return text


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT) if file.is_relative_to(ROOT) else file)
