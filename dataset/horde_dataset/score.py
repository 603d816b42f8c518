"""Scoring the images of a copy by a scorer that ``train`` has written."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from horde_dataset import embeddings, graph, pictures, tables
from horde_dataset.embeddings import Model, Task
from horde_dataset.errors import DatasetError, shown
from horde_dataset.pictures import PLACE, Place

MAX_MODEL = 2**31 - 1
"""Most bytes of a scorer: protobuf has no larger ones."""
DIGITS = 4


def opened(path: Path) -> tuple[Model, str, bytes]:
    """Return a scorer, its version and the SHA-256 of its file. Raises DatasetError."""
    if not path.is_file():
        raise DatasetError(f"there is no file {shown(path)}")
    if path.stat().st_size > MAX_MODEL:
        raise DatasetError(f"{shown(path)} is larger than {MAX_MODEL} bytes")
    data = path.read_bytes()
    model = Model(data, graph.SCORE, path)
    session = model.session
    noted = session.get_modelmeta().custom_metadata_map
    inputs = [(one.name, one.type, one.shape[-1:]) for one in session.get_inputs()]
    version = str(noted.get("aesthetic_version", ""))
    if (
        noted.get("format") != graph.FORMAT
        or inputs != [(graph.IMAGE, "tensor(uint8)", [3])]
        or [one.name for one in session.get_outputs()] != [graph.SCORE]
        or not version
    ):
        raise DatasetError(f"{shown(path)} is no scorer that horde-dataset train has written")
    return model, shown(version), hashlib.sha256(data).digest()


def score(folder: Path, scorer: Path, target: Path) -> tuple[int, dict[str, int]]:
    """Write id, aesthetic_score and aesthetic_version of all images to a parquet file.

    An image that cannot be scored has a score of null and an empty version. Returns how many have
    a score, and how many have none, and why. Raises DatasetError.
    """
    if target.suffix != ".parquet":
        raise DatasetError(f"{shown(target)} does not end with .parquet")
    copy = pictures.opened(folder)
    model, version, key = opened(scorer)
    cache = embeddings.Cache(target.with_name(f"{target.name}.cache"), key, 1)
    problems: Counter[str] = Counter()
    ids: list[str] = []
    scores: list[float | None] = []
    try:
        for task, row in embeddings.each(
            model,
            cache,
            folder,
            copy.layout,
            _tasks(folder),
            problems,
            total=int(copy.fields["images"]),
            what="score",
        ):
            ids.append(task.place.image)
            scores.append(None if row is None else round(float(row[0]), DIGITS))
    finally:
        cache.close()
    with tables.connected() as connection:
        connection.execute(
            "CREATE TEMP TABLE scored AS SELECT unnest(?::VARCHAR[]) AS id, "
            "unnest(?::DOUBLE[]) AS aesthetic_score",
            [ids, scores],
        )
        query = (
            "SELECT id, aesthetic_score, CASE WHEN aesthetic_score IS NULL THEN '' "  # noqa: S608
            f"ELSE {tables.quoted(version)} END AS aesthetic_version FROM scored"
        )
        tables.write(connection, query, target)
    return sum(one is not None for one in scores), dict(problems)


def _tasks(folder: Path) -> Iterator[Task]:
    table = folder / "metadata.parquet"
    with tables.connected() as connection:
        found = connection.execute(
            f"SELECT {PLACE}, coalesce(sha256::VARCHAR, '') FROM {tables.rows(table)} "  # noqa: S608
            'ORDER BY shard, "offset"'
        )
        while batch := found.fetchmany(tables.BATCH):
            for *place, sha256 in batch:
                yield Task(Place(*place), sha256)
