"""The pool of released images that accounts rate: its bucket, and the ratings API."""

from collections.abc import Callable, Mapping

from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from infra.contract import GALLERY_DAYS
from infra.parts.api import Api
from infra.parts.buckets import private_bucket
from infra.parts.horde_table import SETTLE


class RatingsPart:
    """A private bucket with the images that can be rated now, and the function that serves them."""

    def __init__(
        self,
        scope: Construct,
        make: Callable[..., lambda_.Function],
        api: Api,
        *env: Mapping[str, str],
    ) -> None:
        self.bucket = private_bucket(scope, "Gallery", days=GALLERY_DAYS)
        self.env = {"GALLERY_BUCKET": self.bucket.bucket_name}
        """The environment of a function that fills, shows or clears the pool."""
        rate = make("rate", *env, self.env, may=SETTLE)
        api.route(rate, "rate")
        self.bucket.grant_read(rate, "*.webp")

    def allow_offering(self, *functions: lambda_.Function) -> None:
        """Let functions put images into the pool, and take them out of it (``horde.gallery``)."""
        for function in functions:
            self.bucket.grant_put(function, "*.webp")
            self.bucket.grant_delete(function, "*.webp")

    def allow_clearing(self, function: lambda_.Function) -> None:
        """Let a function take images out of the pool (``horde.gallery.remove``)."""
        self.bucket.grant_delete(function, "*.webp")
