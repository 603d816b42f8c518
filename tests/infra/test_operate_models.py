"""``bin/operator model``: the table of models, written whole, and the files it tells of."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gpu_worker import model_table as workers
from infra.operate import commands, model_commands, models_file
from infra.operate.models_file import ModelsError
from infra.stages import load
from tests.support.template import ROOT

EMOJI = ROOT / "gpu_worker" / "models" / "emoji"
PROD = ROOT / "settings" / "prod.json"
ADD = ("model", "add", "Mine", "--license", "MIT")
REVISION = "a" * 40


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a stage, which is the committed one."""
    (tmp_path / "settings").mkdir()
    file = tmp_path / "settings" / "prod.json"
    shutil.copy(PROD, file)
    for module in (models_file, model_commands):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    return file


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume with the demo's model."""
    folder = tmp_path / "volume"
    shutil.copytree(EMOJI, folder / "models" / "emoji")
    return folder


def run(*arguments: str | Path) -> None:
    commands.main([str(one) for one in arguments])


def refused(*arguments: str | Path) -> str:
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    (line,) = str(ended.value).splitlines()
    return line


def table(settings: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(settings.read_text())["models"]
    return found


def test_a_model_on_the_volume_is_checked_and_written_with_what_its_files_say(
    settings: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/runpod-volume/models/emoji"
    options = ("--path", path, "--volume", volume, "--baseline", "stable_diffusion_1")
    run(*ADD, *options, "--endpoint", "abc")
    found = table(settings)["Mine"]
    assert (found["source"], found["endpoint"], found["license"]) == (path, "abc", "MIT")
    assert found["native_size"] == 64
    assert found["memory_gb"] == pytest.approx(3, abs=0.1)
    assert f"next: copy {volume}/ to the network volume of endpoint abc" in capsys.readouterr().out
    before = settings.read_bytes()
    run(*ADD, *options, "--endpoint", "abc")
    assert settings.read_bytes() == before


def test_the_rest_of_the_settings_stays_as_it_is_to_the_byte(settings: Path) -> None:
    run(*ADD, "--path", "/runpod-volume/x", "--baseline", "flux_1")
    assert settings.read_bytes() != PROD.read_bytes()
    run("model", "remove", "Mine")
    assert settings.read_bytes() == PROD.read_bytes()


def test_a_checkpoint_is_converted_onto_the_volume(
    settings: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, Path, str, dict[str, Path | None]]] = []

    def converted(file: Path, target: Path, baseline: str, **more: Path | None) -> Any:
        """What gpu_worker.convert answers, which needs torch."""
        asked.append((file, target, baseline, more))
        shutil.copytree(EMOJI, target)
        return SimpleNamespace(
            baseline="stable_diffusion_1", sha256="b" * 64, parameters=10**9, native_size=64
        )

    monkeypatch.setattr(model_commands, "converted", converted)
    own = "--file", "m.safetensors", "--volume", volume, "--tokenizer", "t5"
    run(*ADD[:2], "My Model 2", *ADD[3:], *own)
    target = volume / "models" / "my-model-2"
    more = {"config": None, "tokenizer": Path("t5")}
    assert asked == [(Path("m.safetensors"), target, "", more)]
    assert table(settings)["My Model 2"] == {
        "endpoint": None,
        "source": "/runpod-volume/models/my-model-2",
        "baseline": "stable_diffusion_1",
        "sha256": "b" * 64,
        "memory_gb": 5.0,
        "native_size": 64,
        "license": "MIT",
    }


def test_a_model_of_the_hub_is_named_with_its_commit(settings: Path) -> None:
    hub = ("--hub", "org/name", "--baseline", "stable_diffusion_xl")
    assert "--hub needs --revision" in refused(*ADD, *hub)
    run(*ADD, *hub, "--revision", REVISION)
    assert table(settings)["Mine"]["revision"] == REVISION
    assert "remove it first" in refused(*ADD, "--path", "/runpod-volume/x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--file", "x.safetensors"), "--file needs --volume"),
        (("--path", "/runpod-volume/x"), "--baseline is missing"),
        (("--path", "x", "--baseline", "flux_1"), 'models.Mine.source: "x" is not a path'),
        (("--hub", "x", "--revision", REVISION, "--baseline", "flux_1"), '"x" is not a path'),
        (("--hub", "a/b", "--revision", "main", "--baseline", "flux_1"), "is not a commit"),
        (("--path", "/x", "--baseline", "flux_1", "--endpoint", "A"), "is not the id of a RunPod"),
        (("--path", "/x", "--baseline", "flux_1", "--draw", "x.png"), "--draw needs --volume"),
        (("--path", "/x", "--baseline", "flux_1", "--volume", "."), "is not on the volume"),
        (
            ("--path", "/runpod-volume/../x", "--baseline", "flux_1", "--volume", "."),
            "not on the v",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_and_changes_nothing(
    settings: Path, options: tuple[str, ...], said: str
) -> None:
    assert said in refused(*ADD, *options)
    assert settings.read_bytes() == PROD.read_bytes()
    assert [path.name for path in settings.parent.iterdir()] == ["prod.json"]


def test_files_that_the_worker_would_refuse_are_not_added(settings: Path, volume: Path) -> None:
    weights = volume / "models" / "emoji" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = refused(
        *(*ADD, "--path", "/runpod-volume/models/emoji", "--volume", volume),
        *("--baseline", "stable_diffusion_1"),
    )
    assert "is cut off" in line
    assert settings.read_bytes() == PROD.read_bytes()


def test_check_finds_what_has_changed_on_the_volume(
    volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/runpod-volume/models/emoji"
    run(*ADD, "--path", path, "--volume", volume, "--baseline", "stable_diffusion_1")

    def checked() -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run("model", "check", "--volume", volume)
        return int(str(ended.value)), capsys.readouterr().out

    assert checked() == (0, f"'Mine': in order, {volume}/models/emoji\n")
    (volume / "models" / "emoji" / "horde.json").write_text('{"native_size": 128}')
    assert checked() == (1, "'Mine': its images are 128 pixels wide, not 64\n")
    shutil.rmtree(volume / "models")
    code, said = checked()
    assert (code, said.count("\n")) == (1, 1)
    assert "holds no diffusers model" in said


def test_remove_deletes_only_files_that_were_made_here(settings: Path, volume: Path) -> None:
    path, directory = "/runpod-volume/models/emoji", volume / "models" / "emoji"
    run(*ADD, "--path", path, "--volume", volume, "--baseline", "stable_diffusion_1")
    said = refused("model", "remove", "Mine", "--files", "--volume", volume)
    assert "was not made by this command" in said
    assert "Mine" in table(settings)
    (directory / "source.json").write_text("{}")
    run("model", "remove", "Mine", "--files", "--volume", volume)
    assert "Mine" not in table(settings)
    assert list(directory.parent.iterdir()) == []
    run("model", "remove", "Mine")
    assert "is the only model" in refused("model", "remove", "stable_diffusion")


def test_the_workers_of_an_endpoint_get_its_models_and_no_others(
    settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, endpoint in (("One", "abc"), ("Two", "abc"), ("Three", "other")):
        path = f"/runpod-volume/models/{name}"
        run(
            *(*ADD[:2], name, *ADD[3:], "--path", path, "--baseline", "stable_diffusion_xl"),
            *("--endpoint", endpoint, "--memory-gb", "9.5"),
        )
    capsys.readouterr()
    run("model", "env", "abc")
    found = workers.read(capsys.readouterr().out)
    assert [one.name for one in found] == ["One", "Two"]
    assert (found[0].source, found[0].memory_gb) == ("/runpod-volume/models/One", 9.5)
    assert "no model of the table has the endpoint" in refused("model", "env", "nobody")
    changed = json.loads(settings.read_text())
    changed["models"]["stable_diffusion"]["endpoint"] = "abc"
    settings.write_text(json.dumps(changed))
    assert "'stable_diffusion' has no source" in refused("model", "env", "abc")


def controlnet(volume: Path, kind: str, **changes: Any) -> None:
    """Write a ControlNet for the demo's model, of which only the configuration is read."""
    folder = volume / "controlnets" / kind
    folder.mkdir(parents=True, exist_ok=True)
    unet = json.loads((EMOJI / "unet" / "config.json").read_text())
    vae = json.loads((EMOJI / "vae" / "config.json").read_text())
    steps = [16] * len(vae["block_out_channels"])
    own = {"_class_name": "ControlNetModel", "conditioning_embedding_out_channels": steps}
    (folder / "config.json").write_text(json.dumps({**unet, **own, **changes}))
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


CONTROLS = "/runpod-volume/controlnets"


def test_the_controlnets_of_a_model_are_checked_and_become_its_features(
    settings: Path, volume: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("canny", "depth"):
        controlnet(volume, kind)
    path = "/runpod-volume/models/emoji"
    options = ("--path", path, "--volume", volume, "--baseline", "stable_diffusion_1")
    run(*ADD, *options, "--controlnets", CONTROLS, "--endpoint", "abc")
    found = table(settings)["Mine"]
    assert (found["controlnets"], found["features"]) == (CONTROLS, ["canny", "depth"])
    capsys.readouterr()
    run("model", "list")
    assert "| abc | canny, depth |" in capsys.readouterr().out
    run("model", "env", "abc")
    (own,) = workers.read(capsys.readouterr().out)
    assert own.own_controlnets() == Path(CONTROLS)
    here = model_commands.on_this_machine("prod", volume)["Mine"][0]
    assert here.controlnets == str(volume.resolve() / "controlnets")
    shutil.rmtree(volume / "controlnets" / "depth")
    run(*ADD, *options, "--controlnets", CONTROLS)
    assert table(settings)["Mine"]["features"] == ["canny"]


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ("foreign", "the ControlNet canny in {} does not fit the model: their layers_per_block"),
        ("gone", "{} cannot be read: No such file or directory"),
        ("unknown", "{}: 'tile' is no control type"),
        ("feature", "its features say depth, and {} has none of that type"),
    ],
)
def test_controlnets_that_a_worker_would_not_draw_with_are_named(
    settings: Path, volume: Path, capsys: pytest.CaptureFixture[str], harm: str, why: str
) -> None:
    path = "/runpod-volume/models/emoji"
    options = (
        *(*ADD, "--path", path, "--volume", volume, "--baseline", "stable_diffusion_1"),
        *("--controlnets", CONTROLS),
    )
    controlnet(volume, "canny")
    run(*options)
    if harm == "foreign":
        controlnet(volume, "canny", layers_per_block=9)
    elif harm == "gone":
        shutil.rmtree(volume / "controlnets")
    elif harm == "unknown":
        controlnet(volume, "tile")
    else:
        changed = json.loads(settings.read_text())
        changed["models"]["Mine"]["features"] = ["lora", "canny", "depth"]
        settings.write_text(json.dumps(changed))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("model", "check", "--volume", volume)
    line = capsys.readouterr().out
    assert why.format(volume / "controlnets") in line
    assert line.count("\n") == 1
    if harm != "feature":
        assert why.format(volume / "controlnets") in refused(*options)


def test_a_broken_table_is_shown_and_never_written_over(settings: Path) -> None:
    settings.write_text('{"models": {}}')
    assert "models: {} is empty" in refused("model", "list")
    assert "models: {} is empty" in refused(*ADD, "--path", "/x", "--baseline", "flux_1")
    assert settings.read_text() == '{"models": {}}'


def test_without_the_workers_packages_it_says_what_to_do(
    volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gpu_worker.convert", None)
    said = refused(*ADD, "--file", "x", "--volume", volume)
    assert "the worker's packages are not here (gpu_worker.convert): run 'make setup'" in said


def test_the_page_of_deployment_shows_the_table_as_the_command_prints_it() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    assert models_file.listed(load(PROD)) in page


def test_a_name_that_gives_no_folder_is_refused() -> None:
    with pytest.raises(ModelsError, match="no folder can be named"):
        model_commands.folder_of("東京")
