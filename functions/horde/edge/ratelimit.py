"""The Horde's rate limits: fixed windows, counted before any other check.

There are two kinds. A limit that only protects us from floods of reads is counted in the memory of
each Lambda process. This writes nothing, but several processes together may let more through. A
limit that must hold (``exact``) is counted in the table: one write per request, to an item of that
caller and window alone. An account's accepted requests per second are counted by its charge, which
writes the account anyway; those of the anonymous account by the part that counts its images. The
count in memory is a lower bound of the real one. So a flood is refused from memory and never
becomes a flood of writes.

Addresses are stored as keyed hashes, for which a process reads a secret once. If it cannot, the
request fails, and the next one tries again. A limit that is not exact needs no secret.
"""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from horde import aws, clock
from horde.edge.bodies import ANONYMOUS_KEY
from horde.edge.errors import TooManyRequests
from horde.records import ANONYMOUS_PARTS
from horde.rules.hashes import Purpose, keyed
from horde.store import connect

MAX_WINDOWS = 20_000
"""Windows that a process remembers before it drops those that have ended."""


class By(StrEnum):
    """Which requests are counted together."""

    IP = "ip"
    KEY = "key"
    PATH = "path"
    """Requests from one address to one path, and so to each request id separately."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most ``count`` requests in ``seconds``; ``trusted`` replaces it for trusted addresses."""

    count: int
    seconds: int
    by: By = By.IP
    exact: bool = False
    trusted: int | None = None
    anonymous: int | None = None
    """Replaces ``count`` for the anonymous key, which many people share."""
    charged: bool = False
    """Whether the transaction that accepts a request holds it, so that it needs no count of its
    own in the table. What is not accepted is then counted in memory only."""

    def allowed(self, *, trusted: bool, anonymous: bool) -> int:
        """Return the number of requests that a caller may send per window.

        An anonymous caller has the share of one part, unless its address is trusted.
        """
        allowed = self.trusted if trusted and self.trusted is not None else self.count
        if not anonymous or self.by is not By.KEY:
            return allowed
        allowed = allowed if self.anonymous is None else self.anonymous
        return allowed if trusted else -(-allowed // ANONYMOUS_PARTS)

    def __str__(self) -> str:
        """Return the limit in the Horde's wording, such as ``2 per 1 second``."""
        return limit_text(self.count, self.seconds)


def limit_text(count: int, seconds: int) -> str:
    """Return a limit in the Horde's wording, such as ``2 per 1 second``."""
    units = {1: "second", 60: "minute", 3600: "hour"}
    return f"{count} per 1 {units.get(seconds, f'{seconds} seconds')}"


GENERATE = (
    Limit(90, 60, By.IP, exact=True, trusted=300),
    Limit(2, 1, By.IP, exact=True, trusted=10),
    Limit(2, 1, By.KEY, exact=True, trusted=60, anonymous=60, charged=True),
)
"""POST generate/async (horde-api.md 1.1)."""
CHECK = (Limit(10, 1, By.PATH),)
STATUS = (Limit(10, 60, By.PATH, trusted=120),)
RATING = (Limit(5, 60, By.PATH, trusted=60),)
POOL_RATING = (Limit(60, 60, By.IP, trusted=600),)
"""POST v1/rating: the bounds of an account are held by its transaction (``rules.raters``)."""
REGISTER = (Limit(10, 60, By.IP, exact=True, trusted=600),)
"""Registration is free, and a new account's kudos cannot be spent upfront."""
TRANSFER = (Limit(1, 1, By.KEY, exact=True), Limit(90, 3600, By.KEY, exact=True))
"""POST kudos/transfer (horde-api.md 1.5)."""
USER = (Limit(60, 60, By.PATH, trusted=600),)
SHAREDKEYS = (Limit(5, 60, By.KEY, exact=True),)
KEYS = (Limit(5, 60, By.KEY, exact=True),)
STYLES = (Limit(2, 1, By.KEY, exact=True), Limit(20, 3600, By.KEY, exact=True))
"""POST styles: the numbers of the Horde's style contract."""
STYLE_CHANGE = (Limit(90, 60, By.PATH, trusted=600),)
WITHDRAW = (Limit(60, 60, By.IP, exact=True, trusted=600),)
"""DELETE shared: a withdrawal of a forgotten request is a write that anybody may cause."""
WORKER = (Limit(60, 1, By.KEY),)
CHANGE = (Limit(30, 60, By.PATH),)
READ = (Limit(90, 60, By.PATH, trusted=600),)


class Settings(aws.Settings):
    """Whether limits are enforced, which addresses are trusted, and the table of exact counts."""

    rate_limits: bool
    trusted_ips: str
    """Addresses and networks (CIDR), comma-separated."""
    table_name: str = ""
    hash_secret: str = ""
    """The ARN of the secret that addresses are hashed with, where an exact limit counts them."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a request comes from, as the limits distinguish it."""

    ip: str
    api_key: str | None
    path: str
    """Method and path."""

    def subject(self, by: By) -> str | None:
        """Return the name that requests are counted by in memory; see ``_stored``."""
        match by:
            case By.IP:
                return _hash(network(self.ip))
            case By.PATH:
                return _hash(f"{network(self.ip)}@{self.path}")
            case By.KEY if self.api_key is None:
                return None
            case By.KEY if self.api_key == ANONYMOUS_KEY:
                part = int(_hash(network(self.ip))[:8], 16) % ANONYMOUS_PARTS
                return f"anonymous{part}"
            case _:
                return _hash(f"key {self.api_key}")


@dataclass(frozen=True, slots=True)
class LimitStatus:
    """How close a caller is to a limit, as the ``X-RateLimit`` headers report it."""

    count: int
    limit: int
    seconds: int
    reset_at: int
    """End of the window, in seconds since the epoch."""

    @property
    def over(self) -> bool:
        """Whether this request exceeds the limit."""
        return self.count > self.limit

    def headers(self) -> dict[str, str]:
        """Return the headers that every response of a limited route carries."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(max(0, self.limit - self.count)),
            "X-RateLimit-Reset": str(self.reset_at),
            "Retry-After": str(max(1, self.reset_at - clock.now())),
        }


def network(ip: str) -> str:
    """Return an IPv4 address itself, or the /64 of an IPv6 address, which is one household."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return ip
    if address.version == 4:  # noqa: PLR2004
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


@cache
def _networks(listed: str) -> tuple[Any, ...]:
    return tuple(
        ipaddress.ip_network(part.strip(), strict=False)
        for part in listed.split(",")
        if part.strip()
    )


def is_trusted(ip: str, listed: str) -> bool:
    """Return whether an address is in one of the listed networks."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    return any(address in one for one in _networks(listed))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


_seen: dict[tuple[str, int, int], int] = {}


def clear_cache() -> None:
    """Drop the counts of this process, for tests."""
    _seen.clear()


def _count_here(subject: str, seconds: int, now: int) -> int:
    if len(_seen) > MAX_WINDOWS:
        for old in [key for key in _seen if (key[2] + 1) * key[1] <= now]:
            del _seen[old]
    key = (subject, seconds, now // seconds)
    _seen[key] = _seen.get(key, 0) + 1
    return _seen[key]


def check(limits: Sequence[Limit], route: str, caller: Caller) -> LimitStatus | None:
    """Count a request and return the tightest limit's status; raises TooManyRequests."""
    if not limits:
        return None
    settings, now = Settings.load(), clock.now()
    if not settings.rate_limits:
        return None
    trusted = is_trusted(caller.ip, settings.trusted_ips)
    anonymous = caller.api_key == ANONYMOUS_KEY
    groups: dict[str, list[LimitStatus]] = {}
    exact: set[str] = set()
    addresses: set[str] = set()
    for limit in limits:
        name = caller.subject(limit.by)
        if name is None:
            continue
        subject = f"{route}#{name}"
        allowed = limit.allowed(trusted=trusted, anonymous=anonymous)
        here = LimitStatus(
            count=_count_here(subject, limit.seconds, now),
            limit=allowed,
            seconds=limit.seconds,
            reset_at=(now // limit.seconds + 1) * limit.seconds,
        )
        groups.setdefault(subject, []).append(here)
        if limit.exact and not limit.charged:
            exact.add(subject)
        if limit.by is not By.KEY:
            addresses.add(subject)
    # Memory first: a caller who is over the limit already causes no write.
    tightest = _tightest([one for group in groups.values() for one in group])
    if exact:
        counted = [
            _counted(subject, group, now, address=subject in addresses)
            if subject in exact
            else group
            for subject, group in groups.items()
        ]
        tightest = _tightest([one for group in counted for one in group])
    return tightest


def charged(limits: Sequence[Limit], ip: str, *, anonymous: bool) -> int | None:
    """Return the requests per second that the acceptance holds, or None without limits."""
    if not Settings.load().rate_limits:
        return None
    trusted = is_trusted(ip, Settings.load().trusted_ips)
    return next(limit for limit in limits if limit.charged).allowed(
        trusted=trusted, anonymous=anonymous
    )


def refusal(limits: Sequence[Limit], ip: str, *, anonymous: bool) -> TooManyRequests:
    """Return the refusal of a request that its acceptance found to be one too many."""
    allowed = charged(limits, ip, anonymous=anonymous) or 0
    status = LimitStatus(allowed + 1, allowed, seconds=1, reset_at=clock.now() + 1)
    return TooManyRequests(limit_text(allowed, status.seconds), status.headers())


def anonymous_parts(ip: str) -> list[int]:
    """Return the parts of the anonymous account that may count an address's images, first first.

    An address has one, by a keyed hash, so it cannot take the places of all. Behind an address that
    the operator trusts are many people, and without limits nobody is held: then the others follow.
    """
    settings = Settings.load()
    name = keyed(aws.secret(settings.hash_secret), Purpose.PART, network(ip))
    own = int(name, 16) % ANONYMOUS_PARTS
    alone = settings.rate_limits and not is_trusted(ip, settings.trusted_ips)
    return [(own + step) % ANONYMOUS_PARTS for step in range(1 if alone else ANONYMOUS_PARTS)]


def _counted(
    subject: str, found: list[LimitStatus], now: int, *, address: bool
) -> list[LimitStatus]:
    settings, windows = Settings.load(), [one.seconds for one in found]
    name = _stored(subject, now // max(windows)) if address else subject
    counts = connect(settings.table_name).ratelimits.count(name, windows, now)
    return [
        LimitStatus(max(one.count, count), one.limit, one.seconds, one.reset_at)
        for one, count in zip(found, counts, strict=True)
    ]


def _stored(subject: str, window: int) -> str:
    """Return the name of an address in the table: a keyed hash, and another one in each window.

    So a reader of the table can neither look an address up nor follow one. A key has 128 random
    bits; its hash needs no secret.
    """
    route, _, _ = subject.partition("#")
    secret = aws.secret(Settings.load().hash_secret)
    return f"{route}#{keyed(secret, Purpose.ADDRESS, f'{subject}#{window}')}"


def _tightest(found: list[LimitStatus]) -> LimitStatus | None:
    if not found:
        return None
    worst = min(found, key=lambda one: (one.limit - one.count, -one.reset_at))
    if worst.over:
        # Like the Horde, count refused requests too; a client that honours Retry-After passes.
        raise TooManyRequests(limit_text(worst.limit, worst.seconds), worst.headers())
    return worst
