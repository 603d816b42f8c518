"""Plant bugs in the rules and the store, one at a time, and list those that no test sees.

``python -m tests.mutation [--budget SECONDS] [--jobs N] [--all] [FILE ...]``. It goes on where it
stopped. Once the code has changed it begins anew, and asks first the test that saw a bug before.
Once tests have changed, it does so for what rests on these. It ends with 1 where a bug survives
that ``explained.toml`` does not explain, where an explanation fits no bug, and where a test that
saw a bug also fails without one.
"""

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.mutation import forks
from tests.mutation.explained import explained, explanations
from tests.mutation.forks import KILLED, SURVIVED, TIMEOUT, Outcome
from tests.mutation.operators import Mutant, mutants
from tests.mutation.runs import (
    KEPT,
    NOT_PLANTED,
    UNSEEN,
    Run,
    hints,
    job,
    make_map,
    tree,
    unsteady,
)

ROOMS = ("functions/horde/rules", "functions/horde/store")


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
    if "horde" in sys.modules:
        message = "horde is imported already, so that no bug of an import can be planted"
        raise RuntimeError(message)
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
                known = run.known()
                done = [known.get(name) for name in names]
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
