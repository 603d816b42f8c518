"""Raters and the ratings they gave.

A rating is one transaction. It adds to the image's counts, writes the rating, moves the rater's own
counts and posts the reward. Its conditions hold all bounds, whatever was read before: one rating of
an image by an account, five of an image, so many a minute and a day, none of an own image, and an
account that is neither deleted nor, if it earns, flagged. Nothing of it can be half done.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from horde import clock
from horde.records import GivenRating, PoolImage, Rater, User
from horde.rules import kudos, raters, ruleset
from horde.rules.raters import Decision
from horde.store.items import (
    LISTED,
    PK,
    RATERS,
    SK,
    Item,
    Kind,
    encode,
    encode_all,
    from_item,
    id_of,
    key,
    listed,
    ratings_list,
    to_item,
)
from horde.store.ledger import (
    IN_GOOD_STANDING,
    append_entry,
    apply_to_balance,
    needs_place,
)
from horde.store.pool import counts_of, may_rate, rating_key
from horde.store.table import BATCH, Table
from horde.store.transaction import ABSENT, EXISTS, check, new, sets, update

RATED = "rating "
"""The beginning of the reference of a reward for a rating."""


def reference(image_id: str, user_id: int) -> str:
    """Return the reference of the reward for an account's rating of an image."""
    return f"{RATED}{image_id} {user_id}"


class Raters:
    """The accounts that rate, and their ratings."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, user_id: int) -> Rater:
        """Read what an account has rated; one that has rated nothing has no item."""
        item = self._table.get(key(Kind.RATER, user_id))
        return from_item(Rater, item) if item else Rater(user_id=user_id)

    def get_many(self, ids: Iterable[int]) -> dict[int, Rater]:
        """Read raters; returns those that have an item, by account."""
        items = self._table.batch(key(Kind.RATER, one) for one in dict.fromkeys(ids))
        return {one.user_id: one for one in (from_item(Rater, item) for item in items)}

    def rating(self, image_id: str, user_id: int) -> GivenRating | None:
        """Read the rating that an account gave an image."""
        item = self._table.get(rating_key(image_id, user_id))
        return from_item(GivenRating, item) if item else None

    def give(self, user_id: int, image_id: str) -> None:
        """Record the image that an account was given to rate."""
        self._table.add(
            key(Kind.RATER, user_id),
            "SET user_id = :user, given = :given, given_at = :now ADD revision :one",
            {"user": user_id, "given": image_id, "now": clock.now(), "one": 1},
        )

    def clear(self, rater: Rater) -> bool:
        """Believe a rater again; returns False if it has changed since it was read."""
        changes = {**raters.cleared(rater), "revision": rater.revision + 1}
        seen = {"revision": rater.revision}
        return self._table.change(key(Kind.RATER, rater.user_id), changes, seen) is not None

    def rate(
        self,
        user: User,
        image: PoolImage,
        before: Rater,
        decision: Decision,
        rating: int,
        artifacts: int | None,
    ) -> bool:
        """Store a rating with all that it does; returns False if what was read has changed."""
        now = clock.now_ms()
        given = GivenRating(
            image_id=image.id,
            user_id=user.id,
            rated_at=now,
            model=image.model,
            rating=rating,
            artifacts=artifacts,
            gold=image.gold is not None,
            counted=decision.counted,
            reward=decision.kudos,
            pays=decision.pays,
            ruleset=ruleset.IN_FORCE.version,
        )
        item = {
            **rating_key(image.id, user.id),
            **to_item(given),
            **listed(ratings_list(user.id), now),
        }
        counted = counts_of(image, user.id, rating, artifacts)
        parts = [
            counted if decision.counted else may_rate(image, user.id),
            check(key(Kind.SHARED, image.id), "attribute_not_exists(withdrawn_at)"),
            new(item),
            _moved(before, decision.rater, now),
            *(_compared(other, diverged) for other, diverged in decision.others.items()),
            *_rewards(user, decision),
        ]
        return self._table.try_transact(parts)

    # --- lists --------------------------------------------------------------------------------

    def newest(self, user_id: int, limit: int, *, since: int = 0) -> list[GivenRating]:
        """Return an account's last ratings after a time in ms, the newest first.

        ``limit`` bounds the keys and the items that are read.
        """
        rows = self._table.read_list(
            ratings_list(user_id), limit, last_first=True, since=since or None
        )
        return sorted(self._read(rows), key=lambda one: -one.rated_at)

    def active(self, since: int) -> Iterator[list[int]]:
        """Yield the accounts that have rated at or after a time in ms, a page at a time."""
        pages = self._table.pages(
            f"{LISTED.partition} = :list AND {LISTED.sort} >= :since",
            {"list": RATERS, "since": since},
            IndexName=LISTED.name,
        )
        yield from ([int(id_of(item)) for item in page] for page in pages)

    def between(self, user_id: int, since: int, until: int) -> Iterator[list[GivenRating]]:
        """Yield an account's ratings from ``since`` until before ``until`` (ms), in order.

        A page has at most ``BATCH`` of them.
        """
        pages = self._table.pages(
            f"{LISTED.partition} = :list AND {LISTED.sort} BETWEEN :since AND :until",
            {"list": ratings_list(user_id), "since": since, "until": until - 1},
            IndexName=LISTED.name,
            Limit=BATCH,
        )
        for page in pages:
            yield sorted(self._read(page), key=lambda one: (one.rated_at, one.image_id))

    def of_image(self, image_id: str, limit: int) -> list[GivenRating]:
        """Return the ratings of an image, up to ``limit``, in no order."""
        answer = self._table.query(
            f"{PK} = :image", {"image": f"{Kind.RATING}#{image_id}"}, Limit=limit
        )
        items = [dict(item) for item in answer["Items"] if "user_id" in item]
        return [one for one in (from_item(GivenRating, item) for item in items) if one.rating]

    def _read(self, rows: Iterable[Item]) -> list[GivenRating]:
        items = self._table.batch({PK: row[PK], SK: row[SK]} for row in rows)
        return [from_item(GivenRating, item) for item in items]


def of_owner(user_id: int, now_ms: int) -> list[Item]:
    """Return the part that puts the owner of rated images into the list of raters.

    The anonymous account is in no list: whoever reads ratings reads its own, too.
    """
    return [
        update(
            key(Kind.RATER, user_id),
            f"SET user_id = :user, {LISTED.partition} = :list, {LISTED.sort} = :now "
            "ADD revision :one",
            "",
            encode_all({"user": user_id, "list": RATERS, "now": now_ms, "one": 1}),
        )
    ]


def _moved(before: Rater, after: Rater, now_ms: int) -> Item:
    """Return the part that moves a rater's own counts, if they are what was read."""
    changes = asdict(after)
    expression, names, values = sets({**changes, **_listed(now_ms)})
    unchanged = "revision = :before" if before.revision else ABSENT
    if before.revision:
        values[":before"] = encode(before.revision)
    return update(key(Kind.RATER, after.user_id), expression, unchanged, values, names)


def _listed(now_ms: int) -> dict[str, object]:
    return {LISTED.partition: RATERS, LISTED.sort: now_ms}


def _compared(user_id: int, diverged: bool) -> Item:  # noqa: FBT001 - the value itself
    """Return the part that counts a comparison for an earlier rater."""
    name = "diverged" if diverged else "agreed"
    one = encode_all({"one": 1})
    return update(key(Kind.RATER, user_id), f"ADD {name} :one, revision :one", EXISTS, one)


def _rewards(user: User, decision: Decision) -> list[Item]:
    """Return the parts that post the rewards, one entry for each rating, or check the account."""
    amount = ruleset.IN_FORCE.per_pool_rating
    entries = {image_id: kudos.award(user.id, amount) for image_id in sorted(decision.pays)}
    if not entries or not amount:
        return [check(key(Kind.USER, user.id), f"{EXISTS} AND attribute_not_exists(deleted)")]
    return [
        apply_to_balance(list(entries.values()), IN_GOOD_STANDING, place=needs_place(user)),
        *(
            append_entry(entry, reference=reference(image_id, user.id))
            for image_id, entry in entries.items()
        ),
    ]
