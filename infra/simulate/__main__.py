"""``python -m infra.simulate [--seed N] [--plot FILE]``: waits, GPU seconds and dollars."""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from horde.rules.tickets import Costs
from infra.simulate import plot
from infra.simulate.fleet import (
    USUAL,
    Arrival,
    Endpoint,
    OneJobPerRequest,
    Result,
    by_batch,
    by_work,
    simulate,
)

IMAGE = 512 * 512 * 30
LARGE = 1024 * 1024 * 30
DEFAULT = Endpoint()


def loads(seed: int) -> dict[str, list[Arrival]]:
    """Return the loads that are compared; equal seeds make equal loads."""
    dice = random.Random(seed)  # noqa: S311 - a load, and no secret

    def poisson(per_s: float, seconds: float) -> list[float]:
        times, now = list[float](), dice.expovariate(per_s)
        while now < seconds:
            times.append(now)
            now += dice.expovariate(per_s)
        return times

    return {
        "burst: 100 single images in a second": [Arrival(n / 100, 1, IMAGE) for n in range(100)],
        "lone: one image each 5 minutes": [Arrival(300.0 * n, 1, IMAGE) for n in range(12)],
        "steady: one image each 2 s": [Arrival(at, 1, IMAGE) for at in poisson(0.5, 1800)],
        "mixed priorities: burst of 200, every tenth paid": [
            Arrival(n / 20, 1, IMAGE, priority=int(n % 10 == 0)) for n in range(200)
        ],
        "mixed sizes: 512 and 1024 px, 1 to 4 images": [
            Arrival(at, dice.randint(1, 4), dice.choice([IMAGE, LARGE])) for at in poisson(0.2, 600)
        ],
    }


def compare(arrivals: Sequence[Arrival], endpoint: Endpoint) -> dict[str, Result]:
    """Return what becomes of a load by each way to call workers."""
    return {
        "one job per request": OneJobPerRequest(endpoint).run(arrivals),
        "a ticket per batch": simulate(arrivals, by_batch, endpoint),
        "tickets by work": simulate(arrivals, by_work, endpoint),
    }


def table(results: dict[str, dict[str, Result]], endpoint: Endpoint) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| load | calls by | tickets | starts | wait p50 | p95 | longest | paid p95 | GPU s | $ |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for load, ways in results.items():
        for way, found in ways.items():
            paid = f"{found.wait(0.95, 1):.0f}" if any(p for p, _ in found.waits) else "-"
            lines.append(
                f"| {load} | {way} | {found.tickets} | {found.starts} | {found.wait(0.5):.0f} | "
                f"{found.wait(0.95):.0f} | {found.wait(1):.0f} | {paid} | {found.gpu_s:,.0f} | "
                f"{found.gpu_s * endpoint.dollars_per_s:.3f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the table, and draw the plot if a file is named."""
    parser = argparse.ArgumentParser(prog="infra.simulate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--speed", type=int, default=DEFAULT.speed, help="pixelsteps a second")
    parser.add_argument("--cold-start", type=float, default=USUAL.cold_start_s, help="seconds")
    parser.add_argument("--max-wait", type=float, default=USUAL.max_wait_s, help="seconds wanted")
    parser.add_argument("--price", type=float, default=DEFAULT.dollars_per_s, help="$ a GPU second")
    parser.add_argument("--plot", type=Path, help="the SVG to draw")
    options = parser.parse_args()
    costs = Costs(USUAL.batch, options.cold_start, options.max_wait)
    endpoint = Endpoint(costs=costs, speed=options.speed, dollars_per_s=options.price)
    results = {load: compare(asked, endpoint) for load, asked in loads(options.seed).items()}
    sys.stdout.write(table(results, endpoint))
    if options.plot:
        options.plot.write_text(plot.plotted(results))


if __name__ == "__main__":
    main()
