"""Each library that researchers use finds every image of a release, with its row and its pixels."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.dataset import made, venv
from tests.dataset.readers import PARQUET_ONLY, READERS, pixels_sha256

pytestmark = pytest.mark.slow

TABLES_ONLY = {"pyarrow", "pandas", "duckdb", "polars", "datasets_metadata"}
WHOLE_ROWS = {"ranges", "mlcroissant"}
"""They read tables and images."""
README = venv.ROOT / "dataset" / "README.md"


def read(folder: Path, scratch: Path) -> dict[str, Any]:
    """Return what each reader found in a folder."""
    done = venv.run("-m", "tests.dataset.readers", folder, cwd=scratch, path=str(venv.ROOT))
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def found(pristine: made.Release, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read(pristine.folder, tmp_path_factory.mktemp("readers"))


@pytest.mark.parametrize("reader", READERS)
def test_a_reader_finds_every_row_and_every_pixel(
    reader: str, found: dict[str, Any], pristine: made.Release
) -> None:
    got = found[reader]["found"]
    assert isinstance(got, dict), got
    assert set(got) == set(pristine.ids)
    for expected in pristine.rows:
        row, digest = got[expected["id"]]
        in_tar = {name: value for name, value in expected.items() if name not in PARQUET_ONLY}
        wanted = expected if reader in TABLES_ONLY | WHOLE_ROWS else in_tar
        assert row == ({name: wanted[name] for name in row} if reader == "open_clip" else wanted)
        for name, value in row.items():
            assert type(value) is type(wanted[name]), (name, value)
        if reader in TABLES_ONLY:
            assert digest is None
        else:
            with Image.open(io.BytesIO(pristine.pictures[expected["id"]])) as image:
                assert digest == pixels_sha256(image)


@pytest.fixture(scope="module")
def folder_of_data(pristine: made.Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the release under the name that the README gives it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "data").symlink_to(pristine.folder)
    return folder


BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split(maxsplit=2)[1].strip(","))
def test_the_readmes_code_runs_as_it_is_printed(block: str, folder_of_data: Path) -> None:
    done = venv.run("-c", block, cwd=folder_of_data)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()


def test_the_readmes_commands_run_as_they_are_printed_by_an_installed_package(
    pristine: made.Release, tmp_path: Path
) -> None:
    # Built and installed as `pip install ./dataset` does, but for what comes from an index.
    build = (
        "import setuptools.build_meta as b, os, sys; os.chdir(sys.argv[1]); "
        "print(b.build_wheel(sys.argv[2]))"
    )
    source = tmp_path / "package"
    subprocess.run(["cp", "-r", str(README.parent), str(source)], check=True)
    done = venv.run("-c", build, source, tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    site = tmp_path / "site"
    uv = Path(sys.prefix) / "bin" / "uv"
    (built,) = tmp_path.glob("horde_dataset-*.whl")
    install = [str(uv), "pip", "install", "--no-deps", "--offline", "--quiet", "--target"]
    subprocess.run(
        [*install, str(site), "--python", str(venv.PYTHON), str(built)], check=True, cwd=tmp_path
    )
    assert (site / "horde_dataset" / "py.typed").exists()
    lines = re.findall(r"^horde-dataset (.*?)(?:  +#.*)?$", README.read_text("utf-8"), re.MULTILINE)
    lines = [one for one in lines if not one.startswith(("train", "score"))]  # test_train.py's
    assert len(lines) == 9
    entry = "import sys, shlex; from horde_dataset.cli import run; "
    entry += "sys.exit(run(shlex.split(sys.argv[1])))"
    for line in lines:
        command = line.replace("SOURCE", str(pristine.folder))
        done = venv.run("-c", entry, command, cwd=tmp_path, path=str(site))
        assert done.returncode == 0, (line, done.stderr)
        assert done.stdout.strip(), line
    assert len(list((tmp_path / "plots").iterdir())) == 6
