"""Every call that a flow makes of DynamoDB is the one that was read and approved.

Each condition of a transaction, each key and the order of two effects is in them, whether or not
anything else shows a change. ``tests.support.approved`` says how to approve a change.
"""

from typing import Any

import pytest

from tests.support.approved import approved, calls, short
from tests.support.crashes import Flow, worlds
from tests.support.crashflows import FLOWS


def flows() -> list[Any]:
    """Return all flows; those that call what another one calls are for the whole suite."""
    _, in_flows = approved()
    seen, found = set[tuple[str, ...]](), []
    for flow in FLOWS:
        made = tuple(in_flows.get(flow.name, []))
        found.append(pytest.param(flow, id=flow.name, marks=[pytest.mark.slow] * (made in seen)))
        seen.add(made)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("flow", flows())
def test_a_flow_makes_the_calls_that_were_approved(
    template: dict[str, Any], clients: dict[str, Any], flow: Flow
) -> None:
    known, in_flows = approved()
    expected = in_flows[flow.name]
    with worlds(template, clients) as world:
        made = calls(world, flow)
    assert made == [known[name] for name in expected]


def test_no_approved_call_is_left_over() -> None:
    known, in_flows = approved()
    assert set(in_flows) == {flow.name for flow in FLOWS}
    assert {name for names in in_flows.values() for name in names} == set(known)
    assert {short(call) for call in known.values()} == set(known)
