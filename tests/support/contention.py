"""What many writes of one account at once come to, by the store's own policy of trying again.

``python -m tests.support.contention`` prints the table of docs/contention.md.
"""

import heapq
import random
from dataclasses import dataclass

from horde import store

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


def simulate(calls: int, transaction_s: float, tries: int = store.CONFLICT_TRIES) -> Outcome:
    """Let calls write one item; a transaction that meets another one on it is refused.

    Transactions take ``transaction_s``, more or less.
    """
    queue = [(random.uniform(0, READS_S), call, 0) for call in range(calls)]
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
        again = at + REFUSAL_S + store.pause_s(attempt)
        heapq.heappush(queue, (again, call, attempt + 1))
    return Outcome(failed, refused, most, busy_until)


def main() -> None:
    """Print the table."""
    random.seed(1)
    print("| calls | transaction | tries | calls that fail | refusals a call | last is through |")  # noqa: T201
    for transaction_s in (0.01, 0.02, 0.04):
        for calls in (32, 64, 128):
            for tries in (12, store.CONFLICT_TRIES):
                runs = [simulate(calls, transaction_s, tries) for _ in range(1000)]
                failed = sum(run.failed for run in runs) / len(runs) / calls
                refused = sum(run.refused for run in runs) / len(runs) / calls
                lasted = sum(run.lasted_s for run in runs) / len(runs)
                print(  # noqa: T201
                    f"| {calls} | {transaction_s * 1000:.0f} ms | {tries} | {failed:.3%} "
                    f"| {refused:.1f} | {lasted:.1f} s |"
                )


if __name__ == "__main__":
    main()
