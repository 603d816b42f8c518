"""The names of queues, and the partition of their marks."""

from typing import NamedTuple
from uuid import UUID

from horde.records import Generation
from horde.rules.needs import needs
from horde.rules.shards import shard_of
from horde.store.items import Kind, partition


class QueueName(NamedTuple):
    """The name of a queue: its images wait for workers of one target and have the same needs."""

    target: str
    """Which workers may draw them, such as those of one model."""
    needs: str
    shard: int = 0

    def __str__(self) -> str:
        """Return the queue's partition in the index of waiting images."""
        return f"{self.label}#{self.target}"

    @property
    def label(self) -> str:
        """Its name among the queues of its target."""
        return f"{self.needs}#{self.shard}"


def queue_named(target: str, label: str) -> QueueName:
    """Return a target's queue by its label; raises ValueError if the text is no label."""
    needs, _, shard = label.partition("#")
    return QueueName(target, needs, int(shard))


def parse(text: str) -> QueueName:
    """Return the queue with this partition; raises ValueError if no queue has it."""
    needs, shard, target = text.split("#", 2)
    return QueueName(target, needs, int(shard))


def model_target(model: str) -> str:
    """Return the target of images that wait for the workers of a model."""
    return partition(Kind.MODEL, model)


ANY = "ANY"
"""The target of images that workers of any model may draw."""


def target_of(generation: Generation) -> str:
    """Return the target of an image: the first of its models, or any."""
    if generation.any_model:
        return ANY
    return model_target(generation.models[0] if generation.models else generation.model)


def queue_of(generation: Generation, shards: int = 1) -> QueueName:
    """Return the queue that an image waits in, if those of its target have so many shards.

    All images of a request are in one shard, so that they can be drawn in one batch.
    """
    shard = shard_of(UUID(generation.request_id).int, shards) if shards > 1 else 0
    return QueueName(target_of(generation), needs(generation), shard)


MARKS = "QUEUES"
"""The partition of the index of waiting images that has the marks of queues, by target."""
