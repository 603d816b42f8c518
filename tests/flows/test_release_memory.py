"""Packing streams: a shard is larger than the memory that writes it."""

import pytest

from tests.bench.shard_stub import IMAGE
from tests.bench.shards import measure

IMAGES = 4000
MOST_MB = 350
"""Of the whole process; the images alone have more."""


@pytest.mark.slow
def test_a_shard_is_written_in_less_memory_than_its_images_have() -> None:
    assert IMAGES * IMAGE / 2**20 > MOST_MB
    assert measure(lambda _: None, IMAGES)["release memory"]["value"] < MOST_MB
