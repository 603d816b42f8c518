"""``bin/operator kept``: what screening kept back from the data set, to release or to destroy."""

from horde import dataset
from horde.release import work
from horde.rules.screening import BY_OPERATOR
from horde.rules.sharing import Removal
from horde.store import Store
from infra.operate.withdrawing import Buckets

MAX_KEPT = 1000
"""Most images that are listed."""


def listed(store: Store) -> list[str]:
    """Return a line for each image that is kept back, oldest first."""
    found = store.releases.kept_back(MAX_KEPT)
    if not found:
        return ["no image is kept back"]
    return [f"{one.date}  image {one.id}  score {one.nsfw_score}  {one.reasons}" for one in found]


def release(store: Store, buckets: Buckets, generation_id: str) -> bool:
    """Let an image into the next release, whatever its score and prompt; False if it is not kept.

    Crash windows: it waits for the release, but is still recorded as kept back, so no release takes
    it; repeated, this goes on. At last the copy is left, which expires.
    """
    kept = store.releases.kept(generation_id)
    key = work.kept(generation_id)
    archive = _read(buckets, key) if kept else None
    if kept is None or archive is None:
        return False
    file, row = dataset.unpack(archive)
    looked_at = dataset.pack(file, {**row, "screened_by": BY_OPERATOR})
    target = dataset.object_key(kept.date, generation_id)
    dataset.write(buckets.client, buckets.laion, target, looked_at)
    store.releases.let_go(generation_id)
    dataset.delete(buckets.ours, buckets.held, key)
    return True


def destroy(store: Store, buckets: Buckets, generation_id: str) -> bool:
    """Withdraw an image that is kept back and delete its copy; returns False if it is not kept."""
    shared = store.sharing.get(generation_id)
    if store.releases.kept(generation_id) is None or shared is None:
        return False
    dataset.withdraw(store, buckets.client, buckets.laion, shared, Removal.SAFETY)
    dataset.delete(buckets.ours, buckets.held, work.kept(generation_id))
    store.releases.let_go(generation_id)
    return True


def _read(buckets: Buckets, key: str) -> bytes | None:
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        body: bytes = buckets.ours.get_object(Bucket=buckets.held, Key=key)["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
            return None
        raise
    return body
