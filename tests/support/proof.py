"""What must be true of a world in which all is over.

Nothing here asks a function: what was asked for, drawn and paid is read from the table, the ledger
and the buckets, and counted by hand. CONTRIBUTING.md says how it stands to the audit.
"""

import hashlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from horde.records import DELIVERED, Generation, Request, Shared, SharedKey, State, User
from horde.release.work import KEPT
from horde.rules import ruleset
from horde.store.items import id_of
from tests.support.archives import opened
from tests.support.releasing import found_in_bucket, samples, untidy

if TYPE_CHECKING:
    from tests.support.crashes import World

Entry = dict[str, Any]


def wrong_in(world: "World", *, gpus: bool, expires: bool, released: bool) -> list[str]:
    """Return what is wrong.

    ``gpus``: all that waited could be drawn; ``expires``: but not in time; ``released``: releases
    were made of all that is in the data set.
    """
    found = list(_wrong(world, gpus=gpus and not expires, released=released))
    try:
        world.audit()
    except AssertionError as error:
        line = traceback.extract_tb(error.__traceback__)[-1].line
        found.append(f"audit: {error or line}")
    return found


def _wrong(world: "World", *, gpus: bool, released: bool) -> Iterator[str]:
    requests = {r.id: r for r in world.records("REQUEST", Request)}
    images = {g.id: g for g in world.records("GENERATION", Generation)}
    entries = ledger(world)
    yield from _ends(requests, images, gpus=gpus)
    yield from _indexes(world)
    yield from _requests(requests, images, entries)
    yield from _rewards(requests, images, entries)
    yield from _balances(world)
    yield from _files(world, requests, images)
    yield from _data_set(world, requests, images, released=released)
    if released:
        yield from _releases(world)
    yield from _webhooks(world, requests, images)
    yield from _counters(world, requests, images)
    yield from _left_over(world)


def ledger(world: "World") -> list[Entry]:
    """Return all entries of all users' ledgers."""
    return [
        {
            "user": int(item["pk"]["S"].partition("#")[2]),
            "kind": item["kind"]["S"],
            "amount": int(item["amount"]["N"]),
            "postings": {name: int(n["N"]) for name, n in item["postings"]["M"].items()},
            "reference": item["reference"]["S"],
            "posted": "posted" in item,
        }
        for item in world.items()
        if item["sk"]["S"].startswith("LEDGER#")
    ]


def _ends(
    requests: dict[str, Request], images: dict[str, Generation], *, gpus: bool
) -> Iterator[str]:
    """Every image of every request is there and has ended, and as it had to."""
    asked = [image for request in requests.values() for image in request.generations]
    if sorted(asked) != sorted(images):
        yield "a request without its images, or an image without its request"
        return
    for image in images.values():
        request = requests[image.request_id]
        match image.state:
            case State.WAITING | State.PROCESSING:
                yield f"an image is {image.state} for ever"
            case State.CANCELLED if not request.cancelled:
                yield "an image is cancelled, its request is not"
            case State.FAULTED if not request.faulted:
                yield "an image is faulted, its request is not"
            case State.EXPIRED if gpus:
                yield "an image was lost: it expired although a GPU could have drawn it"
    for request in requests.values():
        worst = max((images[one].faults for one in request.generations), default=0)
        if request.faulted and worst < ruleset.of(request.ruleset).max_faults:
            yield f"a request was given up after {worst} faults"


def _indexes(world: "World") -> Iterator[str]:
    """What is over is on no list, and is forgotten one day."""
    for item in world.items():
        if item["sk"]["S"] in {"REQUEST", "GENERATION"}:
            for name in ("wait_queue", "due_at", "due_shard", "listed", "listed_at"):
                if name in item:
                    yield f"a {item['sk']['S'].lower()} that is over still has {name}"
            if "gone_at" not in item:
                yield f"a {item['sk']['S'].lower()} that is over is never forgotten"


def _requests(
    requests: dict[str, Request], images: dict[str, Generation], entries: list[Entry]
) -> Iterator[str]:
    """Each request was charged once, and what was not delivered was given back once."""
    charges = [entry for entry in entries if entry["kind"] == "GENERATION"]
    refunds = [entry for entry in entries if entry["kind"] == "REFUND"]
    if not {entry["reference"] for entry in charges} <= requests.keys():
        yield "charged, and there is no such request"
    if not {entry["reference"] for entry in refunds} <= images.keys():
        yield "refunded, and there is no such image"
    for request in requests.values():
        mine = [entry for entry in charges if entry["reference"] == request.id]
        back = [entry for entry in refunds if entry["reference"] in request.generations]
        if not request.anonymous:
            yield from _paid(request, [images[one] for one in request.generations], mine, back)
        elif mine or back:
            yield "an anonymous request moved kudos"


def _paid(
    request: Request, images: list[Generation], charges: list[Entry], refunds: list[Entry]
) -> Iterator[str]:
    """Its owner paid for what was delivered and for nothing else; what was waived is not paid."""
    if {entry["user"] for entry in [*charges, *refunds]} - {request.user_id}:
        yield "somebody else was charged, or refunded"
    if len(charges) != 1:
        yield f"a request was charged {len(charges)} times"
        return
    waived = -charges[0]["postings"].get("waiver", 0)
    total = (request.price + request.tax) * request.n
    if -charges[0]["amount"] != total - waived:
        yield f"charged {-charges[0]['amount']} of {total}, {waived} waived"
    for image in images:
        back = sum(entry["reference"] == image.id for entry in refunds)
        if back != (0 if image.state is State.OK else 1):
            yield f"an image that is {image.state} was refunded {back} times"
    kept = sum(cost(request, image) for image in images)
    fair = kept - waived + min(waived, total - kept)
    net = -sum(entry["amount"] for entry in [*charges, *refunds])
    if net != fair:
        yield f"a request cost {net} in the end, not {fair}"


def cost(request: Request, image: Generation) -> int:
    """Return what an image costs: all of it, its tax if it was censored, else nothing."""
    if image.state is State.OK:
        return request.price + request.tax
    return request.tax if image.state is State.CENSORED else 0


def _rewards(
    requests: dict[str, Request], images: dict[str, Generation], entries: list[Entry]
) -> Iterator[str]:
    """Each delivered image was paid once, to its worker's owner, and nothing else was."""
    paid = sorted(
        (entry["reference"], entry["user"], entry["amount"])
        for entry in entries
        if entry["kind"] == "REWARD"
    )
    earned = sorted(
        (image.id, image.worker_user, requests[image.request_id].reward)
        for image in images.values()
        if image.state in DELIVERED and image.request_id in requests
    )
    if paid != earned:
        yield f"{len(paid)} rewards for {len(earned)} delivered images, or not the right ones"
    owed = sum(entry["kind"] == "REWARD" and not entry["posted"] for entry in entries)
    if owed:
        yield f"{owed} rewards are pending and were never posted"


def _balances(world: "World") -> Iterator[str]:
    """No balance is below its floor, and a shared key spent what its requests cost."""
    for user in world.records("USER", User):
        if user.kudos < user.floor:
            yield f"user {user.id} has {user.kudos} kudos, below the floor"
    images = {g.id: g for g in world.records("GENERATION", Generation)}
    spent: Counter[str] = Counter()
    by_reference: Counter[str] = Counter()
    for entry in ledger(world):
        if entry["kind"] in {"GENERATION", "REFUND"}:
            by_reference[entry["reference"]] -= entry["amount"]
    for request in world.records("REQUEST", Request):
        if request.sharedkey_id:
            for reference in (request.id, *(i for i in request.generations if i in images)):
                spent[request.sharedkey_id] += by_reference[reference]
    for key in world.records("SHAREDKEY", SharedKey):
        if key.utilized != spent[key.id]:
            yield f"a shared key says it spent {key.utilized}; it was {spent[key.id]}"


def _files(
    world: "World", requests: dict[str, Request], images: dict[str, Generation]
) -> Iterator[str]:
    """What was delivered can be downloaded, and source images are gone."""
    outputs, sources = world.objects("Outputs"), world.objects("Sources")
    for image in images.values():
        if image.state in DELIVERED and sha256(_delivered(outputs, image)) != image.sha256:
            yield "an image was delivered and is not there"
    for request in requests.values():
        if {request.source_key, request.mask_key} & sources.keys():
            yield "a request is over and its source image still there"


def _delivered(outputs: dict[str, bytes], image: Generation) -> bytes:
    return outputs.get(image.delivered_key or "", b"")


def sha256(body: bytes) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def _data_set(
    world: "World",
    requests: dict[str, Request],
    images: dict[str, Generation],
    *,
    released: bool,
) -> Iterator[str]:
    """What was shared and delivered is in the data set or held back, once, and nothing else."""
    users = {user.id: user for user in world.records("USER", User)}
    shareable = {
        image.id: image
        for image in images.values()
        if image.state is State.OK
        and requests[image.request_id].shared
        and not requests[image.request_id].csam
    }
    marks = {shared.generation_id: shared for shared in world.records("SHARED", Shared)}
    withdrawn = {name for name, shared in marks.items() if shared.withdrawn_at is not None}
    by_owner = _by_owners(world, requests, shareable)
    withdrawn |= by_owner
    shareable = {name: image for name, image in shareable.items() if name not in withdrawn}
    due = {
        name: image
        for name, image in shareable.items()
        if users[image.worker_user or 0].trusted or users[image.worker_user or 0].fleet
    }
    held = [name.removesuffix(".tar") for name in world.objects("Held")]
    kept = {name.removeprefix(KEPT) for name in held if name.startswith(KEPT)}
    files = [name for name in held if not name.startswith(KEPT)]
    records = {item["generation_id"]["S"] for item in world.items() if item["sk"]["S"] == "HELD"}
    if not set(files) == records == shareable.keys() - due.keys():
        yield f"{len(shareable) - len(due)} are to be held, {len(records)} are, {len(files)} files"
    if kept != {id_of(item) for item in world.items() if item["sk"]["S"] == "KEPT"}:
        yield "what is kept back is not what is known to be"
    outputs, there = world.objects("Outputs"), _published(world, released=released)
    # Until a release is made, which deletes their files.
    left = set[str]() if released else by_owner & marks.keys()
    for one in set(there) - set(due) - left:
        what = images[one].state if one in images else "nobody's"
        yield f"an image was shared against the rules: {what}"
    for one, image in due.items():
        if len(there[one]) != (one not in kept):
            yield f"a shared image has {len(there[one])} objects in the data set"
            continue
        for file, row in there[one]:
            if file != _delivered(outputs, image):
                yield "a shared image is not the one that was delivered"
            elif row["id"] != one:
                yield "a shared image has another one's row"
    if marks.keys() - withdrawn != set(due):
        yield f"{len(due)} images are shared, {len(marks.keys() - withdrawn)} known to be"


def _by_owners(
    world: "World", requests: dict[str, Request], shareable: dict[str, Generation]
) -> set[str]:
    """Return the images that their owners withdrew, one by one or with others."""
    users = {user.id: user for user in world.records("USER", User)}
    tombstones = [item for item in world.items() if item["sk"]["S"] == "REMOVED"]
    found = {id_of(item) for item in tombstones if item["reason"]["S"] == "owner"}
    for name, image in shareable.items():
        request, author = requests[image.request_id], users.get(image.user_id)
        before = author.withdrawn_before if author else None
        if request.withdrawn_at is not None or (before or 0) >= request.created_at:
            found.add(name)
    return found


def _published(world: "World", *, released: bool) -> defaultdict[str, list[tuple[bytes, Entry]]]:
    """Return every image that waits for a release or is in one, with its row, by its id."""
    found = defaultdict[str, list[tuple[bytes, Entry]]](list)
    for name, body in world.objects("Laion").items():
        if name.startswith("incoming/") or not released:
            found[name.rpartition("/")[2].partition(".")[0]].append(opened(body))
    for name, sample in (samples(world) if released else {}).items():
        found[name].append(sample)
    return found


def _releases(world: "World") -> Iterator[str]:
    """Nothing waits any more, and the bucket has what the manifest names, and nothing else."""
    waiting = [name for name in world.objects("Laion") if name.startswith("incoming/")]
    if waiting:
        yield f"{len(waiting)} files wait for a release for ever"
    for name in untidy(world):
        yield f"{name} is not as the manifest says"
    for what in found_in_bucket(world):
        yield f"the audit of the bucket: {what}"
    pending = world.store.withdrawals.pending(1)
    if pending:
        yield "a withdrawal of many is never worked off"


def _webhooks(
    world: "World", requests: dict[str, Request], images: dict[str, Generation]
) -> Iterator[str]:
    """Every delivered image's webhook was called, at least once, and nobody else's."""
    due = {
        image.id
        for image in images.values()
        if image.state in DELIVERED and requests[image.request_id].webhook
    }
    if set(world.called) != due:
        yield f"{len(due)} webhooks were due, {len(set(world.called))} called"


def _counters(
    world: "World", requests: dict[str, Request], images: dict[str, Generation]
) -> Iterator[str]:
    """Each delivered image and each anonymous request is counted once."""
    delivered = [image for image in images.values() if image.state in DELIVERED]
    count: Counter[str] = Counter()
    for item in world.items():
        if item["sk"]["S"] == "TOTAL":
            count["total"] += int(item["images"]["N"])
        elif item["sk"]["S"] == "STATS":
            who = item["pk"]["S"].partition("#")[0].lower()
            for name in ("images", "asked_images"):
                count[f"{who} {name}"] += int(item.get(name, {"N": "0"})["N"])
    anonymous = {request.id: request for request in requests.values() if request.anonymous}
    right = Counter(
        {
            "total": len(delivered),
            "worker images": len(delivered),
            "user images": sum(image.request_id in anonymous for image in delivered),
            "user asked_images": sum(request.n for request in anonymous.values()),
        }
    )
    for name in right | count:
        if count[name] != right[name]:
            yield f"statistics say {count[name]} for '{name}', it was {right[name]}"


def _left_over(world: "World") -> Iterator[str]:
    """Nothing waits for an operator."""
    left = Counter({file: len(found) for file, found in world.dead.items()})
    left += Counter({file: len(found) for file, found in world.pending.items()})
    left += Counter(enqueue=len(world.dead_records), payouts=len(world.uncounted))
    for name, number in left.items():
        yield f"{number} of {name} are left for an operator"
