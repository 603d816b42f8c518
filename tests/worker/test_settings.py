from __future__ import annotations

from pathlib import Path

import pytest

from gpu_worker import model_table
from gpu_worker.settings import Settings

ENV = {"HORDE_URL": "http://127.0.0.1:8080/api", "HORDE_API_KEY": "k", "MODEL_DIR": "/model"}


def test_a_worker_is_named_after_its_pod_unless_it_has_a_name() -> None:
    assert Settings.from_env({**ENV, "RUNPOD_POD_ID": "p1"}).worker_name == "horde-commons-p1"
    assert Settings.from_env({**ENV, "WORKER_NAME": "mine"}).worker_name == "mine"


def test_a_trailing_slash_of_the_url_does_not_matter() -> None:
    assert Settings.from_env({**ENV, "HORDE_URL": "http://h/api/"}).horde_url == "http://h/api"


def test_what_is_missing_or_unreadable_is_named_all_at_once() -> None:
    with pytest.raises(ValueError, match=r"HORDE_URL is not set.*MAX_BATCH.*at least 1"):
        Settings.from_env({"HORDE_API_KEY": "k", "MODEL_DIR": "/model", "MAX_BATCH": "none"})


def test_an_empty_variable_is_an_absent_one() -> None:
    settings = Settings.from_env({**ENV, "MODEL_NAME": "", "MAX_BATCH": " ", "DEVICE": ""})
    assert (settings.model_name, settings.max_batch) == ("stable_diffusion", 4)
    assert settings.model_dir == Path("/model")


def test_a_batch_is_never_larger_than_a_horde_hands_out() -> None:
    assert Settings.from_env({**ENV, "MAX_BATCH": "64"}).max_batch == 20


def test_the_detector_is_the_hordes_default_unless_it_is_named() -> None:
    assert Settings.from_env(ENV).detector == "opennsfw"
    assert Settings.from_env({**ENV, "DETECTOR": "mine:score"}).detector == "mine:score"


def test_compiled_shapes_are_those_that_batches_are_padded_to() -> None:
    settings = Settings.from_env({**ENV, "COMPILE": "512x512x4, 1024x768x1", "MAX_BATCH": "6"})
    assert settings.compiled == ((512, 512, 4), (1024, 768, 1))
    assert Settings.from_env({**ENV, "COMPILE": "64x64x6", "MAX_BATCH": "6"}).compiled
    assert Settings.from_env(ENV).compiled == ()


@pytest.mark.parametrize(
    ("listed", "why"),
    [
        ("512x512", "no WIDTHxHEIGHTxIMAGES"),
        ("512x500x4", "multiples of 64"),
        ("00x512x4", "multiples of 64"),
        ("512x512x3", "batches have 1, 2, 4 images, not 3"),
        ("512x512x8", "not 8"),
        (",".join(["512x512x1"] * 5), "more than 4 shapes"),
        ("9" * 5000, "no WIDTHxHEIGHTxIMAGES"),
    ],
)
def test_a_shape_that_is_never_drawn_is_not_compiled(listed: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Settings.from_env({**ENV, "COMPILE": listed})


def test_a_worker_that_swaps_models_compiles_none() -> None:
    models = '{"a": {"source": "/a"}, "b": {"source": "/b"}}'
    with pytest.raises(ValueError, match="COMPILE is for a worker of one model"):
        Settings.from_env({**ENV, "MODELS": models, "COMPILE": "512x512x4"})


def test_compiled_code_is_kept_on_a_network_volume_or_where_the_operator_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_table, "VOLUME", tmp_path)  # a folder, but nothing is mounted there
    assert Settings.from_env(ENV).compile_cache_dir is None
    assert Settings.from_env({**ENV, "COMPILE_CACHE_DIR": "/mine"}).compile_cache_dir == Path(
        "/mine"
    )
    monkeypatch.setattr(model_table, "VOLUME", Path("/"))
    settings = Settings.from_env(ENV)
    assert settings.compile_cache_dir == Path("/horde-commons/compiled")
    assert settings.compile_cache_mb == 2000
    assert Settings.from_env({**ENV, "COMPILE_CACHE_MB": "0"}).compile_cache_mb == 0


@pytest.mark.parametrize("loras", ["/volume", "/volume/code", "/volume/code/loras"])
def test_nothing_is_downloaded_to_where_code_is_kept(loras: str) -> None:
    env = {**ENV, "COMPILE_CACHE_DIR": "/volume/code", "LORA_CACHE_DIR": loras}
    Settings.from_env(env)
    with pytest.raises(ValueError, match="must be apart from LORA_CACHE_DIR"):
        Settings.from_env({**env, "COMPILE": "512x512x4"})
    Settings.from_env({**env, "COMPILE": "512x512x4", "LORA_CACHE_DIR": "/volume/loras"})
