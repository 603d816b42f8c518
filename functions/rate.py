"""The ratings API of the Horde's clients, for released images: /api/v1 (ratings-api.md).

An account is given one image after another that needs ratings, and rates it. Whoever has no
account may look. A rating by nobody cannot be told from a script's, so it is refused.
``store.raters`` has the one transaction of a rating, so there is no crash window: a client that
lost the answer sends the same rating again, and gets the same answer.

``rules.raters`` says who is believed, and what that earns.
"""

import random
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from horde import aws, clock, gallery, rating_views, startup
from horde.edge import auth, ratelimit
from horde.edge.bodies import ANONYMOUS_KEY, parse
from horde.edge.errors import TooManyRequests
from horde.edge.http import ApiSettings, Call, Key, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.rating_models import (
    CheckQuery,
    Dataset,
    DatasetList,
    FormatQuery,
    ImageRatings,
    NewRating,
    PoolRating,
    RatedImages,
    RaterCheck,
    RaterCleared,
    RatingsQuery,
    RatingTaken,
    TeamList,
)
from horde.records import GivenRating, PoolImage, Rater, User
from horde.rules import accounts, raters
from horde.rules.accounts import user_number
from horde.rules.refusals import (
    AnonForbidden,
    Busy,
    DeletedUser,
    HordeError,
    ImageNotFound,
    NotAdmin,
    NothingToRate,
    NotModerator,
    NotRatedYet,
    RatingRefused,
    UnknownDataset,
    UserNotFound,
)
from horde.store import Store, connect

TRIES = 8
"""Tries of a rating whose image or rater others change meanwhile; each reads them again."""
COUNT_S = 60
"""Seconds for which a process remembers the number of images in the pool."""
_counted: dict[str, tuple[int, int]] = {}


class Settings(ApiSettings):
    """The names of this function's resources."""

    table_name: str
    gallery_bucket: str


def _store() -> Store:
    return connect(Settings.load().table_name)


# --- which image ------------------------------------------------------------------------------


def datasets(_call: Call) -> Response:
    """List the data sets whose images can be rated: the released images of this horde."""
    table, now = Settings.load().table_name, clock.now()
    read_at, count = _counted.get(table, (0, 0))
    if read_at <= now - COUNT_S:
        count = _store().pool.count()
        _counted[table] = (now, count)
    return Response(
        DatasetList(
            [
                Dataset(
                    id=raters.DATASET_ID,
                    name="Horde Commons",
                    description="Images that their authors shared as an open data set (CC0).",
                    image_count=count,
                )
            ]
        )
    )


def teams(_call: Call) -> Response:
    """List the teams of raters: there are none."""
    return Response(TeamList([]))


def new_rating(call: Call) -> Response:
    """Return an image to rate: one of those with the fewest ratings.

    An account is given the same image again until it has rated it, for ten minutes at most. It is
    never given an image that it requested, drew or rated. Without an account, an image can be
    looked at, but not rated.
    """
    dataset, model = call.path.get("dataset_id"), call.path.get("model_name")
    model = None if model is None else unquote(model)
    if dataset is not None and dataset.lower() != raters.DATASET_ID:
        raise UnknownDataset
    store, user = _store(), _user_or_none(call)
    image = _given(store, user, model) if user else store.pool.neediest(None, model)
    if image is None:
        raise NothingToRate
    return Response(
        NewRating(
            id=image.id,
            url=gallery.url(aws.s3(), Settings.load().gallery_bucket, image.id),
            dataset_id=raters.DATASET_ID,
        )
    )


def new_rating_of_dataset(call: Call) -> Response:
    """Return an image of a data set to rate, as `/v1/rating/new` does."""
    return new_rating(call)


def new_rating_of_model(call: Call) -> Response:
    """Return an image to rate that one model drew, as `/v1/rating/new` does."""
    return new_rating(call)


def _user_or_none(call: Call) -> User | None:
    """Return who calls, or None for a caller without an account."""
    if call.api_key in (None, ANONYMOUS_KEY):
        return None
    return auth.user_of(_store(), call.required_key())


def _required_user(call: Call) -> User:
    """Return who calls; raises AnonForbidden for a caller without an account."""
    user = _user_or_none(call)
    if user is None:
        raise AnonForbidden
    return user


def _given(store: Store, user: User, model: str | None) -> PoolImage | None:
    """Return the image that an account is to rate, and record it if it is a new one."""
    rater, now = store.raters.get(user.id), clock.now()
    if rater.given is not None and rater.given_at + raters.GIVEN_S > now:
        image = store.pool.get(rater.given)
        withdrawn = store.sharing.withdrawn([rater.given])
        if image is not None and not withdrawn and _may_go_on(image, user, now, model):
            return image
    image = store.pool.neediest(user.id, model)
    if image is None:
        return None
    share = raters.GOLD_SHARE if raters.proven(rater) else raters.GOLD_SHARE_NEW
    if model is None and random.random() < share:  # noqa: S311 - no secret
        image = store.pool.gold(user.id, good=raters.gold_is_good(rater)) or image
    store.raters.give(user.id, image.id)
    return image


def _may_go_on(image: PoolImage, user: User, now: int, model: str | None) -> bool:
    """Return whether an account is still to rate the image that it was given."""
    needed = image.gold is not None or image.ratings < raters.ENOUGH
    fits = model in (None, image.model)
    return needed and fits and raters.is_open(image, now) and not raters.is_own(image, user.id)


# --- rating -----------------------------------------------------------------------------------


def rate_image(call: Call) -> Response:
    """Rate the image that `/v1/rating/new` gave you, once.

    `artifacts` is a number or its name. The same rating can be sent again after a lost answer. The
    reward is posted at once, as soon as some of your ratings have been checked; what you earned
    before is posted with it.
    """
    body = parse(PoolRating, call.json())
    user = _required_user(call)
    image_id = _image_id(call)
    store = _store()
    for _ in range(TRIES):
        earlier = store.raters.rating(image_id, user.id)
        if earlier is not None:
            return _again(earlier, body)
        image, rater, now = store.pool.get(image_id), store.raters.get(user.id), clock.now()
        image = _check(image, rater, user, now)
        decision = raters.decide(
            image, rater, body.rating, body.artifacts, now=now, paid=not user.flagged
        )
        if store.raters.rate(user, image, rater, decision, body.rating, body.artifacts):
            return Response(RatingTaken(reward=decision.kudos, message=_thanks(decision, user)))
        if store.sharing.withdrawn([image_id]):
            raise ImageNotFound  # its mark is there, and it is about to leave the pool
        user = _read_again(store, user)
    raise Busy


def _read_again(store: Store, user: User) -> User:
    """Return an account as it is now; raises DeletedUser."""
    found = store.accounts.get(user.id)
    if found is None or found.deleted:
        raise DeletedUser
    return found


def _image_id(call: Call) -> str:
    """Return the id of the image in a call's path; raises ImageNotFound."""
    image_id = call.path.get("id", "")
    if not is_uuid(image_id):
        raise ImageNotFound
    return image_id.lower()


def _check(image: PoolImage | None, rater: Rater, user: User, now: int) -> PoolImage:
    """Return the image if the account may rate it now.

    Raises ImageNotFound, RatingRefused or TooManyRequests. The transaction holds all of it again.
    """
    if image is None or not raters.is_open(image, now):
        raise ImageNotFound
    if raters.is_own(image, user.id):
        raise RatingRefused("You cannot rate an image that you made.", rc="OwnImage")
    if rater.given != image.id:
        message = "You were not given this image to rate. GET /api/v1/rating/new gives you one."
        raise RatingRefused(message, rc="NotGiven")
    if image.gold is None and image.ratings >= raters.ENOUGH:
        message = "This image has enough ratings by now. Please ask for another one."
        raise RatingRefused(message, rc="RatedEnough")
    wait = raters.too_fast(rater, now)
    if wait is not None:
        limit = f"{raters.PER_MINUTE} per 1 minute, {raters.PER_DAY} per 1 day"
        raise TooManyRequests(limit, {"Retry-After": str(wait)})
    return image


def _again(earlier: GivenRating, body: PoolRating) -> Response:
    """Return the answer to a rating that was taken before, if this is the same."""
    if (earlier.rating, earlier.artifacts) != (body.rating, body.artifacts):
        message = "You have rated this image already."
        raise RatingRefused(message, rc="AlreadyRated")
    return Response(RatingTaken(reward=earlier.reward, message="You have rated this image."))


def _thanks(decision: raters.Decision, user: User) -> str:
    if decision.kudos:
        return f"Thank you! You have earned {decision.kudos} kudos."
    if decision.counted:
        return "Thank you! Your kudos wait until a few of your ratings have been checked."
    if user.flagged:
        return "Thank you. Your account is flagged, so your ratings earn no kudos."
    return (
        "Thank you. Too many of your ratings were unlike those of others, so they earn no kudos. "
        "A moderator can clear you."
    )


# --- looking at ratings -----------------------------------------------------------------------


def image_ratings(call: Call) -> Response:
    """Show the ratings of an image that you have rated; moderators see all, with names."""
    query = parse(FormatQuery, dict(call.query))
    store, user = _store(), _required_user(call)
    image_id = call.path.get("image_id", "").lower()
    image = store.pool.get(image_id) if is_uuid(image_id) else None
    if accounts.is_moderator(user, Settings.load().admins):
        if image is None:
            raise ImageNotFound
        given = store.raters.of_image(image_id, rating_views.MAX_LISTED)
    else:
        mine = store.raters.rating(image_id, user.id) if is_uuid(image_id) else None
        if mine is None:
            raise NotRatedYet
        if image is None:
            raise ImageNotFound
        given = [mine]
    bucket = Settings.load().gallery_bucket
    return rating_views.of_image(store, bucket, image, given, query.format)


def own_ratings(call: Call) -> Response:
    """List your ratings, the newest first."""
    query = parse(RatingsQuery, dict(call.query))
    user = _required_user(call)
    bucket = Settings.load().gallery_bucket
    return rating_views.of_account(_store(), bucket, user, query, name=user.username)


def validate_user(call: Call) -> Response:
    """List the ratings of an account beside the averages of their images, for moderators."""
    query = parse(RatingsQuery, dict(call.query))
    user = _moderated(call)
    bucket = Settings.load().gallery_bucket
    return rating_views.of_account(_store(), bucket, user, query, name=None)


def check_user(call: Call) -> Response:
    """Count how fast an account rates, and how often it differs from others, for moderators."""
    query = parse(CheckQuery, dict(call.query))
    user, store, now = _moderated(call), _store(), clock.now_ms()
    return Response(rating_views.check(store, user, query, now))


def clear_user(call: Call) -> Response:
    """Believe a rater again, whose checked ratings then start anew, for moderators."""
    user, store = _moderated(call, acting=True), _store()
    for _ in range(TRIES):
        rater = store.raters.get(user.id)
        if not rater.revision:
            raise UserNotFound("This user has not rated anything.")
        if store.raters.clear(rater):
            return Response(RaterCleared(username=user.username, distrusted=False))
    raise Busy


def _moderated(call: Call, *, acting: bool = False) -> User:
    """Return the account in a call's path, if the caller is a moderator.

    ``acting``: to change something of it, which on moderators and admins only admins do.
    """
    viewer, admins = auth.user_of(_store(), call.required_key()), Settings.load().admins
    accounts.require_moderator(viewer, admins)
    number = user_number(call.path.get("user_id", ""))
    user = None if number is None else _store().accounts.get(number)
    if user is None or user.anonymous:
        raise UserNotFound("There is no such user.")
    if acting:
        accounts.check_moderates(viewer, user, admins)
    return user


def _gives(run: Callable[[Call], Response]) -> Route:
    """Return a route that gives an image to rate."""
    return Route(
        run=run,
        responses={200: NewRating},
        key=Key.OPTIONAL,
        errors=(NothingToRate, UnknownDataset),
        limits=ratelimit.READ,
    )


def _lists(run: Callable[[Call], Response], *errors: type[HordeError]) -> Route:
    """Return a route that lists an account's ratings."""
    return Route(
        run=run,
        query=RatingsQuery,
        responses={200: RatedImages},
        key=Key.REQUIRED,
        errors=errors,
        limits=ratelimit.READ,
    )


ROUTES = {
    "GET /api/v1/datasets": Route(
        run=datasets, responses={200: DatasetList}, limits=ratelimit.READ
    ),
    "GET /api/v1/teams": Route(run=teams, responses={200: TeamList}, limits=ratelimit.READ),
    "GET /api/v1/rating/new": _gives(new_rating),
    "GET /api/v1/rating/new/{dataset_id}": _gives(new_rating_of_dataset),
    "GET /api/v1/rating/new/{dataset_id}/{model_name}": _gives(new_rating_of_model),
    "POST /api/v1/rating/{id}": Route(
        run=rate_image,
        body=PoolRating,
        responses={200: RatingTaken},
        key=Key.OPTIONAL,
        errors=(AnonForbidden, ImageNotFound, RatingRefused, Busy),
        limits=ratelimit.POOL_RATING,
    ),
    "GET /api/v1/image/ratings/{image_id}": Route(
        run=image_ratings,
        query=FormatQuery,
        responses={200: ImageRatings},
        key=Key.OPTIONAL,
        errors=(AnonForbidden, NotRatedYet, ImageNotFound),
        limits=ratelimit.READ,
    ),
    "GET /api/v1/user/ratings": _lists(own_ratings, AnonForbidden),
    "GET /api/v1/user/validate/{user_id}": _lists(validate_user, NotModerator, UserNotFound),
    "GET /api/v1/user/check/{user_id}": Route(
        run=check_user,
        query=CheckQuery,
        responses={200: RaterCheck},
        key=Key.REQUIRED,
        errors=(NotModerator, UserNotFound),
        limits=ratelimit.READ,
    ),
    "POST /api/v1/user/clear/{user_id}": Route(
        run=clear_user,
        responses={200: RaterCleared},
        key=Key.REQUIRED,
        errors=(NotModerator, UserNotFound, NotAdmin, Busy),
        limits=ratelimit.CHANGE,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)
