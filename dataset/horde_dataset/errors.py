"""What can go wrong, each in one sentence that is shown as it is."""

import re

HIDDEN = re.compile(r"[^\x20-\x7e\u00a0-\ud7ff\ue000-\uffef\U00010000-\U0010ffff]")
LONGEST = 300


class DatasetError(Exception):
    """A command cannot be carried out; the message is the sentence to show."""


class BrokenOffError(DatasetError):
    """A transfer ended early; it can be tried again from where it stopped."""


class MissingError(DatasetError):
    """The source has no such file."""


def shown(text: object) -> str:
    """Return somebody else's text fit for a terminal: one bounded line, no control characters."""
    clean = HIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\n", " "))
    return clean if len(clean) <= LONGEST else f"{clean[:LONGEST]}…"
