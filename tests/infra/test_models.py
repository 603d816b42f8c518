"""The table of models, and what of it the functions and the workers get."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from gpu_worker import model_table
from horde.runpod import Models
from infra.models import ModelSettings
from infra.parts.environment import MODELS_FILE, models_env, models_table
from infra.settings import MAX_VARIABLE, StackSettings
from layers.build import IN_LAYER
from tests.support.template import functions, of_type, synthesize

FULL: dict[str, Any] = {
    "endpoint": "abc123",
    "baseline": "stable_diffusion_xl",
    "price_family": "stable_diffusion_1",
    "features": ["lora"],
    "defaults": {"steps": 4},
    "source": "stabilityai/sdxl-turbo",
    "revision": "a" * 40,
    "memory_gb": 9.5,
    "controlnets": "/runpod-volume/controlnets/mine",
    "native_size": 512,
    "license": "Apache-2.0",
    "sha256": "b" * 64,
}
READ = TypeAdapter(Models)


def settings(count: int) -> StackSettings:
    return StackSettings(models={f"Model {n}": ModelSettings(**FULL) for n in range(count)})


def test_functions_get_what_they_read_and_workers_the_rest() -> None:
    read = READ.validate_python(models_env(settings(1))["MODELS"])["Model 0"]
    assert read.price_family == "stable_diffusion_1"
    assert read.defaults == {"steps": 4}
    assert set(read.features) == {"lora"}
    for ours in ("sdxl-turbo", "controlnets"):
        assert ours not in models_env(settings(1))["MODELS"]
    shown = {name: model.model_dump() for name, model in settings(1).models.items()}
    (own,) = model_table.read(json.dumps(shown))
    assert (own.source, own.revision, own.memory_gb) == (FULL["source"], "a" * 40, 9.5)
    assert own.controlnets == FULL["controlnets"]


def test_a_table_that_an_environment_cannot_hold_is_a_file(tmp_path: Path) -> None:
    few, many = settings(2), settings(100)
    assert models_env(few)["MODELS"] == models_table(few)
    assert len(models_table(many)) > MAX_VARIABLE
    assert models_env(many) == {"MODELS": f"{IN_LAYER}/{MODELS_FILE}"}
    file = tmp_path / MODELS_FILE
    file.write_text(models_table(many))
    assert list(READ.validate_python(str(file))) == list(many.models)


@pytest.mark.slow
def test_that_file_is_a_layer_of_the_functions_that_read_it_and_of_no_other() -> None:
    template = synthesize(models={f"Model {n}": dict(FULL) for n in range(100)})
    (layer,) = [name for name in of_type(template, "AWS::Lambda::LayerVersion") if "Models" in name]
    for file, (_, function) in functions(template).items():
        variables = function["Environment"]["Variables"]
        has = {"Ref": layer} in function["Layers"]
        assert has is ("MODELS" in variables), file
        assert variables.get("MODELS", f"{IN_LAYER}/{MODELS_FILE}") == f"{IN_LAYER}/{MODELS_FILE}"
        assert sum(len(str(value)) for value in variables.values()) < 4096
