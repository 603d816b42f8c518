"""docs/development.md as a list of recipes: commands, and what the page says one will see."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.template import ROOT

PAGE = (ROOT / "docs" / "development.md").read_text()
PROMPT = "(Pdb) "


@dataclass(frozen=True)
class Recipe:
    """Commands of one ``sh`` block, and the lines of the ``text`` block that follows."""

    commands: tuple[str, ...]
    shown: tuple[str, ...]

    @property
    def typed(self) -> list[str]:
        """What is typed at the debugger's prompt."""
        return [line.removeprefix(PROMPT) for line in self.shown if line.startswith(PROMPT)]

    def missing(self, output: str) -> list[str]:
        """Return the lines of the page that an output does not have."""
        wanted = [line for line in self.shown if line.strip(". ") and not line.startswith(PROMPT)]
        return [line for line in wanted if not re.search(pattern(line), output, re.MULTILINE)]


def pattern(line: str) -> str:
    """Return what matches a line of the page: ``...`` is anything, a number any number."""
    parts = [
        re.sub(r"\d+(?:\\\.\d+)*", r"[\\d.]+", re.escape(part.strip()))
        for part in line.split("...")
    ]
    return re.sub(r"(\\ )+", r"\\s+", ".*".join(parts))


def fenced(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [body for found, body in _blocks() if found == language]


def _blocks() -> Iterator[tuple[str, str]]:
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def recipes() -> list[Recipe]:
    """Return the page's recipes, in its order."""
    blocks = list(_blocks())
    following = [*blocks[1:], ("", "")]
    return [
        Recipe(tuple(body.splitlines()), tuple(after[1].splitlines()) if after[0] == "text" else ())
        for (language, body), after in zip(blocks, following, strict=True)
        if language == "sh"
    ]
