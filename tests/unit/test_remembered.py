"""What a process remembers stays bounded, and no test sees what another one left."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

from horde.store.remembered import MOST, Remembered
from tests.support.cloud import new_processes

FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"


def test_a_process_remembers_no_more_names_than_its_memory_holds_whatever_clients_send() -> None:
    remembered = Remembered[str, int]()
    sizes = set()
    for number in range(3 * MOST):
        assert remembered.put(f"name {number}", number) == number
        assert remembered[f"name {number}"] == number
        sizes.add(len(remembered))
    assert max(sizes) == MOST


def memories() -> Iterator[tuple[str, str]]:
    """Yield the modules of the functions that fill a dictionary between requests, and its name."""
    for path in sorted(FUNCTIONS.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                value = ast.unparse(node.value)
                if value == "{}" or value.startswith("Remembered["):
                    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                    name = path.relative_to(FUNCTIONS).with_suffix("").as_posix()
                    yield name.replace("/", "."), ast.unparse(target)


def test_no_test_sees_what_an_earlier_one_left_in_the_memory_of_a_function() -> None:
    """``new_processes`` lists by hand what it forgets: a memory that it lacked failed in CI."""
    found = {name: vars(importlib.import_module(name[0]))[name[1]] for name in memories()}
    assert len(found) > 5
    for memory in found.values():
        memory["left"] = "by an earlier test"
    new_processes()
    assert [name for name, memory in found.items() if memory] == []
