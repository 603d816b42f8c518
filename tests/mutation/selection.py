"""Which tests can see a mutant: those that run its lines, the most telling and quickest first.

One run of the suite under coverage.py notes for each line the tests that run it. A line that runs
when its module is imported has no test; it gets those of the lines that use the name it defines.
"""

import json
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.mutation.operators import Mutant

SUITES = ("tests/unit", "tests/flows")
TELLING = (SUITES[0], "tests/flows/test_approved_calls.py", "tests/flows/test_room_calls.py")
"""The tests that look closest: they come before the other flows."""
MEASURED = "functions"


@dataclass
class Map:
    """What one run of the suite without a bug has shown."""

    tests: list[str] = field(default_factory=list)
    """Node ids."""
    seconds: list[float] = field(default_factory=list)
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    """For each file and line the indexes of the tests that run it."""
    modules: list[str] = field(default_factory=list)
    """The modules of others that the suite imports."""
    failed: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """A hash of each test file at that time."""

    @classmethod
    def read(cls, path: Path) -> "Map":
        """Read a map that ``write`` wrote."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Write it whole or not at all."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(vars(self)))
        part.rename(path)

    def select(self, mutant: Mutant, hints: Iterable[str] = ()) -> list[str]:
        """Return the tests that can see a mutant; those of ``hints`` come first, in their order."""
        found = self._of_lines(mutant.file, range(mutant.lines[0], mutant.lines[1] + 1))
        word = Path(mutant.file).stem
        if not mutant.deferred:
            word = mutant.function.rpartition(".")[2]
            found = found or self._of_name(word, set()) or self._of_file(mutant.file)
            found |= self._that_name(word)
        order = sorted(found, key=lambda index: self._rank(index, word))
        names = [self.tests[index] for index in order]
        chosen = set(names)
        first = list(dict.fromkeys(name for name in hints if name in chosen))
        return first + [name for name in names if name not in set(first)]

    def without(self, files: Collection[str]) -> "Map":
        """Return the map without the tests of some files."""
        kept = [n for n, name in enumerate(self.tests) if name.partition("::")[0] not in files]
        new = {old: number for number, old in enumerate(kept)}
        lines = {
            file: {line: [new[n] for n in tests if n in new] for line, tests in by_line.items()}
            for file, by_line in self.lines.items()
        }
        known = {file: stamp for file, stamp in self.files.items() if file not in files}
        names, seconds = [self.tests[n] for n in kept], [self.seconds[n] for n in kept]
        return Map(names, seconds, lines, self.modules, [], known)

    def plus(self, other: "Map") -> "Map":
        """Return this map with the tests of another one."""
        first = len(self.tests)
        lines = {file: dict(by_line) for file, by_line in self.lines.items()}
        for file, by_line in other.lines.items():
            mine = lines.setdefault(file, {})
            for line, tests in by_line.items():
                mine[line] = [*mine.get(line, ()), *(first + n for n in tests)]
        modules = list(dict.fromkeys([*self.modules, *other.modules]))
        names, seconds = self.tests + other.tests, self.seconds + other.seconds
        return Map(names, seconds, lines, modules, other.failed, self.files | other.files)

    def _rank(self, index: int, word: str) -> tuple[bool, bool, float]:
        """Order: what has the file or constant in its name, what looks close, what is quick."""
        name = self.tests[index]
        return word not in name, not name.startswith(TELLING), self.seconds[index]

    def _that_name(self, word: str) -> set[int]:
        """Return the unit tests whose files have a word: they may read a constant and no line."""
        used = re.compile(rf"\b{re.escape(word)}\b")
        files = {name.partition("::")[0] for name in self.tests if name.startswith(SUITES[0])}
        naming = {
            file for file in files if Path(file).exists() and used.search(Path(file).read_text())
        }
        return {n for n, name in enumerate(self.tests) if name.partition("::")[0] in naming}

    def cost(self, tests: Iterable[str]) -> float:
        """Return the seconds that tests took without a bug."""
        return sum(self._seconds[name] for name in tests)

    @cached_property
    def _seconds(self) -> dict[str, float]:
        return dict(zip(self.tests, self.seconds, strict=True))

    def _of_lines(self, file: str, lines: Iterable[int]) -> set[int]:
        known = self.lines.get(file, {})
        return {index for line in lines for index in known.get(str(line), ())}

    def _of_file(self, file: str) -> set[int]:
        return {index for tests in self.lines.get(file, {}).values() for index in tests}

    def _of_name(self, name: str, seen: set[str]) -> set[int]:
        """Return the tests of all lines that use a name, or a name that those define."""
        seen.add(name)
        found: set[int] = set()
        used = re.compile(rf"\b{re.escape(name)}\b")
        for file, lines in self.lines.items():
            for number, line in enumerate(Path(file).read_text().splitlines(), 1):
                if not used.search(line):
                    continue
                found.update(lines.get(str(number), ()))
                defines = re.match(r"(?:    )?(\w+)(?:: [^=]+)? = ", line)
                if defines and defines[1] not in seen and not lines.get(str(number)):
                    found |= self._of_name(defines[1], seen)
        return found


class Mapper:
    """The plugin of pytest that makes a map."""

    def __init__(self) -> None:
        import coverage

        self.map = Map()
        os.environ["COVERAGE_CORE"] = "ctrace"  # the one that knows contexts on each Python
        self._coverage = coverage.Coverage(data_file=None, config_file=False, source=[MEASURED])
        self._index: dict[str, int] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Note all tests."""
        self.map.tests = [item.nodeid for item in items]
        self.map.seconds = [0.0] * len(items)
        self._index = {name: index for index, name in enumerate(self.map.tests)}

    def pytest_runtestloop(self) -> None:
        """Measure from here on: what imports run belongs to no test."""
        self._coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Let what runs from now on belong to this test."""
        self._coverage.switch_context(str(self._index[nodeid]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note seconds and failures."""
        self.map.seconds[self._index[report.nodeid]] += report.duration
        if report.failed:
            self.map.failed.append(report.nodeid)

    def finish(self, ours: Iterable[str], loaded: dict[str, Any]) -> Map:
        """Return the map; ``loaded`` are Python's modules, ``ours`` what the names of ours are."""
        self._coverage.stop()
        data = self._coverage.get_data()
        for path in data.measured_files():
            file = str(Path(path).relative_to(Path.cwd()))
            by_line = {
                str(line): [int(context) for context in contexts if context]
                for line, contexts in sorted(data.contexts_by_lineno(path).items())
            }
            self.map.lines[file] = {line: tests for line, tests in by_line.items() if tests}
        roots = set(ours)
        self.map.modules = [name for name in loaded if name.partition(".")[0] not in roots]
        return self.map
