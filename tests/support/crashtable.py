"""Cut every flow at every point and print a table: ``make crash``, or some flows by their names."""

import sys
import time

from tests.support.crashes import run, worlds
from tests.support.crashflows import FLOWS
from tests.support.moto_aws import moto_clients
from tests.support.template import synthesize

ROW = "{:<48} {:>6} {:>7} {:>7} {:>6} {:>7}\n"


def main(wanted: list[str]) -> int:
    """Print a row when its flow is through; returns how much is wrong."""
    out = sys.stdout
    out.write(ROW.format("flow", "calls", "points", "worlds", "wrong", "s"))
    calls = points = found = wrong = 0
    begun = time.monotonic()
    with moto_clients() as clients, worlds(synthesize(), clients) as world:
        for flow in FLOWS:
            if wanted and not any(part in flow.name for part in wanted):
                continue
            start = time.monotonic()
            report = run(world, flow)
            seconds = f"{time.monotonic() - start:.1f}"
            row = len(report.made), report.points, report.worlds, len(report.wrong)
            out.write(ROW.format(flow.name, *row, seconds))
            out.writelines(f"    {what}\n" for what in report.wrong)
            out.flush()
            calls, points, found, wrong = (
                a + b for a, b in zip((calls, points, found, wrong), row, strict=True)
            )
    seconds = f"{time.monotonic() - begun:.1f}"
    out.write(ROW.format("all", calls, points, found, wrong, seconds))
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) > 0)
