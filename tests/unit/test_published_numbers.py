"""The limits of the rules and the names of the table, as clients and deployed tables know them.

The numbers of a ruleset have a test of their own (``test_ruleset``). A limit that is changed on
purpose is changed here, too; a name that is stored is never changed: deployed tables hold it.
"""

from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from horde.rules import kudos, ruleset, sharedkeys, sharing
from horde.rules.statistics import Scope, Series
from horde.store import counters, items
from horde.store.due import Due, due, due_shard
from horde.store.items import Kind

ID = "00000000-0000-4000-8000-00000000000d"
"""A UUID; its number modulo 4, 8 and 16 is 1, 5 and 13."""

LIMITS: dict[str, Any] = {
    "rules.accounts.MAX_NAME": 30,
    "rules.accounts.MAX_USER_DIGITS": 18,
    "rules.accounts.BY_OWNER": {"username", "contact"},
    "rules.accounts.BY_MODERATOR": {
        "concurrency",
        "trusted",
        "flagged",
        "admin_comment",
        "undelete",
    },
    "rules.accounts.BY_ADMIN": {"kudos", "moderator", "monthly_kudos"},
    "rules.accounts.MAX_API_KEYS": 5,
    "rules.admission.FREE_SIDE": {
        "stable_diffusion_2": 768,
        "stable_diffusion_2_512": 768,
        "stable_diffusion_2_768": 768,
        "stable_diffusion_xl": 1024,
        "stable_cascade": 1024,
        "flux_1": 1024,
    },
    "rules.hashes.DIGITS": 32,
    "rules.admission.MAX_PROMPT_WORDS": 7500,
    "rules.admission.MAX_PROMPT_BYTES": 65_536,
    "rules.pricing.NATIVE_SIDE": {
        "stable_diffusion_2": 768,
        "stable_diffusion_2_768": 768,
        "stable_diffusion_xl": 1024,
        "stable_cascade": 1024,
        "flux_1": 1024,
        "z_image_turbo": 1024,
        "qwen_image": 1024,
    },
    "rules.pricing.NATIVE_SIDE_OTHERS": 512,
    "rules.pricing.SIZE_STEP": 64,
    "rules.standing.MAX_WORKERS": 3,
    "rules.standing.MAX_WORKERS_TRUSTED": 20,
    "rules.standing.MAX_DROPPED": 20,
    "rules.standing.MIN_HELD": 2,
    "rules.standing.MAX_HELD": 40,
    "rules.standing.UNMEASURED_HELD": 10,
    "rules.dates.HOUR_S": 3600,
    "rules.dates.DAY_S": 86_400,
    "rules.estimates.MAX_MODELS": 300,
    "rules.estimates.DEFAULT_SPEED": 1_310_720,
    "rules.estimates.SPEED_DECAY": 0.95,
    "rules.estimates.ETA_NEVER_S": 10_000,
    "rules.matching.AGEING_PER_S": 5,
    "rules.matching.FLAGGED_MIN": 10,
    "rules.matching.FLAGGED_KUDOS": -100,
    "rules.needs.SLOW_SPEED": 500_000,
    "rules.matching.SEED_BITS": 32,
    "rules.matching.MAX_SEED_DIGITS": 1000,
    "rules.pricing.SLOW_BASELINES": {"flux_1", "qwen_image", "z_image_turbo"},
    "rules.pricing.IMG2IMG_STRENGTH": 0.8,
    "rules.pricing.MIN_TTL_S": 150,
    "records.GALLERY_DAYS": 120,
    "rules.raters.DATASET_ID": "18c2dcfb-fc36-5210-963e-6aa20a062540",
    "rules.raters.ENOUGH": 5,
    "rules.raters.MIN_OTHERS": 4,
    "rules.raters.MAX_DISTANCE": 3,
    "rules.raters.GOLD_DISTANCE": 2,
    "rules.raters.GOLD_LOW": 2,
    "rules.raters.GOLD_HIGH": 9,
    "rules.raters.MIN_RIGHT": 3,
    "rules.raters.MAX_WRONG": 3,
    "rules.raters.MAX_OWED": 20,
    "rules.raters.GIVEN_S": 600,
    "rules.raters.PER_MINUTE": 20,
    "rules.raters.PER_DAY": 500,
    "rules.raters.GOLD_SHARE": 0.1,
    "rules.raters.GOLD_SHARE_NEW": 0.4,
    "rules.raters.POOL_S": 118 * 86_400,
    "rules.raters.SPREAD": 10**12,
    "store.raters.RATED": "rating ",
    "store.items.POOL_LIST": "POOL",
    "store.items.RATERS": "RATERS",
    "rules.ratings.LOW_RATING": 7,
    "rules.ratings.MIN_FOR_BEST": 2,
    "rules.sharedkeys.MAX_KEYS": 3,
    "rules.sharedkeys.MAX_KEYS_TRUSTED": 10,
    "rules.sharing.TRUSTED_AFTER_S": 7 * 86_400,
    "rules.sharing.ACCEPTED": "accepted",
    "rules.sharing.LICENSE": "CC0-1.0",
    "rules.sharing.TERMS_VERSION": "2026-12.3",
    "rules.statistics.MONTH_DAYS": 31,
    "store.counters.STATS_KEEP_S": 90 * 86_400,
    "store.counters.MINUTE_MS": 60_000,
    "store.items.KEEP_S": 2 * 86_400,
    "store.items.HOLDERS": "HOLDERS",
    "store.items.CSAM_MARKS": "CSAM",
    "store.listings.CHARGED_WITHIN_S": 2400,
    "store.listings.MAX_ENTRIES": 200,
    "store.requests.UNTOUCHED_S": 259_200,
    "store.rewards.REVERSED": "reversed",
    "store.rewards.MAX_REVERSED": 90,
    "store.settlements.PENDING_REWARD": {"kind": "REWARD"},
    "store.settlements.NEW_REQUEST": {"sk": "REQUEST"},
    "store.settlements.NEW_WEBHOOK": {"sk": "WEBHOOK"},
    "store.settlements.NEW_CSAM_MARK": {"sk": "CSAM"},
    "store.settlements.POSTED": "posted",
    "store.settlements.POSTED_WITHIN_S": 300,
    "store.table.BATCH": 100,
    "store.attempts.CONFLICT_TRIES": 30,
    "store.table.DECISION_TRIES": 30,
    "store.transfers.COOL_DOWN_S": 60,
    "store.transfers.IDEMPOTENCY_S": 86_400,
    "store.workers.WORKER_KEEP_S": 30 * 86_400,
}


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_the_published_one(name: str) -> None:
    module, _, constant = name.rpartition(".")
    found = getattr(import_module(f"horde.{module}"), constant)
    assert found == LIMITS[name]
    assert isinstance(found, float) == isinstance(LIMITS[name], float)


def test_a_lifetime_is_shown_in_whole_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ruleset, "IN_FORCE", replace(ruleset.IN_FORCE, request_life_s=3660))
    assert ruleset.numbers()["request_life_minutes"] == 61


def test_the_kinds_of_items_have_the_names_that_deployed_tables_hold() -> None:
    assert [kind.value for kind in Kind] == [
        "USER",
        "ANONYMOUS",
        "LEDGER",
        "KEY",
        "COUNTER",
        "REQUEST",
        "GENERATION",
        "WORKER",
        "STATS",
        "COUNTED",
        "FLEET",
        "NAME",
        "MODEL",
        "SHARED",
        "HELD",
        "HOLDER",
        "CSAM",
        "RELEASE",
        "KEPT",
        "REMOVED",
        "WITHDRAWAL",
        "WEBHOOK",
        "RATING",
        "SHAREDKEY",
        "RATELIMIT",
        "IDEMPOTENCY",
        "PAIR",
        "DROPPED",
        "QUEUES",
        "PLACES",
        "COPY",
        "POOL",
        "RATER",
        "STYLE",
        "STYLENAME",
    ]


def test_entries_of_the_ledger_have_the_names_that_deployed_tables_hold() -> None:
    assert [kind.value for kind in kudos.Kind] == [
        "GENERATION",
        "REFUND",
        "REWARD",
        "REWARD_REVERSAL",
        "ADMIN_ADJUSTMENT",
        "FLOOR_ADJUSTMENT",
        "TRANSFER",
        "AWARD",
        "RECURRING",
        "STYLE_REWARD",
    ]
    assert kudos.Kind.REVERSAL.value == "REWARD_REVERSAL"


def test_a_row_says_why_it_is_shared_and_who_drew_it_in_the_data_sets_words() -> None:
    assert [reason.value for reason in sharing.Reason] == [
        "requested",
        "not requested",
        "anonymous text-to-image is always shared",
        "image-to-image is never shared",
    ]
    assert [drawn.value for drawn in sharing.DrawnBy] == [
        "endpoint",
        "trusted volunteer",
        "untrusted volunteer",
    ]


def test_a_shared_key_is_named_in_a_ledger_as_deployed_tables_name_it() -> None:
    assert sharedkeys.mark("a key") == "8fa3aab2faa9b79e0a0398da5b5abd07"


def test_keys_and_lists_are_spelled_as_deployed_tables_hold_them() -> None:
    assert items.key(Kind.USER, 7) == {"pk": {"S": "USER#7"}, "sk": {"S": "USER"}}
    assert items.stats_key(Kind.WORKER, "w") == {"pk": {"S": "WORKER#w"}, "sk": {"S": "STATS"}}
    assert due(Due.LEASE, ID, 9) == {"due_shard": {"S": "lease#5"}, "due_at": {"N": "9"}}
    assert items.listed("L", 9) == {"listed": {"S": "L"}, "listed_at": {"N": "9"}}
    assert items.WAITING == ("waiting", "wait_queue", "priority")
    assert items.DUE == ("due", "due_shard", "due_at")
    assert items.LISTED == ("listed", "listed", "listed_at")
    assert items.DUE.attributes == "due_shard, due_at"
    assert items.TTL == "gone_at"
    assert items.keys_list(7) == "KEYS#7"
    assert items.held_list(7) == "HELD#7"
    assert [due_shard(kind, 19) for kind in Due] == [
        "lease#3",
        "image#3",
        "request#3",
        "reward#3",
        "account#0",
    ]
    assert items.workers_shard(3) == "WORKERS#3"
    assert items.users_list(19) == "USERS#3"
    assert items.workers_list(ID) == "WORKERS#1"


@pytest.mark.parametrize(
    ("series", "row"),
    [
        (Series(Scope.WORKER, "w"), ("WORKER#w", "STATS")),
        (Series(Scope.ANONYMOUS), ("USER#0", "STATS")),
        (Series(Scope.MINUTE, period="2026-11-23T05:42"), ("STATS", "MINUTE#2026-11-23T05:42")),
        (Series(Scope.DAY, period="2026-11-23"), ("STATS", "DAY#2026-11-23")),
        (Series(Scope.TOTAL), ("STATS", "TOTAL")),
        (
            Series(Scope.MODEL_DAY, "m", "2026-11-23"),
            ("STATS", "MODELDAY#2026-11-23#62c66a7a5dd70c3146618063c344e531"),
        ),
        (Series(Scope.MODEL, "m"), ("STATS", "MODEL#62c66a7a5dd70c3146618063c344e531")),
    ],
)
def test_a_counter_is_kept_where_deployed_tables_have_it(
    series: Series, row: tuple[str, str]
) -> None:
    assert counters.row(series) == row
    assert counters.scope_of(counters.row(series)) is series.scope


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (True, {"BOOL": True}),
        (7, {"N": "7"}),
        ("é", {"S": "é"}),
        ([1, "a"], {"L": [{"N": "1"}, {"S": "a"}]}),
        ({"a": 1, "b": [2]}, {"S": '{"a":1,"b":[2]}'}),
    ],
)
def test_a_value_is_stored_in_dynamodbs_json(value: Any, stored: Any) -> None:
    assert items.encode(value) == stored
    assert items.encode_all({"now": value}) == {":now": stored}


def test_stored_json_is_compact_and_keeps_letters_as_they_are() -> None:
    assert items.json_text({"prompt": "füchse", "n": [1, 2]}) == '{"prompt":"füchse","n":[1,2]}'


def test_what_is_stored_reads_back() -> None:
    assert items.decode({"SS": ["a", "b"]}) == frozenset({"a", "b"})
    assert items.decode({"L": [{"N": "1"}, {"BOOL": False}]}) == [1, False]
    nothing: list[Any] = [None, False, [], frozenset()]
    something: list[Any] = [True, 0, "", [0]]
    assert all(items.is_empty(value) for value in nothing)
    assert not any(items.is_empty(value) for value in something)
