"""The columns of the data set, written once.

The row beside each image, the parquet files, ``croissant.json``, the table in the data set's card
and the tests are made from this list.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple


class Type(StrEnum):
    """A column's type, as DuckDB names it. None is unsigned and none has a zone.

    Athena and Glue read all of these.
    """

    TEXT = "VARCHAR"
    INT = "INTEGER"
    LONG = "BIGINT"
    FLOAT = "DOUBLE"
    BOOL = "BOOLEAN"


class Source(StrEnum):
    """Who knows a column's value, and when."""

    REQUEST = "the request"
    DELIVERY = "the delivery"
    SCREENING = "the screening"
    RELEASE = "the release"
    SCORER = "the aesthetic scorer"


class Column(NamedTuple):
    """A column: never a list, and null only where it says so."""

    name: str
    type: Type
    source: Source
    meaning: str
    nullable: bool = False


COLUMNS = (
    Column("id", Type.TEXT, Source.DELIVERY, "id of the image, a random UUID"),
    Column("set", Type.TEXT, Source.REQUEST, "keyed hash of the request: the same for its images"),
    Column("batch_index", Type.INT, Source.REQUEST, "number of the image in its request, from 0"),
    Column("created_on", Type.TEXT, Source.DELIVERY, "day of the delivery in UTC, as 2026-11-28"),
    Column("prompt", Type.TEXT, Source.REQUEST, "what was to be drawn"),
    Column("negative_prompt", Type.TEXT, Source.REQUEST, "what was to be avoided, or empty"),
    Column("seed", Type.LONG, Source.DELIVERY, "seed of the image; of 2^63 and more: minus 2^64"),
    Column("steps", Type.INT, Source.REQUEST, "steps of the sampler, as requested"),
    Column("cfg_scale", Type.FLOAT, Source.REQUEST, "scale of classifier-free guidance"),
    Column("sampler", Type.TEXT, Source.REQUEST, "name of the sampler in the Horde's API"),
    Column("karras", Type.BOOL, Source.REQUEST, "whether the noise followed Karras' schedule"),
    Column("clip_skip", Type.INT, Source.REQUEST, "which of CLIP's last layers was read, from 1"),
    Column("hires_fix", Type.BOOL, Source.REQUEST, "whether a smaller image was drawn first"),
    Column("tiling", Type.BOOL, Source.REQUEST, "whether the image tiles"),
    Column("width", Type.INT, Source.REQUEST, "pixels across"),
    Column("height", Type.INT, Source.REQUEST, "pixels down"),
    Column("model", Type.TEXT, Source.DELIVERY, "the Horde's name of the model"),
    Column("model_sha256", Type.TEXT, Source.DELIVERY, "SHA-256 of the weights; empty: unknown"),
    Column("model_license", Type.TEXT, Source.DELIVERY, "licence of the weights; empty: unknown"),
    Column("backend", Type.TEXT, Source.DELIVERY, "software that drew it, or other"),
    Column("backend_version", Type.TEXT, Source.DELIVERY, "its version, as it says; or empty"),
    Column("post_processing", Type.TEXT, Source.REQUEST, "post-processors, joined by a comma"),
    Column("loras", Type.TEXT, Source.REQUEST, "LoRAs as name:strength:strength of the encoder"),
    Column("tis", Type.TEXT, Source.REQUEST, "textual inversions as name:strength"),
    Column("drawn_by", Type.TEXT, Source.DELIVERY, "endpoint, or trusted or untrusted volunteer"),
    Column(
        "user_hash",
        Type.TEXT,
        Source.REQUEST,
        "keyed hash of the account, a new one each year; empty for anonymous requests",
    ),
    Column("user_type", Type.TEXT, Source.REQUEST, "anon or pseudonymous"),
    Column("consent", Type.TEXT, Source.REQUEST, "request-flag or anonymous-default"),
    Column("terms_version", Type.TEXT, Source.REQUEST, "version of the terms that were in force"),
    Column("license", Type.TEXT, Source.REQUEST, "licence of image and row: CC0-1.0"),
    Column("nsfw_requested", Type.BOOL, Source.REQUEST, "whether the request allowed nudity"),
    Column("censored", Type.BOOL, Source.DELIVERY, "whether it is a placeholder: always false"),
    Column("nsfw_score", Type.FLOAT, Source.SCREENING, "score of the detector, 0 to 1"),
    Column("screened_by", Type.TEXT, Source.SCREENING, "detector and its version, or operator"),
    Column("sha256", Type.TEXT, Source.DELIVERY, "SHA-256 of the image file"),
    Column("md5", Type.TEXT, Source.DELIVERY, "MD5 of the image file, for hash lists"),
    Column("phash", Type.TEXT, Source.DELIVERY, "dHash of 64 bits, in hexadecimal"),
    Column("bytes", Type.INT, Source.DELIVERY, "length of the image file"),
    Column("format", Type.TEXT, Source.DELIVERY, "webp"),
    Column("file_name", Type.TEXT, Source.DELIVERY, "name of the image file in its shard"),
    Column("shard", Type.TEXT, Source.RELEASE, "path of the shard"),
    Column("offset", Type.LONG, Source.RELEASE, "first byte of the image file in the shard"),
    Column("size", Type.LONG, Source.RELEASE, "length of the image file in the shard"),
    Column(
        "aesthetic_score",
        Type.FLOAT,
        Source.SCORER,
        "score of an aesthetic scorer, 1 to 10; null: none",
        nullable=True,
    ),
    Column("aesthetic_version", Type.TEXT, Source.SCORER, "scorer and its version; empty: none"),
)
"""All columns of the parquet files, in their order."""
SCORES = tuple(column for column in COLUMNS if column.source is Source.SCORER)
"""Those that the tables alone have: readers of shards stumble over null."""
IN_SHARD = tuple(
    column for column in COLUMNS if column.source not in {Source.RELEASE, Source.SCORER}
)
"""Those of the row beside the image: a shard does not name itself."""
AT_INTAKE = tuple(column for column in IN_SHARD if column.source is not Source.SCREENING)
"""Those that are known when an image is delivered."""

PYTHON: dict[Type, type] = {
    Type.TEXT: str,
    Type.INT: int,
    Type.LONG: int,
    Type.FLOAT: float,
    Type.BOOL: bool,
}
BOUNDS = {Type.INT: 2**31, Type.LONG: 2**63}
DEFAULTS: dict[str, Any] = {
    "model_sha256": "",
    "model_license": "",
    "backend": "other",
    "backend_version": "",
    "post_processing": "",
    "loras": "",
    "tis": "",
    "user_hash": "",
    "aesthetic_version": "",
}
"""What a row has that was written before it had these columns."""


class RowError(ValueError):
    """A row is not what its columns say; the message names the column."""


def checked(row: Mapping[str, Any], columns: tuple[Column, ...]) -> dict[str, Any]:
    """Return a row with exactly these columns, in their order; raises RowError.

    Readers infer types from a few samples, so a whole number in a column of floats is made one.
    """
    found: dict[str, Any] = {}
    for column in columns:
        value: Any = row.get(column.name, DEFAULTS.get(column.name))
        if value is None and column.nullable:
            found[column.name] = None
            continue
        if column.type is Type.FLOAT and type(value) is int:
            value = float(value)
        if type(value) is not PYTHON[column.type] and not isinstance(value, StrEnum):
            message = f"{column.name} is {type(value).__name__}, not {column.type}"
            raise RowError(message)
        bound = BOUNDS.get(column.type)
        if bound is not None and isinstance(value, int) and not -bound <= value < bound:
            message = f"{column.name} is too large"
            raise RowError(message)
        found[column.name] = str(value) if isinstance(value, StrEnum) else value
    return found
