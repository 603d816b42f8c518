"""What LoRAs and textual inversions do to a prompt: trigger words, and places of embeddings."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpu_worker.addons.asked import Inversion

ANY = "any"
"""An `inject_trigger` that takes the first trigger."""
NEGATIVE = "###"
FIRST = 0xE100
"""Code of the first placeholder; Unicode gives these characters no meaning."""
PLACEHOLDERS = 20
MAX_TRIGGER = 300
"""Characters of a trigger that are put into a prompt."""
_PLACEHOLDER = re.compile(f"([{chr(FIRST)}-{chr(FIRST + PLACEHOLDERS - 1)}])")


def placeholder(number: int) -> str:
    """Return the character that stands for a job's textual inversion in its prompt."""
    return chr(FIRST + number)


def split(phrase: str) -> Iterator[str | int]:
    """Yield the text of a phrase, and the numbers of the textual inversions in it, in order."""
    for part in _PLACEHOLDER.split(phrase):
        if _PLACEHOLDER.fullmatch(part):
            yield ord(part) - FIRST
        elif part.strip():
            yield part


def trigger(asked: str, triggers: Sequence[str]) -> str | None:
    """Return the trigger that is meant: the first for `any`, else the one most like `asked`."""
    known = {one.lower(): one for one in reversed(triggers)}
    if asked.lower() == ANY:
        return triggers[0] if triggers else None
    inside = [one for one in triggers if asked.lower() in one.lower()]
    close = get_close_matches(asked.lower(), known, n=1)
    return inside[0] if inside else known[close[0]] if close else None


def with_triggers(prompt: str, triggers: Sequence[str]) -> str:
    """Return a prompt with triggers at the end of its positive part, unless they are in it."""
    positive, mark, negative = prompt.partition(NEGATIVE)
    for one in triggers:
        text = " ".join(one.replace(NEGATIVE, " ").split())[:MAX_TRIGGER]
        if text and text.lower() not in positive.lower():
            positive = f"{positive}, {text}"
    return positive + mark + negative


def with_inversions(prompt: str, asked: Sequence[Inversion]) -> tuple[str, list[int]]:
    """Return a prompt with its textual inversions as placeholders, and which are not in it.

    `embedding:name` is ComfyUI's way to name one, and `(embedding:name:1.2)` gives it a weight;
    `embedding:name:1.2` does so too. Without a weight it has its strength. One that is to be
    injected is put before the positive prompt, or after the negative one.
    """
    text = _PLACEHOLDER.sub("", prompt)
    absent = []
    # The longest first, since a name may begin with another.
    for number in sorted(range(len(asked)), key=lambda one: -len(asked[one].name)):
        one = asked[number]
        sign = f"({placeholder(number)}:{one.strength:g})"
        named = re.compile(
            rf"embedding:{re.escape(one.name)}(?:\.(?:safetensors|pt|bin))?(?![\w-])"
            r"(?::([+-]?\d+(?:\.\d+)?))?",
            re.IGNORECASE,
        )
        text, count = named.subn(
            lambda match, number=number, sign=sign: (  # type: ignore[misc]
                f"({placeholder(number)}:{match[1]})" if match[1] else sign
            ),
            text,
        )
        positive, _, negative = text.partition(NEGATIVE)
        if one.inject == "prompt":
            text = f"{sign}, {text}"
        elif one.inject == "negprompt":
            text = f"{positive}{NEGATIVE}{negative}, {sign}" if negative else f"{positive}###{sign}"
        elif not count:
            absent.append(number)
    return text, absent
