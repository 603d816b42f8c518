"""Where every line lives: who imports whom, who knows the table, how long a room is."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.template import ROOT

FUNCTIONS = ROOT / "functions"
HANDLERS = sorted(path.stem for path in FUNCTIONS.glob("*.py"))
MODULES = {
    ".".join(path.relative_to(FUNCTIONS).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(FUNCTIONS.rglob("*.py"))
}
LONGEST_CLIENT = 250
LONGEST_ROOM = 260
"""Lines of a file of the store."""
OURS = ("infra", "gpu_worker", "layers")
TWINS = {"settings"}
"""Names that mean the same in both places: what an operator sets."""
AUDIT = {"horde.store.audit", "horde.store.audit_read", "horde.store.audit_rows"}


@cache
def imports(module: str) -> frozenset[str]:
    """Return what a module imports of ours, wherever in it, for types alone included."""
    tree = ast.parse(MODULES[module].read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            whole = len(inside) < len(node.names)
            found |= inside | ({node.module} if whole else set())
    return frozenset(found)


def cycles() -> Iterator[list[str]]:
    """Yield the modules that import each other in a circle."""
    graph = {module: imports(module) & MODULES.keys() for module in MODULES}
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> Iterator[list[str]]:
        if module in path:
            yield [*path[path.index(module) :], module]
        elif module not in done:
            for other in sorted(graph[module]):
                yield from walk(other, [*path, module])
            done.add(module)

    for module in sorted(graph):
        yield from walk(module, [])


@pytest.mark.lengthy
def test_no_modules_import_each_other_in_a_circle() -> None:
    assert list(cycles()) == []


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("horde.rules.")])
def test_a_rule_imports_records_and_the_standard_library_alone(module: str) -> None:
    for name in imports(module):
        rule = name in MODULES and name.startswith("horde.rules")
        assert rule or name == "horde.records" or name.partition(".")[0] in sys.stdlib_module_names


def test_records_import_the_standard_library_alone() -> None:
    assert {name.partition(".")[0] for name in imports("horde.records")} <= sys.stdlib_module_names


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("horde.store")])
def test_no_room_of_the_store_knows_the_edge(module: str) -> None:
    assert not [name for name in imports(module) if name.startswith("horde.edge")]


@pytest.mark.parametrize("path", sorted((FUNCTIONS / "horde" / "store").glob("*.py")), ids=str)
def test_no_room_of_the_store_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_ROOM


def reached_from(module: str) -> set[str]:
    seen, left = set[str](), [module]
    while left:
        name = left.pop()
        if name not in seen and name in MODULES:
            seen.add(name)
            left += imports(name)
            left += [name.rpartition(".")[0]] if "." in name else []
    return seen


@pytest.mark.parametrize("handler", HANDLERS)
def test_no_function_loads_the_audits_reads(handler: str) -> None:
    assert not reached_from(handler) & AUDIT


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_function_without_routes_loads_nothing_of_the_api(handler: str) -> None:
    """Its models and checks cost a third of a cold start."""
    if "ROUTES" in MODULES[handler].read_text():
        return
    edge = {name for name in reached_from(handler) if name.startswith("horde.edge")}
    body_of_a_webhook = {"horde.edge", "horde.edge.responses"} if handler == "webhook" else set()
    assert edge == body_of_a_webhook


def test_errors_of_aws_are_known_in_two_files_of_the_store() -> None:
    knowing = {
        name
        for name, path in MODULES.items()
        if name.startswith("horde.store") and "AwsError" in path.read_text()
    }
    assert knowing == {"horde.store.attempts", "horde.store.table"}


def test_botocore_is_known_where_it_is_the_way_back() -> None:
    knowing = {name for name, path in MODULES.items() if "import botocore" in path.read_text()}
    knowing |= {name for name, path in MODULES.items() if "from botocore" in path.read_text()}
    wire = ("credentials", "over_botocore", "thin")  # the last takes its quota of retries
    assert knowing == {"horde.aws", *(f"horde.wire.{name}" for name in wire)}


def code_lines(path: Path) -> int:
    """Return the lines of a file that are neither blank nor a comment nor documentation."""
    text = path.read_text()
    words = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    code = (line.strip() for line in text.splitlines())
    return sum(
        bool(line) and not line.startswith("#") and number not in words
        for number, line in enumerate(code, 1)
    )


def test_the_thin_client_stays_thin() -> None:
    rooms = ("credentials", "retries", "signing", "sockets", "thin")
    wire = FUNCTIONS / "horde" / "wire"
    assert sum(code_lines(wire / f"{name}.py") for name in rooms) < LONGEST_CLIENT


def outside_the_store() -> list[Path]:
    inside = FUNCTIONS / "horde" / "store"
    code = [
        *FUNCTIONS.rglob("*.py"),
        *(path for name in OURS for path in ROOT.glob(f"{name}/**/*.py")),
    ]
    return sorted(path for path in code if inside not in path.parents)


def literals(path: Path) -> Iterator[str]:
    """Yield the texts of a file that are no documentation, pieces of f-strings included."""
    tree = ast.parse(path.read_text())
    said = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def known_names() -> tuple[set[str], str]:
    """Return attributes that only the table has, and a pattern of its keys."""
    from horde.store import items

    attributes = {items.PK, items.SK, items.TTL}
    for index in (items.WAITING, items.DUE, items.LISTED):
        attributes |= {index.partition, index.sort} - {"priority"}
    kinds = "|".join(sorted(items.Kind, key=len, reverse=True))
    return attributes, rf"(?:{kinds}|WAITING|REQUESTS|USERS|WORKERS|due)#"


@pytest.mark.parametrize("path", outside_the_store(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_else_knows_the_tables_keys_and_attributes(path: Path) -> None:
    attributes, keys = known_names()
    for text in literals(path):
        assert text not in attributes, text
        assert not re.match(keys, text), text


def test_no_two_modules_have_one_name_and_different_meanings() -> None:
    """A rule, its room of the store and its function may share the name of their topic."""
    named: dict[str, list[str]] = defaultdict(list)
    for name in ("functions", *OURS):
        for path in ROOT.glob(f"{name}/**/*.py"):
            named[path.stem].append(str(path.relative_to(ROOT)))
    topics = {path.stem for path in (FUNCTIONS / "horde" / "rules").glob("*.py")}
    handlers = set(HANDLERS)
    rooms = {path.stem for path in (FUNCTIONS / "horde" / "store").glob("*.py")}
    twins = {
        name: paths
        for name, paths in named.items()
        if len(paths) > 1
        and name not in {"__init__", "__main__", *TWINS} | (rooms & (topics | handlers))
    }
    assert twins == {}
