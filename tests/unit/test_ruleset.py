"""The published numbers, each once. All other tests take them by name, from the ruleset in force.

A changed number is a new version: this file then says the new number in ``IN_FORCE_NOW``. What an
earlier version says stays as it is, since requests were accepted under it.
"""

from dataclasses import asdict, fields, replace
from decimal import Decimal
from typing import Any

import pytest

from horde.records import FIRST_RULESET
from horde.rules import ruleset
from horde.rules.ruleset import IN_FORCE, RULESETS, Ruleset

FIRST = {
    "version": "2026-11",
    "tax_shared": 1,
    "tax_private": 3,
    "floor": 14,
    "floor_anonymous": -50,
    "two_pass_samplers": ("k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a"),
    "adaptive_steps": 50,
    "counts_hires_fix": False,
    "families": (
        ("stable_diffusion_xl", Decimal(2)),
        ("stable_cascade", Decimal(4)),
        ("flux_1", Decimal(8)),
        ("z_image_turbo", Decimal(8)),
        ("qwen_image", Decimal(12)),
    ),
    "families_hires_fix": (),
    "post_processor": Decimal("1.2"),
    "control": Decimal(3),
    "lora": 3,
    "tis": 1,
    "upscaler": Decimal("1.05"),
    "source_image": Decimal("1.3"),
    "fast_workers_only": Decimal("1.2"),
    "worker_blacklist": Decimal("1.1"),
    "per_rating": 5,
    "per_artifacts": 5,
    "best_alone": 15,
    "best_with_low_rating": 15,
    "per_pool_rating": 5,
    "ratings_return_tax": True,
    "style_reward": 1,
    "max_steps": 40,
    "max_steps_lcm": 10,
    "max_steps_control": 20,
    "downgraded_steps": 30,
    "max_side": 1024,
    "min_side": 576,
    "side_per_thread": 10,
    "side_per_queued": 0.9,
    "concurrency": 30,
    "concurrency_anonymous": 500,
    "max_faults": 3,
    "request_life_s": 1200,
}
SECOND: dict[str, Any] = {
    **FIRST,
    "version": "2026-12",
    "two_pass_samplers": ("k_heun", "k_dpm_2", "k_dpm_2_a", "k_dpmpp_2s_a", "k_dpmpp_sde"),
    "adaptive_steps": 40,
    "counts_hires_fix": True,
    "families_hires_fix": (("stable_cascade", Decimal(7)),),
    "ratings_return_tax": False,
}
KEPT: dict[str, dict[str, Any]] = {"2026-11": FIRST, "2026-12": SECOND}
"""Versions under which requests were accepted, whole. A new version is added, none is changed.

What every version so far did in the same way may become a number of all of them.
"""
IN_FORCE_NOW: dict[str, Any] = {**SECOND}
"""What clients read today: a new version says here what it changed."""


@pytest.mark.parametrize("name", [spec.name for spec in fields(Ruleset)])
def test_a_number_in_force_is_the_published_one(name: str) -> None:
    assert getattr(IN_FORCE, name) == IN_FORCE_NOW[name]


@pytest.mark.parametrize("version", KEPT)
def test_a_version_under_which_requests_were_accepted_is_never_edited(version: str) -> None:
    assert asdict(ruleset.of(version)) == KEPT[version]


def test_no_version_under_which_requests_were_accepted_is_taken_away() -> None:
    assert [rules.version for rules in RULESETS][: len(KEPT)] == list(KEPT)


def test_a_version_is_the_name_of_one_ruleset() -> None:
    versions = [rules.version for rules in RULESETS]
    assert len(set(versions)) == len(versions)


def test_the_last_version_is_in_force() -> None:
    assert IN_FORCE is RULESETS[-1]


def test_a_request_that_names_no_version_was_accepted_under_the_first() -> None:
    assert ruleset.of(FIRST_RULESET) is RULESETS[0]


def test_rules_are_found_by_their_version(monkeypatch: pytest.MonkeyPatch) -> None:
    later = replace(IN_FORCE, version="2099-01", tax_shared=2)
    monkeypatch.setattr(ruleset, "RULESETS", (*RULESETS, later))
    assert ruleset.of("2099-01") is later
    assert [ruleset.of(rules.version) for rules in RULESETS] == list(RULESETS)


@pytest.mark.parametrize("version", ["", "2025-01", "2026-11 ", "latest"])
def test_an_unknown_version_has_no_rules(version: str) -> None:
    with pytest.raises(KeyError):
        ruleset.of(version)


def test_rules_cannot_be_changed_in_their_place() -> None:
    with pytest.raises(AttributeError):
        IN_FORCE.tax_shared = 2  # type: ignore[misc]


def test_a_text_shows_the_numbers_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    later = replace(IN_FORCE, tax_shared=7, request_life_s=25 * 60)
    monkeypatch.setattr(ruleset, "IN_FORCE", later)
    text = "A shared image pays {tax_shared}, for {request_life_minutes} minutes."
    assert ruleset.fill(text) == "A shared image pays 7, for 25 minutes."


def test_what_is_in_braces_and_no_number_stays_as_it_is() -> None:
    text = 'Send {"prompt": "a fox"} to {id}, {} or {tax shared}.'
    assert ruleset.fill(text) == text


def test_every_number_can_be_named_in_a_text() -> None:
    text = " ".join(f"{{{name}}}" for name in asdict(IN_FORCE))
    assert ruleset.fill(text) == " ".join(str(number) for number in asdict(IN_FORCE).values())
