"""``X-Fields``."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.edge import masks
from horde.rules.refusals import HordeError

BODY = {"id": "a", "done": True, "generations": [{"img": "x", "seed": "1"}, {"img": "y"}]}


@pytest.mark.parametrize(
    ("mask", "left"),
    [
        ("done", {"done": True}),
        ("{done,id}", {"id": "a", "done": True}),
        ("generations{img}, done", {"done": True, "generations": [{"img": "x"}, {"img": "y"}]}),
        ("generations", {"generations": BODY["generations"]}),
        ("generations{seed},*", {"id": "a", "done": True, "generations": [{"seed": "1"}, {}]}),
        ("unknown", {}),
        ("id{inner}", {"id": "a"}),
    ],
)
def test_only_what_the_mask_names_is_left(mask: str, left: object) -> None:
    assert masks.apply(masks.parse(mask), BODY) == left


@pytest.mark.parametrize("mask", ["{", "a{", "a}b", "a{b", "{a", ",", "a b", "x" * 3000])
def test_a_mask_that_cannot_be_read_is_refused(mask: str) -> None:
    with pytest.raises(HordeError):
        masks.apply(masks.parse(mask), BODY)


@given(st.text("ab{},* ", max_size=30))
def test_no_mask_is_our_fault(mask: str) -> None:
    with contextlib.suppress(HordeError):
        masks.apply(masks.parse(mask), [BODY, 7])
