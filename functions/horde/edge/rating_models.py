"""The bodies, queries and responses of the ratings API (ratings-api.md).

They are apart from the others, since a function's start pays for each model that it imports.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictInt, WithJsonSchema

from horde.edge.bodies import Body
from horde.edge.responses import Count, Kudos, Uuid, Wire, WireList

ARTIFACTS = (
    "FLAWLESS",
    "LITTLE_FLAWS",
    "SOME_FLAWS",
    "OBVIOUS_FLAWS",
    "HARMFUL_FLAWS",
    "GARBAGE",
)
"""The names of the artifacts from 0 to 5; the npm client's types have the names alone."""
MAX_ROWS = 100
"""Most ratings that a list shows."""
MAX_OFFSET = 900
"""Most ratings that a list passes over."""
MAX_MINUTES = 30 * 24 * 60
"""Longest time for which a moderator checks a rater, in minutes."""


def _number(value: object) -> object:
    return ARTIFACTS.index(value) if value in ARTIFACTS else value


Artifacts = Annotated[
    StrictInt,
    Field(ge=0, le=5),
    BeforeValidator(_number),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 5}, {"enum": list(ARTIFACTS)}]}
    ),
]
Comparison = Literal["ge", "le", "eq"]
"""At least, at most, or exactly what is asked for."""
Format = Literal["json", "html"]


class PoolRating(Body):
    """The body of ``POST /v1/rating/{id}``."""

    rating: Annotated[StrictInt, Field(ge=1, le=10)]
    """How much you like the image by itself: 1 is the worst, 10 the best."""
    artifacts: Artifacts | None = None
    """How flawed the image is, from 0 (not at all) to 5 (garbage), or the name of that."""


class FormatQuery(Body):
    """The query of ``GET /v1/image/ratings/{image_id}``."""

    format: Format = "json"


class RatingsQuery(FormatQuery):
    """The query of ``GET /v1/user/ratings`` and ``GET /v1/user/validate/{user_id}``."""

    rating: Annotated[int, Field(ge=1, le=10)] | None = None
    rating_comparison: Comparison = "ge"
    artifacts: Annotated[int, Field(ge=0, le=5)] | None = None
    artifacts_comparison: Comparison = "ge"
    min_ratings: Annotated[int, Field(ge=0)] = 0
    """Only images with so many ratings."""
    diverge: Annotated[int, Field(ge=0, le=9)] | None = None
    """Only ratings at least so far from the average of their image."""
    limit: Annotated[int, Field(ge=1, le=MAX_ROWS)] = MAX_ROWS
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0


class CheckQuery(Body):
    """The query of ``GET /v1/user/check/{user_id}``."""

    minutes: Annotated[int, Field(ge=1, le=MAX_MINUTES)] = 60
    divergence: Annotated[int, Field(ge=0, le=9)] = 3
    """A rating that is farther from its image's average is suspect."""


class Dataset(Wire):
    """A data set whose images can be rated."""

    id: Uuid
    name: str
    description: str
    image_count: Count
    """Images that need ratings, at most 2000."""


class DatasetList(WireList[Dataset]):
    """The data sets: there is one."""


class RatingTeam(Wire):
    """A team of raters."""

    id: Uuid
    team_name: str
    is_private: bool


class TeamList(WireList[RatingTeam]):
    """Always empty: there are no teams."""


class NewRating(Wire):
    """An image to rate. ``url`` is valid for half an hour."""

    id: Uuid
    url: str
    dataset_id: Uuid


class RatingTaken(Wire):
    """The kudos that were posted with a rating."""

    reward: Kudos
    message: str


class OneRating(Wire):
    """Somebody's rating of an image."""

    nulls = frozenset({"artifacts"})
    username: str
    rating: int
    artifacts: int | None = None


class ImageRatings(Wire):
    """The ratings of an image. Only moderators see those of others."""

    total: Count
    image: str
    image_id: Uuid
    average: float
    times_rated: Count
    ratings: list[OneRating]

    def dump(self) -> Any:
        """Return the JSON value to send, whose lists have nulls, too."""
        return {**super().dump(), "ratings": [one.dump() for one in self.ratings]}


class RatedImage(Wire):
    """A rating of an image, beside what all think of it."""

    nulls = frozenset({"artifacts"})
    image_id: Uuid
    image: str
    """A URL, valid for half an hour while the image is in the pool."""
    username: str | None = None
    rating: int
    artifacts: int | None = None
    average: float
    times_rated: Count


class RatedImages(Wire):
    """The ratings of an account, the newest first."""

    total: Count
    ratings: list[RatedImage]

    def dump(self) -> Any:
        """Return the JSON value to send, whose lists have nulls, too."""
        return {**super().dump(), "ratings": [one.dump() for one in self.ratings]}


class RaterCheck(Wire):
    """What a moderator needs to know about a rater."""

    ratings_in_timeframe: Count
    ratings_per_minute_in_timeframe: float
    ratings_past_three_hours: Count
    ratings_per_minute_for_past_three_hours: float
    suspect_divergences: Count
    captchas_failed: Count
    """Wrong answers to images whose answer is known: there are no captchas."""
    distrusted: bool
    """Extension: whether its ratings neither earn nor count."""
    proven: bool
    """Extension: whether its ratings earn at once."""


class RaterCleared(Wire):
    """A rater who is believed again."""

    username: str
    distrusted: bool
