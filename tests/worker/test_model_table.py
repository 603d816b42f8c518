"""`MODELS`: what a worker reads of the table, and where it finds the files of each model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpu_worker.model_files import ModelError
from gpu_worker.model_table import MAX_MODELS, MAX_TABLE_BYTES, Model, read
from gpu_worker.settings import Settings

REVISION, OTHER = "a" * 40, "b" * 40
HUB = "stabilityai/sdxl-turbo"
ENV = {"HORDE_URL": "http://127.0.0.1/api", "HORDE_API_KEY": "k"}


def table(**fields: Any) -> str:
    return json.dumps({"SDXL 1.0": {"source": "/runpod-volume/models/sdxl", **fields}})


def test_an_entry_of_the_deployments_table_is_read_as_it_is() -> None:
    text = table(endpoint="abc", baseline="stable_diffusion_xl", memory_gb=9.5, features=["tis"])
    (found,) = read(text)
    assert (found.name, found.memory_gb) == ("SDXL 1.0", 9.5)
    assert found.directory() == Path("/runpod-volume/models/sdxl")


def test_a_file_is_read_like_the_variable_and_its_own_folder_is_where_paths_begin(
    tmp_path: Path,
) -> None:
    file = tmp_path / "models.json"
    file.write_text(table(source="./sdxl"))
    (found,) = read(str(file))
    assert found.directory() == tmp_path / "sdxl"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("{}", "no object of 1 to"),
        ("/no/such/file", "cannot be read (FileNotFoundError)"),
        (json.dumps({str(n): {"source": "/a"} for n in range(MAX_MODELS + 1)}), "no object of 1"),
        ("{" + "[" * 100_000, "no JSON"),
        ("{" + " " * MAX_TABLE_BYTES, "larger than"),
        (json.dumps({"x" * 101: {"source": "/a"}}), "is not a name of 1 to 100 bytes"),
        (json.dumps({"a": []}), "'a' is no object"),
        (table(source=None), "has a source that is neither"),
        (table(source="sdxl"), "has a source that is neither"),
        (table(source="a/b/c"), "has a source that is neither"),
        (table(source=7), "has a source that is no text"),
        (table(source="/models/../../etc"), "has a source with '..'"),
        (table(revision="main"), "has a revision that is not a commit"),
        (table(memory_gb="9"), "has a memory_gb that is not a number"),
        (table(memory_gb=-1), "has a memory_gb that is not a number"),
        (table(memory_gb=True), "has a memory_gb that is not a number"),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(text)
    (line,) = str(refused.value).splitlines()
    assert said in line


def test_a_worker_says_what_is_wrong_with_its_table_and_asks_for_no_directory() -> None:
    with pytest.raises(ValueError, match=r"^MODELS is no JSON$"):
        Settings.from_env({**ENV, "MODELS": "{"})
    assert [one.name for one in Settings.from_env({**ENV, "MODELS": table()}).models] == [
        "SDXL 1.0"
    ]


def snapshot(cache: Path, revision: str, name: str = "models--stabilityai--sdxl-turbo") -> Path:
    found = cache / name / "snapshots" / revision
    found.mkdir(parents=True)
    return found


def cached(cache: Path, revision: str = "") -> Path:
    return Model(name="turbo", source=HUB, revision=revision).directory(cache)


def test_the_hubs_cache_has_a_model_at_its_commit(tmp_path: Path) -> None:
    first, second = snapshot(tmp_path, REVISION), snapshot(tmp_path, OTHER)
    assert cached(tmp_path, REVISION) == first
    assert cached(tmp_path, OTHER) == second
    main = tmp_path / "models--stabilityai--sdxl-turbo" / "refs" / "main"
    with pytest.raises(ModelError, match="several commits"):
        cached(tmp_path)
    main.parent.mkdir()
    main.write_text(OTHER)
    assert cached(tmp_path) == second


def test_the_only_commit_in_the_cache_needs_no_name_nor_does_case_matter(tmp_path: Path) -> None:
    only = snapshot(tmp_path, REVISION, "models--StabilityAI--SDXL-Turbo")
    assert cached(tmp_path) == only


@pytest.mark.parametrize("revision", ["", OTHER])
def test_a_model_that_is_not_in_the_cache_is_named_with_the_remedy(
    tmp_path: Path, revision: str
) -> None:
    if revision:
        snapshot(tmp_path, REVISION)
    with pytest.raises(ModelError, match=r"there is none in .*: set it as the endpoint's cached"):
        cached(tmp_path, revision)


def test_a_model_has_its_own_controlnets_beside_the_table_or_at_a_path(tmp_path: Path) -> None:
    file = tmp_path / "models.json"
    entries = {"a": "/controls/a", "b": "./controls/b", "c": ""}
    file.write_text(
        json.dumps({name: {"source": "/m", "controlnets": path} for name, path in entries.items()})
    )
    found = {one.name: one.own_controlnets() for one in read(str(file))}
    assert found == {"a": Path("/controls/a"), "b": tmp_path / "controls" / "b", "c": None}


@pytest.mark.parametrize(
    ("controlnets", "why"),
    [("org/name", "neither /a/path nor"), ("/a/../b", "with '..'"), (7, "that is no text")],
)
def test_controlnets_are_a_path(controlnets: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read(json.dumps({"a": {"source": "/m", "controlnets": controlnets}}))


def test_several_models_may_have_controlnets_and_loras(tmp_path: Path) -> None:
    more = {"CONTROLNET_DIR": "/controls", "LORA_DIR": str(tmp_path), "ANNOTATOR_DIR": "/maps"}
    table = json.dumps({"a": {"source": "/models/a"}})
    found = Settings.from_env({**ENV, "MODELS": table, **more})
    assert found.has_loras
    assert (found.controlnet_dir, found.annotator_dir) == (Path("/controls"), Path("/maps"))
