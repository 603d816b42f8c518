"""Tickets that were lost in a burst, among thousands of waiting images."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from horde.rules import matching
from horde.store.queuenames import queue_of
from horde.store.requests import waiting_item
from sweep import MAX_TICKETS
from tests.support.cloud import Cloud, fresh_cloud

IMAGES = 5
"""Images behind a ticket: half a minute of drawing at the default speed."""
OLD, NEW = 1240, 1200


@pytest.fixture
def busy(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[Cloud]:
    """A cloud whose books are not proven: its images have no requests, which takes minutes less."""
    with fresh_cloud(template, clients) as cloud:
        yield cloud


def burst(cloud: Cloud, kudos: int, images: int) -> None:
    """Let as many images wait, as an account with so many kudos asks for them; without tickets."""
    first = cloud.store.requests.get(cloud.generate().body["id"])
    assert first is not None
    (image,) = cloud.store.requests.generations(first)
    priority = matching.priority(kudos, image.created_at)
    items = [
        waiting_item(replace(image, id=str(uuid.uuid4()), priority=priority), queue_of(image))
        for _ in range(images - 1)
    ]
    for start in range(0, len(items), 25):
        puts = [{"PutRequest": {"Item": item}} for item in items[start : start + 25]]
        cloud.db.batch_write_item(RequestItems={cloud.table: puts})


@pytest.mark.slow
def test_lost_tickets_behind_a_burst_of_others_are_seen(busy: Cloud) -> None:
    busy.clock.freeze()
    burst(busy, 0, OLD)
    busy.clock.pass_seconds(61)
    burst(busy, 10**6, NEW)  # before all others, and their tickets are on the way
    assert busy.sweep()["tickets"] == MAX_TICKETS
    busy.runpod.in_progress = OLD // IMAGES - len(busy.runpod.jobs) - 7
    assert busy.sweep()["tickets"] == 7


@pytest.mark.slow
def test_lost_tickets_are_seen_beside_those_that_were_not_lost(busy: Cloud) -> None:
    busy.clock.freeze()
    burst(busy, 0, OLD + NEW)
    busy.clock.pass_seconds(61)
    busy.runpod.in_progress = NEW // IMAGES
    sent = [busy.sweep()["tickets"] for _ in range(5)]
    assert sent == [100, 100, OLD // IMAGES - 200, 0, 0]
