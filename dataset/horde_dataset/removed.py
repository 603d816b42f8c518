"""Taking withdrawn images out of a copy.

Crash window: a part's successor is complete before the part is deleted, the table follows the last
part, and the manifest comes last. A mark lies in the folder meanwhile. A repeated run finds for
each part of the manifest its newest version that is complete, and goes on from there.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from horde_dataset import files, manifest, sources, tables, tars
from horde_dataset.download import ID_PATTERN, load, tidy, whole
from horde_dataset.errors import DatasetError
from horde_dataset.manifest import IMAGES, Entry, Manifest, Part
from horde_dataset.sources import Source

SHOWS_ALL = ("contact-sheet.webp", "croissant.json")
"""Files that show or list the images of the whole release: a copy with fewer has none."""
TABLE = "metadata.parquet"


def apply_removed(folder: Path, source: Source | None) -> int:
    """Remove from a copy every image with a tombstone; return how many. Raises DatasetError.

    Tombstones are those of the copy, and those of the source's newest release if there is a source.
    """
    copy = files.read_manifest(folder)
    mark = files.mark_of(folder)
    if mark is not None and mark.get("command") != "apply-removed":
        raise DatasetError(f"a download to {folder} was interrupted: run it again first")
    entries = {entry.path: entry for entry in copy.files}
    if source:
        release = sources.read_manifest(source)
        new = [entry for entry in release.files if entry.path.startswith("removed/")]
        files.set_mark(folder, command="apply-removed")
        load(source, folder, whole(new), 1, "tombstones")
        entries |= {entry.path: entry for entry in new}
    tombstones = [entry for path, entry in entries.items() if path.startswith("removed/")]
    for entry in tombstones:
        if not files.is_there(folder, entry):
            raise DatasetError(f"{entry.path} is missing or damaged: download it again")
    removed = tables.removed_ids([folder / entry.path for entry in tombstones])
    files.set_mark(folder, command="apply-removed")
    kept = [entry for path, entry in entries.items() if path not in SHOWS_ALL]
    kept = [entry for entry in kept if not manifest.part_of(entry.path) and entry.path != TABLE]
    work = (
        _Images(folder, copy, removed) if copy.layout == IMAGES else _Parts(folder, copy, removed)
    )
    made, images = work.run()
    shows = [entry for path, entry in entries.items() if path in SHOWS_ALL]
    unchanged = images == copy.fields["images"] and not work.rewritten
    if not unchanged:
        for entry in shows:
            files.delete(folder / entry.path)
        shows = []
    everything = [*kept, *shows, *made]
    tidy(folder, [entry.path for entry in everything], None)
    if not unchanged or len(everything) != len(copy.files):
        files.write(folder / manifest.NAME, copy.of_copy(everything, images).raw)
    files.lift_mark(folder)
    return int(copy.fields["images"]) - images


@dataclass
class _Images:
    """A copy of extracted images."""

    folder: Path
    copy: Manifest
    removed: AbstractSet[str]
    rewritten: bool = False

    def run(self) -> tuple[list[Entry], int]:
        """Remove them; return the entry of the table, and the number of images left."""
        table = self.folder / TABLE
        gone = self.removed & set(tables.column([table], "id"))
        for image in self.removed:
            if ID_PATTERN.fullmatch(image):
                files.delete(self.folder / "images" / f"{image}.webp")
        if gone:
            tables.drop(table, table, gone)
        images = tables.count(table)
        entry = files.entry_of(self.folder, TABLE, images)
        self.rewritten = entry != self.copy.by_path.get(TABLE)
        return [entry], images


@dataclass
class _Parts:
    """A copy of whole parts, with their images or without."""

    folder: Path
    copy: Manifest
    removed: AbstractSet[str]
    rewritten: bool = False

    def run(self) -> tuple[list[Entry], int]:
        """Rewrite the parts; return the entries of parts and table, and the images left."""
        made: list[Entry] = []
        with_images = {part.base for part, _ in self.copy.parts("images")}
        parts = self.copy.parts("metadata")
        for part, _ in tqdm(parts, desc="apply-removed", unit="part", disable=None):
            kinds = ("images", "metadata") if part.base in with_images else ("metadata",)
            made += self._part(part, kinds)
        tables_left = [entry for entry in made if entry.path.startswith("metadata/")]
        images = sum(entry.images or 0 for entry in tables_left)
        listed = self.copy.by_path.get(TABLE)
        if listed is None:
            return made, images
        if not self.rewritten and files.is_there(self.folder, listed):
            return [*made, listed], images
        self.rewritten = True
        if tables_left:
            places = [self.folder / entry.path for entry in tables_left]
            tables.join(places, self.folder / TABLE)
        else:
            tables.drop(self.folder / TABLE, self.folder / TABLE, self.removed)
        return [*made, files.entry_of(self.folder, TABLE, images)], images

    def _part(self, part: Part, kinds: tuple[str, ...]) -> list[Entry]:
        """Return the entries of a part, as it is after its withdrawn images are gone."""
        current = self._current(part, kinds)
        if current is None:
            self._check_all_gone(part)
            self.rewritten = True
            for kind in kinds:
                files.delete(self.folder / part.at(kind))
            return []
        rows = self.folder / part.at("metadata", current)
        ids = list(tables.column([rows], "id"))
        if not self.removed.isdisjoint(ids):
            self.rewritten = True
            left = sum(image not in self.removed for image in ids)
            self._check_whole(part, current, kinds)
            if left:
                self._rewrite(part, current, kinds)
            for kind in kinds:
                files.delete(self.folder / part.at(kind, current))
            if not left:
                return []
            return self._entries(part, current + 1, kinds, left)
        if current == part.rewrite:
            return [self.copy.by_path[part.at(kind)] for kind in kinds]
        self.rewritten = True  # by a run that was interrupted
        return self._entries(part, current, kinds, len(ids))

    def _entries(self, part: Part, at: int, kinds: tuple[str, ...], images: int) -> list[Entry]:
        return [files.entry_of(self.folder, part.at(kind, at), images) for kind in kinds]

    def _current(self, part: Part, kinds: tuple[str, ...]) -> int | None:
        """Return the number of a part's version that counts; None where there is none."""

        def whole_at(number: int) -> bool:
            return all((self.folder / part.at(kind, number)).is_file() for kind in kinds)

        if whole_at(part.rewrite):
            return part.rewrite
        folder = self.folder / Path(part.at("metadata")).parent
        found = []
        for path in folder.glob(f"{part.base}*.parquet"):
            other = manifest.part_of(path.relative_to(self.folder).as_posix())
            if other and other.base == part.base and other.rewrite > part.rewrite:
                found.append(other.rewrite)
        return max(filter(whole_at, found), default=None)

    def _check_whole(self, part: Part, current: int, kinds: tuple[str, ...]) -> None:
        """Raise DatasetError where a part that is to be rewritten is damaged."""
        for kind in kinds:
            entry = self.copy.by_path[part.at(kind)]
            if current == part.rewrite and not files.is_there(self.folder, entry):
                raise DatasetError(f"{entry.path} is damaged: download it again, or run verify")

    def _check_all_gone(self, part: Part) -> None:
        """Raise DatasetError unless a part that is not there had withdrawn images alone."""
        table = self.folder / TABLE
        left: set[str] = set()
        known = table.is_file()
        if known:
            with tables.connected() as connection:
                query = f"SELECT id FROM {tables.rows(table)} WHERE shard = ?"  # noqa: S608
                for number in (part.rewrite, part.rewrite + 1):
                    found = connection.execute(query, [part.at("images", number)])
                    left |= {row[0] for row in found.fetchall()}
        if not known or left - self.removed:
            raise DatasetError(f"{part.base} is missing: download it again, or run verify")

    def _rewrite(self, part: Part, current: int, kinds: tuple[str, ...]) -> None:
        """Write a part's successor, without the withdrawn images."""
        old, new = (self.folder / part.at("metadata", number) for number in (current, current + 1))
        if "images" not in kinds:
            tables.drop(old, new, self.removed)
            return
        shard = part.at("images", current + 1)
        with files.writing(self.folder / shard) as file:
            places = tars.cut(self.folder / part.at("images", current), file, self.removed)
        if tables.move(old, new, shard, places) != len(places):
            raise DatasetError(f"{part.at('images')} has other images than its table: run verify")
