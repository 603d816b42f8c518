"""What a process remembers of the table between requests."""

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
MOST = 5000
"""Entries that are remembered before all are forgotten: callers choose names, and so the keys."""


class Remembered(dict[K, V]):
    """A bounded memory; who reads it decides whether an entry is still good."""

    def put(self, key: K, value: V) -> V:
        """Remember a value, and return it."""
        if len(self) >= MOST:
            self.clear()
        self[key] = value
        return value
