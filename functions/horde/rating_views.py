"""What raters and moderators are shown of ratings that were given, as JSON or as a page."""

from collections.abc import Callable, Sequence
from html import escape
from operator import eq, ge, le

from horde import aws, gallery
from horde.edge.http import Response
from horde.edge.pages import page
from horde.edge.rating_models import (
    CheckQuery,
    ImageRatings,
    OneRating,
    RatedImage,
    RatedImages,
    RaterCheck,
    RatingsQuery,
)
from horde.records import GivenRating, PoolImage, User
from horde.rules import raters
from horde.rules.dates import HOUR_S
from horde.store import Store

MAX_LISTED = 1000
"""Most ratings of an account that a list or a check looks at."""


def of_image(
    store: Store, bucket: str, image: PoolImage, given: Sequence[GivenRating], kind: str
) -> Response:
    """Return some ratings of an image; ``bucket`` is the gallery's, ``kind`` json or html."""
    names = _names(store, {one.user_id for one in given})
    found = ImageRatings(
        total=image.ratings,
        image=gallery.url(aws.s3(), bucket, image.id),
        image_id=image.id,
        average=_average(image),
        times_rated=image.ratings,
        ratings=[
            OneRating(username=names[one.user_id], rating=one.rating or 0, artifacts=one.artifacts)
            for one in given
        ],
    )
    return _shown(found, kind, found.ratings)


def of_account(
    store: Store, bucket: str, user: User, query: RatingsQuery, name: str | None
) -> Response:
    """Return what an account has rated, as far as the query asks for it.

    Of ``MAX_LISTED`` ratings at most. Those of images that were withdrawn are left out.
    ``bucket`` is the gallery's, ``name`` what is shown as the account's.
    """
    given = [
        one
        for one in store.raters.newest(user.id, MAX_LISTED)
        if one.rating is not None
        and _fits(one.rating, query.rating_comparison, query.rating)
        and _fits(one.artifacts, query.artifacts_comparison, query.artifacts)
    ]
    found = store.pool.get_many((one.image_id, one.model) for one in given)
    given = [
        one
        for one in given
        if one.image_id in found
        and found[one.image_id].ratings >= query.min_ratings
        and (query.diverge is None or _distance(one, found[one.image_id]) >= query.diverge)
    ]
    page_of = given[query.offset : query.offset + query.limit]
    rows = [
        RatedImage(
            image_id=one.image_id,
            image=gallery.url(aws.s3(), bucket, one.image_id),
            username=name,
            rating=one.rating or 0,
            artifacts=one.artifacts,
            average=_average(found[one.image_id]),
            times_rated=found[one.image_id].ratings,
        )
        for one in page_of
    ]
    return _shown(RatedImages(total=len(given), ratings=rows), query.format, rows)


def check(store: Store, user: User, query: CheckQuery, now: int) -> RaterCheck:
    """Return how fast an account rates, and how often it differs from others; ``now`` is in ms."""
    hours = 3
    longest = max(query.minutes * 60, hours * HOUR_S)
    given = store.raters.newest(user.id, MAX_LISTED, since=now - longest * 1000)
    recent = [one for one in given if one.rated_at > now - query.minutes * 60_000]
    past = [one for one in given if one.rated_at > now - hours * HOUR_S * 1000]
    found = store.pool.get_many((one.image_id, one.model) for one in recent if not one.own)
    suspect = [
        one
        for one in recent
        if one.image_id in found and _distance(one, found[one.image_id]) > query.divergence
    ]
    rater = store.raters.get(user.id)
    return RaterCheck(
        ratings_in_timeframe=len(recent),
        ratings_per_minute_in_timeframe=round(len(recent) / query.minutes, 2),
        ratings_past_three_hours=len(past),
        ratings_per_minute_for_past_three_hours=round(len(past) / (hours * 60), 2),
        suspect_divergences=len(suspect),
        captchas_failed=rater.gold_wrong,
        distrusted=raters.distrusted(rater),
        proven=raters.proven(rater),
    )


def _names(store: Store, ids: set[int]) -> dict[int, str]:
    found = store.accounts.get_many(ids)
    return {one: found[one].username if one in found else "Anonymous#0" for one in ids}


def _average(image: PoolImage) -> float:
    return round(image.rating_sum / image.ratings, 3) if image.ratings else 0.0


def _distance(one: GivenRating, image: PoolImage) -> float:
    return abs((one.rating or 0) - image.rating_sum / image.ratings) if image.ratings else 0.0


def _fits(found: int | None, comparison: str, wanted: int | None) -> bool:
    """Return whether a number is what a query asks for; None asks for nothing."""
    if wanted is None:
        return True
    how: dict[str, Callable[[int, int], bool]] = {"ge": ge, "le": le, "eq": eq}
    return found is not None and how[comparison](found, wanted)


def _shown(
    body: ImageRatings | RatedImages, kind: str, rows: Sequence[OneRating | RatedImage]
) -> Response:
    """Return a list of ratings as JSON, or as a page with a table."""
    if kind == "json":
        return Response(body)
    cells = [one.dump() for one in rows]
    names = [name for name in (cells[0] if cells else {}) if name != "image"]
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(str(row[name]))}</td>" for name in names) + "</tr>"
        for row in cells
    )
    return page("Ratings", f"<h1>Ratings</h1><table><tr>{head}</tr>{lines}</table>")
