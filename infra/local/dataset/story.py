"""The whole way of a batch: requests, hold, release, download, readers, withdrawal, release."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from horde.rules.screening import Reason
from infra.local.dataset import checking
from infra.local.dataset.batch import DELIVERED_ONLY, Ask, Batch, Fate, Image, Sender
from infra.local.dataset.checking import operator, tool
from infra.local.dataset.releasing import Releasing
from infra.local.local_cloud import LocalCloud
from infra.local.processes import say
from infra.operate import withdraw_command

MOST_KEPT = 10_000
SHOWN = 20
"""Most problems of a kind that are shown."""


@dataclass
class Story:
    """What came of a batch; ``problems`` is empty if all of it is right."""

    cloud: LocalCloud
    folder: Path
    """Where the copies go; its content is deleted."""
    batch: Batch = field(default_factory=Batch)
    problems: list[str] = field(default_factory=list)
    scored: frozenset[str] = frozenset()
    """Images that the detector has kept back."""

    @property
    def copy(self) -> Path:
        """The copy of the newest release."""
        return self.folder / "release"

    @property
    def older(self) -> Path:
        """The copy of the first release, from which withdrawn images are removed."""
        return self.folder / "first-release"

    def run(self, requests: Sequence[Ask]) -> None:
        """Do all of it. Raises LocalCloudError or TimeoutError where it cannot go on."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        releasing = Releasing(self.cloud)
        self.batch = Sender(self.cloud, requests).run()
        say(f"{len(self.batch.images)} images are delivered, {self._incoming()} wait in incoming/")
        self._before_the_release(releasing)
        hold = releasing.set_hold(0)
        try:
            self._first_release(releasing)
            self._second_release(releasing)
        finally:
            releasing.set_hold(hold)

    def _before_the_release(self, releasing: Releasing) -> None:
        """Withdraw some images during the hold, and prove that the hold holds."""
        self._withdraw(releasing, Fate.WITHDRAWN)
        releasing.list_hashes(self.batch.hashes)
        waiting = set(self._waiting())
        say("the state machine runs while all images are held: nothing may be released")
        say(f"  {releasing.run()}")
        self._expect("the hold", waiting == set(self._waiting()))
        kinds = set(Fate) - DELIVERED_ONLY - {Fate.WITHDRAWN}
        expected = set(self.batch.of(*kinds))
        self._expect("incoming/ has what is shareable", waiting == expected)

    def _first_release(self, releasing: Releasing) -> None:
        say("the hold is set to 0 hours, on this machine alone: the next run releases them")
        say(f"  {releasing.run()}")
        self._note_kept()
        self._audit()
        self._load(releasing, self.older)
        self._check(self.older, Fate.RELEASED, Fate.REMOVED)

    def _second_release(self, releasing: Releasing) -> None:
        say("some released images are withdrawn, and the next release is made")
        self._withdraw(releasing, Fate.REMOVED)
        say(f"  {releasing.run()}")
        self._audit()
        self._load(releasing, self.copy)
        rows = self._check(self.copy, Fate.RELEASED)
        say("each library that researchers use reads the copy")
        (self.folder / "scratch").mkdir()
        found = checking.readers(self.copy, self.folder / "scratch")
        self._add(checking.wrong_readings(found, self.copy, rows))
        for reader, result in found.items():
            say(f"  {reader:<20}{len(result['found']):>7} images  {result['seconds']:>6} s")
        shutil.rmtree(self.folder / "scratch")
        source = f"s3://{releasing.bucket}"
        say(f"  {tool(self.cloud, 'apply-removed', self.older, '--from', source).strip()}")
        say(f"  {tool(self.cloud, 'verify', self.older).strip()}")
        older, newer = checking.ids_of(self.older), checking.ids_of(self.copy)
        self._expect("apply-removed leaves the newer release", sorted(older) == sorted(newer))

    def _withdraw(self, releasing: Releasing, fate: Fate) -> None:
        for name in self.batch.of(fate):  # as `bin/operator withdraw` does
            withdraw_command.withdraw(
                self.cloud.store, self.cloud.aws("s3"), releasing.bucket, name
            )

    def _load(self, releasing: Releasing, folder: Path) -> None:
        for arguments in (("download", f"s3://{releasing.bucket}", folder), ("verify", folder)):
            say(f"  horde-dataset {arguments[0]}: {tool(self.cloud, *arguments).strip()}")

    def _check(self, folder: Path, *fates: Fate) -> dict[str, Image]:
        """Compare a copy's rows with what was delivered; returns the images it should have."""
        names = set(self.batch.of(*fates)) - self.scored
        images = {name: self.batch.images[name] for name in names}
        never = self.batch.images.keys() - names
        self._add(checking.wrong_rows(folder, images, never))
        return images

    def _note_kept(self) -> None:
        """Note what was kept back, and check the reasons of what had to be."""
        kept = {one.id: one.reasons for one in self.cloud.store.releases.kept_back(MOST_KEPT)}
        for fate, reason in ((Fate.WORD, Reason.PROMPT), (Fate.HASH, Reason.HASH)):
            found = [reason in kept.get(name, "") for name in self.batch.of(fate)]
            self._expect(f"{fate} is kept back", all(found))
        ours = kept.keys() & set(self.batch.of(Fate.RELEASED, Fate.REMOVED))
        self.scored = frozenset(name for name in ours if kept[name] == Reason.SCORE)
        self._expect("nothing else is kept back", self.scored == ours)
        if ours:
            say(f"  the detector keeps {len(ours)} more back")

    def _audit(self) -> None:
        said = operator(self.cloud, "audit", "--bucket").strip().splitlines()[-1]
        self._expect(f"the audit: {said}", said.startswith("all in order"))
        say(f"  bin/operator audit --bucket: {said}")

    def _waiting(self) -> Iterator[str]:
        """Yield the ids of our images in ``incoming/``."""
        pages = self.cloud.aws("s3").get_paginator("list_objects_v2")
        bucket = self.cloud.outputs["LaionBucket"]
        for page in pages.paginate(Bucket=bucket, Prefix="incoming/"):
            for one in page.get("Contents", []):
                name = Path(one["Key"]).stem
                if name in self.batch.images:
                    yield name

    def _incoming(self) -> int:
        return len(list(self._waiting()))

    def _expect(self, what: str, is_so: bool) -> None:  # noqa: FBT001
        if not is_so:
            self.problems.append(f"not so: {what}")
            say(f"  WRONG: {what}")

    def _add(self, problems: Iterator[str]) -> None:
        found = list(problems)
        self.problems += found
        for problem in found[:SHOWN]:
            say(f"  WRONG: {problem}")


def table(story: Story) -> str:
    """Return what became of each kind of image: how many there were, and how many are released."""
    released = set(checking.ids_of(story.copy))
    lines = [f"{'images':>7}{'released':>10}  "]
    for fate, images in story.batch.counts().items():
        lines.append(f"{images:>7}{len(released & set(story.batch.of(fate))):>10}  {fate}")
    return "\n".join(lines)
