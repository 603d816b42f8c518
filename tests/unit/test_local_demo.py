"""The demo's table marks what is not as the rules want it."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from horde.rules import ruleset
from infra.local.api_client import Client
from infra.local.demo import SIDE, DemoRequest, Rule, cells, table

TAX = ruleset.IN_FORCE.tax_shared
ROW = {"prompt": "a fox", "seed": 1}


@pytest.fixture
def sent(tmp_path: Path) -> DemoRequest:
    path = tmp_path / "a1.webp"
    Image.new("RGB", (SIDE, SIDE)).save(path, "WEBP")
    return DemoRequest(
        "a",
        "registered, shared: true",
        Client("", "secretkey"),
        {"prompt": "a fox", "params": {"n": 1}},
        Rule(shared=True, why="requested", price=3, tax=TAX),
        alias="demo-ada",
        before=100,
        after=100 - 3 - TAX,
        dry_run=3 + TAX,
        accepted={"kudos": 3 + TAX},
        status={"shared": True},
        files=[path],
        objects=[("incoming/date=2026-11-23/id.tar", ROW)],
    )


def test_a_demo_that_keeps_the_rules_is_right(sent: DemoRequest) -> None:
    text, right = table([cells(sent)])
    assert right
    assert "WRONG" not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("after", 100),
        ("dry_run", 99),
        ("accepted", {"kudos": 99}),
        ("accepted", {"kudos": 3 + TAX, "message": "overruled"}),
        ("status", {"shared": False}),
        ("files", []),
        ("objects", []),
        ("objects", [("incoming/x.tar", {})]),
        ("objects", [("incoming/x.tar", {**ROW, "user": "demo-ada#2"})]),
        ("objects", [("incoming/x.tar", {**ROW, "nested": {}})]),
    ],
)
def test_each_broken_rule_is_marked_as_wrong(sent: DemoRequest, field: str, value: Any) -> None:
    setattr(sent, field, value)
    text, right = table([cells(sent)])
    assert not right
    assert "WRONG: " in text
