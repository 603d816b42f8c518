"""Every text that names a price, a tax or a limit takes the number from the rules."""

import re
from dataclasses import asdict, replace
from typing import Any

import pytest

from horde.edge import openapi
from horde.rules import ruleset
from tests.support.cloud import Cloud
from tests.support.template import ROOT

TEXTS = (
    "GET /terms",
    "GET /privacy",
    "GET /register",
    "GET /",
    "GET /api/swagger.json",
    "GET /api/v2/status/news",
    "GET /api/v2/documents/terms",
    "GET /api/v2/documents/privacy",
)
ANOTHER = replace(ruleset.IN_FORCE, version="9999-12", tax_shared=271, tax_private=828)
UNITS = "kudos|images?|steps|pixels|minutes|faults|characters"
NUMBER = re.compile(rf"(?:\+|tax of |instead of )\d+|\b\d+ (?:{UNITS})\b")
"""How a text names a price, a tax or a limit."""
SOURCES = [
    *sorted((ROOT / "functions").rglob("*.py")),
    *sorted((ROOT / "functions").rglob("*.md")),
    *sorted((ROOT / "functions").rglob("*.json")),
    ROOT / "infra" / "local" / "demo.py",
]
NO_RULES = (
    "512x512 at 50 steps costs 10.83 kudos",  # the closed form's published sample
    "512x512 at 12 steps is 2.60 kudos",
    "computes 7.2 steps",
    "512x512, 30 steps in 6 s",  # a GPU
    "22 characters (128 random bits)",  # a key
    "the last 60 minutes",  # an hour
    "in 1/1000 kudos",  # a unit
    "10 images at 4 per ticket",  # an example
    '"+00:00"',  # a time zone
)
"""Numbers that are not a rule's."""


def read(cloud: Cloud, route: str) -> str:
    import about

    about._news.cache_clear()
    about.html.cache_clear()
    openapi.document.cache_clear()
    return str(cloud.call(route).body)


@pytest.mark.parametrize("route", TEXTS)
def test_a_text_follows_the_tax(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, route: str) -> None:
    before = read(cloud, route)
    monkeypatch.setattr(ruleset, "RULESETS", (*ruleset.RULESETS, ANOTHER))
    monkeypatch.setattr(ruleset, "IN_FORCE", ANOTHER)
    after = read(cloud, route)
    named = [text for text in ("271", "828") if text in after]
    assert (before == after) is (not named)
    if "privacy" not in route and "swagger" not in route:
        assert named == ["271", "828"]
    assert "{tax_" not in before
    monkeypatch.undo()
    assert read(cloud, route) == before


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_names_a_number_that_is_a_rules(path: Any) -> None:
    text = path.read_text()
    for one in NO_RULES:
        text = text.replace(one, "")
    assert NUMBER.findall(text) == []


def test_a_text_may_name_each_number_of_the_rules() -> None:
    numbers = asdict(ruleset.IN_FORCE)
    names = [name for name, value in numbers.items() if not isinstance(value, dict)]
    names.append("request_life_minutes")
    filled = ruleset.fill(" ".join(f"{{{name}}}" for name in names) + " {operator}")
    assert filled.split()[-1] == "{operator}"
    assert "{" not in filled.removesuffix("{operator}")


def test_what_a_visitor_typed_is_shown_as_it_is(cloud: Cloud) -> None:
    form = "username=%7Bfloor%7D%23"
    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = cloud.call("POST /register", raw=form, headers=kind)
    assert (answer.status, 'value="{floor}#"' in answer.body) == (400, True)
