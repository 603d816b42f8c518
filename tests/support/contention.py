"""What many writes of one account at once come to, by the store's own policy of trying again.

``python -m tests.support.contention`` prints the table of docs/contention.md.
"""

import heapq
import itertools
import random
from dataclasses import dataclass

from horde.store.attempts import CONFLICT_TRIES, pause_s

READS_S = 0.03
"""What comes before its transaction takes each call up to so long more than the fastest."""
REFUSAL_S = 0.005


@dataclass(frozen=True)
class Outcome:
    """What became of calls that started together."""

    failed: int
    refused: int
    most: int
    """Refusals of the unluckiest call."""
    lasted_s: float


def together(calls: int) -> list[float]:
    """Return when calls that start together come to their transactions."""
    return [random.uniform(0, READS_S) for _ in range(calls)]


def one_by_one(calls: int, per_second: float) -> list[float]:
    """Return when calls that come in no order, so many a second, come to their transactions."""
    at, found = 0.0, []
    for _ in range(calls):
        at += random.expovariate(per_second)
        found.append(at)
    return found


def simulate(starts: list[float], transaction_s: float, tries: int = CONFLICT_TRIES) -> Outcome:
    """Let calls write one item; a transaction that meets another one on it is refused.

    Transactions take ``transaction_s``, more or less.
    """
    queue = [(at, call, 0) for call, at in enumerate(starts)]
    heapq.heapify(queue)
    busy_until, failed, refused, most = 0.0, 0, 0, 0
    while queue:
        at, call, attempt = heapq.heappop(queue)
        if at >= busy_until:
            busy_until = at + transaction_s * random.uniform(0.7, 1.6)
            most = max(most, attempt)
            continue
        refused += 1
        if attempt + 1 == tries:
            failed += 1
            continue
        again = at + REFUSAL_S + pause_s(attempt)
        heapq.heappush(queue, (again, call, attempt + 1))
    return Outcome(failed, refused, most, busy_until)


def main() -> None:
    """Print the tables."""
    random.seed(1)
    print("| calls at once | transaction | tries | calls that fail | refusals a call | all done |")  # noqa: T201
    for transaction_s, calls, tries in itertools.product(
        (0.01, 0.02, 0.04), (32, 64, 128), (12, CONFLICT_TRIES)
    ):
        runs = [simulate(together(calls), transaction_s, tries) for _ in range(1000)]
        failed = sum(run.failed for run in runs) / len(runs) / calls
        refused = sum(run.refused for run in runs) / len(runs) / calls
        lasted = sum(run.lasted_s for run in runs) / len(runs)
        print(  # noqa: T201
            f"| {calls} | {transaction_s * 1000:.0f} ms | {tries} | {failed:.3%} "
            f"| {refused:.1f} | {lasted:.1f} s |"
        )
    print("| writes a second | transaction | calls that fail | refusals a call |")  # noqa: T201
    for transaction_s, rate in itertools.product((0.01, 0.02), (5, 10, 20, 40, 60, 80)):
        run = simulate(one_by_one(20_000, rate), transaction_s)
        print(  # noqa: T201
            f"| {rate} | {transaction_s * 1000:.0f} ms | {run.failed / 20_000:.3%} "
            f"| {run.refused / 20_000:.2f} |"
        )


if __name__ == "__main__":
    main()
