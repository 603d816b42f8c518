"""The items that the table's stream delivers: settlements, requests, webhooks and CSAM marks.

A settlement is a ledger entry of the worker's owner. ``settle`` writes it as *pending* and due,
with the fields of ``Settlement`` beside the entry's own. ``payouts`` marks it *posted* in the
transaction that moves the balance. Only this module knows its encoding. ``settle`` writes it, the
stream's filter selects it, ``payouts`` reads it from the stream and the sweep from the table.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from horde import clock
from horde.records import (
    ANONYMOUS_ID,
    AnonymousRequest,
    Event,
    Generation,
    Request,
    Settlement,
    State,
)
from horde.rules import kudos, rewards, ruleset
from horde.rules.tickets import pixelsteps
from horde.store.due import Due, due
from horde.store.items import DUE, KEEP_S, SK, TTL, Item, Kind, Row, encode, id_of, key, partition
from horde.store.ledger import append_entry
from horde.store.transaction import new

POSTED_WITHIN_S = 5 * 60
"""Seconds after which the sweep posts a reward that ``payouts`` has not posted."""
PENDING_REWARD = {"kind": kudos.Kind.REWARD.value}
NEW_REQUEST = {SK: Kind.REQUEST.value}
NEW_WEBHOOK = {SK: Kind.WEBHOOK.value}
NEW_CSAM_MARK = {SK: Kind.CSAM.value}
"""The attribute and text by which the stream's filters select these new items."""
POSTED = "posted"
"""The attribute of a settlement that has been paid and counted."""
_FIELDS = ("worker_id", "user_id", "model", "pixelsteps", "claimed_at", "settled_at", "tax")
"""The fields of a settlement that are stored beside those of its ledger entry."""
_OPTIONAL = ("part", "style_id", "style_owner", "style_reward")
"""Those that are stored only if there is a value."""


def pending(request: Request, generation: Generation, state: State, settled_at: int) -> Item:
    """Return the part that appends the reward of an image that is delivered in ``state``.

    ``settled_at`` is in ms.
    """
    author = rewards.style_owner(request, generation, state)
    settlement = Settlement(
        entry_id="",
        owner_id=generation.worker_user or 0,
        worker_id=generation.worker_id or "",
        user_id=request.user_id,
        generation_id=generation.id,
        model=generation.model,
        pixelsteps=generation.pixelsteps,
        claimed_at=generation.claimed_at * 1000,
        settled_at=settled_at,
        reward=rewards.reward(request, generation, state),
        tax=request.tax,
        part=generation.part,
        style_id=request.style_id,
        style_owner=author,
        style_reward=None if author is None else ruleset.of(request.ruleset).style_reward,
    )
    stored = {name: encode(getattr(settlement, name)) for name in _FIELDS}
    optional = {name: getattr(settlement, name) for name in _OPTIONAL}
    stored |= {name: encode(value) for name, value in optional.items() if value is not None}
    return append_entry(
        kudos.reward(settlement.owner_id, settlement.reward),
        reference=settlement.generation_id,
        more={**stored, **due(Due.REWARD, generation.id, clock.now() + POSTED_WITHIN_S)},
    )


def webhook_due(generation: Generation) -> Item:
    """Return the outbox item that makes the stream call the webhook."""
    return new(
        {
            **key(Kind.WEBHOOK, generation.id),
            "generation_id": {"S": generation.id},
            TTL: encode(clock.now() + KEEP_S),
        }
    )


def settlement_of(item: Mapping[str, Any]) -> Settlement:
    """Return the settlement in a ledger entry, from the table or the stream.

    Raises KeyError or ValueError for an entry that this system did not write.
    """
    return Settlement(
        entry_id=item[SK]["S"],
        owner_id=int(id_of(item)),
        worker_id=item["worker_id"]["S"],
        user_id=int(item["user_id"]["N"]),
        generation_id=item["reference"]["S"],
        model=item["model"]["S"],
        pixelsteps=int(item["pixelsteps"]["N"]),
        claimed_at=int(item["claimed_at"]["N"]),
        settled_at=int(item["settled_at"]["N"]),
        reward=int(item["amount"]["N"]),
        tax=int(item["tax"]["N"]),
        part=int(item["part"]["N"]) if "part" in item else None,
        style_id=item["style_id"]["S"] if "style_id" in item else None,
        style_owner=int(item["style_owner"]["N"]) if "style_owner" in item else None,
        style_reward=int(item["style_reward"]["N"]) if "style_reward" in item else None,
    )


def row_of_settlement(settlement: Settlement) -> Row:
    """Return the key of a settlement's ledger entry."""
    return Row(partition(Kind.USER, settlement.owner_id), settlement.entry_id)


def event_of(image: Mapping[str, Any]) -> Event | None:
    """Return the event that a new item in the stream stands for, or None if it is not counted.

    Raises KeyError or ValueError for an item that this system did not write.
    """
    if image[SK]["S"] != Kind.REQUEST:
        return settlement_of(image)
    if int(image["user_id"]["N"]) != ANONYMOUS_ID:
        return None  # ``accept`` counts an account's own requests with its balance
    return AnonymousRequest(request_id=image["id"]["S"], images=int(image["n"]["N"]))


class NewRequest(NamedTuple):
    """A request that needs tickets."""

    request_id: str
    model: str
    images: int
    pixelsteps: int
    """The work of all its images, estimated (``rules.tickets``)."""
    created_at: int
    """In ms since the epoch."""


class WebhookDue(NamedTuple):
    """An image whose webhook must be called."""

    generation_id: str


class CsamFound(NamedTuple):
    """A request of which a worker marked an image as CSAM."""

    csam: str
    """The request's id."""


def outbox_of(image: Mapping[str, Any]) -> NewRequest | WebhookDue | CsamFound | None:
    """Return the message that a new item in the stream asks to send, or None if it asks for none.

    So does a request that the endpoint of its model cannot draw.

    Raises KeyError or ValueError for an item that this system did not write.
    """
    if image[SK]["S"] == Kind.WEBHOOK:
        return WebhookDue(image["generation_id"]["S"])
    if image[SK]["S"] == Kind.CSAM:
        return CsamFound(image["request_id"]["S"])
    if "no_tickets" in image:
        return None
    images = int(image["n"]["N"])
    return NewRequest(
        request_id=image["id"]["S"],
        model=image["model"]["S"],
        images=images,
        pixelsteps=images * pixelsteps(json.loads(image["payload"]["S"])),
        created_at=int(image["created_at"]["N"]),
    )


POSTING = f"SET {POSTED} = :true REMOVE {DUE.attributes}"
"""The update expression that marks a settlement posted."""
