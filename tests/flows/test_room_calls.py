"""Each room of the store, method by method: what it asks of DynamoDB, and what it returns.

Flows (``test_approved_calls``) use the rooms as handlers do. Here are the methods and the cases
that no flow has: reads for pages and operators, and what is missing, deleted, or at a boundary.
After a change on purpose, ``make approve`` writes ``approved/rooms.txt`` anew; its diff is to be
read.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from horde import aws, store
from horde.edge.auth import key_hash
from horde.records import (
    ApiKey,
    Census,
    CsamMark,
    Generation,
    Held,
    Load,
    PoolImage,
    Rating,
    Request,
    SharedKey,
    State,
    User,
    Worker,
)
from horde.rules import raters
from horde.rules.drawing import Ability
from horde.rules.features import FEATURES
from horde.rules.refusals import HordeError
from horde.rules.statistics import Counter, Scope, Series
from horde.store import (
    accounts,
    counters,
    counts,
    csam,
    places,
    registry,
    settlements,
    sharedkeys,
    transaction,
)
from horde.store.audit import AuditStore, ledger_from, numbers_of
from horde.store.audit_read import read
from horde.store.counts import short_id
from horde.store.items import DUE, LISTED, Kind, Row, encode, id_of, key, key_of
from horde.store.queue import HoldsEnough
from horde.store.queuenames import model_target, queue_of
from horde.store.table import ConditionFailed
from horde.store.transfers import IdempotencyKey
from tests.support.approved import FOLDER, Names, recorded
from tests.support.crashes import World, worlds
from tests.support.crashflows import (
    SHARED,
    TWO,
    asked,
    by_a_stranger,
    client,
    delivered,
    marked_as_csam,
    popped,
    shared_key,
)
from tests.support.records import IMAGE, REQUEST

APPROVED = FOLDER / "rooms.txt"
MISSING = "00000000-0000-4000-8000-000000000000"
Say = Callable[..., Any]


@pytest.fixture
def world(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[World]:
    with worlds(template, clients) as made:
        yield made


@pytest.fixture
def say(world: World, request: pytest.FixtureRequest) -> Iterator[Say]:
    """Call something: its calls and its result are compared with what was approved."""
    said: list[str] = []
    names = Names()

    def one(what: str, call: Callable[[], Any]) -> Any:
        result: Any = None
        with world.wire.inside("store"), recorded(world) as made:
            try:
                result = call()
                if isinstance(result, Iterator):
                    result = list(result)
                shown = _shown(result)
            except (ConditionFailed, HoldsEnough, HordeError, ValueError) as error:
                shown = f"{type(error).__name__} {error}"
        said.extend([f"{what}:", *made, f"= {names.put(shown)}"])
        return result

    yield one
    name = request.node.name
    known = _approved()
    if os.environ.get("APPROVE"):
        known[name] = said
        text = (
            f"[{title}]\n" + "".join(f"{line}\n" for line in lines)
            for title, lines in sorted(known.items())
        )
        APPROVED.write_text("\n".join(text))
    assert said == known.get(name)


def _shown(value: Any) -> str:
    """Return a value as text: of a record, the fields that say something; the same each time."""
    if is_dataclass(value) and not isinstance(value, type):
        told = {
            one.name: getattr(value, one.name)
            for one in fields(value)
            if getattr(value, one.name) not in (one.default, None, [], frozenset())
        }
        return f"{type(value).__name__}({_shown(told)})"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(inner)}" for name, inner in value.items())
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, list) or type(value) is tuple:
        return f"[{', '.join(map(_shown, value))}]"
    return repr(value)


def _approved() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in APPROVED.read_text().splitlines() if APPROVED.exists() else []:
        if line.startswith("[test_"):
            lines = found.setdefault(line.strip("[]"), [])
        elif line:
            lines.append(line)
    return found


def user(world: World, name: str) -> User:
    found: User
    (found,) = [one for one in world.records("USER", User) if one.alias == name]
    return found


def image_of(world: World, generation_id: str) -> Generation:
    found = world.store.requests.generation(generation_id)
    assert found is not None
    return found


def request_of(world: World, request_id: str) -> Request:
    found = world.store.requests.get(request_id)
    assert found is not None
    return found


def change(world: World, row: dict[str, Any], **fields: Any) -> None:
    """Set or remove attributes of an item, by hand; write one that is not there."""
    there = [i for i in world.items() if i["pk"] == row["pk"] and i["sk"] == row["sk"]]
    item = {
        **(there[0] if there else row),
        **{name: value for name, value in fields.items() if value is not None},
    }
    for name, value in fields.items():
        if value is None:
            item.pop(name, None)
    world.db.put_item(TableName=world.table, Item=item)


def test_accounts(world: World, say: Say) -> None:
    client(world)
    for name, kudos in (("bob", 90), ("eve", 500), ("tom", 0)):
        world.register(name, kudos=kudos)
    room, ada, bob, tom = world.store.accounts, *(user(world, n) for n in ("ada", "bob", "tom"))
    for number in (0, ada.id, 99):
        say(f"get {number}", lambda number=number: room.get(number))
    say("many", lambda: sorted(room.get_many([bob.id, ada.id, bob.id, 99])))
    say("top", lambda: room.top_by_kudos(2))
    say("change", lambda: room.change(bob, {"contact": "x", "moderator": False}))
    say("change and grant", lambda: room.change(bob, {"contact": None}, 5))
    say("change and take", lambda: room.change(bob, {"contact": "y"}, -10_000))
    say("change of nobody", lambda: room.change(replace(bob, id=99), {"contact": "y"}))
    for amount in (3, 1, 0, -1, -10_000):
        say(f"grant {amount}", lambda amount=amount: room.grant(bob.id, amount))
    say("grant to nobody", lambda: room.grant(99, 1))
    say("register", lambda: room.register("zoe", "b" * 64))
    say("delete", lambda: room.change(bob, accounts.deleted(bob)))
    now = world.clock.now_ms() // 1000
    say("not over yet", lambda: room.end_deletion(bob.id, now - 1))
    say("over", lambda: room.end_deletion(bob.id, now))
    say("over again", lambda: room.end_deletion(bob.id, now))
    say("undelete", lambda: room.change(bob, accounts.undeleted(bob)))
    say("allowance", lambda: room.give_allowance(tom, 7))
    say("allowance twice", lambda: room.give_allowance(tom, 7))
    say("allowance of nothing", lambda: room.give_allowance(tom, 0))
    say("allowance of nobody", lambda: room.give_allowance(replace(tom, id=99), 7))
    say("deleted", lambda: accounts.deleted(ada))
    say("undeleted", lambda: accounts.undeleted(ada))


def test_api_keys(world: World, say: Say) -> None:
    client(world)
    world.register("bob")
    room, ada, bob = world.store.keys, user(world, "ada"), user(world, "bob")
    (first,) = room.of_user(ada.id)
    (other,) = room.of_user(bob.id)
    say("get", lambda: room.get(first.hash))
    say("get none", lambda: room.get("f" * 64))
    world.clock.pass_seconds(5)
    made = ApiKey(hash="c" * 64, user_id=ada.id, created_at=world.clock.now_ms() // 1000, name="n")
    say("add", lambda: room.add(made, 2))
    say("add one too many", lambda: room.add(replace(made, hash="d" * 64), 2))
    say("add to nobody", lambda: room.add(replace(made, hash="d" * 64, user_id=99), 9))
    say("add again", lambda: room.add(made, 9))
    say("worker key", lambda: room.add_worker_key(replace(made, hash="e" * 64, worker=True)))
    fleet = replace(made, hash="a" * 64, worker=True, user_id=bob.id)
    say("fleet key", lambda: room.add_worker_key(fleet, fleet=True))
    say("worker key of nobody", lambda: room.add_worker_key(replace(fleet, user_id=99, hash="9")))
    say("of user", lambda: room.of_user(ada.id))
    say("of user, with a stranger's", lambda: room.of_user(ada.id, [other.hash, "0" * 64]))
    world.clock.pass_seconds(5)
    say("rotate", lambda: room.rotate(made, "7" * 64))
    say("rotate what is gone", lambda: room.rotate(made, "6" * 64))
    say("rotate a stranger's", lambda: room.rotate(replace(other, user_id=ada.id), "6" * 64))
    rotated = room.get("7" * 64)
    assert rotated is not None
    say("revoke a worker key", lambda: room.revoke(replace(made, hash="e" * 64, worker=True)))
    say("revoke a stranger's", lambda: room.revoke(replace(other, user_id=ada.id)))
    say("revoke", lambda: room.revoke(rotated))
    say("revoke what is gone", lambda: room.revoke(rotated))
    say("revoke the last", lambda: room.revoke(first))
    say("unlisted none", room.unlisted)
    change(world, key(Kind.KEY, first.hash), listed=None, listed_at=None)
    say("unlisted", room.unlisted)
    say("adopt what is listed", lambda: room.adopt(replace(other, created_at=1)))
    say("adopt what is gone", lambda: room.adopt(made))
    say("adopt", lambda: room.adopt(first))
    say("listed again", lambda: room.of_user(ada.id))


def test_audit(world: World, say: Say) -> None:
    facts = delivered(world, **SHARED)
    world.pay()
    world.register("bob")
    ada, bob = user(world, "ada"), user(world, "bob")
    world.clock.pass_seconds(9)
    since = world.clock.now_ms()
    assert world.transfer(facts["key"], f"bob#{bob.id}", 1).status == 200
    room = AuditStore(world.store.table)
    say("size", lambda: room.size() > 9)
    say("scan", lambda: sum(map(len, room.scan(0, 1))))
    parts = [sum(map(len, room.scan(part, 3))) for part in range(3)]
    assert sum(parts) == sum(map(len, room.scan()))
    rows = [Row(f"USER#{ada.id}", "USER"), Row(f"USER#{ada.id}", "USER"), Row("USER#99", "USER")]
    say("rows", lambda: [id_of(item) for item in room.rows(rows)])
    for at in (0, since, since + 1):
        say(f"account {at - since}", lambda at=at: len(room.account_since(ada.id, at)))
        say(f"transfers {at - since}", lambda at=at: len(room.transfers_since(at)))
    say("counted", lambda: sorted(room.counted().items()))
    (worker,) = world.records("WORKER", Worker)
    wanted = [Row(f"WORKER#{worker.id}", "STATS"), Row("STATS", "TOTAL")]
    say("counted rows", lambda: sorted(room.counted(wanted).items()))
    say("since", lambda: ledger_from(since))
    say("numbers", lambda: numbers_of({"a": {"N": "7"}, "b": {"S": "8"}}))
    for item in sorted(world.items(), key=_place):
        say(f"read {item['sk']['S'].partition('#')[0]}", lambda item=item: read(item))


def _place(item: dict[str, Any]) -> tuple[str, ...]:
    """Return where an item comes, whatever ids its entries have."""
    more = (str(item.get(name)) for name in ("kind", "amount"))
    return (item["sk"]["S"].partition("#")[0], item["pk"]["S"], *more)


def test_fleet(world: World, say: Say) -> None:
    room = world.store.census
    say("no census", room.read)
    load = Load(images=1, requests=2, pixelsteps=3, workers=4, threads=5, measured=6, speed=7)
    say("put", lambda: room.put(Census(at=9, workers=2, threads=3, models={"é": load})))
    say("maintenance", lambda: room.set_maintenance(on=True))
    say("read", room.read)
    say("no maintenance", lambda: room.set_maintenance(on=False))
    say("read again", room.read)
    change(world, key_of((Kind.FLEET, "CENSUS")), models={"S": '{"é":[1,2]}'})
    say("read another version's", room.read)


def test_counters(world: World, say: Say) -> None:
    delivered(world, **TWO)
    world.generate()
    world.pay()
    world.stream()
    room, now = world.store.counters, world.clock.now_ms()
    say("anonymous", room.anonymous)
    midnight = 86_400_000 - now % 86_400_000
    for later in (
        *(0, 60_000, 3_600_000, midnight - 1, midnight),
        *(86_400_000, 30 * 86_400_000, 31 * 86_400_000),
    ):
        say(f"totals {later}", lambda later=later: room.totals(now + later))
        say(f"models {later}", lambda later=later: room.by_model(now + later))
    say("between", lambda: len(room.between("A", "~", consistent=True)))
    for series in (Series(Scope.TOTAL), Series(Scope.WORKER, MISSING), Series(Scope.MODEL, "é")):
        counter = Counter({"images": 2}, gone_at=0 if series.scope is Scope.TOTAL else 7)
        say(
            f"add {series.scope.name}", lambda s=series, c=counter: counters.add(s, c, {"speed": 3})
        )
    say("add to a worker", lambda: counters.add(Series(Scope.WORKER, "w"), Counter({"images": 1})))


def test_marks(world: World, say: Say) -> None:
    facts = marked_as_csam(world)
    world.clock.pass_seconds(5)
    world.generate(facts["key"])
    job = world.pop(facts["worker"]).body
    world.upload(job["r2_upload"])
    assert world.submit(facts["worker"], job["id"], state="csam").status == 200
    room = world.store.csam
    marks: list[CsamMark] = say("newest", lambda: room.newest(5))
    say("newest none", lambda: room.newest(1))
    say("clear", lambda: room.clear(marks[0].generation_id))
    say("clear again", lambda: room.clear(marks[0].generation_id))
    say("newest then", lambda: room.newest(5))
    say("request", lambda: request_of(world, facts["request"]).csam)


def test_endings(world: World, say: Say) -> None:
    key_id = shared_key(world, client(world, "poor"))
    request = request_of(world, world.generate(key_id, params={"n": 2}).body["id"])
    assert request.waived
    for image in world.store.requests.generations(request):
        # The second refund is decided from what was read before the first.
        say(
            f"end {image.index}",
            lambda image=image: world.store.endings.end_undelivered(
                request, image, State.CANCELLED
            ),
        )
    say("waived", lambda: request_of(world, request.id).waived)
    _, broke = world.register("broke")
    free = request_of(world, world.generate(shared_key(world, broke)).body["id"])
    (image,) = world.store.requests.generations(free)
    say(
        "end what was waived",
        lambda: world.store.endings.end_undelivered(free, image, State.CANCELLED),
    )


def test_due(world: World, say: Say) -> None:
    facts = delivered(world)
    ada = user(world, "ada")
    world.store.accounts.change(ada, accounts.deleted(ada))
    asked(world, "poor")
    now = world.clock.now_ms() // 1000
    for later in (-1, 0, 299, 300, 10_000):
        say(f"due {later}", lambda later=later: world.due(now + later))
    assert facts["request"]


def test_held(world: World, say: Say) -> None:
    facts = by_a_stranger(world)
    room = world.store.held
    stranger, ada = user(world, "volunteer"), user(world, "ada")
    held = Held(
        generation_id=facts["job"],
        request_id=facts["request"],
        user_id=ada.id,
        worker_user=stranger.id,
    )
    say("add", lambda: room.add(held))
    say("add again", lambda: room.add(held))
    say("anonymous", lambda: room.add(replace(held, generation_id=MISSING, user_id=0)))
    say("own", lambda: room.add(replace(held, user_id=stranger.id)))
    say("get", lambda: room.get(facts["job"]))
    say("get none", lambda: room.get(MISSING[:-1] + "1"))
    say("holders", lambda: room.holders(5))
    say("ids", lambda: room.ids_of(stranger.id, 1))
    say("all", lambda: sorted(room.all_of(stranger.id)))
    say("forget too early", lambda: room.forget_holder(stranger.id))
    say("holders still", lambda: room.holders(5))
    world.clock.pass_seconds(3600)
    say("forget at the hour", lambda: room.forget_holder(stranger.id))
    world.clock.pass_seconds(1)
    say("forget", lambda: room.forget_holder(stranger.id))
    say("forget again", lambda: room.forget_holder(stranger.id))
    say("holders none", lambda: room.holders(5))
    say("remove", lambda: room.remove(facts["job"]))
    say("remove again", lambda: room.remove(facts["job"]))
    world.clock.pass_seconds(30 * 86_400 - 3601)
    say("gone", lambda: room.get(MISSING))
    world.set_flags(stranger.id, flagged=True)
    say("flagged", lambda: room.add(held))


def test_queue(world: World, say: Say) -> None:
    facts = asked(world, params={"n": 3})
    poor = asked(world, "poor")
    world.generate()
    room = world.store.queue
    model = "stable_diffusion"
    images = world.store.requests.generations(request_of(world, facts["request"]))
    queue = queue_of(images[0])
    say("page", lambda: len(room.page(queue, 2)[0]))
    say("next page", lambda: len(room.page(queue, None, room.page(queue, 2)[1])[0]))
    say("first", lambda: room.waiting(model, 1)[0].user_id)
    places_room, asked_for = world.store.places, request_of(world, facts["request"])
    say("images and places", lambda: len(places_room.generations(asked_for)))
    middle = images[0].priority
    for priority in (middle - 1, middle, middle + 1):
        say(f"ahead {priority - middle}", lambda p=priority: places_room.ahead(model, p))
    places.clear_cache()
    say("images and known places", lambda: len(places_room.generations(asked_for)))
    world.clock.pass_seconds(2)
    say("ahead, renewed", lambda: places_room.ahead(model, middle - 1))
    now = world.clock.now_ms()
    most = images[0].pixels
    backlog = world.store.backlog
    say("since", lambda: backlog.since({model: Ability(most)}, now + 1, 9))
    say("since before", lambda: backlog.since({model: Ability(most)}, images[0].created_at, 9))
    say("since, too large", lambda: backlog.since({model: Ability(most - 1)}, now + 1, 9))
    say("since, of a class too large", lambda: backlog.since({model: Ability(0)}, now + 1, 9))
    two = {model: Ability(most), "none": Ability(most)}
    say("since, of two models", lambda: backlog.since(two, now + 1, 9))
    say("size", lambda: room.size(model, 9))
    say("size, at most", lambda: room.size(model, 2))
    say("size of none", lambda: room.size("none", 9))
    worker = Worker(id=MISSING, name="w", user_id=7, created_at=0, seen_at=0, gone_at=0)
    say(
        "claim for a worker that is gone",
        lambda: room.claim(images[0], worker, lease_until=9, held_limit=1),
    )
    say("claim by an endpoint", lambda: room.claim(images[0], worker, lease_until=9))
    say("claim again", lambda: room.claim(images[0], worker, lease_until=9))
    say("claim preferred", lambda: room.claim(images[1], worker, lease_until=9, preferred=True))
    assert poor["request"]


def test_open_images(world: World, say: Say) -> None:
    facts = asked(world, params={"n": 3})
    ids = request_of(world, facts["request"]).generations
    people, ada = world.store.accounts, user(world, "ada")
    nobody = people.anonymous(3)
    say("nobody again", lambda: people.again(nobody))
    change(world, key(Kind.ANONYMOUS, 3), open_images=encode(counts.opened(ids)["open_images"]))
    nobody = people.anonymous(3)
    say("open of nobody", lambda: counts.ids_of_open(nobody) == sorted(ids, key=short_id))
    say("forget of nobody", lambda: len(people.forget_ended(nobody, ids[:1]).open_images))
    say("forget none", lambda: len(people.forget_ended(ada, ids).open_images))
    say("forget all", lambda: len(people.forget_ended(ada, []).open_images))


def test_backlog(world: World, say: Say) -> None:
    requests = [request_of(world, asked(world, **TWO)["request"]) for _ in range(2)]
    room, model = world.store.backlog, requests[0].model
    for number, request in enumerate(requests):
        came = request.created_at + number, request.id
        say(f"before {number}", lambda came=came: room.older({model: Ability(2**20)}, came, 100))
    last, able = (requests[1].created_at + 1, ""), Ability(2**20, frozenset(FEATURES[1:]))
    say("after both", lambda: room.older({model: able, "other": able}, last, 4))
    say("too many", lambda: room.older({model: able}, last, 3))
    say("none so large", lambda: room.older({model: Ability(64)}, last, 100))


def test_rate_limits(world: World, say: Say) -> None:
    room = world.store.ratelimits
    for now in (7, 8, 60, 119, 120):
        say(f"count {now}", lambda now=now: room.count("s", [60, 1], now))


def test_requests(world: World, say: Say) -> None:
    facts = asked(world, params={"n": 2})
    second = world.generate(facts["key"]).body["id"]
    room, ada = world.store.requests, user(world, "ada")
    request = request_of(world, facts["request"])
    say("get", lambda: room.get(request.id))
    say("get none", lambda: room.get(MISSING))
    say("generation none", lambda: room.generation(MISSING))
    say("generations", lambda: [image.index for image in room.generations(request)])
    say("by id", lambda: len(room.generations_by_id([*request.generations, MISSING])))
    say("prompts", lambda: room.prompts([request.id, request.id, MISSING]))
    say("open", lambda: len(world.store.listings.open_images(ada)))
    say("listed", lambda: len(world.store.listings.requests(ada, 1)))
    say("many", lambda: sorted(room.get_many([request.id, request.id, MISSING])) == [request.id])
    alone = request_of(world, second)
    exact = replace(ada, kudos=ada.floor + 2 * (request.price + request.tax))
    world.store.accounts.grant(ada.id, ada.floor - user(world, "ada").kudos)
    images = room.generations(request)
    say("accept again, with too little left", lambda: room.accept(request, images, exact))
    new = [replace(image, id=MISSING) for image in images[:1]]
    say("accept again, with another image", lambda: room.accept(request, new, exact))
    change(world, key(Kind.REQUEST, second), payload={"S": "{}"})
    say("no prompt", lambda: room.prompts([second]))
    say("extend", lambda: room.extend_expiry(request.id, 99))
    say("reschedule", lambda: room.reschedule(request, 77))
    say("cancel", lambda: room.cancel(request, 55))
    say("cancel again", lambda: room.cancel(request, 56))
    say("cancel what ends with its image", lambda: room.cancel(alone, 55))
    say("extend what ends with its image", lambda: room.extend_expiry(alone.id, 99))
    say("keep what is open", lambda: room.keep(images[0], 10**10))
    say("close", lambda: room.close(request))
    now = world.clock.now_ms() // 1000
    ends = [i["gone_at"]["N"] for i in world.items() if i["pk"]["S"] == f"REQUEST#{request.id}"]
    say("gone", lambda: [int(end) - now for end in ends])
    say("cancel what is closed", lambda: room.cancel(request, 57))
    say("extend what is closed", lambda: room.extend_expiry(request.id, 99))
    for until in (now + 10**6, now + 10**6, now):
        say(f"keep for {until - now} s", lambda until=until: room.keep(images[0], until))
        kept = [i["gone_at"]["N"] for i in world.items() if i["pk"]["S"] == f"REQUEST#{request.id}"]
        say("then gone", lambda kept=kept: [int(end) - now for end in kept])


def test_rewards(world: World, say: Say) -> None:
    delivered(world, **TWO)
    owner, room = user(world, "volunteer"), world.store.rewards
    unpaid = say("unpaid", lambda: room.of(owner.id))
    say("take back unpaid", lambda: room.take_back(owner, [unpaid[0].settlement]))
    world.pay()
    paid = say("paid", lambda: room.of(owner.id))
    now = user(world, "volunteer")
    one, other = (reward.settlement for reward in paid)
    say("take back", lambda: room.take_back(now, [one]))
    say("take back again", lambda: room.take_back(now, [one, other]))
    world.store.accounts.grant(owner.id, -other.reward)
    say("take back what is spent", lambda: room.take_back(now, [other]))
    say("left", lambda: room.of(owner.id))
    say("pending", lambda: world.store.payouts.pending(owner.id, one.entry_id))
    say("pending none", lambda: world.store.payouts.pending(owner.id, "LEDGER#x"))
    say("post again", lambda: world.store.payouts.post([one, one, other]))


def test_shared_keys(world: World, say: Say) -> None:
    api_key = client(world)
    key_id, room = shared_key(world, api_key), world.store.sharedkeys
    ada, first = user(world, "ada"), room.get(key_id)
    assert first is not None
    say("get none", lambda: room.get(MISSING))
    made = SharedKey(id=MISSING, user_id=ada.id, name="n", kudos=-1, created_at=1)
    say("add one too many", lambda: room.add(made, 1))
    say("add", lambda: room.add(made, 2))
    say("add again", lambda: room.add(made, 9))
    say("add for nobody", lambda: room.add(replace(made, id="x", user_id=99), 9))
    say("change", lambda: room.change(key_id, ada.id, {"name": "m", "expires_at": None}))
    request = request_of(world, world.generate(key_id, params={"n": 2}).body["id"])
    images = world.store.requests.generations(request)
    say("set a budget", lambda: room.change(key_id, ada.id, {"kudos": 5}))
    new = replace(request, id=MISSING, generations=[MISSING])
    waiting = [replace(images[0], id=MISSING, request_id=MISSING)]
    say(
        "spend what was read before",
        lambda: world.store.requests.accept(new, waiting, user(world, "ada"), first),
    )
    say("set none", lambda: room.change(key_id, ada.id, {"kudos": -1}))
    say("change a stranger's", lambda: room.change(key_id, 99, {"name": "o"}))
    say("change none", lambda: room.change("x", ada.id, {"name": "o"}))
    say("remove", lambda: room.remove(made))
    say("remove again", lambda: room.remove(made))


@pytest.mark.lengthy
def test_sharing(world: World, say: Say) -> None:
    facts = delivered(world, **SHARED, **TWO)
    world.deliver("share")
    room, ada, owner = world.store.sharing, user(world, "ada"), user(world, "volunteer")
    shared = say("get", lambda: room.get(facts["job"]))
    say("get none", lambda: room.get(MISSING))
    say("of user", lambda: len(list(room.of_user(ada.id))))
    say("of nobody", lambda: list(room.of_user(99)))
    say("drawn by", lambda: len(list(room.drawn_by(owner.id))))
    say("in data set", lambda: room.in_data_set([facts["job"], MISSING]))
    say("withdrawn none", lambda: room.withdrawn([facts["job"], MISSING]))
    say("recorded", lambda: room.recorded([facts["job"], MISSING, facts["job"]]))
    say("recorded none", lambda: room.recorded([]))
    request = request_of(world, facts["request"])
    rating = Rating(generation_id=facts["job"], rating=7, artifacts=2)
    other = next(one for one in request.generations if one != facts["job"])
    plain = replace(rating, generation_id=other, artifacts=None)
    images = list(request.generations)
    say("rate", lambda: room.rate(request, [rating, plain], best=other, reward=3, images=images))
    say("rate again", lambda: room.rate(request, [rating], best=None, reward=3, images=images))
    say("withdraw", lambda: room.mark_withdrawn(shared))
    world.clock.pass_seconds(5)
    say("withdraw again", lambda: room.mark_withdrawn(shared))
    say("withdraw none", lambda: room.mark_withdrawn(replace(shared, generation_id=MISSING)))
    say("withdrawn", lambda: room.withdrawn([facts["job"], MISSING]))
    held = Held(generation_id=other, request_id=request.id, user_id=ada.id, worker_user=owner.id)
    say("share again", lambda: room.mark_shared(held, "k", 7))
    say("share another", lambda: room.mark_shared(replace(held, generation_id=MISSING), "k", 7))
    say("context", lambda: room.context(held))
    say("context of one's own", lambda: room.context(replace(held, worker_user=ada.id)))
    say("context of nobody", lambda: room.context(replace(held, user_id=0, worker_user=99)))


def test_rating_what_is_withdrawn(world: World, say: Say) -> None:
    facts = delivered(world, **SHARED)
    world.deliver("share")
    shared = world.store.sharing.get(facts["job"])
    assert shared is not None
    world.store.sharing.mark_withdrawn(shared)
    request, images = request_of(world, facts["request"]), [facts["job"]]
    rating = Rating(generation_id=facts["job"], rating=7)
    room = world.store.sharing
    say("busy", lambda: room.rate(request, [rating], best=None, reward=0, images=images))
    say("only best", lambda: room.rate(request, [], best=facts["job"], reward=0, images=[]))


def test_the_pool(world: World, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("horde.store.pool.random.randrange", lambda _: raters.SPREAD // 2)
    room, ids = world.store.pool, [f"0000000{n}-0000-4000-8000-000000000000" for n in "1234"]
    now = world.clock.now_ms() // 1000
    for number, one in enumerate(ids):
        held = Held(generation_id=one, request_id=one, user_id=number, worker_user=9)
        world.store.sharing.mark_shared(held, "k", 7)
    images = [
        PoolImage(id=one, model=f"m{number}", user_id=number, worker_user=9, offered_at=now)
        for number, one in enumerate(ids)
    ]
    for image in images[:3]:
        say("offer", lambda image=image: room.offer(image))
    say("offer again", lambda: room.offer(images[0]))
    say("offer what is not shared", lambda: room.offer(replace(images[0], id=MISSING)))
    say("get", lambda: room.get(ids[0]))
    say("get none", lambda: room.get(MISSING))
    say("get many", lambda: room.get_many([(ids[1], "m1"), (ids[1], "m1"), (MISSING, "m")]))
    say("count", room.count)
    for name, user in (("nobody", None), ("its author", 1), ("another", 7), ("the drawer", 9)):
        say(f"neediest of a model for {name}", lambda user=user: room.neediest(user, "m1"))
    say("no model", lambda: room.neediest(7, "m"))
    found = room.get(ids[2])
    assert found is not None
    say("gold", lambda: room.mark_gold(found, 9, 0))
    say("gold none", lambda: room.mark_gold(images[3], 1, None))
    say("gold images", room.gold_images)
    say("a good one", lambda: room.gold(7, good=True))
    say("a bad one", lambda: room.gold(7, good=False))
    say("remove", lambda: room.remove(ids[0]))
    say("remove again", lambda: room.remove(ids[0]))
    world.clock.pass_seconds(raters.POOL_S)
    say("too old", lambda: room.neediest(7, "m1"))
    say("unlisted", room.count)


def test_raters(world: World, say: Say) -> None:
    client(world)
    ada, room = user(world, "ada"), world.store.raters
    image = PoolImage(
        id=MISSING,
        model="m",
        user_id=0,
        worker_user=9,
        offered_at=world.clock.now_ms() // 1000,
        votes=["1:2"],
    )
    held = Held(generation_id=MISSING, request_id=MISSING, user_id=0, worker_user=9)
    world.store.sharing.mark_shared(held, "k", 7)
    assert world.store.pool.offer(image)
    say("get none", lambda: room.get(ada.id))
    say("give", lambda: room.give(ada.id, MISSING))
    rater = say("get", lambda: room.get(ada.id))
    owed = replace(rater, gold_right=3, owed=frozenset({"other"}))
    decision = raters.decide(image, owed, 7, 1, now=world.clock.now_ms() // 1000, paid=True)
    stale = replace(rater, revision=7)
    say("rate what has moved", lambda: room.rate(ada, image, stale, decision, 7, 1))
    say("rate", lambda: room.rate(ada, image, rater, decision, 7, 1))
    say("rate again", lambda: room.rate(ada, image, decision.rater, decision, 7, 1))
    uncounted = replace(decision, counted=False, pays=frozenset())
    found = world.store.pool.get(MISSING)
    assert found is not None
    say("not counted", lambda: room.rate(ada, found, decision.rater, uncounted, 7, 1))
    gold = replace(found, gold=9)
    say("gold", lambda: room.rate(ada, gold, decision.rater, decision, 9, None))
    say("rating", lambda: room.rating(MISSING, ada.id))
    say("rating none", lambda: room.rating(MISSING, 99))
    say("newest", lambda: room.newest(ada.id, 5))
    say("newest since", lambda: room.newest(ada.id, 5, since=world.clock.now_ms()))
    say("active", lambda: room.active(world.clock.now_ms()))
    say("between", lambda: room.between(ada.id, 0, world.clock.now_ms() + 1))
    say("of an image", lambda: room.of_image(MISSING, 5))
    say("get many", lambda: room.get_many([ada.id, 99]))
    say("clear what has moved", lambda: room.clear(rater))
    say("clear", lambda: room.clear(room.get(ada.id)))


def test_transfers(world: World, say: Say) -> None:
    client(world)
    world.register("bob", kudos=9)
    room, ada, bob = world.store.transfers, user(world, "ada"), user(world, "bob")
    used = IdempotencyKey("k", "body")
    say("transfer", lambda: room.transfer(ada, bob.id, 2, used))
    say("transfer again", lambda: room.transfer(ada, bob.id, 2, used))
    say("used with", lambda: room.used_with(ada.id, "k"))
    say("used with none", lambda: room.used_with(bob.id, "k"))
    say("award", lambda: room.award(ada.id, bob.id, 3, None))
    for giver, receiver in ((ada, bob), (bob, ada)):
        say(f"sent {giver.alias}", lambda g=giver, r=receiver: room.sent_recently(g.id, r.id))
    world.clock.pass_seconds(59)
    say("back too early", lambda: room.transfer(bob, ada.id, 1, None))
    world.clock.pass_seconds(1)
    say("sent a minute ago", lambda: room.sent_recently(ada.id, bob.id))
    say("back", lambda: room.transfer(bob, ada.id, 1, None))
    world.clock.pass_seconds(86_400 - 61)
    say("used a day ago, almost", lambda: room.used_with(ada.id, "k"))
    world.clock.pass_seconds(1)
    say("used a day ago", lambda: room.used_with(ada.id, "k"))


def test_workers(world: World, say: Say) -> None:
    facts = popped(world)
    room, owner = world.store.workers, user(world, "volunteer")
    (worker,) = world.records("WORKER", Worker)
    say("named", lambda: room.named(worker.name.upper()))
    say("named none", lambda: room.named("nobody"))
    pops, targets = world.store.pops, [model_target("stable_diffusion"), model_target("none")]
    registry.clear_cache()
    say("caller", lambda: pops.caller(key_hash(facts["worker"]), worker.name.upper()))
    say("unknown caller", lambda: pops.caller("f" * 64, "nobody"))
    say("context", lambda: pops.context(worker.id, owner.id, [owner.id, 99], targets))
    say("context of nobody", lambda: pops.context(None, 99, [], targets))
    say("get none", lambda: room.get(MISSING))
    say("many", lambda: room.get_many([worker.id, MISSING]))
    say("ids", lambda: room.ids_of(owner.id, 5))
    say("seen", lambda: room.seen_since(worker.seen_at - 1, 5))
    say("seen none", lambda: room.seen_since(worker.seen_at, 5))
    say("live", lambda: room.model_is_live("stable_diffusion"))
    say("not live", lambda: room.model_is_live("none"))
    say("change", lambda: room.change(worker.id, info="i", maintenance=True))
    say("change none", lambda: room.change(MISSING, info="i"))
    say("holds images", lambda: _refused(lambda: room.delete(worker)))
    assert world.submit(facts["worker"], facts["job"], state="faulted").status == 200
    new = replace(worker, id=MISSING, name="Other")
    say("register", lambda: room.register(new, user(world, "volunteer")))
    say("register another at once", lambda: room.register(replace(new, id="x", name="y"), owner))
    say("register a taken name", lambda: room.register(replace(new, id="x"), owner))
    say("rename to a taken name", lambda: room.rename(worker, "OTHER"))
    say("rename in case", lambda: room.rename(new, "oTHER", {"info": "x"}))
    say("rename", lambda: room.rename(replace(new, name="oTHER"), "free"))
    say("rename again", lambda: room.rename(new, "freer"))
    say("delete", lambda: room.delete(replace(new, name="free")))
    say("delete again", lambda: room.delete(replace(new, name="free")))
    say("instead of", lambda: room.register(new, user(world, "volunteer"), instead_of=MISSING))
    for seconds in (299, 1, 86_100, 1, 86_400):
        world.clock.pass_seconds(seconds)
        say(f"live after {seconds}", lambda: room.model_is_live("stable_diffusion"))
        found = room.get(worker.id)
        assert found is not None
        say(f"pop after {seconds}", lambda: world.pop(facts["worker"]).status)
        say(f"seen after {seconds}", lambda: room.get(worker.id))
    last = room.get(worker.id)
    assert last is not None
    world.clock.pass_seconds(last.gone_at - world.clock.now_ms() // 1000 - 1)
    say("get before its end", lambda: room.get(worker.id) is None)
    world.clock.pass_seconds(1)
    say("get at its end", lambda: room.get(worker.id) is None)
    world.clock.pass_seconds(31 * 86_400)
    say("ids then", lambda: room.ids_of(owner.id, 5))


def _refused(call: Callable[[], Any]) -> str:
    with suppress(Exception):
        return str(call())
    return "refused"


def test_a_store_is_connected_to_its_table(world: World) -> None:
    made = store._connected.__wrapped__("a table")
    assert (made.table.name, made.table.client) == ("a table", aws.dynamodb())
    assert isinstance(made, store.Store)


def test_parts(say: Say) -> None:
    item = key_of(("p", "s"))
    say("new", lambda: transaction.new({**item, "a": {"N": "1"}}))
    say("new if", lambda: transaction.new(item, "a = :b", b=1))
    say("update", lambda: transaction.update(item, "SET a = :b", "c", {":b": {"N": "1"}}))
    say("update plain", lambda: transaction.update(item, "REMOVE #a", "", {}, {"#a": "a"}))
    say("delete", lambda: transaction.delete(item))
    say("delete if", lambda: transaction.delete(item, "#a = :b", {":b": {"N": "1"}}, {"#a": "a"}))
    say("check", lambda: transaction.check(item, "c"))
    say("sets", lambda: transaction.sets({"a": 1, "b": None, "c": False, "d": True, "e": []}))
    say("sets none", lambda: transaction.sets({"b": None}))
    say("room", lambda: [counts.room_for(n, limit) for n, limit in ((1, 1), (2, 1), (1, 2))])
    old, new = User(id=1, alias="a", kudos=0, floor=0, created_at=0), Kind.USER
    say("worker", lambda: counts.one_more_worker(old))
    say("another worker", lambda: counts.one_more_worker(replace(old, registrations=2)))
    say("dropped", lambda: counts.dropped({"by_owner": {"N": "3"}, "w": {"N": "2"}}, "w"))
    say("dropped by others", lambda: counts.dropped({"by_owner": {"N": "3"}}, None))
    say("dropped none", lambda: counts.dropped(None, "w"))
    say("dropped by X", lambda: counts.dropped({"by_owner": {"N": "3"}, "X": {"N": "2"}}, None))
    nobodys = replace(IMAGE, worker_id="w", held=True)
    say("nobody's", lambda: counts.hold_no_more(nobodys, dropped=True))
    for title, image, dropped in (
        ("no worker's", replace(IMAGE, held=True), True),
        ("not held", replace(IMAGE, worker_id="w"), False),
        ("an endpoint's", replace(IMAGE, worker_id="w", worker_user=7), True),
        ("a volunteer's", replace(nobodys, worker_user=7), True),
        ("delivered", replace(nobodys, worker_user=7), False),
    ):
        say(title, lambda i=image, d=dropped: counts.hold_no_more(i, dropped=d))
    say("opened", lambda: counts.opened([MISSING]))
    say("opened none", lambda: counts.opened([]))
    say("no longer open", lambda: counts.no_longer_open(7, None, [MISSING]))
    say("nobody's no longer open", lambda: counts.no_longer_open(0, 3, [MISSING]))
    say("full id", lambda: counts.full_id(short_id(MISSING)) == MISSING)
    say("mark", lambda: csam.mark(REQUEST, IMAGE, 5))
    unclaimed = replace(IMAGE, id=MISSING)
    say("pending", lambda: settlements.pending(REQUEST, unclaimed, State.OK, 5))
    limited = SharedKey(id="k", user_id=1, name="n", kudos=9, created_at=1, utilized=4, revision=2)
    for shared in (limited, replace(limited, granted=5), replace(limited, granted=5, kudos=-1)):
        title = f"{shared.kudos} {shared.granted}"
        say(f"raise {title}", lambda shared=shared: sharedkeys.raise_budget(shared, 3))
        say(f"old budget {title}", lambda shared=shared: sharedkeys.give_back(shared, 3, 1))
        say(f"same budget {title}", lambda shared=shared: sharedkeys.give_back(shared, 3, 2))
        say(f"tracked {title}", lambda shared=shared: sharedkeys._tracked(shared))
    say("names", lambda: [DUE.attributes, LISTED.attributes, new.value, State.OK.value])
    say("posting", lambda: settlements.POSTING)
