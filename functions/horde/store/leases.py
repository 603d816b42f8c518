"""The write that leases a waiting image to a worker."""

from horde.records import Generation, State
from horde.store.due import Due, due_shard
from horde.store.items import DUE, WAITING, Item, Kind, encode_all, key


def lease(claimed: Generation, *, trusted: bool) -> tuple[Item, str, str, Item, dict[str, str]]:
    """Return the write that leases an image: key, expression, condition, values and names.

    The image was read from an index. It must still be exactly that: each fault follows a claim,
    which raises ``attempt``.
    """
    still_waiting = "#state = :waiting AND attempt = :seen"
    if claimed.held:
        faulted = "contains(faulted_by, :worker)"
        faulted += "" if trusted else " OR contains(faulted_by, :user)"
        still_waiting += f" AND (attribute_not_exists(faulted_by) OR NOT ({faulted}))"
    changes: dict[str, str | bool | int] = {
        name: True for name in ("held", "preferred") if getattr(claimed, name)
    }
    if claimed.models or claimed.any_model:
        changes["model"] = claimed.model
    if claimed.expires_at is not None:
        changes["expires_at"] = claimed.expires_at
    expression = (
        "SET #state = :processing, worker_id = :worker, worker_name = :name, "
        f"worker_user = :user, lease_until = :lease, {DUE.partition} = :shard, "
        f"{DUE.sort} = :lease, attempt = :attempt"
        + "".join(f", {name} = :{name}" for name in changes)
        + f" REMOVE {WAITING.partition}"
    )
    values = {
        "waiting": State.WAITING,
        "processing": claimed.state,
        "seen": claimed.attempt - 1,
        "attempt": claimed.attempt,
        "worker": claimed.worker_id,
        "name": claimed.worker_name,
        "user": claimed.worker_user,
        "lease": claimed.lease_until,
        "shard": due_shard(Due.LEASE, claimed.id),
        **changes,
    }
    key_of_image = key(Kind.GENERATION, claimed.id)
    return key_of_image, expression, still_waiting, encode_all(values), {"#state": "state"}
