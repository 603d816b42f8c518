"""What is uploaded: bytecode of the runtime's Python, and the same bytes from each build."""

import importlib.util
import marshal
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

from layers import build, bytecode
from layers.bytecode import MAGIC, RUNTIME, BuildError
from tests.support.template import ROOT

UNCHECKED = 1
"""The flags of a ``.pyc`` that is never compared with its source (PEP 552)."""


def runtimes_python() -> Path:
    """Return a Python of the runtime's version, or skip the test where there is none."""
    try:
        return bytecode.python_for(RUNTIME)
    except BuildError as error:
        pytest.skip(str(error))


def without_bytecode(folder: Path, target: str) -> set[str]:
    """Return the modules that the target's Python would compile when they are imported."""
    major, minor = RUNTIME if target.startswith("lambda") else sys.version_info[:2]
    own = int.from_bytes(importlib.util.MAGIC_NUMBER[:2], "little")
    magic = MAGIC if target.startswith("lambda") else own
    missing = set()
    for source in folder.rglob("*.py"):
        cached = source.parent / "__pycache__" / f"{source.stem}.cpython-{major}{minor}.pyc"
        head = cached.read_bytes()[:8] if cached.exists() else bytes(8)
        if (int.from_bytes(head[:2], "little"), head[4]) != (magic, UNCHECKED):
            missing.add(str(source.relative_to(folder)))
    return missing


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the mode, the time and the bytes of each file."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


def inodes(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in (folder, *folder.rglob("*"))}


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.parametrize("target", ["host", "lambda"])
def test_every_module_of_the_functions_has_the_bytecode_of_its_python(
    target: str, tmp_path: Path
) -> None:
    if target == "lambda":
        runtimes_python()
    made = build.functions(target, tmp_path)
    deployed = {path.relative_to(made) for path in made.rglob("*.py")}
    assert {
        path.relative_to(ROOT / "functions") for path in (ROOT / "functions").rglob("*.py")
    } == deployed
    assert without_bytecode(made, target) == set()


def test_a_module_without_bytecode_is_found(tmp_path: Path) -> None:
    made = build.functions("host", tmp_path)
    next(made.glob("__pycache__/worker.*.pyc")).unlink()
    stale = next(made.glob("horde/__pycache__/aws.*.pyc"))
    stale.write_bytes(bytes(16))
    assert without_bytecode(made, "host") == {"worker.py", "horde/aws.py"}


def test_two_builds_in_different_folders_have_the_same_bytes(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    one = contents(build.functions("host", tmp_path / "one"))
    request.getfixturevalue("umask")
    assert contents(build.functions("host", tmp_path / "a" / "longer" / "path")) == one


def test_no_path_of_the_build_is_in_an_asset(tmp_path: Path) -> None:
    made = build.functions("host", tmp_path)
    for cached in made.rglob("*.pyc"):
        code = marshal.loads(cached.read_bytes()[16:])
        assert isinstance(code, CodeType)
        assert code.co_filename.startswith("/var/task/")
        assert str(tmp_path).encode() not in cached.read_bytes()


def test_a_second_build_of_unchanged_sources_changes_nothing(tmp_path: Path) -> None:
    before = inodes(build.functions("host", tmp_path))
    assert inodes(build.functions("host", tmp_path)) == before


def test_a_changed_a_new_and_a_renamed_source_are_built_anew(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    (sources / "horde").mkdir(parents=True)
    (sources / "one.py").write_text("A = 1\n")

    def built() -> dict[str, bytes]:
        made = build.functions("host", tmp_path / "build", sources)
        return {path.name: path.read_bytes() for path in made.rglob("*.py")}

    assert built() == {"one.py": b"A = 1\n"}
    (sources / "one.py").write_text("A = 2\n")
    assert built() == {"one.py": b"A = 2\n"}
    (sources / "horde" / "two.py").write_text("B = 1\n")
    assert built() == {"one.py": b"A = 2\n", "two.py": b"B = 1\n"}
    (sources / "one.py").rename(sources / "three.py")
    assert built() == {"three.py": b"A = 2\n", "two.py": b"B = 1\n"}


def test_what_other_pythons_and_editors_left_is_not_deployed(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    (sources / "__pycache__").mkdir(parents=True)
    (sources / "one.py").write_text("A = 1\n")
    (sources / "__pycache__" / "one.cpython-36.pyc").write_bytes(b"old")
    (sources / ".env").write_text("SECRET=1\n")
    made = build.functions("host", tmp_path / "build", sources)
    tag = sys.implementation.cache_tag
    found = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert found == {"one.py", f"__pycache__/one.{tag}.pyc"}


def test_a_module_that_cannot_be_compiled_is_an_error_and_leaves_no_asset(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "broken.py").write_text("def\n")
    with pytest.raises(BuildError, match=r"broken\.py"):
        build.functions("host", tmp_path / "build", sources)
    assert not (tmp_path / "build" / "functions" / "host").exists()


def test_without_a_python_of_the_runtime_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytecode, "_candidates", lambda: iter([tmp_path / "python3.13"]))
    monkeypatch.setattr(sys, "version_info", (3, 11, 0, "final", 0))
    with pytest.raises(BuildError, match=r"Python 3\.13 is needed .* install it"):
        build.functions("lambda", tmp_path)


def test_a_python_of_the_right_name_and_another_version_is_not_taken(tmp_path: Path) -> None:
    fake = tmp_path / "python3.13"
    fake.write_text("#!/bin/sh\necho 3 13 3550\n")
    fake.chmod(0o755)
    assert not bytecode._is_the_runtimes(fake)
    fake.write_text(f"#!/bin/sh\necho 3 13 {MAGIC}\n")
    assert bytecode._is_the_runtimes(fake)


def test_synth_builds_the_functions_whose_sources_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import app
    from infra.settings import StackSettings

    built: list[str] = []
    monkeypatch.setattr(app, "functions", built.append)
    model = {"endpoint": None, "baseline": "stable_diffusion_1"}
    for folder in ("build/functions/lambda", "build/functions/host", "tests/support"):
        app.refresh(StackSettings.model_validate({"models": {"sd": model}, "functions": folder}))
    assert built == ["lambda", "host"]


def test_the_stack_deploys_what_is_built_here() -> None:
    from infra.settings import StackSettings

    fields = StackSettings.model_fields
    assert ROOT / fields["layer"].default == build.BUILD / "layer" / "lambda"
    assert ROOT / fields["functions"].default == build.BUILD / "functions" / "lambda"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["host", "lambda"])
def test_two_layers_have_the_same_bytes_and_all_their_bytecode(
    target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if target == "lambda":
        runtimes_python()
    first = build.layer(target, tmp_path / "one")
    request.getfixturevalue("umask")
    second = build.layer(target, tmp_path / "a" / "longer" / "path")
    assert without_bytecode(first, target) == set()
    assert contents(first) == contents(second)
    before = inodes(first)
    assert inodes(build.layer(target, tmp_path / "one")) == before
