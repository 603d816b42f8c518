"""Deleting files of the data set for good, also from a bucket that keeps versions.

The stack's own bucket keeps none. LAION's may: then each deletion says so in its answer, and only
then the versions are asked for. Where the role may not list or delete them, the bucket's lifecycle
deletes them a day later (``infra.policies.LIFECYCLE``).
"""

from collections.abc import Iterator, Sequence
from typing import Any

from horde.log import logger
from horde.wire.seam import AwsError

AT_ONCE = 1000
"""Objects that S3 deletes in one call."""
DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "MethodNotAllowed", "NotImplemented"})


def delete(client: Any, bucket: str, keys: Sequence[str]) -> None:
    """Delete files with all their versions. Idempotent; raises RuntimeError if S3 refuses one.

    ``client`` raises AwsError, as those of ``work.bucket`` do.
    """
    marked: list[str] = []
    for start in range(0, len(keys), AT_ONCE):
        some = [{"Key": key} for key in keys[start : start + AT_ONCE]]
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": some})
        if answer.get("Errors"):
            message = f"S3 does not delete {answer['Errors'][0]['Key']}"
            raise RuntimeError(message)
        marked += [one["Key"] for one in answer.get("Deleted", []) if one.get("DeleteMarker")]
    for key in marked:
        if not _all_gone(client, bucket, key):
            logger.warning("versions are left to the bucket's lifecycle", extra={"key": key})
            return


def _all_gone(client: Any, bucket: str, key: str) -> bool:
    """Delete all versions of a file; returns False if that is not allowed."""
    try:
        old = list(_versions(client, bucket, key))
        for start in range(0, len(old), AT_ONCE):
            some = {"Objects": old[start : start + AT_ONCE]}
            if client.delete_objects(Bucket=bucket, Delete=some).get("Errors"):
                return False
    except AwsError as error:
        if error.code in DENIED:
            return False
        raise
    return True


def _versions(client: Any, bucket: str, key: str) -> Iterator[dict[str, str]]:
    """Yield the versions and delete markers of one file."""
    more: dict[str, str] = {}
    while True:
        page = client.list_object_versions(Bucket=bucket, Prefix=key, **more)
        for one in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
            if one["Key"] == key:
                yield {"Key": key, "VersionId": one["VersionId"]}
        if not page.get("IsTruncated"):
            return
        more = {
            "KeyMarker": page["NextKeyMarker"],
            "VersionIdMarker": page["NextVersionIdMarker"],
        }
