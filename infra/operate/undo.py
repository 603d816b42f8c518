"""``bin/operator undo-worker``: undo what the holder of a worker key has done.

The holder of a worker key can at worst be paid for pictures that nobody asked for, until its worker
drops too many images or the key is revoked. They reach the data set only once its owner is trusted.

Each step can be repeated and skips what is done, so an interrupted run is run again. The account is
flagged first: from then on its workers get no images, its kudos cannot be sent on, and nothing that
they drew is published.
"""

from collections.abc import Callable
from dataclasses import dataclass

from horde.records import Settlement, Shared, User
from horde.store import Store
from horde.store.rewards import MAX_REVERSED

Progress = Callable[[int], object]
PAID_AT_ONCE = 40
"""Pending rewards that are paid in one call."""


@dataclass(slots=True)
class Undone:
    """What ``undo_worker`` did, or would do."""

    keys: int = 0
    rewards: int = 0
    """Rewards taken back."""
    kudos: int = 0
    """Kudos taken back."""
    spent: int = 0
    """Kudos that the account no longer has above its floor."""
    withdrawn: int = 0
    """Images taken out of the data set."""
    dropped: int = 0
    """Held images that will not be published."""

    def text(self, user: User, *, dry_run: bool) -> str:
        """Return the report to print."""
        done = "would be " if dry_run else ""
        lines = [
            f"{user.username} {done}flagged",
            f"worker keys  {self.keys} {done}revoked",
            f"rewards      {self.rewards} {done}taken back, {self.kudos} kudos",
            f"images       {self.withdrawn} {done}withdrawn, {self.dropped} more {done}dropped",
        ]
        if self.spent:
            lines.append(
                f"{self.spent} kudos cannot be taken back: they were spent or sent on. Run this "
                "again if the balance grows."
            )
        return "\n".join(lines)


def undo_worker(
    store: Store,
    user: User,
    withdraw: Callable[[Shared], None],
    *,
    dry_run: bool = False,
    progress: Progress = lambda _: None,
) -> Undone:
    """Revoke an account's worker keys, take its rewards back, and withdraw what its workers drew.

    ``withdraw`` takes one image out of the data set. ``progress`` is called with the number of
    things that each step did.
    """
    undone = Undone()
    if not dry_run and not user.flagged:
        store.accounts.change(user, {"flagged": True})
    unlisted = [key.hash for key in store.keys.unlisted() if key.user_id == user.id]
    for key in store.keys.of_user(user.id, unlisted):
        if key.worker and (dry_run or store.keys.revoke(key)):
            undone.keys += 1
    _take_back(store, user, undone, dry_run=dry_run, progress=progress)
    for shared in store.sharing.drawn_by(user.id):
        if shared.withdrawn_at is None:
            if not dry_run:
                withdraw(shared)
            undone.withdrawn += 1
            progress(1)
    # The sweep asks for the release of a flagged owner's images, and they are dropped.
    undone.dropped = sum(1 for _ in store.held.all_of(user.id))
    return undone


def _take_back(
    store: Store, user: User, undone: Undone, *, dry_run: bool, progress: Progress
) -> None:
    """Take back as many rewards as the balance covers, the oldest first."""
    rewards = list(store.rewards.of(user.id))
    pending = [reward.settlement for reward in rewards if not reward.posted]
    if not dry_run:
        for start in range(0, len(pending), PAID_AT_ONCE):
            store.payouts.post(pending[start : start + PAID_AT_ONCE])
    fresh = store.accounts.get(user.id) or user
    left = fresh.kudos - fresh.floor
    if dry_run:
        left += sum(settlement.reward for settlement in pending)
    covered: list[Settlement] = []
    for reward in rewards:
        if reward.settlement.reward <= left:
            covered.append(reward.settlement)
            left -= reward.settlement.reward
        else:
            undone.spent += reward.settlement.reward
    for start in range(0, len(covered), MAX_REVERSED):
        batch = covered[start : start + MAX_REVERSED]
        amount = sum(settlement.reward for settlement in batch)
        if not dry_run and not store.rewards.take_back(fresh, batch):
            undone.spent += amount  # the balance has changed since it was read
            continue
        undone.kudos += amount
        undone.rewards += len(batch)
        progress(len(batch))
