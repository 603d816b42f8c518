"""What the README says is checked where it can be."""

import importlib
import re

import pytest

import generate
import status
from horde import VERSION, kudos, limits, pricing
from horde.rates import By
from infra.operate import commands
from infra.settings import StackSettings
from tests.support.template import ROOT

README = (ROOT / "README.md").read_text()
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
PYPROJECT = (ROOT / "pyproject.toml").read_text()


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the first table after a line."""
    lines = README[README.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    found = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_readme_lists_every_function() -> None:
    listed = {row[0].strip("`") for row in rows("| function | trigger")}
    assert listed == {path.stem for path in (ROOT / "functions").glob("*.py")}


def test_the_readme_lists_every_setting_with_its_default() -> None:
    listed = {row[0].strip("`"): row[1].strip("`") for row in rows("| setting | default")}
    assert set(listed) == set(StackSettings.model_fields)
    for name in ("images_per_ticket", "runpod_url", "runpod_key_parameter", "layer"):
        assert listed[name] == str(StackSettings.model_fields[name].default)


def test_the_readme_lists_every_limit() -> None:
    listed = {(route, row[1]): row for row in rows("| routes | limit") for route in shorts(row[0])}
    made = {}
    for path in sorted((ROOT / "functions").glob("*.py")):
        for name, route in getattr(importlib.import_module(path.stem), "ROUTES", {}).items():
            for limit in route.limits:
                short = re.sub(r" /(api/)?(v2/)?", " ", name)
                made[short, str(limit)] = limit
    assert set(listed) == set(made)
    for key, limit in made.items():
        _, _, by, trusted = listed[key]
        assert by.startswith({By.IP: "address", By.PATH: "address and", By.KEY: "key"}[limit.by])
        assert trusted == str(limit.trusted or limit.count)
        assert limit.anonymous is None or f"the anonymous one: {limit.anonymous}" in by


def shorts(cell: str) -> list[str]:
    return [route.strip("`") for route in cell.split(", ")]


def test_every_make_target_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_operator_command_the_readme_names_exists() -> None:
    known = commands.parser().format_help()
    for command in re.findall(r"bin/operator (?:--stage \S+ )?([a-z][\w-]*)", README):
        assert re.search(rf"^    {command} ", known, re.MULTILINE), command


def test_every_file_the_readme_names_exists() -> None:
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:functions|infra|tests|gpu_worker|bin|docs)/[\w./-]*)`", README):
        assert (ROOT / path).exists(), path


def test_the_readme_names_the_taxes_and_the_floor() -> None:
    table = {row[0]: row[1] for row in rows("| rule | value")}
    assert table["tax of an image that is not shared"].startswith(f"+{pricing.TAX_PRIVATE} ")
    assert table["tax of a shared image"].startswith(f"+{pricing.TAX_SHARED} ")
    assert f"({kudos.FLOOR_PSEUDONYMOUS} kudos)" in table["balance"]
    assert f"exact up to {status.QUEUE_DEPTH}" in README
    text = " ".join(README.split())
    assert f"more than {limits.MAX_STEPS} steps ({limits.MAX_STEPS_LCM} of `lcm`)" in text
    assert f"between {limits.MIN_SIDE} and {limits.MAX_SIDE} " in text
    assert f"may have {limits.CONCURRENCY} images waiting" in text


def test_every_alarm_that_can_ring_is_in_the_runbook() -> None:
    text = (ROOT / "infra" / "stack.py").read_text()
    queues = re.findall(r'parts\.DeadLetters\(self, "(\w+)"', text)
    queues += [f"{name}Dead" for name in re.findall(r'parts\.WorkQueue\(\s*self, "(\w+)"', text)]
    listed = {row[0].strip("`") for row in rows("| alarm | what happened")}
    assert set(queues) <= listed


def test_the_version_is_one() -> None:
    (version,) = re.findall(r'^version = "([\d.]+)"', PYPROJECT, re.MULTILINE)
    assert version == VERSION
    assert f"## {version}" in CHANGELOG


def test_every_decision_is_dated() -> None:
    for row in rows("| date | decision"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", row[0]), row


@pytest.mark.parametrize(
    "word",
    ["remix", "post-processors", "LoRAs", "ControlNet", "styles"],
)
def test_what_generate_refuses_is_listed(word: str) -> None:
    listed = README[README.index("## What is not there yet") :]
    assert word in listed[: listed.index("## Work on it")]
    assert generate.check_drawable.__doc__ is not None


def test_no_lock_file_names_a_registry_or_a_machine() -> None:
    for path in [*(ROOT / "requirements").glob("*"), ROOT / "package-lock.json", ROOT / ".npmrc"]:
        text = path.read_text()
        assert "://" not in text, path
        assert "/work/" not in text, path


def test_every_locked_package_has_hashes() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        pinned = len(re.findall(r"^[\w.\[\]-]+==", text, re.MULTILINE))
        assert pinned > 0
        for block in re.split(r"\n(?=[a-zA-Z])", text):
            if re.match(r"[\w.\[\]-]+==", block):
                assert "--hash=sha256:" in block, (path, block[:80])
