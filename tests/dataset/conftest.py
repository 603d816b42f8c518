"""A synthetic release for each test, and the command line of the package."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from horde_dataset import cli, download
from tests.dataset import made

Run = Callable[..., tuple[int, str, str]]
"""Runs a command line in this process; returns exit code, output and errors."""


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> made.Release:
    """The synthetic release; no test changes it."""
    return made.make(tmp_path_factory.mktemp("release") / "data")


@pytest.fixture
def release(pristine: made.Release, tmp_path: Path) -> made.Release:
    """A copy of it, which a test may change, rows too."""
    folder = tmp_path / "source"
    shutil.copytree(pristine.folder, folder)
    return replace(copy.deepcopy(pristine), folder=folder)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(download, "PAUSE_S", 0.0)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.run([str(each) for each in arguments])
        except SystemExit as error:
            code = int(error.code or 0)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    return run
