"""Keyed hashes: names for requests and addresses that only the holder of the secret can compute.

A bare hash of an address is no secret: all of IPv4 is hashed in hours. The key of these hashes is a
random secret of the account (``aws.secret``), which no reader of the table, of the data set or of a
function's configuration sees.
"""

import hashlib
import hmac
from enum import StrEnum

DIGITS = 32
"""Hex digits of a hash: 128 bits."""


class Purpose(StrEnum):
    """What a hash names. Hashes of two purposes cannot be compared."""

    REQUEST = "request"
    """The images of one request in the data set."""
    AUTHOR = "author"
    """The images of one account in the data set, within a year."""
    ADDRESS = "address"
    """Requests that are counted together against a rate limit."""
    RATER = "rater"
    """Who rated an image of the data set, in one year."""
    PART = "part"
    """The part of the anonymous account that an address belongs to."""


def keyed(secret: bytes, purpose: Purpose, text: str) -> str:
    """Return the HMAC-SHA256 of a text as hex; the same text has the same hash."""
    message = f"{purpose}\0{text}".encode("utf-8", "surrogatepass")
    return hmac.new(secret, message, hashlib.sha256).hexdigest()[:DIGITS]
