"""Who may see and change an account: what is true of the anonymous one, and of odd numbers."""

from dataclasses import replace

import pytest

from horde.records import User
from horde.rules import accounts, refusals
from horde.rules.accounts import Privilege
from horde.rules.ruleset import IN_FORCE

ADA = User(id=7, alias="a", kudos=0, floor=0, created_at=0)
BOB = User(id=8, alias="b", kudos=0, floor=0, created_at=0)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("007", 7),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),
        ("٣", None),
        ("²", None),
        ("-1", None),
        ("", None),
    ],
)
def test_an_account_number_is_up_to_18_ascii_digits(text: str, number: int | None) -> None:
    assert accounts.user_number(text) == number


def test_the_anonymous_account_has_nothing_but_its_floor() -> None:
    floor = IN_FORCE.floor_anonymous
    assert accounts.anonymous() == User(
        id=0, alias="Anonymous", kudos=floor, floor=floor, created_at=0
    )


def test_nobody_owns_or_administers_as_the_anonymous_account() -> None:
    nobody = accounts.anonymous()
    assert accounts.privilege(nobody, nobody, "") is Privilege.PUBLIC
    assert accounts.privilege(None, ADA, "") is Privilege.PUBLIC
    assert not accounts.is_admin(nobody, "0")
    with pytest.raises(refusals.NotOwner):
        accounts.check_owner(nobody, nobody, "")


def test_owners_moderators_and_admins_see_more() -> None:
    assert accounts.privilege(ADA, ADA, "") is Privilege.OWNER
    assert accounts.privilege(BOB, ADA, "") is Privilege.PUBLIC
    assert accounts.privilege(BOB, ADA, "77, 8") is Privilege.MODERATOR
    assert accounts.privilege(replace(BOB, moderator=True), ADA, "") is Privilege.MODERATOR


def test_a_name_has_up_to_30_characters() -> None:
    accounts.check_change({"username": "n" * 30}, ADA, ADA, "")
    with pytest.raises(refusals.TooLongUserName):
        accounts.check_change({"username": "n" * 31}, ADA, ADA, "")
