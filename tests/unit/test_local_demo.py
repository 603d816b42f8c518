"""The demo's table marks what is not as the rules want it."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.local.api_client import Client
from infra.local.demo import SIDE, Rule, Wish, cells, table

ROW = {"prompt": "a fox", "seed": 1}


@pytest.fixture
def wish(tmp_path: Path) -> Wish:
    path = tmp_path / "a1.webp"
    Image.new("RGB", (SIDE, SIDE)).save(path, "WEBP")
    return Wish(
        "a",
        "registered, shared: true",
        Client("", "secretkey"),
        {"prompt": "a fox", "params": {"n": 1}},
        Rule(shared=True, why="requested", price=3, tax=1),
        alias="demo-ada",
        before=100,
        after=96,
        dry_run=4,
        accepted={"kudos": 4},
        status={"shared": True},
        files=[path],
        objects=[("incoming/date=2026-11-23/id.webp", ROW)],
    )


def test_a_demo_that_keeps_the_rules_is_right(wish: Wish) -> None:
    text, right = table([cells(wish)])
    assert right
    assert "WRONG" not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("after", 97),
        ("dry_run", 3),
        ("accepted", {"kudos": 6}),
        ("accepted", {"kudos": 4, "message": "overruled"}),
        ("status", {"shared": False}),
        ("files", []),
        ("objects", []),
        ("objects", [("incoming/x.webp", {})]),
        ("objects", [("incoming/x.webp", {**ROW, "user": "demo-ada#2"})]),
        ("objects", [("incoming/x.webp", {**ROW, "nested": {}})]),
    ],
)
def test_each_broken_rule_is_marked_as_wrong(wish: Wish, field: str, value: Any) -> None:
    setattr(wish, field, value)
    text, right = table([cells(wish)])
    assert not right
    assert "WRONG: " in text
