"""Step Functions -> screen: look at a batch of images that wait for a release.

Of each image the score of a detector, its hashes and its prompt decide whether it may be published.
What may not is moved to the private bucket of held images, for the operator. The result of a batch
is one object. A batch without it has not been screened, and ``pack`` leaves its images where they
are: a detector that is down delays, and never skips. What passes gets the score of the operator's
aesthetic scorer, if there is one; a scorer that fails is logged, and nothing waits for it.

Crash windows of what is kept back: the copy is written, then the record, then the file that waits
is deleted. Whatever of it was done is done again by the next run, and nothing publishes an image
whose record says that it is kept back.
"""

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Annotated, Any

from pydantic import BeforeValidator

from horde import aws, dataset, detector, images, startup
from horde.log import logger
from horde.release import scoring, work
from horde.release.work import Folder
from horde.rules.columns import AT_INTAKE, IN_SHARD, checked
from horde.rules.screening import BY_OPERATOR, HashList, Reason, parse_words, reasons
from horde.store import Store, connect
from horde.store.releases import KeptBack

THREADS = 4
"""Images of a batch that are read at once; the detector uses one core."""


class Settings(work.Settings):
    """The names of this function's resources, and the operator's rules."""

    detector: str
    nsfw_threshold: float
    screening_words: Annotated[list[str], BeforeValidator(json.loads)]
    aesthetic_scorer: str = ""
    """The scorer's object in the work bucket; empty for none."""


def screen(release: str, name: str) -> dict[str, Any]:
    """Screen a batch of a release; returns how many passed, and how many were kept back by reason.

    Raises DetectorError if the detector does not answer.
    """
    settings = Settings.load()
    store, bench = connect(settings.table_name), work.Bench(settings.work_bucket, release)
    done = bench.read(Folder.SCREENED.of(name))
    if done is not None:
        return _summary(done)
    batch = bench.must_read(Folder.BATCHES.of(name))
    _scorer()  # before the threads, of which each would load it
    look = partial(_look, _words(), _hashes())
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(look, batch["images"]))
    passed: list[dict[str, Any]] = []
    kept: Counter[str] = Counter()
    for image, (columns, why, file) in zip(batch["images"], found, strict=True):
        if file is None:
            continue  # it was withdrawn since the release was planned
        if not why:
            passed.append({"key": image["key"], "size": image["size"], **columns})
        elif _keep_back(store, image["key"], batch["date"], columns, why, file):
            kept[", ".join(why)] += 1
    done = {"passed": passed, "kept_back": dict(kept)}
    bench.write(Folder.SCREENED.of(name), done)
    return _summary(done)


def _summary(done: dict[str, Any]) -> dict[str, Any]:
    return {"passed": len(done["passed"]), "kept_back": done["kept_back"]}


def _look(
    words: list[str], hashes: HashList, image: dict[str, Any]
) -> tuple[dict[str, Any], list[Reason], bytes | None]:
    """Return the columns of an image's screening, why it is kept back, and its archive."""
    settings = Settings.load()
    archive = work.read(image["key"])
    if archive is None:
        return {}, [], None
    nothing = {"id": work.id_of(image["key"]), "nsfw_score": 0.0}
    try:
        file, row = dataset.unpack(archive)
        by_operator = row.get("screened_by") == BY_OPERATOR
        row |= checked(row, AT_INTAKE)
        if row["id"] != nothing["id"] or len(file) != row["bytes"]:
            return nothing, [Reason.UNREADABLE], archive
    except (ValueError, KeyError, OSError, EOFError, *dataset.BROKEN):
        return nothing, [Reason.UNREADABLE], archive
    try:
        seen = detector.screened(file, settings.detector)
    except (OSError, SyntaxError):
        return nothing, [Reason.UNREADABLE], archive
    why = reasons(
        row,
        seen,
        threshold=settings.nsfw_threshold,
        words=words,
        hashes=hashes,
    )
    columns = {**seen.columns(), **({"screened_by": BY_OPERATOR} if by_operator else {})}
    checked({**row, **columns}, IN_SHARD)
    found = {"id": row["id"], **columns}
    scorer = None if why else _scorer()
    return {**found, **scorer.columns(file)} if scorer else found, why, archive


def _keep_back(
    store: Store,
    key: str,
    date: str,
    columns: dict[str, Any],
    why: Iterable[Reason],
    archive: bytes,
) -> bool:
    """Move an image to what is kept back; returns False if it has been withdrawn."""
    settings = Settings.load()
    name = work.id_of(key)
    dataset.write(aws.s3(), settings.held_bucket, work.kept(name), archive)
    score = f"{columns['nsfw_score']:.4f}"
    there = store.releases.keep_back(KeptBack(name, date, ", ".join(why), score))
    if not there:
        dataset.delete(aws.s3(), settings.held_bucket, work.kept(name))
    dataset.delete(work.bucket(), settings.laion_bucket, key)
    return there


def _words() -> list[str]:
    """Return the words of the settings and of the operator's list, as it is now."""
    settings = Settings.load()
    text = work.Bench(settings.work_bucket, "").read_text(work.WORDS)
    return settings.screening_words + (parse_words(text) if text else [])


def _hashes() -> HashList:
    """Return the operator's list of hashes, as it is now."""
    bench = work.Bench(Settings.load().work_bucket, "")
    text = bench.read_text(work.HASHES)
    return HashList.parse(text) if text else HashList()


@cache
def _scorer() -> scoring.Scorer | None:
    """Return the operator's aesthetic scorer; a process reads it once."""
    settings = Settings.load()
    if not settings.aesthetic_scorer:
        return None
    data = images.read(aws.s3(), settings.work_bucket, settings.aesthetic_scorer)
    try:
        if data is None:
            message = "there is no such object"
            raise scoring.ScorerError(message)  # noqa: TRY301
        return scoring.Scorer(data)
    except scoring.ScorerError as error:
        logger.error("no scorer", extra={"scorer": settings.aesthetic_scorer, "why": str(error)})
        return None


startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point: a batch by its key in the work bucket."""
    found = screen(event["release"], work.name_of(event["key"]))
    logger.info("screened", extra=found)
    return found
