"""The limits within which a shared key spends its owner's kudos (horde-api.md 1.5).

The budget is also a condition of the transaction that spends it (``store.requests.accept``).
"""

import hashlib

from horde.records import UNLIMITED, ImageSpec, SharedKey, User
from horde.rules.dates import DAY_S
from horde.rules.refusals import (
    SharedKeyEmpty,
    SharedKeyExpired,
    SharedKeyInsufficientKudos,
    SharedKeyLimit,
)

MAX_KEYS = 3
"""Shared keys that an account may have."""
MAX_KEYS_TRUSTED = 10
"""Shared keys that a trusted account may have."""


def mark(key_id: str) -> str:
    """Return what stands for a key in its owner's ledger, which outlives it: its id is a secret."""
    return hashlib.sha256(key_id.encode()).hexdigest()[:32]


def max_keys(user: User) -> int:
    """Return how many shared keys an account may have."""
    return MAX_KEYS_TRUSTED if user.trusted else MAX_KEYS


def expires_at(days: int, now: int) -> int | None:
    """Return when a key expires, in seconds since the epoch, or None for never."""
    return None if days == UNLIMITED else now + days * DAY_S


def is_expired(key: SharedKey, now: int) -> bool:
    """Return whether a key has expired; ``now`` is in seconds."""
    return key.expires_at is not None and key.expires_at <= now


def check_alive(key: SharedKey, now: int) -> None:
    """Refuse an expired or spent key; raises SharedKeyExpired or SharedKeyEmpty."""
    if is_expired(key, now):
        raise SharedKeyExpired
    if key.kudos == 0:
        raise SharedKeyEmpty


def check_budget(key: SharedKey, total: int) -> None:
    """Refuse a charge above the key's budget; raises SharedKeyInsufficientKudos."""
    if key.kudos != UNLIMITED and key.kudos < total:
        message = f"This request costs {total} kudos; this shared key has {key.kudos} left."
        raise SharedKeyInsufficientKudos(message)


def check_limits(key: SharedKey, spec: ImageSpec) -> None:
    """Refuse images with more pixels or steps than the key allows; raises SharedKeyLimit."""
    pixels, steps = spec.pixels, spec.steps
    if key.max_image_pixels != UNLIMITED and pixels > key.max_image_pixels:
        message = f"This shared key allows at most {key.max_image_pixels} pixels, not {pixels}."
        raise SharedKeyLimit(message)
    if key.max_image_steps != UNLIMITED and steps > key.max_image_steps:
        message = f"This shared key allows at most {key.max_image_steps} steps, not {steps}."
        raise SharedKeyLimit(message)


def check_request(key: SharedKey | None, spec: ImageSpec, *, total: int) -> None:
    """Refuse a request that its shared key, if it has one, does not allow.

    Raises SharedKeyInsufficientKudos or SharedKeyLimit.
    """
    if key is not None:
        check_budget(key, total)
        check_limits(key, spec)
