"""Why some mutants change nothing that counts: ``explained.toml``."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tests.mutation.operators import Mutant

EXPLAINED = Path(__file__).with_name("explained.toml")


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
