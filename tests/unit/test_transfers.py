"""Who may give kudos to whom: each refusal has the Horde's code."""

from dataclasses import replace
from typing import Any

import pytest

from horde.records import ANONYMOUS_ID, User
from horde.rules import transfers
from horde.rules.refusals import KudosTransferRefused

SENDER = User(id=1, alias="s", kudos=30, floor=14, created_at=0)
RECEIVER = User(id=2, alias="r", kudos=0, floor=0, created_at=0)


def refusal(call: Any, *arguments: Any, **named: Any) -> str | None:
    """Return the code of the refusal, or None."""
    try:
        call(*arguments, **named)
    except KudosTransferRefused as error:
        return str(error.body()["rc"])
    return None


@pytest.mark.parametrize(
    ("sender", "receiver", "amount", "recently", "code"),
    [
        ({}, {}, 16, False, None),
        ({}, {}, 1, False, None),
        ({}, {}, 17, False, "KudosTransferNotEnough"),
        ({"kudos": 13}, {}, 1, False, "KudosTransferNotEnough"),
        ({}, {}, 0, False, "InvalidKudosTransferAmount"),
        ({}, {}, -1, False, "NegativeKudosTransfer"),
        ({"id": ANONYMOUS_ID}, {}, 1, False, "KudosTransferFromAnon"),
        ({"id": ANONYMOUS_ID}, {}, 0, False, "KudosTransferFromAnon"),
        ({"flagged": True}, {}, 1, False, "SourceAccountFlagged"),
        ({}, {"id": ANONYMOUS_ID}, 1, False, "KudosTransferToAnon"),
        ({}, {"id": 1}, 1, False, "KudosTransferToSelf"),
        ({}, {"deleted": True}, 1, False, "DeletedUser"),
        ({}, {"flagged": True}, 1, False, "TargetAccountFlagged"),
        ({}, {}, 1, True, "TooFastKudosTransfers"),
    ],
)
def test_a_transfer_is_refused_with_the_hordes_code(
    sender: dict[str, Any], receiver: dict[str, Any], amount: int, recently: bool, code: str | None
) -> None:
    giver, getter = replace(SENDER, **sender), replace(RECEIVER, **receiver)
    found = refusal(transfers.check, giver, getter, amount, received_recently=recently)
    assert found == code


def test_a_sender_below_his_floor_is_told_that_he_can_transfer_nothing() -> None:
    with pytest.raises(KudosTransferRefused, match="can transfer 0 of your 13"):
        transfers.check(replace(SENDER, kudos=13), RECEIVER, 1, received_recently=False)


@pytest.mark.parametrize(
    ("receiver", "amount", "code"),
    [
        ({}, 1, None),
        ({}, 0, "InvalidKudosTransferAmount"),
        ({}, -1, "NegativeKudosTransfer"),
        ({"id": ANONYMOUS_ID}, 1, "KudosAwardToAnon"),
        ({"id": 1}, 1, "KudosTransferToSelf"),
        ({"deleted": True}, 1, "DeletedUser"),
        ({"flagged": True}, 1, "TargetAccountFlagged"),
    ],
)
def test_an_award_is_refused_with_the_hordes_code(
    receiver: dict[str, Any], amount: int, code: str | None
) -> None:
    getter = replace(RECEIVER, **receiver)
    assert refusal(transfers.check_award, SENDER, getter, amount) == code
