"""The ratings tables of a release: one row per rating, and one per image. No identities.

``ratings`` reads page by page: the raters who were active, and of each the ratings in order. So its
memory is bounded by a page, however many ratings there are. ``Means`` takes these rows and needs
some hundred bytes per image.

Left out are ratings of images that are not in the data set any more, of gold images, whose answers
must stay unknown, and of images that are still being rated, whose means must not be looked up. So
are those of raters who are distrusted, until a moderator clears them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from horde import clock
from horde.records import ANONYMOUS_ID, GivenRating, PoolImage, Rater
from horde.rules import raters
from horde.rules.dates import day
from horde.rules.hashes import Purpose, keyed
from horde.store import Store

NOT_RATED = -1
"""The artifacts of a rating without them: no column of a release is ever null."""


class RatingRow(TypedDict):
    """A row of the table of ratings."""

    id: str
    """The image's."""
    rater: str
    """A keyed hash, another one each year; empty for the image's own author."""
    rating: int
    artifacts: int
    """From 0 to 5, or ``NOT_RATED``."""
    own: bool
    """Whether the image's author rated it, or somebody who had the id of its request."""
    proven: bool
    """Whether the rater's ratings were checked, and right. Always false for own ones."""
    rated_on: str
    """The day, in UTC."""


class ImageRow(TypedDict):
    """A row of the table of images. Own ratings are not in it."""

    id: str
    ratings_count: int
    rating: float
    """The mean."""
    artifacts_count: int
    artifacts: float
    """The mean of those that rate them, or ``NOT_RATED``."""


def ratings(
    store: Store, secret: bytes, *, since: int = 0, until: int | None = None
) -> Iterator[list[RatingRow]]:
    """Yield the ratings from ``since`` until before ``until`` (ms since the epoch), page by page.

    A rating is first seen here when its image has enough of them, so an earlier period may have
    new rows: a release reads all of it again. The lists are eventually consistent, so ``until`` is
    to be a minute ago or more; it is one by default.
    """
    before = clock.now_ms() - 60_000 if until is None else until
    for accounts in _accounts(store, since):
        found = store.raters.get_many(accounts)
        for user_id in accounts:
            rater = found.get(user_id, Rater(user_id=user_id))
            if raters.distrusted(rater):
                continue
            for page in store.raters.between(user_id, since, before):
                rows = _rows(store, page, rater, secret)
                if rows:
                    yield rows


def _accounts(store: Store, since: int) -> Iterator[list[int]]:
    yield [ANONYMOUS_ID]  # it is in no list, but rates what its requests have drawn
    yield from store.raters.active(since)


def _rows(store: Store, page: list[GivenRating], rater: Rater, secret: bytes) -> list[RatingRow]:
    rated = [
        one
        for one in page
        if one.rating is not None and not one.gold and (one.counted or one.own or rater.cleared)
    ]
    there = store.sharing.in_data_set({one.image_id for one in rated})
    pool = store.pool.get_many((one.image_id, one.model) for one in rated)
    now = clock.now()
    return [
        row(one, rater, secret)
        for one in rated
        if one.image_id in there and _is_done(pool.get(one.image_id), now)
    ]


def _is_done(image: PoolImage | None, now: int) -> bool:
    """Return whether an image is not being rated, or not any more; None was never in the pool."""
    if image is None:
        return True
    if image.gold is not None:
        return False
    return image.ratings >= raters.ENOUGH or not raters.is_open(image, now)


def row(given: GivenRating, rater: Rater, secret: bytes) -> RatingRow:
    """Return the row of one rating. Pure."""
    rated_on = day(given.rated_at)
    year = rated_on[:4]
    name = keyed(secret, Purpose.RATER, f"{year} {given.user_id}")
    return {
        "id": given.image_id,
        "rater": "" if given.own else name,
        "rating": given.rating or 0,
        "artifacts": NOT_RATED if given.artifacts is None else given.artifacts,
        "own": given.own,
        "proven": not given.own and raters.proven(rater),
        "rated_on": rated_on,
    }


class Means:
    """The counts and means by image, made from the rows of ratings. Pure."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[int, int, int, int]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Count one row of ratings; those of owners are not counted."""
        if row["own"]:
            return
        count, total, flawed, flaws = self._sums.get(row["id"], (0, 0, 0, 0))
        rated = row["artifacts"] != NOT_RATED
        self._sums[row["id"]] = (
            count + 1,
            total + row["rating"],
            flawed + rated,
            flaws + (row["artifacts"] if rated else 0),
        )

    def rows(self) -> Iterator[ImageRow]:
        """Yield the rows of images, by their ids."""
        for image_id in sorted(self._sums):
            count, total, flawed, flaws = self._sums[image_id]
            yield {
                "id": image_id,
                "ratings_count": count,
                "rating": total / count,
                "artifacts_count": flawed,
                "artifacts": flaws / flawed if flawed else float(NOT_RATED),
            }
