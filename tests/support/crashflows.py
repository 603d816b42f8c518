"""The flows that are cut, in the variants that matter for kudos and for sharing.

Small on purpose: what they call is found by running them, see ``crashes``.
"""

import base64
import hashlib
from functools import partial
from typing import Any

import recover
from horde import images
from horde.edge.auth import key_hash
from horde.records import (
    DELIVERED,
    OPEN,
    Generation,
    Request,
    SharedKey,
    Style,
    User,
    delivered_key,
)
from horde.rules.raters import ENOUGH
from horde.rules.ruleset import IN_FORCE
from horde.rules.standing import MAX_DROPPED
from horde.store import counts
from horde.store.accounts import deleted
from horde.store.settlements import POSTED_WITHIN_S
from tests.support import proof, rating
from tests.support.api_calls import ANONYMOUS, Reply
from tests.support.crashes import HOOK, MINUTE_S, After, Facts, Flow, World, nothing_more
from tests.support.images import png_base64, webp
from tests.support.numbers import COST, FLOOR, MAX_FAULTS, OVER_S
from tests.support.releasing import age, samples, share

SHARED: Facts = {"shared": True}
TWO: Facts = {"params": {"n": 2}}
SIX: Facts = {"params": {"n": 6}}
BUDGET = 6 * COST
GIFT = 10


# --- what flows have in common --------------------------------------------------------------------


def client(world: World, kind: str = "ada") -> str:
    """Return a client's key: of an account, of one that can pay little, or nobody's."""
    if kind == "anonymous":
        return ANONYMOUS
    return world.register(kind, kudos={"ada": 10 * COST, "poor": COST + 6}[kind])[1]


def asked(world: World, kind: str = "ada", **fields: Any) -> Facts:
    """Ask for images, uncut."""
    key = client(world, kind)
    if kind == "ada" and fields.pop("by_shared_key", False):
        key = shared_key(world, key)
    answer = world.generate(key, **fields)
    assert answer.status == 202, answer
    return {"key": key, "request": answer.body["id"]}


def shared_key(world: World, key: str) -> str:
    """Make a shared key."""
    body = {"kudos": BUDGET, "name": "ours"}
    answer = world.call("PUT /api/v2/sharedkeys", body, key=key)
    assert answer.status == 200, answer
    return str(answer.body["id"])


def popped(world: World, kind: str = "ada", amount: int = 1, **fields: Any) -> Facts:
    """Ask for images and have a worker take them; it has uploaded them."""
    facts = asked(world, kind, **fields)
    world.move(gpus=False)
    owner = world.register("volunteer")[0]
    world.set_flags(owner, trusted=True)
    facts["worker"] = world.worker_key(owner)
    job = world.pop(facts["worker"], amount=amount).body
    facts |= {"job": job["id"], "urls": job["r2_uploads"], "ttl": job["ttl"]}
    for url in facts["urls"]:
        world.upload(url)
    return facts


def next_worker(world: World, facts: Facts, number: int) -> None:
    """Have a worker of somebody else take an image that was faulted."""
    facts["worker"] = world.worker_key(world.register(f"volunteer {number}")[0])
    answer = world.pop(facts["worker"], name=f"w{number}")
    assert answer.body["id"], answer
    facts["job"] = answer.body["id"]


def delivered(world: World, kind: str = "ada", **fields: Any) -> Facts:
    """Ask for images and have them drawn; nothing that follows has happened yet."""
    facts = popped(world, kind, amount=4, **fields)
    for one in [facts["job"], *_others(world, facts)]:
        assert world.submit(facts["worker"], one).status == 200
    return facts


def by_a_stranger(world: World) -> Facts:
    """Have a shared image drawn by a volunteer whom nobody trusts."""
    facts = delivered(world, **SHARED)
    (owner,) = [one for one in world.records("USER", User) if one.alias == "volunteer"]
    world.set_flags(owner.id, trusted=False)
    return facts


def trusted_now(world: World) -> Facts:
    """Have a stranger's image held back, and trust the stranger; the sweep has not run since."""
    facts = by_a_stranger(world)
    world.deliver("share")
    (owner,) = [one for one in world.records("USER", User) if one.alias == "volunteer"]
    world.set_flags(owner.id, trusted=True)
    return facts


def to_be_released(world: World) -> Facts:
    """The same, and the sweep has asked for the release."""
    facts = trusted_now(world)
    world.sweep()
    return facts


def marked_as_csam(world: World) -> Facts:
    """Publish one image of a request, and have the other one marked as CSAM."""
    facts = popped(world, amount=2, **SHARED, **TWO)
    assert world.submit(facts["worker"], facts["job"]).status == 200
    world.deliver("share")
    (other,) = _others(world, facts)
    assert world.submit(facts["worker"], other, state="csam").status == 200
    world.stream()
    return facts


def raced(world: World) -> Facts:
    """Two submits of one image raced: the one that lost had stored its file too."""
    facts = delivered(world, **SHARED)
    lost = webp("black")
    sha256 = hashlib.sha256(lost).hexdigest()
    key = delivered_key(facts["job"], sha256, shareable=True)
    images.put_webp(world.s3, world.bucket("Outputs"), key, lost)
    return facts


def _others(world: World, facts: Facts) -> list[str]:
    found = world.records("GENERATION", Generation)
    return [image.id for image in found if image.state in OPEN and image.id != facts["job"]]


def generations(world: World) -> list[Generation]:
    """Return all images there are."""
    return world.records("GENERATION", Generation)


def last(world: World) -> Reply:
    """Return what the flow's client heard at last."""
    return world.heard[-1]


def budget_kept(world: World, _facts: Facts) -> list[str]:
    """A shared key's budget is neither lost nor grown."""
    keys = world.records("SHAREDKEY", SharedKey)
    return [
        f"a shared key has {key.kudos} left and spent {key.utilized} of {BUDGET}"
        for key in keys
        if key.kudos + key.utilized != BUDGET
    ]


def unless(holds: bool, what: str) -> list[str]:
    """Return a complaint where something does not hold."""
    return [] if holds else [what]


# --- accept ---------------------------------------------------------------------------------------


def accept(name: str, kind: str = "ada", *, repeats: bool = True, **fields: Any) -> Flow:
    by_shared_key = fields.pop("by_shared_key", False)

    def before(world: World) -> Facts:
        key = client(world, kind)
        return {"key": shared_key(world, key) if by_shared_key else key}

    def act(world: World, facts: Facts) -> None:
        world.ask(lambda: world.generate(facts["key"], **fields))

    def after(world: World, facts: Facts) -> list[str]:
        reply, known = last(world), {r.id for r in world.records("REQUEST", Request)}
        return [
            *unless(reply.status != 202 or reply.body["id"] in known, "accepted, and not there"),
            *unless(reply.status == 202 or not repeats, f"asking again ends with {reply.status}"),
            *budget_kept(world, facts),
        ]

    return Flow(f"accept {name}", before, act, after, repeats=repeats)


# --- what moves by itself -------------------------------------------------------------------------


def streamed(name: str, before: Any, after: After = nothing_more) -> Flow:
    return Flow(name, before, lambda world, _: _ignored(world.stream()), after)


def queued(name: str, before: Any, file: str, after: After = nothing_more) -> Flow:
    def ready(world: World) -> Facts:
        facts: Facts = before(world)
        world.stream()
        return facts

    return Flow(name, ready, lambda world, _: _ignored(world.deliver(file)), after)


def ticketed(world: World, facts: Facts) -> list[str]:
    """The queue made a request's tickets, not the sweep a minute later."""
    behind = sum(n for request, n in world.tickets if request == facts["request"])
    return unless(behind >= SIX["params"]["n"], f"the queue made tickets for {behind} images")


def swept(name: str, before: Any, *, expires: bool = False) -> Flow:
    return Flow(f"sweep {name}", before, lambda w, _: w.sweep_once(), budget_kept, expires=expires)


def _ignored(_value: object) -> None: ...


def lease_over(world: World, **fields: Any) -> Facts:
    """A worker took an image and never came back."""
    facts = popped(world, **fields)
    world.clock.pass_seconds(facts["ttl"] + 1)
    return facts


def last_lease_over(world: World, **fields: Any) -> Facts:
    """One worker too many took an image and never came back; others of its request wait."""
    facts = popped(world, **fields)
    for number in range(2, MAX_FAULTS + 1):
        world.clock.pass_seconds(facts["ttl"] + 1)
        world.sweep()
        next_worker(world, facts, number)
    world.clock.pass_seconds(facts["ttl"] + 1)
    return facts


def time_over(world: World, kind: str = "ada", **fields: Any) -> Facts:
    """Nobody drew a request in its time."""
    facts = asked(world, kind, **fields)
    world.move(gpus=False)
    world.clock.pass_seconds(OVER_S)
    return facts


def ticket_lost(world: World) -> Facts:
    """RunPod lost the tickets of what waits."""
    facts = asked(world, params={"n": 5})
    world.move(gpus=False)
    world.clock.pass_seconds(MINUTE_S)
    return facts


def reward_owed(world: World) -> Facts:
    """The stream's records of two settlements were lost."""
    facts = delivered(world, "poor", **TWO)
    world.stream(only="enqueue")
    world.clock.pass_seconds(POSTED_WITHIN_S + 1)
    return facts


def half_cancelled(world: World) -> Facts:
    """A cancel died right after its flag."""
    facts = asked(world, "poor", **TWO)
    request = world.store.requests.get(facts["request"])
    assert request is not None
    world.store.requests.cancel(request, world.clock.now_ms() // 1000)
    return facts


# --- workers --------------------------------------------------------------------------------------


def pop(
    name: str,
    kind: str = "ada",
    *,
    repeats: bool,
    known: bool = False,
    fleet: bool = False,
    amount: int = 2,
    **fields: Any,
) -> Flow:
    """Pop as a volunteer's worker, or as one of the operator's own."""

    def before(world: World) -> Facts:
        facts = asked(world, kind, params={"n": amount}, **fields)
        world.move(gpus=False)
        facts["worker"] = world.gpu_key if fleet else world.new_worker("volunteer")
        if known:
            world.pop(facts["worker"], models=["another"])
            world.clock.pass_seconds(MINUTE_S)
        return facts

    def act(world: World, facts: Facts) -> None:
        world.ask(lambda: world.pop(facts["worker"], amount=amount, max_pixels=2**22))

    return Flow(f"pop {name}", before, act, repeats=repeats)


def dropped(*, repeats: bool) -> Flow:
    """A worker that dropped too many images pops, and is put into maintenance."""

    def before(world: World) -> Facts:
        facts = asked(world)
        world.move(gpus=False)
        owner, facts["key"] = world.register("volunteer")
        facts["worker"] = world.worker_key(owner)
        world.pop(facts["worker"], models=["another"])
        worker_id = world.worker_named()["id"]
        drop = counts.drop(owner, worker_id)
        for _ in range(MAX_DROPPED + 1):
            assert world.store.table.try_transact([drop])
        return facts

    def act(world: World, facts: Facts) -> None:
        world.ask(lambda: world.pop(facts["worker"]))

    def after(world: World, facts: Facts) -> list[str]:
        reply, shown = last(world), world.worker_named(key=facts["key"])
        rests = shown["maintenance_mode"] and "dropped" in shown["maintenance_msg"]
        return [
            *unless(reply.status != 200, "a worker that dropped too much got an image"),
            *unless(rests or not repeats, "a worker that dropped too much does not rest"),
        ]

    return Flow("pop by a worker that dropped too much", before, act, after, repeats=repeats)


def delete_worker(*, repeats: bool) -> Flow:
    """An owner deletes a worker that holds nothing."""

    def before(world: World) -> Facts:
        owner, key = world.register("volunteer")
        world.pop(world.worker_key(owner), models=["another"])
        return {"key": key, "id": world.worker_named()["id"]}

    def act(world: World, facts: Facts) -> None:
        route = "DELETE /api/v2/workers/{id}"
        world.ask(lambda: world.call(route, key=facts["key"], id=facts["id"]))

    def after(world: World, facts: Facts) -> list[str]:
        left = sum(facts["id"] in str(item) for item in world.items())
        return [
            *unless(left in {0, 3}, f"{left} of a worker, its name and its owner's item are left"),
            *unless(last(world).status != 200 or not left, "deleted, and still there"),
        ]

    return Flow("delete a worker, once", before, act, after, repeats=repeats)


def work(name: str, *, repeats: bool, careful: bool = True, **fields: Any) -> Flow:
    """A worker's whole turn: pop, PUT, submit."""

    def before(world: World) -> Facts:
        facts = asked(world, **fields)
        world.move(gpus=False)
        facts["worker"] = world.new_worker("volunteer")
        return facts

    def act(world: World, facts: Facts) -> None:
        world.work(facts["worker"], careful=careful)

    return Flow(f"PUT {name}", before, act, repeats=repeats)


def submit(
    name: str,
    kind: str = "ada",
    *,
    repeats: bool = True,
    says: Facts | None = None,
    faults: int = 0,
    **fields: Any,
) -> Flow:
    """Submit an image that was faulted ``faults`` times before."""
    said = says or {}

    def before(world: World) -> Facts:
        facts = popped(world, kind, **fields)
        for number in range(2, faults + 2):
            assert world.submit(facts["worker"], facts["job"], state="faulted").status == 200
            next_worker(world, facts, number)
        return facts

    def act(world: World, facts: Facts) -> None:
        world.ask(lambda: world.submit(facts["worker"], facts["job"], **said))

    def after(world: World, facts: Facts) -> list[str]:
        reply, states = last(world), {image.id: image.state for image in generations(world)}
        paid = reply.status == 200 and reply.body["reward"] > 0
        known = {"DuplicateGen", "AbortedGen", *(["ImageRefused"] if said is REFUSED else [])}
        served = reply.status == 200 or reply.body.get("rc") in known
        return [
            *unless(not paid or states[facts["job"]] in DELIVERED, "promised a reward for nothing"),
            *unless(served or not repeats, f"asking again ends with {reply}"),
            *budget_kept(world, facts),
        ]

    return Flow(f"submit {name}", before, act, after, repeats=repeats)


def early() -> Flow:
    """A delivered file's event comes before its settlement, whose process died."""

    def before(world: World) -> Facts:
        facts = popped(world, **SHARED)
        generation = world.store.requests.generation(facts["job"])
        assert generation is not None
        picture = images.checked(world.objects("Outputs")[generation.image_key], None)
        key = delivered_key(generation.id, picture.sha256, shareable=True)
        images.put_webp(world.s3, world.bucket("Outputs"), key, picture.file)
        return facts

    def act(world: World, facts: Facts) -> None:
        world.deliver("share")
        world.ask(lambda: world.submit(facts["worker"], facts["job"]))

    return Flow("share too early", before, act)


def lost(world: World, **fields: Any) -> Facts:
    """A delivered image's message is gone; it is the hour in which its file is looked at."""
    facts = delivered(world, **SHARED, **fields)
    world.date_files()
    world.stream()
    world._backend("sqs").queues[world._queue_of("share")[0].rpartition("/")[2]]._messages = []
    world.clock.pass_seconds(recover.LOST_S)
    while not _is_its_hour(world, facts):
        world.clock.pass_seconds(3600)
    return facts


def _is_its_hour(world: World, facts: Facts) -> bool:
    low, high = recover.slice_of(world.clock.now_ms() // 3_600_000)
    return low < f"shared/{facts['job']}" < high


def found_again() -> Flow:
    """A lost copy is found, by a run that fails, is run again, and runs half a day later."""

    def act(world: World, _facts: Facts) -> None:
        for _ in range(2):
            world.run_later("recover", {})
            world.clock.pass_seconds(12 * 3600)
        world.deliver("share")

    return Flow("recover a lost copy", lost, act)


# --- clients --------------------------------------------------------------------------------------


def cancel(
    name: str, kind: str = "ada", *, held: bool = False, repeats: bool, **fields: Any
) -> Flow:
    def before(world: World) -> Facts:
        return (popped if held else asked)(world, kind, **TWO, **fields)

    def act(world: World, facts: Facts) -> None:
        world.ask(lambda: world.cancel(facts["request"]))

    def after(world: World, facts: Facts) -> list[str]:
        drawn = sum(image.state in DELIVERED for image in generations(world))
        reply = last(world)
        return [
            *unless(reply.status != 200 or drawn == 0, f"{drawn} images drawn after a cancel"),
            *unless(reply.status == 200 or not repeats, f"asking again ends with {reply.status}"),
            *budget_kept(world, facts),
        ]

    return Flow(f"cancel {name}", before, act, after, repeats=repeats)


def rate(*, repeats: bool) -> Flow:
    def act(world: World, facts: Facts) -> None:
        body = {"best": facts["job"]}
        route = "POST /api/v2/generate/rate/{id}"
        world.ask(lambda: world.call(route, body, id=facts["request"]))

    def after(world: World, _facts: Facts) -> list[str]:
        awards = [entry for entry in proof.ledger(world) if entry["kind"] == "AWARD"]
        ratings = [item for item in world.items() if item["sk"]["S"] == "RATING"]
        served = last(world).status == 200 or repeats
        return unless(
            len(awards) == len(ratings) and (len(awards) == 1 or not (served or awards)),
            f"{len(awards)} awards, {len(ratings)} ratings, answered {last(world)}",
        )

    def before(world: World) -> Facts:
        return delivered(world, **SHARED, **TWO)

    return Flow(f"rate{'' if repeats else ', once'}", before, act, after, repeats=repeats)


def rate_pool(*, repeats: bool) -> Flow:
    """Give a released image its fifth rating, which is paid and compares all five."""

    def before(world: World) -> Facts:
        facts = delivered(world, **SHARED)
        world.deliver("share")
        image = facts["job"]
        assert rating.offer(world, image)
        for number in range(ENOUGH - 1):
            _, key = world.register(f"rater{number}")
            rating.given(world, key, image)
            assert rating.rate(world, key, image, 8).status == 200
        user, key = world.register("proven")
        rating.prove(world, user)
        rating.given(world, key, image)
        return {"key": key, "image": image, "user": user}

    def act(world: World, facts: Facts) -> None:
        world.ask(lambda: rating.rate(world, facts["key"], facts["image"], 7, artifacts=1))

    def after(world: World, facts: Facts) -> list[str]:
        image, store = world.store.pool.get(facts["image"]), world.store.raters
        counted = 0 if image is None else image.ratings - (ENOUGH - 1)
        stored = int(store.rating(facts["image"], facts["user"]) is not None)
        compared = {store.get(user).agreed for user in range(facts["user"] - 4, facts["user"] + 1)}
        earned = (world.kudos(facts["user"]) - FLOOR) // IN_FORCE.per_pool_rating
        served = last(world).status == 200
        all_of = {counted, stored, earned, *compared}
        return unless(
            all_of == {1} if served or repeats else len(all_of) == 1,
            f"{counted} counted, {stored} stored, {earned} paid, {compared} compared: "
            f"answered {last(world)}",
        )

    name = f"rate an image of others{'' if repeats else ', once'}"
    return Flow(name, before, act, after, repeats=repeats)


def transfer(name: str, *, repeats: bool, with_key: bool, route: str = "transfer") -> Flow:
    """Move kudos to a user, or to a shared key of theirs; or award them."""

    def before(world: World) -> Facts:
        sender = world.gpu_owner if route == "award" else world.register("giver", kudos=50)[1]
        receiver, key = world.register("taker")
        username = shared_key(world, key) if route == "shared key" else f"taker#{receiver}"
        return {"key": sender, "receiver": receiver, "username": username}

    def act(world: World, facts: Facts) -> None:
        headers = {"idempotency-key": "once"} if with_key else {}
        body = {"username": facts["username"], "amount": GIFT}
        path = f"POST /api/v2/kudos/{'award' if route == 'award' else 'transfer'}"
        world.ask(lambda: world.call(path, body, key=facts["key"], headers=headers))

    def after(world: World, facts: Facts) -> list[str]:
        moved = world.kudos(facts["receiver"]) - FLOOR
        served = last(world).status == 200
        budgets = [key.kudos - BUDGET for key in world.records("SHAREDKEY", SharedKey)]
        return [
            *unless(moved == GIFT if served or (repeats and with_key) else moved in {0, GIFT},
                    f"{moved} kudos moved, answered {last(world)}"),
            *unless(budgets in ([], [moved]), f"{moved} moved and the budget grew by {budgets}"),
        ]  # fmt: skip

    return Flow(f"{route} {name}", before, act, after, repeats=repeats)


def shared_keys(name: str, method: str, *, repeats: bool) -> Flow:
    """Make, change or take away a shared key."""

    def before(world: World) -> Facts:
        key = client(world)
        made = shared_key(world, key) if method != "PUT" else ""
        if made:
            assert world.generate(made).status == 202
        return {"key": key, "made": made}

    def act(world: World, facts: Facts) -> None:
        path, body = "/api/v2/sharedkeys", {"kudos": BUDGET, "name": "ours"}
        if facts["made"]:
            route, body = f"{method} {path}/{{id}}", {"name": "theirs"}
            world.ask(lambda: world.call(route, body, key=facts["key"], id=facts["made"]))
        else:
            world.ask(lambda: world.call(f"PUT {path}", body, key=facts["key"]))

    def after(world: World, facts: Facts) -> list[str]:
        keys = {key.id for key in world.records("SHAREDKEY", SharedKey)}
        (owned,) = [
            user.sharedkey_ids for user in world.records("USER", User) if user.alias == "ada"
        ]
        return [*unless(keys == owned, "an account's shared keys are not those there are"),
                *budget_kept(world, facts)]  # fmt: skip

    return Flow(f"shared key {name}", before, act, after, repeats=repeats)


def register(*, repeats: bool) -> Flow:
    def act(world: World, _facts: Facts) -> None:
        world.ask(lambda: world.call("POST /api/register", {"username": "bob"}))

    def after(world: World, _facts: Facts) -> list[str]:
        reply, keys = last(world), [i for i in world.items() if i["sk"]["S"] == "KEY"]
        users = {user.id for user in world.records("USER", User)}
        owners = [int(key["user_id"]["N"]) for key in keys if not key["worker"]["BOOL"]]
        return [
            *unless(sorted(owners) == sorted(users), "an account without its key, or two of them"),
            *unless(reply.status != 201 or reply.body["id"] in users, "answered with no account"),
            *unless(reply.status == 201 or not repeats, f"asking again ends with {reply.status}"),
        ]

    return Flow(f"register{'' if repeats else ', once'}", lambda _: {}, act, after, repeats=repeats)


def api_keys(name: str, *, repeats: bool) -> Flow:
    """Add, rotate or revoke a key. Whatever is cut, the account has one that the table knows."""
    routes = {
        "added": "POST /api/v2/keys",
        "rotated": "POST /api/v2/keys/{id}/rotate",
        "revoked": "DELETE /api/v2/keys/{id}",
    }

    def before(world: World) -> Facts:
        user, key = world.register("ada")
        more = world.call(routes["added"], {"name": "second"}, key=key).body
        return {"user": user, "key": key, "id": more["id"], "second": more["api_key"]}

    def act(world: World, facts: Facts) -> None:
        if name == "added":
            world.ask(lambda: world.call(routes[name], {"name": "third"}, key=facts["key"]))
        else:
            world.ask(lambda: world.call(routes[name], key=facts["key"], id=facts["id"]))

    def after(world: World, facts: Facts) -> list[str]:
        reply, keys = last(world), world.store.keys.of_user(facts["user"])
        hashes = {key.hash for key in keys}
        account = world.store.accounts.get(facts["user"])
        counted = account.account_keys if account else 0
        served, gone = reply.status < 400, key_hash(facts["second"]) not in hashes
        shown = reply.body.get("api_key")
        # A key whose response was lost is one that nobody knows: a second call makes one more.
        right = {"added": {2, 3, 4}, "rotated": {2}, "revoked": {1, 2}}[name]
        return [
            *unless(counted == len(keys), f"{counted} keys counted, {len(keys)} there"),
            *unless(len(keys) in right, f"{len(keys)} keys in the end"),
            *unless(key_hash(facts["key"]) in hashes, "the key that was used is gone"),
            *unless(not shown or key_hash(shown) in hashes, "showed a key that is not there"),
            *unless(not served or gone is (name != "added"), f"answered {reply}, gone: {gone}"),
        ]

    return Flow(f"API key {name}{'' if repeats else ', once'}", before, act, after, repeats=repeats)


def delete_account(
    name: str, kind: str = "ada", *, repeats: bool, held: bool = False, **fields: Any
) -> Flow:
    """Delete an account that has two requests open."""

    def before(world: World) -> Facts:
        facts = (popped if held else asked)(world, kind, **TWO, **fields)
        user = world.records("REQUEST", Request)[0].user_id
        if not fields:
            assert world.generate(facts["key"]).status == 202
        return {**facts, "user": user}

    def act(world: World, facts: Facts) -> None:
        route, by = "DELETE /api/v2/users/{id}", world.gpu_owner
        world.ask(lambda: world.call(route, key=by, id=str(facts["user"])))
        world.sweep_once()  # its minute comes before any worker's next pop

    def after(world: World, facts: Facts) -> list[str]:
        reply = last(world)
        (user,) = [one for one in world.records("USER", User) if one.id == facts["user"]]
        due = [i for i in world.items() if i["sk"]["S"] == "USER" and "due_at" in i]
        most = 1 if held else 0
        drawn = sum(image.state in DELIVERED for image in generations(world))
        return [
            *unless(user.deleted or reply.status != 200, "answered OK, and not deleted"),
            *unless(not due, "a deleted account is due for ever"),
            *unless(not user.deleted or drawn <= most, f"{drawn} images of a deleted account"),
            *unless(reply.status == 200 or not repeats, f"asking again ends with {reply.status}"),
            *budget_kept(world, facts),
        ]

    return Flow(f"delete account {name}", before, act, after, repeats=repeats)


def withdraw(what: str, *, repeats: bool) -> Flow:
    """Withdraw what was delivered, of which one image is in the data set and one is not copied."""

    def before(world: World) -> Facts:
        facts = popped(world, amount=2, **SHARED, **TWO)
        assert world.submit(facts["worker"], facts["job"]).status == 200
        world.deliver("share")
        (other,) = _others(world, facts)
        assert world.submit(facts["worker"], other).status == 200
        return {**facts, "other": other}

    def act(world: World, facts: Facts) -> None:
        route = {
            "a copied image": "DELETE /api/v2/shared/images/{id}",
            "an image before its copy": "DELETE /api/v2/shared/images/{id}",
            "a request": "DELETE /api/v2/shared/requests/{id}",
            "all": "DELETE /api/v2/shared",
        }[what]
        ids = {"a copied image": facts["job"], "a request": facts["request"]}
        name = str(ids.get(what, facts["other"]))
        world.ask(lambda: world.call(route, key=facts["key"], id=name))
        world.deliver("share")

    def after(world: World, facts: Facts) -> list[str]:
        served = last(world).status == 202
        records = {i["generation_id"]["S"]: i for i in world.items() if i["sk"]["S"] == "SHARED"}
        listed = [i for i in world.items() if i["pk"]["S"].startswith("WITHDRAWAL#")]
        gone = {name for name, one in records.items() if "withdrawn_at" in one}
        copied = facts["other"] in world.archives()
        wanted = {
            "a copied image": facts["job"] in gone,
            "an image before its copy": facts["other"] in gone and not copied,
            "a request": bool(listed) and not copied,
            "all": bool(listed) and not copied,
        }[what]
        tombstones = {i["pk"]["S"][8:] for i in world.items() if i["sk"]["S"] == "REMOVED"}
        return [
            *unless(wanted or not served, f"answered 202, and {what} is not withdrawn"),
            *unless(tombstones == gone, f"{tombstones} has tombstones, and {gone} is marked"),
            *unless(served or not repeats, f"asking again ends with {last(world).status}"),
        ]

    once = "" if repeats else ", once"
    return Flow(f"withdraw {what}{once}", before, act, after, repeats=repeats)


def release(what: str) -> Flow:
    """A release of one image, and of one that is kept back; ``what`` came after another release."""

    def before(world: World) -> Facts:
        worker = world.new_worker()
        _, key = world.register("ada", kudos=1000)
        facts: Facts = {"key": key}
        if what:
            facts["gone"], *_ = share(world, worker, key, 2)
            age(world)
            world.release()
        facts["new"] = share(world, worker)
        facts["kept"] = share(world, worker, prompt="child porn")
        age(world)
        if what == "an image was withdrawn":
            route = "DELETE /api/v2/shared/images/{id}"
            assert world.call(route, key=key, id=facts["gone"]).status == 202
        elif what == "all of an account was withdrawn":
            assert world.call("DELETE /api/v2/shared", key=key).status == 202
        return facts

    def act(world: World, _facts: Facts) -> None:
        world.release()

    def after(world: World, facts: Facts) -> list[str]:
        kept = [item for item in world.items() if item["sk"]["S"] == "KEPT"]
        there = samples(world).keys()
        return [
            *unless({f"KEPT#{one}" for one in facts["kept"]} == {i["pk"]["S"] for i in kept},
                    f"{len(kept)} images are kept back"),
            *unless(set(facts["new"]) <= there, "an image is not released"),
            *unless(facts.get("gone") not in there, "a withdrawn image is released"),
            *unless(world.releases > 0, "no release was made"),
        ]  # fmt: skip

    name = f"release after {what}" if what else "the first release"
    return Flow(name, before, act, after, releases=True)


def finish_deletion() -> Flow:
    """A deletion died right after its mark; one of two sweeps dies too."""

    def before(world: World) -> Facts:
        facts = asked(world, "poor", **TWO)
        (request,) = world.records("REQUEST", Request)
        user = world.store.accounts.get(request.user_id)
        assert user is not None
        assert world.store.accounts.change(user, deleted(user))
        return facts

    def act(world: World, _facts: Facts) -> None:
        for _ in range(2):
            world.sweep_once()

    def after(world: World, _facts: Facts) -> list[str]:
        due = [i for i in world.items() if i["sk"]["S"] == "USER" and "due_at" in i]
        drawn = sum(image.state in DELIVERED for image in generations(world))
        return [
            *unless(not due, "a deleted account is due for ever"),
            *unless(drawn == 0, f"{drawn} images of a deleted account"),
        ]

    return Flow("sweep half a deletion", before, act, after)


def disabled(*, repeats: bool) -> Flow:
    """Cancel what a shared key paid for that its owner has disabled since."""

    def before(world: World) -> Facts:
        key = client(world)
        made = shared_key(world, key)
        facts = {"request": world.generate(made, **TWO).body["id"]}
        route = "PATCH /api/v2/sharedkeys/{id}"
        assert world.call(route, {"kudos": 0}, key=key, id=made).status == 200
        return facts

    def act(world: World, facts: Facts) -> None:
        world.ask(lambda: world.cancel(facts["request"]))

    def after(world: World, _facts: Facts) -> list[str]:
        (key,) = world.records("SHAREDKEY", SharedKey)
        return unless(key.kudos == 0, f"a disabled key has {key.kudos} kudos to spend")

    name = f"cancel by a key that was disabled{'' if repeats else ', once'}"
    return Flow(name, before, act, after, repeats=repeats)


def styles(what: str, verb: str) -> Flow:
    """An author makes, renames or deletes a style."""
    route = "/api/v2/styles/image"
    made = {"name": "ink", "models": ["stable_diffusion"]}

    def before(world: World) -> Facts:
        key = client(world)
        facts: Facts = {"key": key}
        if verb != "POST":
            facts["id"] = world.call(f"POST {route}", made, key=key).body["id"]
        return facts

    def act(world: World, facts: Facts) -> None:
        body = {"POST": made, "PATCH": {"name": "oil"}}.get(verb)
        path = {"id": facts["id"]} if "id" in facts else {}
        name = f"{verb} {route}" + ("/{id}" if path else "")
        world.ask(lambda: world.call(name, body, key=facts["key"], **path))

    def after(world: World, _facts: Facts) -> list[str]:
        found = world.records("STYLE", Style)
        names = [item for item in world.items() if item["sk"]["S"].startswith("STYLENAME#")]
        (user,) = (one for one in world.records("USER", User) if one.alias == "ada")
        named = {item["style_id"]["S"]: item["pk"]["S"].partition("#")[2] for item in names}
        return [
            *unless({style.id: style.name for style in found} == named, f"names {named}"),
            *unless(user.style_ids == named.keys(), f"its author has {user.style_ids}"),
        ]

    return Flow(f"a style {what}, once", before, act, after, repeats=False)


def grant() -> Flow:
    """An admin gives kudos by the API."""

    def before(world: World) -> Facts:
        return {"user": world.register("bob")[0]}

    def act(world: World, facts: Facts) -> None:
        body, route = {"kudos": GIFT, "trusted": True}, "PUT /api/v2/users/{id}"
        who, by = str(facts["user"]), world.gpu_owner
        world.ask(lambda: world.call(route, body, key=by, id=who))

    def after(world: World, facts: Facts) -> list[str]:
        (bob,) = [user for user in world.records("USER", User) if user.id == facts["user"]]
        given = bob.kudos - FLOOR
        served = last(world).status == 200
        return unless(
            given == (GIFT if bob.trusted else 0) and (bob.trusted or not served),
            f"{given} kudos given, trusted: {bob.trusted}, answered {last(world)}",
        )

    return Flow("grant", before, act, after, repeats=False)


def life(name: str, kind: str, **fields: Any) -> Flow:
    """A request's whole life, from asking to sharing, by clients and a worker that ask again."""

    def before(world: World) -> Facts:
        return {"key": client(world, kind), "worker": world.new_worker("owner")}

    def act(world: World, facts: Facts) -> None:
        world.ask(lambda: world.generate(facts["key"], **fields))
        world.stream()
        world.deliver("dispatch")
        world.work(facts["worker"])
        world.stream()
        world.deliver("webhook")
        world.deliver("share")
        world.sweep_once()

    return Flow(f"life {name}", before, act)


SOURCE: Facts = {"source_image": png_base64(), "params": {"denoising_strength": 1.0}}
REFUSED: Facts = {"generation": base64.b64encode(b"no image").decode()}
INLINE: Facts = {"generation": base64.b64encode(webp()).decode()}

FLOWS = [
    accept("an account's"),
    accept("an account's, once", repeats=False),
    accept("shared", **SHARED),
    accept("partly waived, two images", "poor", **TWO),
    accept("anonymous", "anonymous"),
    accept("anonymous, once", "anonymous", repeats=False),
    accept("by a shared key, two images", by_shared_key=True, **TWO),
    accept("with a source image, shared all the same", **SOURCE, **SHARED),
    streamed("enqueue", partial(asked, **SIX), ticketed),
    streamed("enqueue webhooks", partial(delivered, webhook=f"{HOOK}/hook", **TWO)),
    queued("dispatch", partial(asked, **SIX), "dispatch", ticketed),
    pop("by a new worker", repeats=True),
    pop("by a new worker, once", repeats=False),
    pop("by a worker that is known", repeats=True, known=True),
    pop("by a worker that is known, once", repeats=False, known=True),
    pop("by one of the operator's own, once", repeats=False, fleet=True),
    pop("of an anonymous request, once", "anonymous", repeats=False),
    pop("of an anonymous request, by one of the operator's own", "anonymous", repeats=True,
        fleet=True),
    dropped(repeats=True),
    delete_worker(repeats=False),
    pop("of a source image", repeats=False, amount=1, source_image=png_base64()),
    work("again and again", repeats=True, **SHARED),
    work("once", repeats=False, **SHARED),
    work("once, by a worker that does not look", repeats=False, careful=False),
    submit("not shared"),
    submit("shared, one of two", **SHARED, **TWO),
    submit("shared, once", repeats=False, **SHARED),
    submit("anonymous", "anonymous", repeats=False),
    submit("with a webhook, partly waived", "poor", webhook=f"{HOOK}/hook"),
    submit("inline", says=INLINE),
    submit("refused a third time, one of two", "poor", says=REFUSED, faults=MAX_FAULTS - 1, **TWO),
    submit("refused a third time, once", repeats=False, says=REFUSED, faults=MAX_FAULTS - 1, **TWO),
    submit("censored, partly waived", "poor", says={"state": "censored"}, **SHARED),
    submit("censored, by a shared key, once", repeats=False, says={"state": "censored"},
           by_shared_key=True),
    submit("faulted, one of two", "poor", says={"state": "faulted"}, **TWO),
    submit("faulted, once", repeats=False, says={"state": "faulted"}),
    submit("faulted, anonymous, once", "anonymous", repeats=False, says={"state": "faulted"}),
    submit("faulted a third time, one of two", "poor", says={"state": "faulted"},
           faults=MAX_FAULTS - 1, **TWO),
    submit("faulted a third time, once", repeats=False, says={"state": "faulted"},
           faults=MAX_FAULTS - 1, **TWO),
    queued("share", partial(delivered, **SHARED), "share"),
    queued("share anonymous, two images", partial(delivered, kind="anonymous", **TWO), "share"),
    queued("share beside a file that was not delivered", raced, "share"),
    queued("share what a stranger drew", by_a_stranger, "share"),
    swept("held images to release", trusted_now),
    queued("share a held image", to_be_released, "share"),
    found_again(),
    submit("marked as CSAM", says={"state": "csam"}, **SHARED),
    queued("share nothing of what is marked as CSAM", marked_as_csam, "share"),
    early(),
    queued("webhook", partial(delivered, webhook=f"{HOOK}/hook", **TWO), "webhook"),
    streamed("payouts", partial(delivered, **SHARED, **TWO)),
    streamed("payouts of an anonymous request", partial(delivered, kind="anonymous")),
    swept("a lease that ended", lease_over),
    swept("a third lease that ended, one of two", partial(last_lease_over, **TWO)),
    swept("a third lease of a waived request", partial(last_lease_over, kind="poor", **TWO)),
    swept("an expired request of two", partial(time_over, **TWO), expires=True),
    swept("an expired request, partly waived", partial(time_over, kind="poor", **TWO),
          expires=True),
    swept("an expired request of a shared key", partial(time_over, by_shared_key=True),
          expires=True),
    swept("an expired request with a source", partial(time_over, **SOURCE), expires=True),
    swept("half a cancel", half_cancelled),
    swept("lost tickets", ticket_lost),
    swept("rewards that nobody paid", reward_owed),
    cancel("two waiting", repeats=True),
    cancel("two waiting, once", repeats=False),
    cancel("partly waived", "poor", repeats=True),
    cancel("partly waived, once", "poor", repeats=False),
    cancel("one held, one waiting", held=True, repeats=True),
    cancel("by a shared key", by_shared_key=True, repeats=True),
    rate(repeats=True),
    rate(repeats=False),
    rate_pool(repeats=True),
    rate_pool(repeats=False),
    transfer("with an Idempotency-Key", repeats=True, with_key=True),
    transfer("once", repeats=False, with_key=False),
    transfer("with an Idempotency-Key", repeats=True, with_key=True, route="shared key"),
    transfer("with an Idempotency-Key", repeats=True, with_key=True, route="award"),
    shared_keys("made", "PUT", repeats=False),
    shared_keys("changed", "PATCH", repeats=True),
    shared_keys("taken away", "DELETE", repeats=False),
    disabled(repeats=True),
    styles("made", "POST"),
    styles("renamed", "PATCH"),
    styles("deleted", "DELETE"),
    api_keys("added", repeats=True),
    api_keys("rotated", repeats=True),
    api_keys("rotated", repeats=False),
    api_keys("revoked", repeats=True),
    delete_account("with two requests open", repeats=True),
    delete_account("partly waived, an image in hand, once", "poor", repeats=False, held=True),
    delete_account("by a shared key, once", repeats=False, by_shared_key=True),
    finish_deletion(),
    withdraw("a copied image", repeats=True),
    withdraw("an image before its copy", repeats=True),
    withdraw("a request", repeats=True),
    withdraw("a request", repeats=False),
    withdraw("all", repeats=True),
    release(""),
    release("an image was withdrawn"),
    release("all of an account was withdrawn"),
    register(repeats=True),
    register(repeats=False),
    grant(),
    life("shared", "ada", webhook=f"{HOOK}/hook", **SHARED),
]  # fmt: skip
