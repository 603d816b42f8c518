"""Shards: over how many partitions the queues of a target are spread, by how many images come.

DynamoDB writes 1,000 units a second to one partition of an index and reads 3,000. An image takes a
unit when it begins to wait and one when it is claimed.
"""

SAMPLE = 64
"""Of so many requests, one is counted, for all of them."""
WINDOW_S = 10
"""Seconds over which images are counted before the number of shards changes."""
PER_SHARD = 400
"""Images a second for each shard."""
MAX_SHARDS = 64


def is_counted(number: int) -> bool:
    """Return whether a request with this number, such as its UUID's, counts for the others."""
    return number % SAMPLE == 0


def shard_of(number: int, shards: int) -> int:
    """Return the shard of a request with this number."""
    return number // SAMPLE % shards


def shards_for(images: int, seconds: int) -> int:
    """Return the number of shards for so many images that came in so many seconds."""
    return max(1, min(MAX_SHARDS, -(-images // (PER_SHARD * max(1, seconds)))))
