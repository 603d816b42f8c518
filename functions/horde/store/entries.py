"""The entries of an image in queues: its own item, and one more for each further model.

An image whose request names several models waits for the workers of each of them. Its own item is
in the queue of the first. For each other model there is a copy, an item beside it, in that model's
queue. A claim changes the own item alone, under the condition that it is as the copy says, so the
image is claimed once. Crash window: a claim that dies leaves the copies. Who loses a claim of an
image that no longer waits takes them out of their queues.
"""

from collections.abc import Iterator
from dataclasses import replace

from horde import clock
from horde.records import Generation
from horde.store.items import (
    KEEP_S,
    TTL,
    WAITING,
    Item,
    Kind,
    encode,
    key_of,
    partition,
    to_item,
)
from horde.store.registry import Registry
from horde.store.table import Table
from horde.store.transaction import EXISTS


def copies(generation: Generation, registry: Registry, images: int = 0) -> list[Item]:
    """Return the copies of an image that begins to wait, whose queues are marked now.

    ``images`` as in ``Registry.enter``.
    """
    return [
        {
            **key_of((partition(Kind.GENERATION, generation.id), name)),
            **to_item(image),
            WAITING.partition: {"S": str(registry.enter(replace(image, models=[]), images))},
            TTL: encode(clock.now() + KEEP_S),
        }
        for name, image in _copied(generation)
    ]


def withdraw(table: Table, generation: Generation) -> None:
    """Take the copies of an image out of their queues. Idempotent.

    Only those that are as old as ``generation``: a later fault may have written others.
    """
    for name, _ in _copied(generation):
        table.try_update(
            key_of((partition(Kind.GENERATION, generation.id), name)),
            f"REMOVE {WAITING.attributes}",
            f"{EXISTS} AND attempt = :attempt",
            {":attempt": encode(generation.attempt)},
        )


def _copied(generation: Generation) -> Iterator[tuple[str, Generation]]:
    for model in generation.models[1:]:
        yield f"{Kind.COPY}#{model}", replace(generation, model=model)
