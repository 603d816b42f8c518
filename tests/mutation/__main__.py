"""Plant bugs in the rules and the store, one at a time, and list those that no test sees.

``python -m tests.mutation [--budget SECONDS] [--jobs N] [--all] [FILE ...]``. It goes on where it
stopped. Once the code has changed it begins anew, and asks first the test that saw a bug before.
Once tests have changed, it does so for what rests on these. It ends with 1 where a bug survives
that ``explained.toml`` does not explain, where an explanation fits no bug, and where a test that
saw a bug also fails without one.
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pytest

from tests.mutation import forks
from tests.mutation.forks import KILLED, SURVIVED, TIMEOUT, Functions, Importer, Loop, Outcome
from tests.mutation.operators import Mutant, mutants
from tests.mutation.selection import SUITES, Map, Mapper

ROOMS = ("functions/horde/rules", "functions/horde/store")
OURS = ("horde", "tests", "infra", "layers", "gpu_worker", "conftest", "coverage")
EXPLAINED = Path(__file__).with_name("explained.toml")
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


# --- the whole -----------------------------------------------------------------------------------


def tree() -> str:
    """Return a hash of all but the test files that decides what a test sees."""
    paths = [Path("tests/conftest.py"), Path("tests/flows/conftest.py")]
    for folder in ("functions", "infra", "tests/support"):
        paths += sorted(Path(folder).rglob("*.py"))
    return stamp(sys.version, *(f"{path} {stamp(path.read_text())}" for path in paths))


@dataclass(frozen=True)
class Explanation:
    """Why some mutants change nothing that counts.

    ``function`` may have stars. Without ``was`` or ``now`` it fits any line of the function.
    """

    file: str
    function: str
    reason: str
    was: str = ""
    now: str = ""

    def fits(self, mutant: Mutant) -> bool:
        """Return whether it explains a mutant."""
        return (
            self.file == mutant.file
            and fnmatchcase(mutant.function, self.function)
            and self.was in {"", mutant.was}
            and self.now in {"", mutant.now}
        )


def explanations() -> list[Explanation]:
    """Return what ``explained.toml`` explains."""
    rows = tomllib.loads(EXPLAINED.read_text()).get("mutant", [])
    return [
        Explanation(**{name: " ".join(value.split()) for name, value in row.items()})
        for row in rows
    ]


def explained(mutant: Mutant, known: Iterable[Explanation]) -> bool:
    """Return whether a mutant is explained."""
    return any(each.fits(mutant) for each in known)


def hints() -> dict[str, str]:
    """Return which test saw a mutant in the runs before, the newest last."""
    found: dict[str, str] = {}
    for path in sorted(KEPT.glob("*.jsonl"), key=lambda each: each.stat().st_mtime):
        seen = read(path).items()
        found |= {name: outcome.test for name, (outcome, _) in seen if outcome.state != SURVIVED}
    return found


def start(files: Sequence[str], budget: float, *, everything: bool) -> tuple[Run, list[Mutant]]:
    """Return a run, and all mutants of its files, with those that are explained."""
    KEPT.mkdir(parents=True, exist_ok=True)
    base = tree()
    known = make_map(KEPT / f"{base}.map")
    every = [each for file in files for each in mutants(file, Path(file).read_bytes())]
    reasons = [] if everything else explanations()
    chosen = [each for each in every if not explained(each, reasons)]
    results = KEPT / f"{base}.jsonl"
    return Run(chosen, known, results, time.monotonic() + budget, hints()), every


def run_all(run: Run, jobs: int) -> None:
    """Run the mutants in some processes at a time, and say how far they are."""
    seen = set(run.known())
    for mutant in run.mutants:
        if mutant.name not in seen and not run.map.select(mutant):
            run.note(mutant, Outcome(SURVIVED, UNSEEN))
    forks.import_others(run.map.modules)
    children = []
    for nth in range(jobs):
        child = os.fork()
        if not child:
            job(run, run.mutants[nth::jobs])
            os._exit(0)
        children.append(child)
    begun, names = time.monotonic(), {each.name for each in run.mutants}
    try:
        while children:
            time.sleep(0.5)
            children = [each for each in children if os.waitpid(each, os.WNOHANG)[0] == 0]
            if int(time.monotonic() - begun) % 30 == 0 or not children:
                done = [run.known().get(name) for name in names]
                states = Counter(each.state for each in done if each)
                print(
                    f"{time.monotonic() - begun:4.0f} s: {dict(states)} of {len(names)}", flush=True
                )
                time.sleep(0.5)
    except KeyboardInterrupt:
        for each in children:
            os.kill(each, signal.SIGTERM)
        print("stopped; the next run goes on from here")


def report(run: Run, every: Sequence[Mutant]) -> int:
    """Print the figures of each file and the survivors; return how much is wrong."""
    known, reasons = run.known(), explanations()
    open_: list[tuple[Mutant, Outcome]] = []
    table: dict[str, Counter[str]] = {}
    for mutant in every:
        row = table.setdefault(mutant.file, Counter())
        outcome = known.get(mutant.name)
        state = outcome.state if outcome and outcome.state != NOT_PLANTED else "left"
        if explained(mutant, reasons):
            state = "explained" if state in {SURVIVED, "left"} else "killed, though explained"
        row[state] += 1
        if state == SURVIVED and outcome:
            open_.append((mutant, outcome))
    columns = (KILLED, TIMEOUT, "explained", SURVIVED, "left")
    print(f"\n{'file':<40}{'mutants':>9}" + "".join(f"{name:>11}" for name in columns))
    for file, row in table.items():
        print(f"{file:<40}{row.total():>9}" + "".join(f"{row[name]:>11}" for name in columns))
    total = sum(table.values(), Counter[str]())
    print(f"{'all':<40}{total.total():>9}" + "".join(f"{total[name]:>11}" for name in columns))
    for mutant, outcome in open_:
        unseen = f" ({UNSEEN})" if outcome.test == UNSEEN else ""
        print(f"\n{mutant.file}:{mutant.lines[0]} {mutant.function}{unseen}\n{mutant.diff()}")
    files = {each.file for each in every}
    stale = [
        each
        for each in reasons
        if each.file in files and not any(each.fits(mutant) for mutant in every)
    ]
    for each in stale:
        print(f"\nexplained, and no such bug can be planted: {each}")
    for mutant in every:
        outcome = known.get(mutant.name)
        if explained(mutant, reasons) and outcome and outcome.state in {KILLED, TIMEOUT}:
            print(f"\nexplained, and {outcome.test} sees it:\n{mutant.diff()}")
    failed = unsteady(run, {each.test for each in known.values() if each.state == KILLED})
    for test in failed:
        print(f"\nfails without a bug, so that what it saw proves nothing: {test}")
    return len(open_) + len(stale) + len(failed)


def main(arguments: Sequence[str]) -> int:
    """Run; 0 where all is killed or explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("files", nargs="*", help="source files of the rules and the store")
    parser.add_argument("--budget", type=float, default=24 * 3600.0, help="seconds to spend")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--all", action="store_true", help="run those that are explained, too")
    asked = parser.parse_args(arguments)
    files = asked.files or [str(path) for room in ROOMS for path in sorted(Path(room).glob("*.py"))]
    run, every = start(files, asked.budget, everything=asked.all)
    begun = time.monotonic()
    run_all(run, asked.jobs)
    wrong = report(run, every)
    print(f"\n{time.monotonic() - begun:.0f} s with {asked.jobs} jobs; {wrong} to look at")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
