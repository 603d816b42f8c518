"""Marks: that images may wait in a queue, and how good the best of them may be.

A mark is set before an image begins to wait. It is removed only after its queue was seen empty
twice, ``LAPSE_S`` apart. So a mark is there while anything waits, although the index lags and
processes remember marks for ``FRESH_MS``.
"""

from dataclasses import dataclass, replace

FRESH_MS = 1000
"""Milliseconds for which a process believes the marks that it has read."""
GRACE_S = 10
"""Seconds for which a queue that was seen empty is still read, after the others.

Longer than an image usually takes from the read of the mark to the index."""
LAPSE_S = 120
"""Seconds from the first sight of an empty queue to the one that removes its mark.

Longer than ``FRESH_MS``, the life of a function that accepts, and the lag of the index together."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The mark of one queue. Times are in seconds since the epoch."""

    top: int
    """At least the priority of its best image."""
    marked_at: int
    """When ``top`` was last raised, or the queue marked anew."""
    empty_at: int = 0
    """When it was seen empty for the first time since then; 0 if it was not."""

    def resting(self, now: int) -> bool:
        """Return whether the queue has been empty for so long that a pop need not read it."""
        return bool(self.empty_at) and self.empty_at <= now - GRACE_S


def raised(mark: Mark | None, priority: int, now: int) -> Mark | None:
    """Return the mark that an image with this priority needs; None if ``mark`` will do."""
    if mark is None:
        return Mark(priority, now)
    if mark.top >= priority and not mark.empty_at:
        return None
    return Mark(max(mark.top, priority), now)


def corrected(mark: Mark, head: int | None, now: int, *, at_once: bool = False) -> Mark | None:
    """Return the mark of a queue after a look into it; None if it is to be removed.

    ``head`` is the priority of the best image that the index shows, or None if it shows none. A
    queue that was marked a moment ago is called empty only if ``at_once``: it is likely to be
    marked again, which costs writes.
    """
    if head is not None:
        return replace(mark, top=min(mark.top, head), empty_at=0)
    if not mark.empty_at:
        young = mark.marked_at > now - GRACE_S
        return mark if young and not at_once else replace(mark, empty_at=now)
    return None if mark.empty_at <= now - LAPSE_S else mark
