"""What a shared key allows: each limit at its boundary."""

from dataclasses import replace

import pytest

from horde.records import UNLIMITED, ImageSpec, SharedKey, User
from horde.rules import refusals, sharedkeys

KEY = SharedKey(id="k", user_id=1, name="n", kudos=10, created_at=0)
SPEC = ImageSpec(width=64, height=128, steps=7, sampler_name="k_euler")
OWNER = User(id=1, alias="o", kudos=0, floor=0, created_at=0)


def test_a_trusted_account_has_more_keys() -> None:
    assert sharedkeys.max_keys(OWNER) == sharedkeys.MAX_KEYS
    assert sharedkeys.max_keys(replace(OWNER, trusted=True)) == sharedkeys.MAX_KEYS_TRUSTED


def test_a_key_expires_after_its_days_or_never() -> None:
    assert sharedkeys.expires_at(2, 5) == 172_805
    assert sharedkeys.expires_at(UNLIMITED, 5) is None
    assert not sharedkeys.is_expired(KEY, 10**12)
    assert not sharedkeys.is_expired(replace(KEY, expires_at=6), 5)
    assert sharedkeys.is_expired(replace(KEY, expires_at=5), 5)
    assert sharedkeys.is_expired(replace(KEY, expires_at=0), 5)


def test_an_expired_or_spent_key_is_refused() -> None:
    sharedkeys.check_alive(replace(KEY, kudos=1, expires_at=6), 5)
    sharedkeys.check_alive(replace(KEY, kudos=UNLIMITED), 5)
    with pytest.raises(refusals.SharedKeyExpired):
        sharedkeys.check_alive(replace(KEY, expires_at=5), 5)
    with pytest.raises(refusals.SharedKeyEmpty):
        sharedkeys.check_alive(replace(KEY, kudos=0), 5)


def test_a_charge_up_to_the_budget_is_allowed() -> None:
    sharedkeys.check_request(KEY, SPEC, total=10)
    sharedkeys.check_request(replace(KEY, kudos=UNLIMITED), SPEC, total=11)
    sharedkeys.check_request(None, SPEC, total=11)
    with pytest.raises(refusals.SharedKeyInsufficientKudos, match=r"costs 11 kudos.* has 10 left"):
        sharedkeys.check_request(KEY, SPEC, total=11)


def test_images_up_to_the_keys_pixels_and_steps_are_allowed() -> None:
    exact = replace(KEY, max_image_pixels=8192, max_image_steps=7)
    sharedkeys.check_request(exact, SPEC, total=1)
    with pytest.raises(refusals.SharedKeyLimit, match="at most 8191 pixels, not 8192"):
        sharedkeys.check_request(replace(exact, max_image_pixels=8191), SPEC, total=1)
    with pytest.raises(refusals.SharedKeyInsufficientKudos):  # what it costs is said first
        sharedkeys.check_request(replace(exact, max_image_pixels=8191), SPEC, total=11)
    with pytest.raises(refusals.SharedKeyLimit, match="at most 6 steps, not 7"):
        sharedkeys.check_request(replace(exact, max_image_steps=6), SPEC, total=1)
