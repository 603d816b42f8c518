"""Keyed hashes: published and stored, so that a changed one would name something else."""

from horde.rules.hashes import DIGITS, Purpose, keyed

SECRET = b"a secret of the account"


def test_a_hash_stays_the_same_for_good() -> None:
    assert keyed(SECRET, Purpose.REQUEST, "7") == "a7ff810b49565cc4aa016f1226f76a76"
    assert keyed(SECRET, Purpose.ADDRESS, "7") == "040f2076072b7f51bfc381049789959d"
    assert len(keyed(SECRET, Purpose.REQUEST, "7")) == DIGITS


def test_a_hash_depends_on_secret_purpose_and_text() -> None:
    hashes = {
        keyed(SECRET, Purpose.REQUEST, "7"),
        keyed(b"another", Purpose.REQUEST, "7"),
        keyed(SECRET, Purpose.ADDRESS, "7"),
        keyed(SECRET, Purpose.REQUEST, "8"),
    }
    assert len(hashes) == 4


def test_any_header_can_be_hashed() -> None:
    lone_surrogate = "\ud800"
    assert keyed(SECRET, Purpose.ADDRESS, lone_surrogate) != keyed(SECRET, Purpose.ADDRESS, "?")
