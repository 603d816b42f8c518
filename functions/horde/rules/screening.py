"""Which images are kept back from a release, and why.

An image is screened after its delivery and before it is published. What is kept back waits for the
operator, who releases or destroys it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

MAX_DISTANCE = 4
"""Most bits by which two perceptual hashes of one picture differ, of 64 (dHash: up to 10 are
similar pictures, up to 4 are re-encodings and resizings of one)."""
BY_OPERATOR = "operator"
"""What ``screened_by`` says of an image that the operator has looked at and released."""


class Reason(StrEnum):
    """Why an image is kept back; each release counts them."""

    SCORE = "nsfw score"
    PROMPT = "prompt"
    HASH = "hash list"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Screening:
    """What was found out about an image file."""

    nsfw_score: float
    """0 to 1."""
    screened_by: str
    md5: str
    """In hexadecimal, as is ``phash``."""
    phash: str

    def columns(self) -> dict[str, Any]:
        """Return the columns of the data set that it fills."""
        return {
            "nsfw_score": round(self.nsfw_score, 6),
            "screened_by": self.screened_by,
            "md5": self.md5,
            "phash": self.phash,
        }


@dataclass(frozen=True, slots=True)
class HashList:
    """Hashes of pictures that are never published: MD5 of files, and perceptual hashes."""

    md5: frozenset[str] = frozenset()
    phash: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "HashList":
        """Read a list with one hash in hexadecimal in each line; ``#`` begins a comment.

        32 digits are an MD5, 16 digits a perceptual hash. Raises ValueError, which names the line.
        """
        md5, phash = set[str](), set[int]()
        for number, line in enumerate(text.splitlines(), 1):
            word = line.partition("#")[0].strip().lower()
            if not word:
                continue
            if re.fullmatch(r"[0-9a-f]{32}", word):
                md5.add(word)
            elif re.fullmatch(r"[0-9a-f]{16}", word):
                phash.add(int(word, 16))
            else:
                message = f"line {number} is neither an MD5 nor a hash of 64 bits"
                raise ValueError(message)
        return cls(frozenset(md5), tuple(sorted(phash)))

    def holds(self, screening: Screening) -> bool:
        """Return whether a picture, or one that looks like it, is on the list."""
        mine = int(screening.phash, 16)
        return screening.md5 in self.md5 or any(
            (mine ^ one).bit_count() <= MAX_DISTANCE for one in self.phash
        )


MIN_WORD, MAX_WORD = 2, 100
"""Least and most characters of a word or phrase that is looked for."""


def parse_words(text: str) -> list[str]:
    """Read a list with one word or phrase in each line; ``#`` begins a comment.

    Raises ValueError, which names the line, for what is shorter than ``MIN_WORD`` or longer than
    ``MAX_WORD``: the one would keep back almost everything, the other is no phrase.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.partition("#")[0].strip()
        if word and not MIN_WORD <= len(word) <= MAX_WORD:
            message = f"line {number} has {len(word)} characters, not {MIN_WORD} to {MAX_WORD}"
            raise ValueError(message)
        if word:
            found.append(word)
    return found


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what finds any of these words or phrases, whatever separates the words of a phrase."""
    ways = [r"[\W_]+".join(map(re.escape, word.split())) for word in words if word.split()]
    return (
        re.compile(rf"(?<![^\W_])(?:{'|'.join(ways)})(?![^\W_])", re.IGNORECASE) if ways else None
    )


def found_words(prompt: str, words: Sequence[str]) -> str | None:
    """Return which of the listed words or phrases a prompt has first, or None.

    Whole words count, in any case, whatever separates them.
    """
    pattern = _pattern(tuple(words))
    found = pattern.search(prompt) if pattern else None
    return found[0] if found else None


def asked_in(row: Mapping[str, Any]) -> str:
    """Return all text of a row that its author wrote and that says what to draw."""
    return " ".join(row.get(name, "") for name in ("prompt", "loras", "tis"))


def reasons(
    row: dict[str, Any],
    screening: Screening,
    *,
    threshold: float,
    words: Iterable[str],
    hashes: HashList,
) -> list[Reason]:
    """Return why an image is kept back; empty if it may be published.

    ``row`` has its columns at intake. ``threshold`` is the score from which it is kept back. What
    the operator has released is kept back for its hash alone.
    """
    found = []
    if row.get("screened_by") != BY_OPERATOR:
        if screening.nsfw_score >= threshold:
            found.append(Reason.SCORE)
        if found_words(asked_in(row), tuple(words)):
            found.append(Reason.PROMPT)
    if hashes.holds(screening):
        found.append(Reason.HASH)
    return found
