"""Raters and the pool: what a release offers, and what clients of the ratings API send."""

import random
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from horde import gallery
from horde.edge.auth import key_hash
from horde.records import Held
from horde.store.items import Kind
from horde.store.items import key as key_in
from tests.support.api_calls import ApiCalls, Reply
from tests.support.cloud import Cloud
from tests.support.images import webp

NEW, RATE = "GET /api/v1/rating/new", "POST /api/v1/rating/{id}"


def released(cloud: Cloud, key: str, n: int = 1, worker: str | None = None) -> list[str]:
    """Have ``n`` shared images drawn and published, and offer them to raters; returns their ids."""
    cloud.generate(key, params={"n": n}, shared=True)
    drawn = cloud.draw(worker or cloud.new_worker(), name=f"w{random.random()}")
    cloud.settle_async()
    for one in drawn:
        assert offer(cloud, one)
    return drawn


def pooled(cloud: ApiCalls, n: int) -> list[str]:
    """Put images into the pool that are in the data set, without having them drawn."""
    ids = [str(uuid.uuid4()) for _ in range(n)]
    for one in ids:
        image = Held(generation_id=one, request_id=one, user_id=0, worker_user=0)
        cloud.store.sharing.mark_shared(image, f"incoming/{one}.tar", 1)
        assert offer(cloud, one)
    return ids


def offer(cloud: ApiCalls, image_id: str, body: bytes | None = None) -> bool:
    """Offer one published image, as a release does."""
    shared = cloud.store.sharing.get(image_id)
    assert shared is not None
    row = {"id": image_id, "model": "stable_diffusion"}
    return gallery.offer(
        cloud.store,
        cloud.s3,
        cloud.bucket("Gallery"),
        image_id=image_id,
        body=body or webp("red"),
        row=row,
        user_id=shared.user_id,
        worker_user=shared.worker_user or 0,
    )


def new(cloud: ApiCalls, key: str | None) -> Reply:
    """Ask for an image to rate."""
    return cloud.call(NEW, key=key)


def rate(cloud: ApiCalls, key: str | None, image_id: str, rating: Any, **more: Any) -> Reply:
    """Rate one image."""
    return cloud.call(RATE, {"rating": rating, **more}, key=key, id=image_id)


def rate_next(cloud: ApiCalls, key: str, rating: int, **more: Any) -> Reply:
    """Ask for an image and rate it, as stable-ui does."""
    given = new(cloud, key)
    assert given.status == 200, given
    return rate(cloud, key, given.body["id"], rating, **more)


def given(cloud: ApiCalls, key: str, image_id: str) -> None:
    """Have an account be given this image."""
    store = cloud.store
    user = store.keys.get(key_hash(key))
    assert user is not None
    store.raters.give(user.user_id, image_id)


@contextmanager
def gold_share(share: float) -> Iterator[None]:
    """Have raters given gold always (1) or never (0)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("horde.rules.raters.GOLD_SHARE", share)
        patch.setattr("horde.rules.raters.GOLD_SHARE_NEW", share)
        yield


def prove(cloud: ApiCalls, user_id: int, right: int = 3) -> None:
    """Make a rater proven behind the API's back, as right answers to gold do."""
    cloud.store.table.add(
        key_in(Kind.RATER, user_id),
        "SET user_id = :user ADD gold_right :right, revision :one",
        {"user": user_id, "right": right, "one": 1},
    )
