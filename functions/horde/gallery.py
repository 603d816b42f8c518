"""The pool of released images that accounts may rate, with their files.

The bucket of the gallery holds ``<id>.webp`` of each image in the pool. It is private: a client
gets a presigned URL. Its objects expire after ``GALLERY_DAYS``, two days after the image has left
the pool (``rules.raters.POOL_S``).
"""

from typing import TYPE_CHECKING, Any

from horde import clock, images
from horde.records import PoolImage
from horde.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def gallery_key(image_id: str) -> str:
    """Return the key of an image in the bucket of the gallery."""
    return f"{image_id}.webp"


def url(client: "S3Client", bucket: str, image_id: str) -> str:
    """Return a presigned URL of an image in the gallery."""
    return images.download_url(client, bucket, gallery_key(image_id))


def offer(
    store: Store,
    client: "S3Client",
    bucket: str,
    *,
    image_id: str,
    body: bytes,
    row: dict[str, Any],
    user_id: int,
    worker_user: int,
) -> bool:
    """Put one released image into the pool. Idempotent.

    ``body`` is the WebP file, ``row`` its row in the data set, ``user_id`` its author and
    ``worker_user`` the account whose worker drew it (both are in ``records.Shared``): neither will
    ever be given it. Returns False if the image is not in the data set any more.

    Crash windows: after the file is written there is no item, so nobody is given it; a repeated
    call writes the same bytes, and without one the file expires. A withdrawal marks the image, and
    then calls ``remove``. If its mark is first, the item is refused here, and the file deleted. If
    the item is first, ``remove`` finds it. In between, both delete the file.
    """
    images.put_webp(client, bucket, gallery_key(image_id), body)
    offered = PoolImage(
        id=image_id,
        model=row["model"],
        user_id=user_id,
        worker_user=worker_user,
        offered_at=clock.now(),
    )
    if store.pool.offer(offered):
        return True
    images.delete(client, bucket, gallery_key(image_id))
    return False


def remove(store: Store, client: "S3Client", bucket: str, image_id: str) -> None:
    """Take one image out of the pool. Idempotent; call it after its withdrawal is marked.

    The item goes first, so that no new URL is made; the file follows, and with it every URL that
    was made before. Crash window: a repeated call deletes what is left. Without one, the file can
    be read by who was given its URL within the last half hour.
    """
    store.pool.remove(image_id)
    images.delete(client, bucket, gallery_key(image_id))
