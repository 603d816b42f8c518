"""The calls that flows make of DynamoDB, as text to compare with what was approved.

A bug in a condition, in a key, or in the order of two effects may change nothing that a flow shows:
another condition covers it, or it is written and read alike. Here each call is compared as it is
sent. Ids and hashes are named in the order in which they appear, so that a call that confuses two
of them is another call.

``calls.txt`` has each different call once, ``flows.txt`` what each flow calls, in order. After a
change on purpose, ``make approve`` writes both anew; their diff is to be read.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import direct
from tests.support.crashes import Flow, World, _acted, _prepared

FOLDER = Path(__file__).resolve().parent.parent / "flows" / "approved"
CALLS, IN_FLOWS = FOLDER / "calls.txt", FOLDER / "flows.txt"
NAMED = (
    ("id", r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"),
    ("hash", r"(?<![0-9a-f])[0-9a-f]{32,64}(?![0-9a-f])"),
    ("part", r"(?<=ANONYMOUS#)\d|(?<=WAITING#0#)\d|(?<=\"part\":\{\"N\":\")\d"),
)
"""What differs from run to run, or with the version of a library. The clock stands still."""
LEFT_OUT = ("TableName", "ClientRequestToken")


class Names:
    """Names for what differs from run to run: ``id1`` for the first id, and so on."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, str]] = {kind: {} for kind, _ in NAMED}

    def put(self, text: str) -> str:
        """Return a text with names in place of what differs."""
        for kind, pattern in NAMED:
            known = self._known[kind]
            text = re.sub(
                pattern,
                lambda found, known=known, kind=kind: known.setdefault(  # type: ignore[misc]
                    found[0], f"<{kind}{len(known) + 1}>"
                ),
                text,
            )
        return text


def _plain(value: Any) -> Any:
    """Return parameters without what is always the same."""
    if isinstance(value, dict):
        if list(value) == ["S"]:
            return value["S"]
        return {name: _plain(inner) for name, inner in value.items() if name not in LEFT_OUT}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return sorted(value) if isinstance(value, set | frozenset) else value


@contextmanager
def recorded(world: World) -> Iterator[list[str]]:
    """Record each call to DynamoDB that a function makes."""
    made: list[str] = []
    real, names = direct.dynamodb, Names()

    def record(operation: str, params: dict[str, Any]) -> Any:
        if world.wire.by:
            text = json.dumps(
                _plain(params), sort_keys=True, ensure_ascii=False, separators=(",", ":")
            )
            made.append(f"{world.wire.by} {operation} {names.put(text)}")
        return real(operation, params)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "dynamodb", record)
        yield made


def calls(world: World, flow: Flow) -> list[str]:
    """Return the calls of a flow, from its preparation to its end."""
    with recorded(world) as made, _prepared(world, flow) as start:
        _acted(world, flow, start, None)
        return made


def short(call: str) -> str:
    """Return the name of a call in the list of flows."""
    return hashlib.sha256(call.encode()).hexdigest()[:8]


def approved() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the approved calls by their names, and the names of each flow's calls."""
    known = {short(call): call for call in CALLS.read_text().splitlines()}
    rows = (row.partition(": ") for row in IN_FLOWS.read_text().splitlines())
    return known, {flow: names.split() for flow, _, names in rows}


def main() -> None:
    """Approve what all flows call now."""
    from tests.support.crashes import worlds
    from tests.support.crashflows import FLOWS
    from tests.support.moto_aws import moto_clients
    from tests.support.template import synthesize

    with moto_clients() as clients, worlds(synthesize(), clients) as world:
        found = {flow.name: calls(world, flow) for flow in FLOWS}
    FOLDER.mkdir(exist_ok=True)
    different = sorted({call for made in found.values() for call in made})
    CALLS.write_text("".join(f"{call}\n" for call in different))
    rows = (f"{name}: {' '.join(map(short, made))}\n" for name, made in found.items())
    IN_FLOWS.write_text("".join(rows))


if __name__ == "__main__":
    main()
