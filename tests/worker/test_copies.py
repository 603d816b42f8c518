"""What the worker and the functions both say: the worker ships without them, so it has copies."""

from __future__ import annotations

import pytest

from gpu_worker import abilities, control, control_files, model_table, settings
from gpu_worker.addons import found
from gpu_worker.post import kinds
from horde import runpod
from horde.edge import bodies
from horde.rules import features
from infra import contract, models

PAIRS = {
    "control types": (control.TYPES, features.CONTROLS),
    "families with ControlNets": (
        {*control_files.FAMILIES},
        {*features.CONTROLLED} - {"", "stable_diffusion_2_512", "stable_diffusion_2_768"},
    ),
    "families of LoRAs": ({*found.BASELINES} - {*models.BASELINES}, set()),
    "XL": (features.SDXL in control_files.FAMILIES, True),
    "post-processors": ({*kinds.ORDER}, {*features.POST_PROCESSORS}),
    "upscalers": (dict(kinds.UPSCALERS), dict(features.UPSCALERS)),
    "largest delivered image": (kinds.MAX_DELIVERED_PIXELS, features.MAX_DELIVERED_PIXELS),
    "smallest image": (abilities.MIN_PIXELS, 64 * 64),
    "largest image": (settings.Settings.max_pixels, runpod.MAX_PIXELS),
    "models in a table": (model_table.MAX_MODELS, models.MAX_MODELS),
    "bytes of a model's name": (model_table.MAX_NAME_BYTES, bodies.MAX_MODEL_BYTES),
    "features of an endpoint": ({*contract.FEATURES}, {*features.FEATURES}),
}


@pytest.mark.parametrize("what", PAIRS)
def test_both_copies_are_equal(what: str) -> None:
    ours, theirs = PAIRS[what]
    assert ours == theirs


@pytest.mark.parametrize("kind", control.TYPES)
def test_every_control_type_of_the_worker_is_priced_by_the_horde(kind: str) -> None:
    payload = {"control_type": kind, "post_processing": []}
    assert features.of_payload(payload) == [kind]


@pytest.mark.parametrize("name", kinds.UPSCALERS)
def test_both_reckon_the_same_delivered_size(name: str) -> None:
    payload = {"width": 192, "height": 64, "post_processing": [name]}
    assert kinds.delivered(payload) == features.delivered_size(payload)
