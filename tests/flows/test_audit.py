"""The audit: of a table made by the real flows it finds nothing, and each wrong item it names.

A test's name is the rule; what it does to the table is the least that breaks it.
"""

import copy
import json
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from horde import clock
from horde.rules import dates, ruleset, statistics
from horde.rules.dates import DAY_S
from horde.rules.ruleset import IN_FORCE
from horde.store import Store
from horde.store import counters as counter_items
from horde.store.audit import AuditStore
from horde.store.counts import short_id
from horde.store.due import Due, due_shard
from horde.store.items import Row, row_of
from horde.store.settlements import settlement_of
from infra.operate import commands, deployed, withdraw_command
from infra.operate.audit.books import Books
from infra.operate.audit.checks import judge
from infra.operate.audit.findings import SLACK_S, Rule, View
from infra.operate.audit.objects import Bucket, StoredObject
from infra.operate.audit.run import audit
from tests.support.api_calls import ANONYMOUS, UNKNOWN
from tests.support.cloud import Cloud, fresh_cloud
from tests.support.images import png_base64
from tests.support.numbers import COST, COST_SHARED, FLOOR, TAX, TAX_SHARED

Item = dict[str, Any]
ALLOWANCE = 40
"""Kudos that one of the accounts got this month."""


@dataclass
class Made:
    """Everything of a table, and the names of what is in it."""

    items: dict[Row, Item]
    before: dict[Row, dict[str, int]]
    after: dict[Row, dict[str, int]]
    now: int
    ids: dict[str, str] = field(default_factory=dict)
    stored: dict[str, StoredObject] = field(default_factory=dict)
    """The data set's bucket."""
    listed: bool = False
    """Whether the bucket is judged too."""

    def user(self, name: str) -> Row:
        return Row(f"USER#{self.ids[name]}", "USER")

    def request(self, name: str) -> Row:
        return Row(f"REQUEST#{self.ids[name]}", "REQUEST")

    def image(self, name: str, index: int = 0) -> Row:
        return Row(f"GENERATION#{self.generation(name, index)}", "GENERATION")

    def generation(self, name: str, index: int = 0) -> str:
        return str(self.items[self.request(name)]["generations"]["L"][index]["S"])

    def entry(self, kind: str, reference: str, user: str | None = None) -> Row:
        (row,) = [
            row
            for row, item in self.items.items()
            if row[1].startswith("LEDGER#")
            and (item["kind"]["S"], item["reference"]["S"]) == (kind, reference)
            and user in (None, row[0])
        ]
        return row

    def key(self, name: str = "gift") -> Row:
        return Row(f"SHAREDKEY#{self.ids[name]}", "SHAREDKEY")

    def change(self, row: Row, **changes: Any) -> None:
        """Set attributes of an item, or take away those that are None."""
        for name, value in changes.items():
            if value is None:
                self.items[row].pop(name, None)
            else:
                kind = "BOOL" if isinstance(value, bool) else "N" if isinstance(value, int) else "S"
                whole = value if isinstance(value, dict | bool) else str(value)
                self.items[row][name] = whole if isinstance(value, dict) else {kind: whole}

    def number(self, row: Row, name: str) -> int:
        return int(self.items[row].get(name, {"N": "0"})["N"])

    def add(self, row: Row, **changes: int) -> None:
        for name, amount in changes.items():
            self.change(row, **{name: self.number(row, name) + amount})

    def move(self, user: str, detail: str, amount: int) -> None:
        """Bring a balance in step with a ledger that was tampered with."""
        self.add(self.user(user), kudos=amount, listed_at=amount, **{detail: amount})

    def write(self, row: Row, kind: str, amount: int, side: str, reference: str) -> Row:
        """Write an entry into the ledger."""
        self.items[row] = {
            "pk": {"S": row[0]},
            "sk": {"S": row[1]},
            "kind": {"S": kind},
            "amount": {"N": str(amount)},
            "postings": {"M": {side: {"N": str(-amount)}}},
            "reference": {"S": reference},
        }
        return row

    def ledger_row(self, user: str, days_ago: float = 0) -> Row:
        at = dates.iso(int((self.now + 1 - days_ago * DAY_S) * 1000))  # after all others of today
        return Row(f"USER#{self.ids[user]}", f"LEDGER#{at}#{uuid.uuid4()}")

    def found(self) -> set[tuple[str, Rule]]:
        books = Books(
            before=self.before, after=self.after, objects=self.stored if self.listed else None
        )
        for item in self.items.values():
            books.put(item)
        return {(finding.item, finding.rule) for _, finding in judge(View(books, self.now))}


def index_of(made: Made, request: str, state: str) -> int:
    """Return which of a request's two images ended so."""
    states = [made.items[made.image(request, index)]["state"]["S"] for index in (0, 1)]
    return states.index(state)


def name(row: Row) -> str:
    return "/".join(row)


def reads(cloud: Cloud) -> AuditStore:
    return AuditStore(cloud.store.table)


def laion(cloud: Cloud) -> Bucket:
    return Bucket(cloud.s3, cloud.bucket("Laion"))


def everything(store: Store) -> dict[Row, Item]:
    pages = AuditStore(store.table).scan()
    return {row_of(item): item for page in pages for item in page}


def fill(cloud: Cloud) -> dict[str, str]:
    """Do something of everything; returns the names of what came of it."""
    ids: dict[str, str] = {}
    keys: dict[str, str] = {}
    for user, kudos in (
        ("owner", 0),
        ("ada", 1000),
        ("bob", 0),
        ("poor", 2 * COST - 2),
        ("gone", 0),
    ):
        number, keys[user] = cloud.register(user, kudos=kudos)
        ids[user] = str(number)
    cloud.set_flags(int(ids["owner"]), trusted=True)
    worker = cloud.worker_key(int(ids["owner"]))
    ada = cloud.store.accounts.get(int(ids["ada"]))
    assert ada is not None
    assert cloud.store.accounts.change(ada, {"monthly_kudos": ALLOWANCE})

    def ask(what: str, key: str = keys["ada"], **fields: Any) -> None:
        answer = cloud.generate(key, **fields)
        assert answer.status == 202, answer
        ids[what] = answer.body["id"]

    def give(state: str, count: int = 1) -> None:
        job = cloud.pop(worker, amount=count).body
        for one, url in zip(job["ids"], job["r2_uploads"], strict=True):
            cloud.upload(url)
            assert cloud.submit(worker, one, state=state).status == 200

    ask("shared", shared=True, params={"n": 2})
    give("ok")
    give("censored")
    ask("anonymous", ANONYMOUS)
    give("ok")
    ask("painted", source_image=png_base64(), source_processing="img2img")
    give("ok")
    ask("waived", keys["poor"], params={"n": 3})
    give("ok")
    cloud.cancel(ids["waived"])
    ids["gift"] = cloud.call(
        "PUT /api/v2/sharedkeys", {"name": "gift", "kudos": 100}, key=keys["ada"]
    ).body["id"]
    ask("gifted", ids["gift"], params={"n": 2})
    give("ok")
    cloud.cancel(ids["gifted"])
    ask("nobodys", ANONYMOUS)
    cloud.cancel(ids["nobodys"])
    fixed = {"width": 640, "height": 640, "steps": 20, "hires_fix": True}
    ask("hires", params=fixed)
    cloud.cancel(ids["hires"])
    ask("leased")
    assert cloud.pop(worker).body["id"]
    waiting: dict[str, dict[str, Any]] = {
        "waiting": {},
        "waiting shared": {"shared": True},
        "waiting twice": {"params": {"n": 2}},
    }
    for one, more in waiting.items():
        ask(one, **more)
    assert cloud.transfer(keys["ada"], f"bob#{ids['bob']}", 30).status == 200
    generations = cloud.status(ids["shared"]).body["generations"]
    (shown,) = [one["id"] for one in generations if not one["censored"]]
    answer = cloud.rate(ids["shared"], ratings=[{"id": shown, "rating": 8}])
    assert answer.body["reward"] == IN_FORCE.per_rating, answer
    gone = cloud.call("DELETE /api/v2/users/{id}", key=keys["gone"], id=ids["gone"])
    assert gone.status == 200, gone
    cloud.settle_async()
    cloud.settle_async()
    return ids


@pytest.fixture(scope="module")
def _made(template: dict[str, Any], clients: dict[str, Any]) -> Made:
    with fresh_cloud(template, clients) as cloud:
        ids = fill(cloud)
        counted = reads(cloud).counted()
        made = Made(everything(cloud.store), counted, dict(counted), clock.now(), ids)
        made.stored = {one.key: one for page in laion(cloud).pages() for one in page}
    assert any(sk == "SHARED" for _, sk in made.items)
    return made


@pytest.fixture
def made(_made: Made) -> Made:
    return copy.deepcopy(_made)


@pytest.fixture
def listed(made: Made) -> Made:
    """Everything, with the data set's bucket."""
    made.listed = True
    return made


@pytest.fixture
def bare(template: dict[str, Any], clients: dict[str, Any]) -> Iterator[Cloud]:
    """A cloud that nobody audits after the test."""
    with fresh_cloud(template, clients) as cloud:
        yield cloud


@pytest.mark.lengthy
def test_nothing_is_found_in_what_the_flows_made(made: Made) -> None:
    assert made.found() == set()
    kinds = {item["kind"]["S"] for row, item in made.items.items() if row[1].startswith("LEDGER#")}
    assert kinds == {
        *("GENERATION", "REFUND", "REWARD", "ADMIN_ADJUSTMENT"),
        *("FLOOR_ADJUSTMENT", "TRANSFER", "AWARD", "RECURRING"),
    }


def test_an_empty_table_is_in_order(bare: Cloud) -> None:
    assert audit(reads(bare)).lines() == [
        "all in order; 0 items: 0 accounts, 0 entries, 0 requests, 0 images"
    ]


# --- entries --------------------------------------------------------------------------------------


def test_an_entry_is_whole_kudos(made: Made) -> None:
    row = made.entry("ADMIN_ADJUSTMENT", "operator", made.user("ada")[0])
    made.change(row, amount={"N": "1000.5"})
    user = name(made.user("ada"))
    assert made.found() == {
        (name(row), Rule.READABLE),
        (user, Rule.BALANCE),
        (user, Rule.DETAILS),
    }


@pytest.mark.parametrize("attribute", ["reference", "kind", "postings", "amount"])
def test_an_entry_has_all_its_parts(made: Made, attribute: str) -> None:
    row = made.entry("ADMIN_ADJUSTMENT", "operator", made.user("ada")[0])
    made.change(row, **{attribute: None})
    assert (name(row), Rule.READABLE) in made.found()


def test_a_reward_says_what_was_drawn(made: Made) -> None:
    row = made.entry("REWARD", made.generation("anonymous"))
    made.change(row, pixelsteps=None)
    assert (name(row), Rule.READABLE) in made.found()


def test_an_item_is_stored_under_its_own_key(made: Made) -> None:
    for row in (made.user("bob"), made.request("waiting"), made.image("waiting")):
        tampered = copy.deepcopy(made)
        tampered.change(row, id=4711 if row[1] == "USER" else "another")
        assert (name(row), Rule.READABLE) in tampered.found()


def test_a_foreign_item_does_not_end_the_audit(made: Made) -> None:
    for row in (("GENERATION#x", "GENERATION"), ("REQUEST#x", "REQUEST"), ("USER#x", "USER")):
        whole = made.items[made.image("waiting")] | made.items[made.request("waiting")]
        made.items[Row(*row)] = whole | {"pk": {"S": row[0]}, "sk": {"S": row[1]}, "id": {"S": "x"}}
    assert {item for item, rule in made.found() if rule is Rule.READABLE} == {
        *("GENERATION#x/GENERATION", "REQUEST#x/REQUEST", "USER#x/USER")
    }


def test_an_entry_is_of_a_known_kind(made: Made) -> None:
    row = made.entry("ADMIN_ADJUSTMENT", "operator", made.user("ada")[0])
    made.change(row, kind="GIFT")
    assert made.found() == {(name(row), Rule.KNOWN), (name(made.user("ada")), Rule.DETAILS)}


def test_an_entry_moves_kudos_as_its_kind_does(made: Made) -> None:
    row = made.entry("ADMIN_ADJUSTMENT", "operator", made.user("ada")[0])
    made.change(row, postings={"M": {"rewards": {"N": "-1000"}}})
    assert made.found() == {(name(row), Rule.KNOWN)}


def test_an_entry_sums_to_zero(made: Made) -> None:
    row = made.entry("ADMIN_ADJUSTMENT", "operator", made.user("ada")[0])
    made.change(row, postings={"M": {"grants": {"N": "-999"}}})
    assert made.found() == {(name(row), Rule.ZERO)}


def test_a_refund_is_entered_once(made: Made) -> None:
    index = index_of(made, "shared", "censored")
    again = made.ledger_row("ada")
    made.items[again] = dict(made.items[made.entry("REFUND", made.generation("shared", index))])
    made.change(again, sk=again[1])
    made.move("ada", "accumulated", made.number(again, "amount"))
    rated = made.entry("AWARD", made.ids["shared"])  # what it is paid for now costs too little
    assert made.found() == {(name(again), Rule.ONCE), (name(rated), Rule.RATED)}


def test_a_reward_is_entered_once(made: Made) -> None:
    again = made.ledger_row("owner")
    made.items[again] = dict(made.items[made.entry("REWARD", made.generation("anonymous"))])
    made.change(again, sk=again[1], posted=None)
    assert made.found() == {(name(again), Rule.ONCE)}


def test_a_charge_is_entered_once(made: Made) -> None:
    again = made.ledger_row("ada")
    made.items[again] = dict(made.items[made.entry("GENERATION", made.ids["waiting"])])
    made.change(again, sk=again[1])
    made.move("ada", "accumulated", made.number(again, "amount"))
    assert made.found() == {
        (name(again), Rule.ONCE),
        (name(made.request("waiting")), Rule.CHARGED),
    }


def test_a_rating_is_awarded_once(made: Made) -> None:
    again = made.ledger_row("ada")
    made.write(again, "AWARD", 1, "awards", made.ids["shared"])
    made.move("ada", "awarded", 1)
    assert made.found() == {(name(again), Rule.ONCE)}


def test_what_one_user_sends_another_receives(made: Made) -> None:
    sent, got = (row for row, item in made.items.items() if item.get("kind") == {"S": "TRANSFER"})
    if sent[0] != made.user("ada")[0]:
        sent, got = got, sent
    del made.items[got]
    made.move("bob", "received", -30)
    assert made.found() == {(name(sent), Rule.PAIRED)}


def test_a_transfer_is_between_two_users(made: Made) -> None:
    rows = [row for row, item in made.items.items() if item.get("kind") == {"S": "TRANSFER"}]
    (got,) = [row for row in rows if row[0] == made.user("bob")[0]]
    (sent,) = [row for row in rows if row != got]
    moved = Row(sent[0], got[1] + "0")
    made.items[moved] = made.items.pop(got) | {"pk": {"S": moved[0]}, "sk": {"S": moved[1]}}
    made.move("bob", "received", -30)
    made.move("ada", "received", 30)
    assert {rule for _, rule in made.found()} == {Rule.PAIRED}


@pytest.mark.parametrize(
    ("kind", "side"), [("GENERATION", "price"), ("REFUND", "price"), ("AWARD", "awards")]
)
def test_an_entry_names_something_that_exists_unless_it_may_have_expired(
    made: Made, kind: str, side: str
) -> None:
    amount = -1 if kind == "GENERATION" else 1
    detail = "awarded" if kind == "AWARD" else "accumulated"
    nothing = str(uuid.uuid4())
    for days, found in ((1.9, {Rule.REASON}), (2.1, set())):
        tampered = copy.deepcopy(made)
        row = tampered.ledger_row("ada", days)
        tampered.write(row, kind, amount, side, nothing)
        tampered.move("ada", detail, amount)
        assert tampered.found() == {(name(row), rule) for rule in found}


# --- accounts -------------------------------------------------------------------------------------


def test_a_balance_is_the_sum_of_its_ledger(made: Made) -> None:
    made.move("bob", "admin", 1)
    user = name(made.user("bob"))
    assert made.found() == {(user, Rule.BALANCE), (user, Rule.DETAILS)}


def test_a_balances_details_are_those_of_its_entries(made: Made) -> None:
    made.add(made.user("ada"), gifted=1, received=-1)
    assert made.found() == {(name(made.user("ada")), Rule.DETAILS)}


def test_a_lost_entry_is_found(made: Made) -> None:
    del made.items[made.entry("ADMIN_ADJUSTMENT", "operator", made.user("ada")[0])]
    user = name(made.user("ada"))
    assert made.found() == {(user, Rule.BALANCE), (user, Rule.DETAILS)}


def test_a_balance_is_not_below_its_floor(made: Made) -> None:
    made.change(made.user("bob"), floor=FLOOR + 31)
    user = name(made.user("bob"))
    assert made.found() == {(user, Rule.FLOOR), (user, Rule.FLOORED)}


def test_an_account_opens_at_the_floor_of_its_rules(made: Made) -> None:
    """Also where its floor, its entry, its balance and its details agree with each other."""
    user, entry = made.user("bob"), made.entry("FLOOR_ADJUSTMENT", "registration", bob(made))
    made.change(entry, amount=FLOOR + 5, postings={"M": {"waiver": {"N": str(-FLOOR - 5)}}})
    made.move("bob", "admin", 5)
    assert made.found() == {(name(user), Rule.OPENED)}
    made.change(user, floor=FLOOR + 5)
    assert made.found() == {(name(user), Rule.OPENED), (name(user), Rule.FLOORED)}


def test_a_floor_is_that_of_the_rules_of_its_account(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = replace(IN_FORCE, version="2099-01", floor=FLOOR - 1)
    monkeypatch.setattr(ruleset, "RULESETS", (*ruleset.RULESETS, later))
    made.change(made.user("bob"), ruleset=later.version)
    user = name(made.user("bob"))
    assert made.found() == {(user, Rule.OPENED), (user, Rule.FLOORED)}


def test_an_account_names_known_rules(made: Made) -> None:
    made.change(made.user("bob"), ruleset="2098-12")
    assert made.found() == {(name(made.user("bob")), Rule.RULED)}


def test_an_account_that_names_no_rules_is_of_the_first_ones(made: Made) -> None:
    made.change(made.user("bob"), ruleset=None)
    assert made.found() == set()


MONTH_S = 31 * DAY_S


def test_an_account_gets_one_allowance_a_month(made: Made) -> None:
    first = made.entry("RECURRING", this_month(made), made.user("ada")[0])
    again = made.ledger_row("ada")
    made.write(again, "RECURRING", ALLOWANCE, "allowances", this_month(made))
    made.move("ada", "recurring", ALLOWANCE)
    assert first < again
    assert made.found() == {(name(again), Rule.ALLOWED)}


@pytest.mark.parametrize("months", [-1, 1])
def test_an_allowance_is_given_in_its_month(made: Made, months: int) -> None:
    """Or a second one could hide behind another month's name."""
    again = made.ledger_row("ada")
    other = dates.month_start(dates.month_start(made.now) + 15 * DAY_S + months * MONTH_S)
    made.write(again, "RECURRING", ALLOWANCE, "allowances", f"month {other}")
    made.move("ada", "recurring", ALLOWANCE)
    assert made.found() == {(name(again), Rule.ALLOWED)}


@pytest.mark.parametrize("months", [None, -1, 1])
def test_an_account_knows_when_it_got_its_last_allowance(made: Made, months: int | None) -> None:
    known = None if months is None else made.now + months * MONTH_S
    made.change(made.user("ada"), allowed_at=known)
    assert made.found() == {(name(made.user("ada")), Rule.ALLOWED)}


def this_month(made: Made) -> str:
    return f"month {dates.month_start(made.now)}"


def bob(made: Made) -> str:
    return made.user("bob")[0]


def test_an_account_was_opened_once(made: Made) -> None:
    row = made.entry("FLOOR_ADJUSTMENT", "registration", made.user("bob")[0])
    made.change(row, kind="ADMIN_ADJUSTMENT", postings={"M": {"grants": {"N": str(-FLOOR)}}})
    assert made.found() == {(name(made.user("bob")), Rule.OPENED)}


def test_an_account_counts_its_rewards(made: Made) -> None:
    made.add(made.user("owner"), fulfilled=1)
    assert made.found() == {(name(made.user("owner")), Rule.FULFILLED)}


@pytest.mark.parametrize(
    "changes",
    [
        {"listed_at": 7, "placed_at": 2_000_000_000},
        {"placed_at": 0},
        {"listed_at": None},
        {"listed": "USERS#99"},
        {"listed": None},
    ],
)
def test_an_account_is_listed_at_its_balance_of_the_last_hour(
    made: Made, changes: dict[str, Any]
) -> None:
    made.change(made.user("bob"), **changes)
    assert made.found() == {(name(made.user("bob")), Rule.LISTED)}


def test_a_deleted_account_is_not_listed(made: Made) -> None:
    made.change(made.user("gone"), listed="USERS#5")
    assert made.found() == {(name(made.user("gone")), Rule.LISTED)}


def test_a_ledger_belongs_to_an_account(made: Made) -> None:
    del made.items[made.user("bob")]
    assert made.found() == {(name(made.user("bob")), Rule.OWNED)}


def test_no_request_writes_the_anonymous_account(made: Made) -> None:
    account = made.items[made.user("bob")]
    made.items[Row("USER#0", "USER")] = account | {"pk": {"S": "USER#0"}, "id": {"N": "0"}}
    assert made.found() == {("USER#0/USER", Rule.ANONYMOUS)}


def test_the_anonymous_account_has_no_ledger(made: Made) -> None:
    row = Row("USER#0", made.ledger_row("bob")[1])
    made.write(row, "ADMIN_ADJUSTMENT", 5, "grants", "operator")
    assert made.found() == {("USER#0/LEDGER", Rule.ANONYMOUS)}


def test_no_account_gets_back_more_than_it_paid(made: Made) -> None:
    """Also where the rows of its requests are long gone."""
    made.write(made.ledger_row("bob", 30), "REFUND", 10, "price", str(uuid.uuid4()))
    made.move("bob", "accumulated", 10)
    assert made.found() == {(name(made.user("bob")), Rule.GIVEN_BACK)}


# --- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize("attribute", ["price", "n"])
def test_a_request_was_charged_for_each_image(made: Made, attribute: str) -> None:
    made.add(made.request("waiting"), **{attribute: 1})
    # One of several images does not say when its request expires.
    expected = {Rule.CHARGED, *((Rule.COMPLETE, Rule.DUE) if attribute == "n" else (Rule.PRICED,))}
    assert made.found() == {(name(made.request("waiting")), rule) for rule in expected}


def test_a_request_of_an_account_was_charged(made: Made) -> None:
    row = made.entry("GENERATION", made.ids["waiting"])
    made.move("ada", "accumulated", -made.number(row, "amount"))
    del made.items[row]
    assert made.found() == {(name(made.request("waiting")), Rule.CHARGED)}


def test_the_requester_is_charged(made: Made) -> None:
    row = made.entry("GENERATION", made.ids["waiting"])
    other = Row(made.user("bob")[0], row[1])
    made.items[other] = made.items.pop(row) | {"pk": {"S": other[0]}}
    amount = made.number(other, "amount")
    made.move("ada", "accumulated", -amount)
    made.move("bob", "accumulated", amount)
    assert made.found() == {(name(made.request("waiting")), Rule.CHARGED)}


def test_an_anonymous_request_is_not_charged(made: Made) -> None:
    row = made.ledger_row("ada")
    made.write(row, "GENERATION", -8, "price", made.ids["anonymous"])
    made.move("ada", "accumulated", -8)
    assert made.found() == {(name(made.request("anonymous")), Rule.ANONYMOUS)}


def test_an_anonymous_request_gets_nothing_back(made: Made) -> None:
    row = made.ledger_row("ada")
    made.write(row, "REFUND", 8, "price", made.generation("nobodys"))
    made.move("ada", "accumulated", 8)
    image = name(made.image("nobodys"))
    assert made.found() == {(image, Rule.REFUNDED)}


def test_what_was_waived_comes_off_refunds_first(made: Made) -> None:
    made.add(made.request("waived"), waived=1)
    assert made.found() == {(name(made.request("waived")), Rule.WAIVED)}


def test_a_refund_of_what_was_waived_gives_nothing(made: Made) -> None:
    row = next(
        row
        for row, item in made.items.items()
        if row[0] == made.user("poor")[0] and item.get("kind") == {"S": "REFUND"}
    )
    postings = made.items[row]["postings"]["M"]
    off = int(postings["waiver"]["N"])
    assert off > 0
    del postings["waiver"]
    made.add(row, amount=off)
    made.move("poor", "accumulated", off)
    request = name(made.request("waived"))
    assert (request, Rule.WAIVED) in made.found()
    assert made.found() <= {
        (request, Rule.WAIVED),
        (request, Rule.GIVEN_BACK),
        (name(made.user("poor")), Rule.GIVEN_BACK),
    }


def test_nothing_is_refunded_that_was_not_charged(made: Made) -> None:
    index = index_of(made, "shared", "censored")
    row = made.entry("GENERATION", made.ids["shared"])
    made.move("ada", "accumulated", -made.number(row, "amount"))
    del made.items[row]
    assert made.found() >= {
        (name(made.request("shared")), Rule.CHARGED),
        (name(made.image("shared", index)), Rule.UNCHARGED),
    }


def test_a_request_has_its_images(made: Made) -> None:
    del made.items[made.image("waiting")]
    assert made.found() == {(name(made.request("waiting")), Rule.COMPLETE)}


def test_an_image_has_its_request(made: Made) -> None:
    image, charge = made.image("leased"), made.entry("GENERATION", made.ids["leased"])
    del made.items[made.request("leased")]
    assert made.found() == {(name(image), Rule.COMPLETE), (name(charge), Rule.REASON)}


def test_an_image_is_one_of_its_requests(made: Made) -> None:
    made.change(made.image("waiting"), request_id=made.ids["waiting shared"])
    assert made.found() == {
        (name(made.image("waiting")), Rule.COMPLETE),
    }


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["request", "images", "both"])
def test_rows_that_may_be_gone_are_not_missed(made: Made, gone: str) -> None:
    request, images = made.request("waived"), [made.image("waived", i) for i in range(3)]
    made.change(request, due_at=None, due_shard=None, listed=None, listed_at=None)
    for row in (request, *images):
        made.change(row, gone_at=made.now + 2 * DAY_S)
    assert made.found() == set()
    made.now += 2 * DAY_S + 1
    for row in {"request": [request], "images": images, "both": [request, *images]}[gone]:
        del made.items[row]
    assert {item for item, _ in made.found()}.isdisjoint(map(name, [request, *images]))


@pytest.mark.parametrize(
    "changes", [{"due_at": None}, {"due_shard": None}, {"due_shard": "lease#9"}]
)
def test_a_request_is_due_until_it_is_closed(made: Made, changes: dict[str, Any]) -> None:
    made.change(made.request("waiting twice"), **changes)
    assert made.found() == {(name(made.request("waiting twice")), Rule.DUE)}


@pytest.mark.parametrize("changes", [{"due_at": 7}, {"due_shard": "request#1"}])
@pytest.mark.parametrize("request_name", ["waiting", "leased", "painted"])
def test_a_request_that_ends_with_its_image_is_not_due(
    made: Made, request_name: str, changes: dict[str, Any]
) -> None:
    row = made.request(request_name)
    if request_name == "painted":  # it has a source image, which somebody must delete
        changes = {"due_at": None}
        made.change(row, gone_at=None)
    made.change(row, **changes)
    assert made.found() == {(name(row), Rule.DUE)}


@pytest.mark.parametrize("request_name", ["waiting", "waiting twice"])
def test_who_says_when_a_request_expires_follows_from_its_images(
    made: Made, request_name: str
) -> None:
    expires_at = made.number(made.request(request_name), "expires_at")
    image = made.image(request_name)
    if request_name == "waiting":
        made.change(image, expires_at=None, due_at=None, due_shard=None)
    else:
        shard = due_shard(Due.IMAGE, image.pk.partition("#")[2])
        made.change(image, expires_at=expires_at, due_at=expires_at, due_shard=shard)
    assert made.found() == {(name(made.request(request_name)), Rule.DUE)}


def test_a_closed_request_has_no_open_image(made: Made) -> None:
    row = made.request("waiting twice")
    made.change(row, due_at=None, due_shard=None, gone_at=made.now + 2 * DAY_S)
    assert made.found() == {(name(row), Rule.DUE)}


# --- images ---------------------------------------------------------------------------------------


def settle_as(made: Made, row: Row, outcome: str) -> set[tuple[str, Rule]]:
    made.change(row, state=outcome)
    return {found for found in made.found() if found[1] in {Rule.REFUNDED, Rule.REWARDED}}


@pytest.mark.parametrize("outcome", ["cancelled", "expired", "faulted", "waiting", "processing"])
def test_what_is_delivered_is_rewarded_and_not_refunded(made: Made, outcome: str) -> None:
    row = made.image("painted")
    rules = {Rule.REWARDED}
    if outcome in {"cancelled", "expired", "faulted"}:
        rules.add(Rule.REFUNDED)
    assert settle_as(made, row, outcome) == {(name(row), rule) for rule in rules}


@pytest.mark.parametrize("outcome", ["cancelled", "expired", "faulted", "ok", "censored"])
def test_what_is_open_is_neither_rewarded_nor_refunded(made: Made, outcome: str) -> None:
    row = made.image("leased")
    rules = {Rule.REWARDED} if outcome in {"ok", "censored"} else set()
    if outcome != "ok":
        rules.add(Rule.REFUNDED)
    assert settle_as(made, row, outcome) == {(name(row), rule) for rule in rules}


def test_a_censored_image_gives_its_price_back_and_not_its_tax(made: Made) -> None:
    index = index_of(made, "shared", "censored")
    row = made.entry("REFUND", made.generation("shared", index))
    made.items[row]["postings"]["M"]["tax"] = {"N": "-1"}
    made.add(row, amount=1)
    made.move("ada", "accumulated", 1)
    assert made.found() == {(name(made.image("shared", index)), Rule.REFUNDED)}


def test_a_cancelled_image_gives_its_tax_back_too(made: Made) -> None:
    index = index_of(made, "gifted", "cancelled")
    entry = made.entry("REFUND", made.generation("gifted", index))
    made.items[entry]["postings"]["M"]["tax"] = {"N": str(1 - TAX)}
    made.add(entry, amount=-1)
    made.move("ada", "accumulated", -1)
    made.add(made.key(), utilized=1, kudos=-1)
    assert made.found() == {(name(made.image("gifted", index)), Rule.REFUNDED)}


def test_a_refund_goes_to_the_requester(made: Made) -> None:
    index = index_of(made, "shared", "censored")
    row = made.entry("REFUND", made.generation("shared", index))
    other = Row(made.user("bob")[0], row[1])
    made.items[other] = made.items.pop(row) | {"pk": {"S": other[0]}}
    amount = made.number(other, "amount")
    made.move("ada", "accumulated", -amount)
    made.move("bob", "accumulated", amount)
    assert made.found() == {
        (name(made.image("shared", index)), Rule.REFUNDED),
        (name(made.user("bob")), Rule.GIVEN_BACK),
    }


def test_a_reward_is_what_the_request_pays(made: Made) -> None:
    made.add(made.request("painted"), reward=1)
    assert made.found() == {
        (name(made.image("painted")), Rule.REWARDED),
        (name(made.request("painted")), Rule.PRICED),
    }


@pytest.mark.parametrize("attribute", ["tax", "user_id", "settled_at"])
def test_a_reward_says_for_whom_and_when_and_under_which_tax_it_was_drawn(
    made: Made, attribute: str
) -> None:
    made.add(made.entry("REWARD", made.generation("painted")), **{attribute: 1})
    assert made.found() == {(name(made.image("painted")), Rule.SETTLED)}


@pytest.mark.parametrize(
    "changes", [{"worker_id": UNKNOWN}, {"model": "another"}, {"pixelsteps": 7}]
)
def test_a_reward_says_by_whom_and_with_what_work_it_was_drawn(
    made: Made, changes: dict[str, Any]
) -> None:
    made.change(made.entry("REWARD", made.generation("painted")), **changes)
    assert (name(made.image("painted")), Rule.SETTLED) in made.found()


@pytest.mark.parametrize(
    "changes",
    [
        {"ddim_steps": 60},
        {"width": 1024},
        {"height": 1024},
        {"sampler_name": "k_heun"},
        {"width": 1024, "height": 1024, "hires_fix": True},
    ],
)
def test_a_price_follows_from_the_payload(made: Made, changes: dict[str, Any]) -> None:
    row = made.request("waiting")
    payload = json.loads(made.items[row]["payload"]["S"])
    made.change(row, payload=json.dumps(payload | changes))
    assert made.found() == {(name(row), Rule.PRICED)}


def test_a_price_follows_from_the_share_of_a_source_image_that_is_computed(made: Made) -> None:
    row = made.request("painted")
    payload = json.loads(made.items[row]["payload"]["S"])
    made.change(row, payload=json.dumps(payload | {"denoising_strength": 0.1}))
    assert made.found() == {(name(row), Rule.PRICED)}


def test_a_price_follows_from_the_models_family(made: Made) -> None:
    made.change(made.request("waiting"), baseline="flux_1")
    assert made.found() == {(name(made.request("waiting")), Rule.PRICED)}


@pytest.mark.parametrize("changes", [{"slow_workers": None}, {"workers": {"L": [{"S": UNKNOWN}]}}])
def test_a_price_follows_from_the_workers_that_may_draw(
    made: Made, changes: dict[str, Any]
) -> None:
    listed = {"worker_blacklist": True} if "workers" in changes else {}
    made.change(made.image("hires"), **changes, **listed)
    assert made.found() == {(name(made.request("hires")), Rule.PRICED)}


def test_prices_and_charges_that_agree_with_each_other_are_still_judged(made: Made) -> None:
    """Everything is one kudo cheaper, in every place where it stands."""
    request, entry = made.request("waiting"), made.entry("GENERATION", made.ids["waiting"])
    made.add(request, price=-1)
    made.add(entry, amount=1)
    price = made.number(request, "price")
    made.items[entry]["postings"]["M"]["price"] = {"N": str(price)}
    made.move("ada", "accumulated", 1)
    assert made.found() == {(name(request), Rule.PRICED)}


@pytest.mark.parametrize("attribute", ["steps", "pixels"])
def test_the_work_of_an_image_follows_from_the_payload(made: Made, attribute: str) -> None:
    made.add(made.image("waiting"), **{attribute: 1})
    expected = {(name(made.request("waiting")), Rule.PRICED)}
    if attribute == "pixels":  # the class of its size says in which queue it waits
        expected.add((name(made.image("waiting")), Rule.WAITING))
    assert made.found() == expected


def test_a_request_from_before_families_were_kept_is_not_priced_again(made: Made) -> None:
    row = made.request("waiting")
    payload = json.loads(made.items[row]["payload"]["S"])
    made.change(row, payload=json.dumps(payload | {"ddim_steps": 60}), baseline=None)
    assert made.found() == set()


@pytest.mark.parametrize("payload", ["", "{}", "[]", '{"width": "wide"}'])
def test_a_payload_can_be_read(made: Made, payload: str) -> None:
    made.change(made.request("waiting"), payload=payload)
    assert (name(made.request("waiting")), Rule.READABLE) in made.found()


def test_an_image_that_an_account_has_not_open_is_found(made: Made) -> None:
    user = made.user("ada")
    whole = made.items[user]["open_images"]["SS"]
    made.change(user, open_images={"SS": [*whole, short_id(UNKNOWN)]})
    assert made.found() == set()  # it has just grown: the images may not have been read
    made.change(user, opened_at=1)
    assert made.found() == {(name(user), Rule.OPEN_IMAGES)}
    made.change(user, open_images={"SS": whole})
    assert made.found() == set()
    made.change(user, open_images={"SS": whole[1:]})
    assert made.found() == {(name(user), Rule.OPEN_IMAGES)}


def test_a_name_of_no_image_makes_an_account_unreadable(made: Made) -> None:
    user = made.user("ada")
    made.change(user, open_images={"SS": ["x"]})
    assert (name(user), Rule.READABLE) in made.found()


def test_a_delivered_image_may_be_listed_until_its_reward_is_posted(made: Made) -> None:
    user, image = made.user("ada"), made.generation("painted")
    whole = made.items[user]["open_images"]["SS"]
    made.change(user, opened_at=1, open_images={"SS": [*whole, short_id(image)]})
    assert made.found() == {(name(user), Rule.OPEN_IMAGES)}
    made.change(made.entry("REWARD", image), posted=None)
    assert (name(user), Rule.OPEN_IMAGES) not in made.found()


@pytest.mark.parametrize("choice", [{"preferred": True}, {"workers": {"L": [{"S": "w"}]}}])
def test_nobody_earns_a_waived_price_from_whom_he_chose(made: Made, choice: dict[str, Any]) -> None:
    made.change(made.image("painted"), **choice)
    assert made.found() == set()  # it was paid
    made.add(made.request("painted"), waived=made.number(made.request("painted"), "price"))
    assert (name(made.image("painted")), Rule.REWARDED) in made.found()


def test_a_reward_goes_to_the_workers_owner(made: Made) -> None:
    made.change(made.image("painted"), worker_user=int(made.ids["bob"]))
    assert made.found() == {(name(made.image("painted")), Rule.REWARDED)}


@pytest.mark.parametrize("attribute", ["lease_until", "worker_id", "worker_user"])
def test_a_leased_image_has_a_worker_and_an_end(made: Made, attribute: str) -> None:
    leased = made.image("leased")
    stats = Row(f"WORKER#{made.items[leased]['worker_id']['S']}", "STATS")
    made.change(leased, **{attribute: None})
    more = {(name(stats), Rule.HELD)} if attribute == "worker_id" else set()
    assert made.found() == {(name(leased), Rule.LEASED)} | more


@pytest.mark.parametrize(
    "changes", [{"due_at": None}, {"due_shard": None}, {"wait_queue": "m"}, {"listed": "x"}]
)
def test_a_leased_image_is_due_and_does_not_wait(made: Made, changes: dict[str, Any]) -> None:
    made.change(made.image("leased"), **changes)
    assert made.found() == {(name(made.image("leased")), Rule.LEASED)}


@pytest.mark.parametrize(
    "changes",
    [
        {"wait_queue": None},
        {"wait_queue": "another"},
        {"listed": "WAITING#99"},
        {"listed_at": 7},
        {"lease_until": 7},
        {"due_shard": "lease#0"},
        {"due_at": None},
    ],
)
def test_a_waiting_image_is_in_its_queue_and_due(made: Made, changes: dict[str, Any]) -> None:
    made.change(made.image("waiting"), **changes)
    assert made.found() == {(name(made.image("waiting")), Rule.WAITING)}


@pytest.mark.parametrize("attribute", ["wait_queue", "listed", "listed_at", "due_shard", "due_at"])
@pytest.mark.parametrize("request_name", ["painted", "nobodys"])
def test_an_image_that_ended_is_in_no_index(made: Made, attribute: str, request_name: str) -> None:
    made.change(made.image(request_name), **{attribute: 7 if attribute.endswith("at") else "x"})
    assert made.found() == {(name(made.image(request_name)), Rule.ENDED)}


# --- sharing, ratings, shared keys, statistics ----------------------------------------------------


def test_the_tax_is_that_of_what_is_shared(made: Made) -> None:
    made.change(made.request("waiting"), shared=True)
    assert made.found() == {(name(made.request("waiting")), Rule.TAXED)}


def test_nothing_made_from_a_source_image_is_shared(made: Made) -> None:
    made.change(made.request("waiting shared"), source_key="x_src.webp")
    assert made.found() == {
        (name(made.request("waiting shared")), rule)
        for rule in (Rule.SHAREABLE, Rule.PRICED, Rule.DUE)
    }


def test_anonymous_text_to_image_is_shared(made: Made) -> None:
    made.change(made.request("nobodys"), shared=None, tax=TAX)
    assert made.found() == {(name(made.request("nobodys")), Rule.SHAREABLE)}


@pytest.mark.parametrize("request_name", ["painted", "leased", "waiting"])
def test_only_what_was_delivered_of_a_shared_request_is_in_the_data_set(
    made: Made, request_name: str
) -> None:
    image = made.image(request_name)
    generation = made.generation(request_name)
    made.items[Row(f"SHARED#{generation}", "SHARED")] = {
        "pk": {"S": f"SHARED#{generation}"},
        "sk": {"S": "SHARED"},
        "generation_id": {"S": generation},
        "user_id": {"N": made.ids["ada"]},
        "request_id": {"S": made.ids[request_name]},
        "object_key": {"S": "x.webp"},
        "shared_at": {"N": "1"},
    }
    assert made.found() == {(name(image), Rule.PUBLISHED)}


def test_a_censored_image_is_not_in_the_data_set(made: Made) -> None:
    made.change(made.image("anonymous"), state="censored")
    assert made.found() == {(name(made.image("anonymous")), Rule.PUBLISHED)}


def lose_record(made: Made, request: str = "anonymous") -> tuple[str, Rule]:
    """Take the record of a shared image away, and wait for an hour; returns what is to be found."""
    image = made.image(request, index_of(made, request, "ok") if request == "shared" else 0)
    del made.items[Row(f"SHARED#{image.pk.partition('#')[2]}", "SHARED")]
    found = (name(image), Rule.SHARED)
    assert made.found() == set()  # its message may still be on its way
    made.now += SLACK_S + 1
    return found


@pytest.mark.parametrize("request_name", ["anonymous", "shared"])
def test_what_was_delivered_for_sharing_is_recorded_within_an_hour(
    made: Made, request_name: str
) -> None:
    made.now += SLACK_S + 1
    assert not [rule for _, rule in made.found() if rule is Rule.SHARED]
    made.now -= SLACK_S + 1
    assert lose_record(made, request_name) in made.found()


def test_what_is_held_back_needs_no_record(made: Made) -> None:
    finding = lose_record(made)
    held = Row(f"HELD#{made.generation('anonymous')}", "HELD")
    made.items[held] = {"pk": {"S": held.pk}, "sk": {"S": held.sk}}
    assert finding not in made.found()


@pytest.mark.parametrize("who", ["request", "author", "owner"])
def test_what_is_forbidden_needs_no_record(made: Made, who: str) -> None:
    finding = lose_record(made, "shared")
    match who:
        case "request":
            made.change(made.request("shared"), csam=True)
        case "author":
            made.change(made.user("ada"), deleted=True)
        case "owner":
            made.change(made.user("owner"), flagged=True)
    assert finding not in made.found()


@pytest.mark.parametrize("changes", [{"screened": None}, {"state": "censored"}])
def test_what_is_not_for_sharing_needs_no_record(made: Made, changes: dict[str, Any]) -> None:
    finding = lose_record(made)
    made.change(made.image("anonymous"), **changes)
    assert finding not in made.found()


def test_what_is_in_the_data_set_is_known_by_its_owner(made: Made) -> None:
    row = Row(f"SHARED#{made.generation('anonymous')}", "SHARED")
    made.change(row, user_id=int(made.ids["ada"]))
    assert made.found() == {(name(made.image("anonymous")), Rule.PUBLISHED)}


# --- the data set's bucket ------------------------------------------------------------------------


def record(made: Made, request: str = "anonymous") -> Row:
    return Row(f"SHARED#{made.generation(request)}", "SHARED")


def stored(made: Made) -> str:
    (key,) = [one for one in made.stored if f"{made.generation('anonymous')}.tar" in one]
    return key


def in_two_files(made: Made) -> tuple[str, str]:
    """Store an image as it was before image and row were one object; returns the keys of both."""
    key = stored(made)
    del made.stored[key]
    made.change(record(made), object_key=key.replace(".tar", ".webp"), size=None)
    image, row = (key.replace(".tar", ending) for ending in (".webp", ".json"))
    length = made.number(made.image("anonymous"), "size")
    made.stored |= {one: StoredObject(one, length, made.now) for one in (image, row)}
    return image, row


def test_the_bucket_has_what_was_shared_and_nothing_else(listed: Made) -> None:
    assert len(listed.stored) == 2
    assert listed.found() == set()


def test_a_shared_image_has_its_file(listed: Made) -> None:
    del listed.stored[stored(listed)]
    assert listed.found() == {(name(record(listed)), Rule.STORED)}


@pytest.mark.parametrize("which", [0, 1])
def test_an_early_image_has_both_its_files(listed: Made, which: int) -> None:
    files = in_two_files(listed)
    assert listed.found() == set()
    del listed.stored[files[which]]
    assert listed.found() == {(name(record(listed)), Rule.STORED)}


@pytest.mark.parametrize("ending", [".tar", ".webp", ".json"])
def test_a_file_has_a_record(listed: Made, ending: str) -> None:
    stranger = StoredObject(f"incoming/{UNKNOWN}{ending}", 1, listed.now)
    listed.stored[stranger.key] = stranger
    assert listed.found() == set()  # its message may still be on its way
    listed.stored[stranger.key] = replace(stranger, modified_at=listed.now - 2 * 3600)
    assert listed.found() == {(stranger.key, Rule.STORED)}


def test_a_file_that_names_no_image_is_found(listed: Made) -> None:
    listed.stored["incoming/#"] = StoredObject("incoming/#", 1, 0)
    assert listed.found() == {("incoming/#", Rule.STORED)}


def test_the_file_of_an_image_whose_record_is_lost_is_found(listed: Made) -> None:
    del listed.items[record(listed)]
    for key, one in listed.stored.items():
        listed.stored[key] = replace(one, modified_at=0)
    found = {item for item, rule in listed.found() if rule is Rule.STORED}
    assert found == {stored(listed)}


def test_a_withdrawn_image_has_no_file(listed: Made) -> None:
    listed.change(record(listed), withdrawn_at=1)
    assert listed.found() == {(name(record(listed)), Rule.STORED)}
    del listed.stored[stored(listed)]
    assert listed.found() == set()


@pytest.mark.parametrize("left", [0, 1])
def test_an_early_image_that_was_withdrawn_has_neither_file(listed: Made, left: int) -> None:
    files = in_two_files(listed)
    listed.change(record(listed), withdrawn_at=1)
    del listed.stored[files[1 - left]]
    assert listed.found() == {(name(record(listed)), Rule.STORED)}
    del listed.stored[files[left]]
    assert listed.found() == set()


def test_a_file_has_the_size_that_was_written(listed: Made) -> None:
    key = stored(listed)
    listed.stored[key] = replace(listed.stored[key], size=listed.stored[key].size + 512)
    assert listed.found() == {(name(record(listed)), Rule.STORED)}


def test_an_early_file_has_the_size_and_the_hash_of_what_was_delivered(listed: Made) -> None:
    (key, _), image = in_two_files(listed), listed.image("anonymous")
    listed.change(image, sha256="a" * 64, size=listed.stored[key].size)
    assert listed.found() == set()  # the file's own metadata name no hash
    listed.stored[key] = replace(listed.stored[key], sha256="a" * 64)
    assert listed.found() == set()
    listed.stored[key] = replace(listed.stored[key], sha256="b" * 64)
    assert listed.found() == {(name(record(listed)), Rule.STORED)}
    listed.stored[key] = replace(listed.stored[key], sha256="a" * 64, size=7)
    assert listed.found() == {(name(record(listed)), Rule.STORED)}


def test_the_bucket_is_not_judged_unless_it_was_listed(made: Made) -> None:
    made.stored.clear()
    assert made.found() == set()


def test_a_rating_earns_less_than_the_request_cost(made: Made) -> None:
    row = made.entry("AWARD", made.ids["shared"])
    cost = COST_SHARED + TAX_SHARED  # one image was delivered, the other one censored
    made.write(row, "AWARD", cost, "awards", made.ids["shared"])
    made.move("ada", "awarded", cost - IN_FORCE.per_rating)
    assert made.found() == {(name(row), Rule.RATED)}


def test_an_award_is_of_a_request_that_was_rated(made: Made) -> None:
    made.change(made.request("shared"), rated_at=None)
    assert made.found() == {(name(made.entry("AWARD", made.ids["shared"])), Rule.RATED)}


def test_a_rating_pays_the_requests_owner(made: Made) -> None:
    row = made.entry("AWARD", made.ids["shared"])
    other = Row(made.user("bob")[0], row[1])
    made.items[other] = made.items.pop(row) | {"pk": {"S": other[0]}}
    made.move("ada", "awarded", -IN_FORCE.per_rating)
    made.move("bob", "awarded", IN_FORCE.per_rating)
    assert made.found() == {(name(other), Rule.RATED)}


def test_no_rating_pays_for_an_anonymous_request(made: Made) -> None:
    made.write(made.ledger_row("ada"), "AWARD", 1, "awards", made.ids["anonymous"])
    made.move("ada", "awarded", 1)
    assert made.found() == {(name(made.request("anonymous")), Rule.ANONYMOUS)}


@pytest.mark.parametrize("amount", [1, -1])
def test_a_shared_key_used_what_its_requests_paid(made: Made, amount: int) -> None:
    made.add(made.key(), utilized=amount)
    assert made.found() == {(made.key()[0][:18], Rule.BUDGET)}


def test_what_a_shared_key_used_is_known_when_its_requests_are_gone(made: Made) -> None:
    made.change(made.key(), created_at=made.now - 3 * DAY_S)
    request = made.request("gifted")
    made.change(request, due_at=None, due_shard=None, listed=None, listed_at=None)
    for row in (request, made.image("gifted", 0), made.image("gifted", 1)):
        made.change(row, gone_at=made.now + 2 * DAY_S)
    made.now += 2 * DAY_S + 1
    for row in (request, made.image("gifted", 0), made.image("gifted", 1)):
        del made.items[row]
    key = made.key()[0][:18]
    assert (key, Rule.BUDGET) not in made.found()
    made.add(made.key(), utilized=1, kudos=-1)
    assert (key, Rule.BUDGET) in made.found()


def test_the_entries_of_a_shared_keys_requests_name_it(made: Made) -> None:
    made.change(made.entry("GENERATION", made.ids["gifted"]), sharedkey=None)
    assert made.found() == {(made.key()[0][:18], Rule.BUDGET)}


def test_the_requests_of_a_key_from_before_entries_named_it_may_be_gone(made: Made) -> None:
    made.change(made.key(), in_ledger=None, granted=None)
    assert made.found() == set()
    made.add(made.key(), utilized=100)
    assert made.found() == {(made.key()[0][:18], Rule.BUDGET)}
    made.change(made.key(), created_at=made.now - 3 * DAY_S)
    assert made.found() == set()


@pytest.mark.parametrize("attribute", ["kudos", "granted"])
@pytest.mark.parametrize("amount", [1, -1])
def test_a_shared_key_has_left_what_it_was_granted_and_did_not_use(
    made: Made, attribute: str, amount: int
) -> None:
    made.add(made.key(), **{attribute: amount})
    assert made.found() == {(made.key()[0][:18], Rule.BUDGET)}


def test_a_shared_key_is_not_overdrawn(made: Made) -> None:
    made.change(made.key(), kudos=-5)
    assert made.found() == {(made.key()[0][:18], Rule.BUDGET)}
    made.change(made.key(), kudos=-1)  # unlimited
    assert made.found() == set()


def test_a_shared_key_is_in_its_owners_account(made: Made) -> None:
    made.change(made.user("ada"), sharedkey_ids=None)
    assert made.found() == {(made.key()[0][:18], Rule.KEY_OWNER)}


def test_a_rating_earns_no_more_than_the_rules_of_its_request(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = made.entry("AWARD", made.ids["shared"])
    less = replace(IN_FORCE, per_rating=1, per_artifacts=0, best_alone=1, best_with_low_rating=0)
    monkeypatch.setattr(ruleset, "RULESETS", (less,))
    assert made.found() == {(name(row), Rule.RATED)}


def test_an_accounts_shared_keys_are_there(made: Made) -> None:
    del made.items[made.key()]
    assert made.found() == {(name(made.user("ada")), Rule.KEY_OWNER)}


def test_a_shared_key_pays_for_its_owner_only(made: Made) -> None:
    made.change(made.key(), user_id=int(made.ids["bob"]))
    made.change(made.user("ada"), sharedkey_ids=None)
    made.change(made.user("bob"), sharedkey_ids={"SS": [made.ids["gift"]]})
    assert made.found() == {(made.key()[0][:18], Rule.KEY_OWNER)}


def test_no_report_shows_a_shared_key(made: Made) -> None:
    made.change(made.key(), kudos=-5)
    books = Books(before=made.before, after=made.after)
    for item in made.items.values():
        books.put(item)
    findings = [str(finding) for _, finding in judge(View(books, made.now))]
    assert findings
    assert made.ids["gift"] not in "".join(findings)


def test_an_account_lists_what_waits_and_what_is_drawn(made: Made) -> None:
    ada, names = made.user("ada"), ("waiting", "waiting shared", "leased")
    ids = [made.generation(one) for one in names]
    ids += [made.generation("waiting twice", index) for index in (0, 1)]
    assert sorted(made.items[ada]["open_images"]["SS"]) == sorted(map(short_id, ids))


def test_a_worker_lists_the_images_that_it_holds(made: Made) -> None:
    """Unless they are claimed by the operator's own workers."""
    leased = made.image("leased")
    stats = Row(f"WORKER#{made.items[leased]['worker_id']['S']}", "STATS")
    assert made.found() == set()
    made.change(stats, held=None)
    assert made.found() == {(name(stats), Rule.HELD)}
    made.change(leased, held=None)  # one of the operator's own workers claimed it
    assert made.found() == set()
    made.change(leased, held=True)
    image, other = made.generation("leased"), made.generation("painted")
    made.change(stats, held={"SS": [image]})
    assert made.found() == set()
    made.change(made.image("painted"), held=True)  # it was delivered, and must not be listed
    assert made.found() == set()
    made.change(stats, held={"SS": [image, other]})
    assert made.found() == {(name(stats), Rule.HELD)}
    del made.items[stats]
    assert (name(stats), Rule.HELD) in made.found()


def counter(made: Made, row: Row, attribute: str, amount: int) -> None:
    for counters in (made.before, made.after):
        counters[row] = {**counters[row], attribute: counters[row].get(attribute, 0) + amount}


@pytest.mark.parametrize("amount", [1, -1])
def test_statistics_are_the_sums_of_what_they_counted(made: Made, amount: int) -> None:
    rows = [row for row in made.before if not row[1].startswith("MINUTE#")]
    assert {row[0].partition("#")[0] for row in rows} == {"STATS", "WORKER", "USER"}
    for row in rows:
        tampered = copy.deepcopy(made)
        counter(tampered, row, "images", amount)
        assert tampered.found() == {(name(row), Rule.COUNTED)}


def test_what_is_flagged_is_counted(made: Made) -> None:
    made.change(made.entry("REWARD", made.generation("painted")), posted=None)
    unpaid = {Rule.BALANCE, Rule.DETAILS, Rule.FULFILLED}
    assert {rule for _, rule in made.found()} == {Rule.COUNTED, *unpaid}


def test_what_is_not_counted_yet_is_not_missed(made: Made) -> None:
    row = made.entry("REWARD", made.generation("painted"))
    event = settlement_of(made.items[row])
    made.move("owner", "accumulated", -made.number(row, "amount"))
    made.add(made.user("owner"), fulfilled=-1)
    for series, counts in statistics.counters([event]).items():
        for attribute, amount in counts.add.items():
            counter(made, counter_items.row(series), attribute, -amount)
    made.change(row, posted=None)
    assert made.found() == set()


def test_anonymous_requests_are_counted(made: Made) -> None:
    counter(made, Row("USER#0", "STATS"), "requests", -1)
    assert made.found() == {("USER#0/STATS", Rule.COUNTED)}


def test_a_deleted_workers_statistics_are_not_judged(made: Made) -> None:
    (row,) = [row for row in made.before if row[0].startswith("WORKER#")]
    del made.before[row], made.after[row]
    assert made.found() == set()


def test_statistics_that_started_again_may_be_smaller(made: Made) -> None:
    (row,) = [row for row in made.before if row[0].startswith("WORKER#")]
    for counters in (made.before, made.after):
        counters[row] = {}
    assert made.found() == {(name(row), Rule.COUNTED)}
    made.now += 90 * DAY_S
    assert (name(row), Rule.COUNTED) not in made.found()


# --- reading --------------------------------------------------------------------------------------


class Moving(AuditStore):
    """A table that moved while it was read, and moves on while parts of it are read anew.

    Of what is read first each item is as it was before the move or after it, by chance.
    """

    def __init__(self, cloud: Cloud, before: dict[Row, Item], seed: int) -> None:
        super().__init__(cloud.store.table)
        self.before, self.random = before, random.Random(seed)
        self.moves: list[Callable[[], object]] = []

    def scan(self, segment: int = 0, segments: int = 1) -> Iterator[list[Item]]:
        after = {row_of(item): item for page in super().scan() for item in page}
        for row in self.before | after:
            item = self.random.choice([self.before, after]).get(row)
            if item is not None:
                yield [item]

    def rows(self, keys: Any) -> list[Item]:
        found = super().rows(keys)
        if self.moves:
            self.moves.pop()()
        return found


class Busy:
    """A cloud in which everything happens."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        (self.ada, key), (self.bob, other) = (
            cloud.register(name, kudos=500) for name in ("ada", "bob")
        )
        self.worker = cloud.new_worker()
        body = {"name": "gift", "kudos": 500}
        gift = cloud.call("PUT /api/v2/sharedkeys", body, key=key).body["id"]
        self.keys = (key, other, gift, ANONYMOUS)
        self.left = [cloud.generate(key).body["id"] for key in self.keys]

    def live(self) -> None:
        cloud = self.cloud
        for request in self.left[:2]:
            cloud.cancel(request)
        cloud.draw(self.worker)
        self.left = [cloud.generate(key).body["id"] for key in self.keys]
        cloud.pop(self.worker)
        cloud.register("new")
        self.trade()
        cloud.settle_async()

    def trade(self) -> None:
        sender = self.cloud.store.accounts.get(self.ada)
        assert sender is not None
        assert self.cloud.store.transfers.transfer(sender, self.bob, 5, None)


@pytest.fixture
def busy(bare: Cloud) -> Busy:
    return Busy(bare)


def test_parallel_parts_read_each_item_once(busy: Busy) -> None:
    items = everything(busy.cloud.store)
    for segments in (1, 3, 8):
        parts = [list(reads(busy.cloud).scan(i, segments)) for i in range(segments)]
        read = [row_of(item) for part in parts for page in part for item in page]
        assert sorted(read) == sorted(items)
        report = audit(reads(busy.cloud), segments=segments)
        assert (report.findings, report.books.items) == ((), len(items))


def test_a_part_that_cannot_be_read_fails_the_audit(bare: Cloud) -> None:
    class Broken(AuditStore):
        def scan(self, segment: int = 0, segments: int = 1) -> Iterator[list[Item]]:
            if segment == 1:
                raise OSError
            yield from super().scan(segment, segments)

    with pytest.raises(OSError):
        audit(Broken(bare.store.table), segments=3)


def moved(busy: Busy) -> dict[Row, Item]:
    """Let things happen; returns the table as it was before."""
    before = everything(busy.cloud.store)
    busy.live()
    return before


@pytest.mark.lengthy
def test_nothing_is_found_in_a_table_that_changes_while_it_is_read(busy: Busy) -> None:
    before = moved(busy)
    for seed in range(5):
        report = audit(Moving(busy.cloud, before, seed), segments=1, pauses=(0, 0))
        assert report.findings == (), report.lines()


@pytest.mark.lengthy
def test_nothing_is_found_in_an_account_that_changes_while_it_is_read_again(busy: Busy) -> None:
    moving = Moving(busy.cloud, moved(busy), 1)
    moving.moves = [busy.trade] * 8
    assert audit(moving, segments=1, pauses=(0, 0, 0)).findings == ()
    assert moving.moves == []


@pytest.mark.lengthy
def test_old_rewards_that_are_posted_while_the_audit_reads_are_not_found(busy: Busy) -> None:
    busy.cloud.draw(busy.worker)
    busy.cloud.deliver("share")
    busy.cloud.clock.pass_seconds(3600)
    before, counted = everything(busy.cloud.store), reads(busy.cloud).counted()
    busy.cloud.stream()

    class Counted(Moving):
        first = True

        def counted(self, *only: Any) -> Any:
            self.first, first = False, self.first
            return counted if first else super().counted(*only)

    for seed in range(5):
        report = audit(Counted(busy.cloud, before, seed), segments=1, pauses=(0, 0))
        assert report.findings == (), report.lines()


def test_counts_that_a_read_missed_are_read_again(busy: Busy) -> None:
    """An image begins to wait, and another one is claimed, while the table is read."""
    cloud = busy.cloud

    def count() -> None:
        """Let workers hold what the operator's own have claimed."""
        holds: dict[str, list[str]] = {}
        for item in cloud.rows("GENERATION"):
            row = row_of(item)
            if item["user_id"]["N"] == "0":
                continue
            if item["state"]["S"] == "processing":
                holds.setdefault(item["worker_id"]["S"], []).append(row.pk.partition("#")[2])
            update(row, "SET held = :true", {":true": {"BOOL": True}})
        for one, images in holds.items():
            update(Row(f"WORKER#{one}", "STATS"), "SET held = :held", {":held": {"SS": images}})

    def update(row: Row, expression: str, values: Item) -> None:
        cloud.db.update_item(
            TableName=cloud.table,
            Key={"pk": {"S": row.pk}, "sk": {"S": row.sk}},
            UpdateExpression=expression,
            ExpressionAttributeValues=values,
        )

    count()
    before = everything(cloud.store)
    cloud.pop(busy.worker)
    busy.left = [cloud.generate(key).body["id"] for key in busy.keys]
    count()
    for seed in range(5):
        report = audit(Moving(cloud, before, seed), segments=1, pauses=(0, 0))
        assert report.findings == (), report.lines()
    one_more = "SET opened_at = :one ADD open_images :image"
    values = {":one": {"N": "1"}, ":image": {"SS": [short_id(UNKNOWN)]}}
    update(Row(f"USER#{busy.ada}", "USER"), one_more, values)
    (finding,) = audit(reads(cloud), segments=1, pauses=(0, 0)).findings
    assert finding.rule is Rule.OPEN_IMAGES


@pytest.mark.lengthy
def test_what_is_wrong_is_found_while_the_table_moves(busy: Busy) -> None:
    user = {"pk": {"S": f"USER#{busy.ada}"}, "sk": {"S": "USER"}}
    busy.cloud.db.update_item(
        TableName=busy.cloud.table,
        Key=user,
        UpdateExpression="ADD kudos :one, listed_at :one, awarded :one",
        ExpressionAttributeValues={":one": {"N": "1"}},
    )
    before = moved(busy)
    for seed in range(5):
        moving = Moving(busy.cloud, before, seed)
        moving.moves = [busy.trade] * 2
        report = audit(moving, segments=1, pauses=(0, 0, 0))
        assert {(finding.item, finding.rule) for finding in report.findings} == {
            (f"USER#{busy.ada}/USER", Rule.BALANCE),
            (f"USER#{busy.ada}/USER", Rule.DETAILS),
        }


def test_an_item_that_is_not_an_account_is_still_found_when_it_is_read_again(bare: Cloud) -> None:
    row = {"pk": {"S": "USER#x"}, "sk": {"S": "USER"}}
    bare.db.put_item(TableName=bare.table, Item=row)
    (finding,) = audit(reads(bare), pauses=(0,)).findings
    assert (finding.item, finding.rule) == ("USER#x/USER", Rule.READABLE)


def test_what_was_repaired_meanwhile_is_not_found(bare: Cloud) -> None:
    ada, _ = bare.register("ada")
    row = {"pk": {"S": f"USER#{ada}"}, "sk": {"S": "LEDGER#2999-01-01T00:00:00.000Z#x"}}
    bare.db.put_item(TableName=bare.table, Item={**row, "kind": {"S": "?"}})
    assert len(audit(reads(bare), pauses=(0,)).findings) == 1
    moving = Moving(bare, everything(bare.store), 0)
    moving.moves = [lambda: bare.db.delete_item(TableName=bare.table, Key=row)]
    assert audit(moving, segments=1, pauses=(0,)).findings == ()


def a_shared_image(cloud: Cloud) -> str:
    cloud.generate(ANONYMOUS)
    (image,) = cloud.draw(cloud.new_worker())
    cloud.settle_async()
    return image


@pytest.mark.lengthy
def test_files_are_read_again_before_they_are_reported(bare: Cloud) -> None:
    """An image is withdrawn, and another one shared, between the table and the bucket."""
    first = a_shared_image(bare)

    class Late(Bucket):
        def pages(self) -> Iterator[list[StoredObject]]:
            shared = bare.store.sharing.get(first)
            assert shared is not None
            withdraw_command.withdraw(bare.store, bare.s3, bare.bucket("Laion"), first)
            bare.generate(ANONYMOUS)
            bare.draw(bare.new_worker("another"), name="w2")
            bare.settle_async()
            for page in super().pages():
                yield [replace(one, modified_at=0) for one in page]

    late = Late(bare.s3, bare.bucket("Laion"))
    assert audit(reads(bare), segments=1, pauses=(0, 0), bucket=late).findings == ()


def test_the_bucket_is_listed_in_pages_and_only_read(bare: Cloud) -> None:
    image = a_shared_image(bare)
    bare.s3.put_object(Bucket=bare.bucket("Laion"), Key="elsewhere/x.webp", Body=b"x")
    before, counts = bare.laion(), list[int]()
    report = audit(reads(bare), pauses=(0,), bucket=laion(bare), listed=counts.append)
    assert report.findings == ()
    assert report.lines()[-1].endswith(", 1 files")
    assert sum(counts) == 1
    assert bare.laion() == before
    (key,) = [key for key in before if key.endswith(f"{image}.tar")]
    bare.s3.delete_object(Bucket=bare.bucket("Laion"), Key=key)
    (finding,) = audit(reads(bare), pauses=(0,), bucket=laion(bare)).findings
    assert (finding.item, finding.what) == (f"SHARED#{image}/SHARED", key)


def test_the_hash_of_a_file_is_read_from_its_metadata(bare: Cloud) -> None:
    image = a_shared_image(bare)
    bare.db.update_item(
        TableName=bare.table,
        Key={"pk": {"S": f"GENERATION#{image}"}, "sk": {"S": "GENERATION"}},
        UpdateExpression="SET sha256 = :hash",
        ExpressionAttributeValues={":hash": {"S": "a" * 64}},
    )
    assert audit(reads(bare), pauses=(0,), bucket=laion(bare)).findings == ()
    ((key, file),) = bare.laion().items()
    for digest, wrong in (("a" * 64, 0), ("b" * 64, 1)):
        bare.s3.put_object(
            Bucket=bare.bucket("Laion"), Key=key, Body=file, Metadata={"sha256": digest}
        )
        assert len(audit(reads(bare), pauses=(0,), bucket=laion(bare)).findings) == wrong


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.lengthy
def test_the_command_compares_a_bucket_with_the_table(
    bare: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.operate.audit.run.time.sleep", lambda _seconds: None)
    a_shared_image(bare)
    capsys.readouterr()
    for expected in (0, 1):
        with pytest.raises(SystemExit) as ended:
            commands.main(["--table", bare.table, "audit", "--bucket", bare.bucket("Laion")])
        assert ended.value.code == expected
        assert f", {0 if expected else 1} files" in capsys.readouterr().out
        for key in bare.laion():
            bare.s3.delete_object(Bucket=bare.bucket("Laion"), Key=key)


@pytest.mark.lengthy
def test_a_bucket_needs_a_name_or_a_stack(bare: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.main(["--table", bare.table, "audit", "--bucket"])
    assert "--bucket needs a name" in str(ended.value.code)
    outputs = {"TableName": bare.table, "LaionBucket": bare.bucket("Laion")}
    monkeypatch.setattr(deployed, "outputs_of", lambda _session, _stack: outputs)
    with pytest.raises(SystemExit) as ended:
        commands.main(["--stack", "x", "audit", "--bucket"])
    assert ended.value.code == 0


def test_the_command_counts_what_is_in_order(
    bare: Cloud, capsys: pytest.CaptureFixture[str]
) -> None:
    bare.register("ada")
    with pytest.raises(SystemExit) as ended:
        commands.main(["--table", bare.table, "audit", "--segments", "2"])
    assert ended.value.code == 0
    shown = capsys.readouterr()
    assert shown.out == "all in order; 4 items: 1 accounts, 1 entries, 0 requests, 0 images\n"
    assert shown.err == ""


def test_the_command_has_a_line_for_each_finding(
    bare: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.operate.audit.run.time.sleep", lambda _seconds: None)
    bare.register("ada")
    bare.db.update_item(
        TableName=bare.table,
        Key={"pk": {"S": "USER#1"}, "sk": {"S": "USER"}},
        UpdateExpression="SET floor = :floor, listed = :nowhere",
        ExpressionAttributeValues={":floor": {"N": str(FLOOR + 1)}, ":nowhere": {"S": "x"}},
    )
    with pytest.raises(SystemExit) as ended:
        commands.main(["--table", bare.table, "audit"])
    assert ended.value.code == 1
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert (
        first == f"USER#1/USER: {Rule.FLOOR}: kudos: expected at least {FLOOR + 1}, found {FLOOR}"
    )
    assert second == f"USER#1/USER: {Rule.FLOORED}: floor: expected {FLOOR}, found {FLOOR + 1}"
    assert third == f"USER#1/USER: {Rule.LISTED}: listed: expected USERS#1, found x"
    assert last.startswith("3 findings; 4 items: ")
