"""One run of the mutation tester: which mutants, in which processes, and what is known of them."""

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.mutation import forks
from tests.mutation.forks import KILLED, SURVIVED, TIMEOUT, Functions, Importer, Loop, Outcome
from tests.mutation.operators import Mutant
from tests.mutation.selection import SUITES, Map, Mapper

OURS = {"horde", "tests", "infra", "layers", "gpu_worker", "conftest", "coverage"} | {
    path.stem for path in Path("functions").glob("*.py")
}
"""What the names of our modules begin with: a mutant must be the first to import them."""
KEPT = Path("build") / "mutate"
UNSEEN = "no test runs it"
NOT_PLANTED = "not planted"
FEW_S = 2.0
"""Seconds of the tests of the first round in a process that imports all anew."""
LONG_S = 3600.0


@dataclass
class Run:
    """One run over some files: what is to be done, and what is known."""

    mutants: list[Mutant]
    map: Map
    results: Path
    until: float
    hints: dict[str, str]
    """The test that saw a mutant, by the mutant's name, in any run before."""

    def seconds(self) -> dict[str, float]:
        """Return what each test takes without a bug."""
        return dict(zip(self.map.tests, self.map.seconds, strict=True))

    def known(self) -> dict[str, Outcome]:
        """Return what is known of mutants and still holds, by name.

        What a test saw holds for as long as its file is as it was; what no test saw, for as long
        as all are.
        """
        rows = read(self.results)
        return {
            name: outcome for name, (outcome, proof) in rows.items() if proof == self.proof(outcome)
        }

    def proof(self, outcome: Outcome) -> str:
        """Return a hash of what an outcome rests on."""
        files = self.map.files
        return files.get(outcome.test.partition("::")[0]) or stamp(*sorted(files.values()))

    def note(self, mutant: Mutant, outcome: Outcome) -> None:
        """Write down what became of a mutant; lines of two processes do not mix."""
        row = [mutant.name, outcome.state, outcome.test, self.proof(outcome)]
        with self.results.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def over(self) -> bool:
        """Return whether the time is used up."""
        return time.monotonic() > self.until


class Guess:
    """Which test will see the next mutant: the one that saw it before, or its neighbours'."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._last: dict[str, list[str]] = {}

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests of a mutant in the order to try."""
        near = [mutant.file + mutant.function, mutant.file]
        hints = [self._run.hints.get(mutant.name, "")]
        hints += [test for place in near for test in reversed(self._last.get(place, []))]
        return self._run.map.select(mutant, hints)

    def learn(self, mutant: Mutant, outcome: Outcome) -> None:
        """Remember a test that saw a mutant."""
        for place in (mutant.file + mutant.function, mutant.file):
            seen = self._last.setdefault(place, [])
            if outcome.test in seen:
                seen.remove(outcome.test)
            if outcome.test:
                seen.append(outcome.test)
            del seen[:-8]


def read(path: Path) -> dict[str, tuple[Outcome, str]]:
    """Return the outcomes in a file of results and their proofs, by the mutant's name."""
    if not path.exists():
        return {}
    rows = (json.loads(line) for line in path.read_text().splitlines())
    return {name: (Outcome(state, test), proof) for name, state, test, proof in rows}


def stamp(*parts: str) -> str:
    """Return a short hash."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# --- three ways to run ---------------------------------------------------------------------------


def make_map(path: Path) -> Map:
    """Return which test runs what. Only test files that have changed since are run for it.

    Ends the process where a test fails.
    """
    suites = [file for suite in SUITES for file in sorted(Path(suite).glob("test_*.py"))]
    files = {str(file): stamp(file.read_text()) for file in suites}
    old = Map.read(path) if path.exists() else Map()
    changed = {file for file in files | old.files if files.get(file) != old.files.get(file)}
    if not changed:
        return old
    old, present = old.without(changed), sorted(changed & set(files))
    if present:
        print(f"running {len(present)} test files once without a bug", flush=True)
        part = path.with_suffix(".new")
        answer = forks.fork(lambda: _measure(present, part), LONG_S, alone=False)
        if answer != "ok":
            sys.exit(f"without a bug these tests fail:\n{answer}")
        old = old.plus(Map.read(part))
        part.unlink()
    old.files = files
    old.write(path)
    return old


def _measure(files: Sequence[str], path: Path) -> str:
    mapper = Mapper()
    pytest.main([*forks.ARGUMENTS, *files], plugins=[Steady(), mapper])
    made = mapper.finish(OURS, dict(sys.modules))
    made.write(path)
    return "\n".join(made.failed) or "ok"


class Steady:
    """Lets hypothesis draw the same examples each time."""

    def pytest_collection(self) -> None:
        """Do so before any test is imported."""
        forks.steady()


def in_forks(run: Run, chosen: Sequence[Mutant]) -> None:
    """Run mutants of functions in forks of a process that has collected all."""

    def serve(loop: Loop) -> None:
        loop.warm_up()
        functions, guess = Functions(sorted({each.file for each in chosen})), Guess(run)
        seconds = run.seconds()
        forks.freeze()
        for mutant in chosen:
            if run.over():
                return
            tests = guess.tests(mutant)

            def attempt(mutant: Mutant = mutant, tests: list[str] = tests) -> str:
                if not functions.plant(mutant):
                    return json.dumps([NOT_PLANTED, ""])
                outcome = loop.first_failure(tests, seconds)
                return json.dumps([outcome.state, outcome.test])

            answer = forks.fork(attempt, 30 + 5 * run.map.cost(tests))
            outcome = Outcome(*json.loads(answer)) if answer else Outcome(TIMEOUT)
            guess.learn(mutant, outcome)
            run.note(mutant, outcome)

    forks.fork(lambda: str(forks.collect(serve)), LONG_S, alone=False)


def imported(run: Run, mutant: Mutant, tests: Sequence[str]) -> Outcome:
    """Run a mutant in a process that imports its module with the bug."""
    outcome = Outcome(KILLED, "the import")
    files = sorted({name.partition("::")[0] for name in tests})
    seconds = run.seconds()

    def attempt() -> str:
        sys.meta_path.insert(0, Importer(mutant))
        found = [outcome]

        def look(loop: Loop) -> None:
            found[0] = loop.first_failure(tests, seconds)

        forks.collect(look, files)
        return json.dumps([found[0].state, found[0].test])

    answer = forks.fork(attempt, 60 + 5 * run.map.cost(tests))
    return Outcome(*json.loads(answer)) if answer else Outcome(TIMEOUT)


def by_import(run: Run, chosen: Sequence[Mutant]) -> None:
    """Run mutants in processes that import all anew: first a few tests, then all."""
    guess = Guess(run)
    for mutant in chosen:
        if run.over():
            return
        tests = guess.tests(mutant)
        few = 1
        while few < len(tests) and run.map.cost(tests[: few + 1]) < FEW_S:
            few += 1
        outcome = imported(run, mutant, tests[:few])
        if outcome.state == SURVIVED and tests[few:]:
            outcome = imported(run, mutant, tests[few:])
        guess.learn(mutant, outcome)
        run.note(mutant, outcome)


def job(run: Run, chosen: Sequence[Mutant]) -> None:
    """Run a share of the mutants, each way in turn."""
    known = run.known()
    new = [each for each in chosen if each.name not in known]
    if inside := [each for each in new if each.deferred]:
        in_forks(run, inside)
    known = run.known()
    by_import(run, [each for each in chosen if _wants_import(each, known.get(each.name))])


def _wants_import(mutant: Mutant, outcome: Outcome | None) -> bool:
    """Return whether a mutant can only be tried by importing it."""
    return outcome.state == NOT_PLANTED if outcome else not mutant.deferred


def unsteady(run: Run, tests: Iterable[str]) -> list[str]:
    """Return the tests that fail in a fork without any bug: what they saw proves nothing."""
    kept = run.results.with_suffix(".control")
    rows = [line.split("\t") for line in kept.read_text().splitlines()] if kept.exists() else []
    good = {test for test, proof in rows if proof == run.proof(Outcome(KILLED, test))}
    failed: list[str] = []
    seconds = run.seconds()

    def control() -> str:
        def look(loop: Loop) -> None:
            loop.warm_up()
            forks.freeze()
            for test in sorted(set(tests) - good):
                if test not in loop.items:
                    continue
                answer = forks.fork(partial(_alone, loop, test, seconds), 600)
                (good.add if answer == SURVIVED else failed.append)(test)

        forks.collect(look)
        lines = [f"{test}\t{run.proof(Outcome(KILLED, test))}" for test in sorted(good)]
        kept.write_text("\n".join(lines))
        return "\n".join(failed) or "none"

    answer = forks.fork(control, LONG_S, alone=False) or "the control run itself"
    return [] if answer == "none" else answer.split("\n")


def _alone(loop: Loop, test: str, seconds: dict[str, float]) -> str:
    return loop.first_failure([test], seconds).state


# --- what is kept ---------------------------------------------------------------------------------


def tree() -> str:
    """Return a hash of all but the test files that decides what a test sees."""
    paths = [Path("tests/conftest.py"), Path("tests/flows/conftest.py")]
    for folder in ("functions", "infra", "tests/support"):
        paths += sorted(Path(folder).rglob("*.py"))
    return stamp(sys.version, *(f"{path} {stamp(path.read_text())}" for path in paths))


def hints() -> dict[str, str]:
    """Return which test saw a mutant in the runs before, the newest last."""
    found: dict[str, str] = {}
    for path in sorted(KEPT.glob("*.jsonl"), key=lambda each: each.stat().st_mtime):
        seen = read(path).items()
        found |= {name: outcome.test for name, (outcome, _) in seen if outcome.state != SURVIVED}
    return found
