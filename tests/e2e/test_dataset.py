"""A batch of every kind of image becomes a release: the real state machine, with IAM enforced.

It is the code of ``make dataset`` with few images. Images of other tests are in the release, too.
"""

from pathlib import Path

import pytest

from infra.local.dataset.batch import Fate, asks
from infra.local.dataset.checking import ids_of
from infra.local.dataset.story import Story
from infra.values import WORDS
from tests.e2e.conftest import OperatedCloud

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

IMAGES, SIDE = 24, 64
PROMPTS = ("a fox by a lake", "a lighthouse at night")


@pytest.fixture(scope="module")
def story(cloud: OperatedCloud, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """The batch, its two releases, and the copies of them."""
    cloud.all_judged()
    story = Story(cloud.local, tmp_path_factory.mktemp("dataset") / "copies")
    story.run(asks(IMAGES, PROMPTS, SIDE, WORDS[0]))
    return story


def test_all_that_is_shareable_is_released_as_delivered_and_read_by_each_library(
    story: Story,
) -> None:
    assert story.problems == []
    released = ids_of(story.copy)
    assert sorted(set(released) & story.batch.images.keys()) == sorted(
        set(story.batch.of(Fate.RELEASED)) - story.scored
    )


@pytest.mark.parametrize("fate", [fate for fate in Fate if fate is not Fate.RELEASED])
def test_what_may_not_be_released_is_not(story: Story, fate: Fate) -> None:
    names = story.batch.of(fate)
    assert names
    assert not set(names) & set(ids_of(story.copy))
    everything = (path for path in story.copy.rglob("*") if path.is_file())
    held = [path for path in everything if path.parent.name.startswith("date=")]
    held = [path for path in held if path.parent.parent.name != "removed"]
    assert not [path for path in held for name in names if name.encode() in path.read_bytes()]


def test_the_copies_have_the_documents_of_a_release(story: Story) -> None:
    names = {path.relative_to(story.copy).as_posix() for path in Path(story.copy).iterdir()}
    documents = {"README.md", "LICENSE", "croissant.json", "metadata.parquet", "manifest.json"}
    assert documents | {"contact-sheet.webp", "images", "metadata", "removed"} <= names
