"""Which delivered images reach the data set, when, and what their rows say about their worker."""

from typing import Any

import pytest

from horde.records import HELD_DAYS
from horde.rules.sharing import TRUSTED_AFTER_S, DrawnBy
from infra.operate import withdraw_command
from tests.support.api_calls import ANONYMOUS
from tests.support.cloud import Cloud

HELD_FOR_S = HELD_DAYS * 24 * 60 * 60


@pytest.fixture
def stranger(cloud: Cloud) -> tuple[int, str]:
    """A volunteer whom nobody trusts: its account and its worker key."""
    user, _ = cloud.register("stranger")
    return user, cloud.worker_key(user)


def rows(cloud: Cloud) -> list[dict[str, Any]]:
    """Return the rows in the data set."""
    return [row for _, row in cloud.archives().values()]


def held(cloud: Cloud) -> list[str]:
    """Return the ids of the images that are held back."""
    return sorted(cloud.archives("Held"))


def drawn(cloud: Cloud, key: str, n: int = 1, **worker: Any) -> list[str]:
    """Draw an anonymous request's images and move every edge."""
    assert cloud.generate(ANONYMOUS, params={"n": n}).status == 202
    images = cloud.draw(key, **worker)
    cloud.settle_async()
    return images


def released(cloud: Cloud) -> None:
    """Let the sweep ask for the release of held images, and ``share`` do it."""
    cloud.sweep()
    cloud.deliver("share")


# --- who drew it ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"fleet": True, "trusted": True}, DrawnBy.ENDPOINT),
        ({"trusted": True}, DrawnBy.TRUSTED),
    ],
)
def test_a_row_says_who_drew_it(
    cloud: Cloud, stranger: tuple[int, str], flags: dict[str, bool], says: DrawnBy
) -> None:
    user, key = stranger
    cloud.set_flags(user, **flags)
    drawn(cloud, key)
    assert [row["drawn_by"] for row in rows(cloud)] == [says]


def test_an_operator_may_publish_what_strangers_drew_and_the_row_says_so(
    cloud: Cloud, stranger: tuple[int, str]
) -> None:
    cloud.overrides["HOLD_VOLUNTEERS"] = "false"
    drawn(cloud, stranger[1])
    assert [row["drawn_by"] for row in rows(cloud)] == [DrawnBy.UNTRUSTED]


# --- held back ------------------------------------------------------------------------------------


def test_what_a_stranger_drew_is_held_back(cloud: Cloud, stranger: tuple[int, str]) -> None:
    (image,) = drawn(cloud, stranger[1])
    released(cloud)
    assert cloud.laion() == {}
    assert held(cloud) == [image]


def test_a_held_image_is_published_when_the_operator_trusts_its_worker(
    cloud: Cloud, stranger: tuple[int, str]
) -> None:
    user, key = stranger
    (image,) = drawn(cloud, key)
    bytes_held, _ = cloud.archives("Held")[image]
    cloud.set_flags(user, trusted=True)
    released(cloud)
    assert [(row["id"], row["drawn_by"]) for row in rows(cloud)] == [(image, DrawnBy.TRUSTED)]
    assert cloud.archives()[image][0] == bytes_held
    assert held(cloud) == []
    assert cloud.rows("HELD") == []


@pytest.mark.lengthy
def test_a_week_and_enough_images_make_a_volunteer_trusted(
    cloud: Cloud, stranger: tuple[int, str]
) -> None:
    user, key = stranger
    cloud.overrides["TRUSTED_AFTER_IMAGES"] = "2"
    drawn(cloud, key, n=2)
    cloud.pay()
    released(cloud)
    assert cloud.laion() == {}
    cloud.clock.pass_seconds(TRUSTED_AFTER_S)
    released(cloud)
    assert len(rows(cloud)) == 2
    account = cloud.store.accounts.get(user)
    assert account is not None
    assert account.trusted


def test_a_week_without_enough_images_makes_nobody_trusted(
    cloud: Cloud, stranger: tuple[int, str]
) -> None:
    cloud.overrides["TRUSTED_AFTER_IMAGES"] = "2"
    drawn(cloud, stranger[1])
    cloud.pay()
    cloud.clock.pass_seconds(TRUSTED_AFTER_S)
    released(cloud)
    assert cloud.laion() == {}


def test_a_release_that_comes_again_publishes_nothing_anew(
    cloud: Cloud, stranger: tuple[int, str]
) -> None:
    user, key = stranger
    (image,) = drawn(cloud, key)
    cloud.set_flags(user, trusted=True)
    cloud.sweep()
    cloud.sweep()  # before the first release has been worked on: the message is there twice
    cloud.deliver("share")
    assert withdraw_command.withdraw(cloud.store, cloud.s3, cloud.bucket("Laion"), image) == 1
    released(cloud)
    assert cloud.laion() == {}


def test_a_release_that_died_after_publishing_is_finished(
    cloud: Cloud, stranger: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    user, key = stranger
    (image,) = drawn(cloud, key)
    cloud.set_flags(user, trusted=True)
    with monkeypatch.context() as patch:
        patch.setattr(type(cloud.store.held), "remove", dies)
        released(cloud)
    assert [row["id"] for row in rows(cloud)] == [image]
    released(cloud)
    assert cloud.rows("HELD") == []
    assert [row["id"] for row in rows(cloud)] == [image]


def dies(*_: object) -> None:
    """Stand for a process that is killed."""
    raise ConnectionError


@pytest.mark.lengthy
def test_an_image_that_nobody_trusts_in_time_is_forgotten(
    cloud: Cloud, stranger: tuple[int, str]
) -> None:
    user, key = stranger
    drawn(cloud, key)
    cloud.clock.pass_seconds(HELD_FOR_S)
    cloud.set_flags(user, trusted=True)
    released(cloud)
    assert cloud.laion() == {}


# --- never ----------------------------------------------------------------------------------------


def test_nothing_of_a_flagged_owners_workers_is_published(
    cloud: Cloud, owner: int, worker: str
) -> None:
    cloud.generate(ANONYMOUS)
    cloud.draw(worker)
    cloud.set_flags(owner, flagged=True)
    cloud.settle_async()
    assert cloud.laion() == {}


def test_nothing_of_a_deleted_account_is_published(cloud: Cloud, worker: str) -> None:
    user, key = cloud.register("ada", kudos=100)
    cloud.generate(key, shared=True)
    cloud.draw(worker)
    cloud.set_flags(user, deleted=True)
    cloud.settle_async()
    assert cloud.laion() == {}


def test_a_held_image_of_a_deleted_account_is_never_published(
    cloud: Cloud, stranger: tuple[int, str]
) -> None:
    user, key = cloud.register("ada", kudos=100)
    cloud.generate(key, shared=True)
    cloud.draw(stranger[1])
    cloud.settle_async()
    assert held(cloud)
    cloud.set_flags(user, deleted=True)
    cloud.set_flags(stranger[0], trusted=True)
    released(cloud)
    assert cloud.laion() == {}
    assert held(cloud) == []
