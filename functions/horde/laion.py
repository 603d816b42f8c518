"""The bucket of the open data set: where it is, and the client that writes it.

It is the stack's own, or one that LAION owns: in another account, which then has a role for us, and
maybe in another region. Whoever touches it takes the client from here.
"""

from typing import TYPE_CHECKING

from horde import aws

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PUBLISHED = (
    "README.md",
    "LICENSE",
    "croissant.json",
    "metadata.parquet",
    "contact-sheet.webp",
    "manifest.json",
    "images/",
    "metadata/",
    "removed/",
    "ratings/",
    "releases/",
)
"""What a reader of the bucket may read: documents, and prefixes. ``incoming/`` is private."""


class Settings(aws.Settings):
    """The names of a function that writes the data set."""

    laion_bucket: str
    laion_region: str = ""
    """The bucket's region; empty for the stack's."""
    laion_role: str = ""
    """The role of the bucket's account that is assumed; empty if it is ours."""
    laion_external_id: str = ""
    """What that role wants to hear, so that nobody else has us assume it; maybe empty."""


def client(*, full: bool = False) -> "S3Client":
    """Return the client of the data set's bucket, made once per process.

    A ``full`` one knows all of S3's operations.
    """
    found = Settings.load()
    return aws.s3_elsewhere(
        found.laion_region, found.laion_role, found.laion_external_id, full=full
    )
