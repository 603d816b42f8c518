"""Reads a release with the libraries that researchers use, each as its own documentation says.

``python -m tests.dataset.readers FOLDER`` runs them all in the environment of
requirements/dataset-test.txt, and prints what they found as JSON. Each ``read_…`` returns for every
id its row, and the SHA-256 of its pixels, decoded to RGB; None where it reads tables alone.

open_clip itself is not installed, since it brings torch: ``read_open_clip`` is the pipeline of its
``get_wds_dataset``, without the batches.
"""

import hashlib
import io
import json
import math
import os
import sys
import time
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

Found = dict[str, tuple[dict[str, Any], str | None]]
PARQUET_ONLY = ("shard", "offset", "size", "aesthetic_score", "aesthetic_version")


def pixels_sha256(image: Any) -> str:
    """Return the SHA-256 of a Pillow image's mode, size and pixels as RGB."""
    rgb = image.convert("RGB")
    return hashlib.sha256(f"{rgb.size}".encode() + rgb.tobytes()).hexdigest()


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with Python's own types."""
    return {name: value.item() if hasattr(value, "item") else value for name, value in row.items()}


def _with_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with None for what pandas and others have as not a number."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in row.items()
    }


def _dicts(result: Any) -> list[dict[str, Any]]:
    """Return what DuckDB found."""
    names = [column[0] for column in result.description]
    return [dict(zip(names, values, strict=True)) for values in result.fetchall()]


def _tables(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("metadata/*/*.parquet"))


def _tars(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.glob("images/*/*.tar"))


# --- tables --------------------------------------------------------------------------------------


def read_pyarrow(folder: Path) -> Found:
    """Read the tables as one data set, partitioned by day."""
    import pyarrow.dataset as ds

    table = ds.dataset(str(folder / "metadata"), partitioning="hive").to_table()
    return {row["id"]: (_without_date(row), None) for row in table.to_pylist()}


def read_pandas(folder: Path) -> Found:
    """Read metadata.parquet."""
    import pandas as pd

    frame = pd.read_parquet(folder / "metadata.parquet")
    return {row["id"]: (_plain(row), None) for row in frame.to_dict("records")}


def read_duckdb(folder: Path) -> Found:
    """Read the tables, one day at a time: the other days' files are not opened."""
    import duckdb

    found: Found = {}
    connection = duckdb.connect()
    query = f"SELECT * FROM read_parquet('{folder}/metadata/*/*.parquet', hive_partitioning=true)"
    for day in sorted(path.name.removeprefix("date=") for path in folder.glob("metadata/date=*")):
        one_day = f"{query} WHERE date = '{day}'"
        (plan,) = [row[1] for row in connection.execute(f"EXPLAIN ANALYZE {one_day}").fetchall()]
        files = len(list(folder.glob(f"metadata/date={day}/*.parquet")))
        total = len(_tables(folder))
        assert f"Total Files Read: {files}" in plan.replace("\n", " "), (files, total, plan)
        for row in _dicts(connection.execute(one_day)):
            assert str(row["date"]) == day
            found[row["id"]] = (_without_date(row), None)
    return found


def read_polars(folder: Path) -> Found:
    """Read the tables lazily, partitioned by day."""
    import polars as pl

    frame = pl.scan_parquet(f"{folder}/metadata/**/*.parquet", hive_partitioning=True).collect()
    return {row["id"]: (_without_date(row), None) for row in frame.to_dicts()}


def read_datasets_metadata(folder: Path) -> Found:
    """Read the tables with Hugging Face's datasets."""
    from datasets import load_dataset

    rows = load_dataset(str(folder / "metadata"), split="train")
    return {row["id"]: (_without_date(dict(row)), None) for row in rows}


def _without_date(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "date"}


# --- images --------------------------------------------------------------------------------------


def _of_datasets(samples: Any) -> Found:
    found: Found = {}
    for sample in samples:
        row = dict(sample["json"])
        assert sample["__key__"] == row["id"]
        assert sample["txt"] == row["prompt"]
        found[row["id"]] = (row, pixels_sha256(sample["webp"]))
    return found


def read_datasets(folder: Path) -> Found:
    """Read the folder with Hugging Face's datasets, as its README.md describes it."""
    from datasets import load_dataset

    return _of_datasets(load_dataset(str(folder), split="train"))


def read_datasets_streaming(folder: Path) -> Found:
    """The same, without a copy on disk."""
    from datasets import load_dataset

    return _of_datasets(load_dataset(str(folder), split="train", streaming=True))


def read_webdataset(folder: Path) -> Found:
    """Read the tars with webdataset."""
    import webdataset as wds

    found: Found = {}
    for sample in wds.WebDataset(_tars(folder), shardshuffle=False).decode("pil"):
        assert sample["__key__"].rpartition("/")[2] == sample["json"]["id"]
        assert sample["txt"] == sample["json"]["prompt"]
        found[sample["json"]["id"]] = (sample["json"], pixels_sha256(sample["webp"]))
    return found


def read_open_clip(folder: Path) -> Found:
    """Read image and prompt as open_clip's training does: samples without either are dropped."""
    import webdataset as wds

    def whole(sample: dict[str, Any]) -> bool:
        return "txt" in sample and any(
            ending in sample for ending in ("png", "jpg", "jpeg", "webp")
        )

    pipeline = wds.DataPipeline(
        wds.SimpleShardList(_tars(folder)),
        wds.split_by_worker,
        wds.tarfile_to_samples(handler=wds.reraise_exception),
        wds.select(whole),
        wds.decode("pilrgb", handler=wds.reraise_exception),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.to_tuple("image", "text", "__key__"),
    )
    return {
        key.rpartition("/")[2]: (
            {"id": key.rpartition("/")[2], "prompt": text},
            pixels_sha256(image),
        )
        for image, text, key in pipeline
    }


def read_ranges(folder: Path) -> Found:
    """Read each image by its place in the tar alone, as a Range request does."""
    import duckdb
    from PIL import Image

    found: Found = {}
    for row in _dicts(duckdb.execute(f"SELECT * FROM '{folder}/metadata.parquet'")):
        with (folder / row["shard"]).open("rb") as file:
            file.seek(row["offset"])
            image = Image.open(io.BytesIO(file.read(row["size"])))
        found[row["id"]] = (row, pixels_sha256(image))
    return found


def read_mlcroissant(folder: Path) -> Found:
    """Read the rows and the pictures that croissant.json describes, from the files of the folder.

    mlcroissant imports jsonpath_rw, which has no wheel, for JSON paths alone; ours has none.
    """
    stand_in: Any = types.ModuleType("jsonpath_rw")
    stand_in.lexer = types.ModuleType("jsonpath_rw.lexer")
    sys.modules.setdefault("jsonpath_rw", stand_in)
    sys.modules.setdefault("jsonpath_rw.lexer", stand_in.lexer)
    import mlcroissant as mlc

    text = json.loads((folder / "croissant.json").read_text())
    mapping = {}
    for each in text["distribution"]:
        name = str(each.get("contentUrl", "")).partition("/images/")
        for path in ("metadata.parquet", f"images/{name[2]}" if name[1] else ""):
            if path and str(each.get("contentUrl", "")).endswith(path):
                mapping[each["@id"]] = folder / path
    loaded = mlc.Dataset(jsonld=folder / "croissant.json", mapping=mapping)
    found: Found = {}
    for record_set in loaded.metadata.record_sets:
        for record in loaded.records(record_set.uuid):
            row, digest = {}, None
            for name, value in record.items():
                short = name.rpartition("/")[2]
                if hasattr(value, "convert"):
                    digest = pixels_sha256(value)
                else:
                    row[short] = value.decode() if isinstance(value, bytes) else value
            if "id" in row:
                before = found.get(row["id"], ({}, None))
                found[row["id"]] = ({**before[0], **_plain(row)}, digest or before[1])
    return found


READERS: dict[str, Callable[[Path], Found]] = {
    name.removeprefix("read_"): function
    for name, function in list(globals().items())
    if name.startswith("read_")
}


def main(folder: Path) -> dict[str, Any]:
    """Return what each reader found, or how it failed, and the seconds it took."""
    results: dict[str, Any] = {}
    for name, read in READERS.items():
        begun = time.monotonic()
        try:
            found: Any = {
                id_: (_with_nulls(row), digest) for id_, (row, digest) in read(folder).items()
            }
        except Exception:  # noqa: BLE001 - any library's, told to the test
            found = traceback.format_exc()
        results[name] = {"found": found, "seconds": round(time.monotonic() - begun, 1)}
    return results


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    out, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(main(Path(sys.argv[1]).absolute())), file=out)
