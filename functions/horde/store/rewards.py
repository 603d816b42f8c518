"""Rewards that the operator takes back, each exactly once.

The transaction that takes rewards back also flags their entries as reversed. So an interrupted run
can be repeated.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from horde.records import Settlement, User
from horde.rules import kudos
from horde.store.items import PK, SK, Item, Kind, Row, encode, key_of, partition
from horde.store.ledger import balance_at_least, post
from horde.store.settlements import PENDING_REWARD, POSTED, settlement_of
from horde.store.table import Table
from horde.store.transaction import update

REVERSED = "reversed"
"""The attribute of a reward that was taken back."""
MAX_REVERSED = 90
"""Rewards that one transaction takes back; DynamoDB allows 100 items."""


class Reward(NamedTuple):
    """A reward in an account's ledger."""

    settlement: Settlement
    posted: bool
    """Whether it has been paid."""


class Rewards:
    """The rewards in an account's ledger."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def of(self, user_id: int) -> Iterator[Reward]:
        """Yield an account's rewards that were not taken back, oldest first."""
        pages = self._table.pages(
            f"{PK} = :user AND begins_with({SK}, :ledger)",
            {
                "user": partition(Kind.USER, user_id),
                "ledger": f"{Kind.LEDGER}#",
                "reward": PENDING_REWARD["kind"],
            },
            FilterExpression=f"kind = :reward AND attribute_not_exists({REVERSED})",
        )
        for page in pages:
            for item in page:
                yield Reward(settlement_of(item), POSTED in item)

    def take_back(self, user: User, rewards: Sequence[Settlement]) -> bool:
        """Take paid rewards back from their account, up to ``MAX_REVERSED`` at once.

        Returns False, and takes nothing, if the balance would fall below its floor or one of them
        was taken back meanwhile.
        """
        amount = sum(reward.reward for reward in rewards)
        stays_above_floor = balance_at_least(user.floor + amount)
        entry = kudos.reversal(user.id, amount)
        return self._table.try_transact(
            [*map(_reverse, rewards), *post(entry, stays_above_floor, reference="undo-worker")]
        )


def _reverse(reward: Settlement) -> Item:
    paid_and_not_taken_back = f"{POSTED} = :true AND attribute_not_exists({REVERSED})"
    return update(
        key_of(Row(partition(Kind.USER, reward.owner_id), reward.entry_id)),
        f"SET {REVERSED} = :true",
        paid_and_not_taken_back,
        {":true": encode(value=True)},
    )
