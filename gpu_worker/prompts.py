r"""Reads prompts as ComfyUI does, the reference's engine: weights in parentheses, and chunks.

`(word)` weighs 1.1 times as much as what is around it, `(word:1.3)` exactly 1.3; parentheses may be
nested, and `\(` is a plain one. A text encoder reads a fixed number of tokens, so a longer prompt
is read in chunks, whose embeddings follow each other. A phrase of few tokens is not torn apart.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MAX_WEIGHT = 100.0
"""Beyond it, up or down, a weight is taken for this one: embeddings times more overflow in half
precision, so that the image would be blank, and drawn in vain three times."""
MORE = 1.1
"""Factor of a pair of parentheses without a number."""
LONG_PHRASE = 8
"""Tokens from which a phrase is torn apart at the end of a chunk; a shorter one begins the next."""
MAX_CHUNKS = 32
"""Chunks of a prompt; more are refused, since the time of a step grows with them."""

Token = tuple[int, float]
"""A token of the tokenizer, and its weight."""

_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for plain parentheses; Unicode gives these two no meaning."""


def phrases(prompt: str) -> list[tuple[str, float]]:
    """Return the phrases of a prompt with their weights, in order."""
    text = prompt.replace("\\(", _OPEN).replace("\\)", _CLOSE)
    return [
        (phrase.replace(_OPEN, "(").replace(_CLOSE, ")"), weight)
        for phrase, weight in _weighed(text, 1.0, depth=0)
    ]


MAX_DEPTH = 50
"""Of nested parentheses; what is deeper is plain text. Nobody means more: 1.1 ** 50 is 117."""


def _weighed(text: str, weight: float, depth: int) -> Iterator[tuple[str, float]]:
    for part, is_group in _parts(text):
        if not is_group or depth == MAX_DEPTH:
            yield part, weight
            continue
        inside, number = part[1:-1], None
        before, colon, after = inside.rpartition(":")
        if colon and before:
            number = _number(after)
        if number is None:
            yield from _weighed(inside, weight * MORE, depth + 1)
        else:
            yield from _weighed(before, number, depth + 1)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return max(-MAX_WEIGHT, min(MAX_WEIGHT, found)) if math.isfinite(found) else None


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Yield plain text and whole groups in parentheses; one that is not closed is plain text."""
    begun, depth = 0, 0
    for at, letter in enumerate(text):
        if letter == "(":
            if depth == 0 and at > begun:
                yield text[begun:at], False
                begun = at
            depth += 1
        elif letter == ")" and depth > 0:
            depth -= 1
            if depth == 0:
                yield text[begun : at + 1], True
                begun = at + 1
    if begun < len(text):
        yield text[begun:], False


def chunks(
    groups: Iterable[Sequence[Token]], *, start: int, end: int, pad: int, length: int
) -> list[list[Token]]:
    """Return chunks of `length` tokens, at least one, each between `start` and `end`, then `pad`.

    `groups` has the tokens of each phrase. Raises ValueError if there are more than `MAX_CHUNKS`.
    """
    room = length - 2
    found: list[list[Token]] = [[]]
    for group in groups:
        left = list(group)
        is_long = len(left) >= min(LONG_PHRASE, room)
        while len(left) > room - len(found[-1]):
            taken = room - len(found[-1]) if is_long else 0
            found[-1] += left[:taken]
            left = left[taken:]
            found.append([])
            if len(found) > MAX_CHUNKS:
                message = f"the prompt has more than {MAX_CHUNKS * room} tokens"
                raise ValueError(message)
        found[-1] += left
    return [
        [(start, 1.0), *chunk, (end, 1.0), *[(pad, 1.0)] * (room - len(chunk))] for chunk in found
    ]


def common_length(positive: int, negative: int) -> int:
    """Return to how many chunks both prompts of an image are brought.

    Repeating an embedding changes nothing: attention weighs each of two equal keys half as much. So
    both are repeated to a common multiple if that is at most twice the longer one. Else the shorter
    is filled up with empty chunks, which change the picture a little.
    """
    multiple = math.lcm(positive, negative)
    longer = max(positive, negative)
    return multiple if multiple <= 2 * longer else longer
