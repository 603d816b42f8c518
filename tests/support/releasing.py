"""Doubles nothing: shares images, has releases made of them, and reads what is in a release."""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from moto.s3.models import s3_backends

from horde import dataset
from horde.release.names import Manifest
from horde.rules.dates import DAY_S
from horde.store.sharing import Sharing
from infra.operate.audit.objects import Bucket
from infra.operate.audit.run import audit
from tests.support.api_calls import ANONYMOUS
from tests.support.archives import members
from tests.support.cloud import Cloud
from tests.support.moto_aws import ACCOUNT
from tests.support.reading import Still

HOLD_S = DAY_S + 60
"""Longer than images wait for a release."""


def share(
    cloud: Cloud,
    worker: str,
    key: str = ANONYMOUS,
    count: int = 1,
    *,
    name: str = "w1",
    **more: Any,
) -> list[str]:
    """Let images be shared and copied; returns their ids. ``name`` is the worker's."""
    drawn = []
    for _ in range(count):
        assert cloud.generate(key, shared=True, **more).status == 202
        drawn += cloud.draw(worker, name=name)
    cloud.settle_async()
    date_files(cloud, set(drawn))
    return sorted(drawn)


def date_files(cloud: Cloud, ids: set[str]) -> None:
    """Have the files of images that wait be written now, by this cloud's clock and not by ours."""
    for key, stored in _objects(cloud).items():
        if key.rpartition("/")[2].partition(".")[0] in ids:
            stored.last_modified = datetime.fromtimestamp(cloud.clock.now_ms() / 1000, UTC)


def age(cloud: Cloud) -> None:
    """Let everything that waits be a day older."""
    for stored in _objects(cloud).values():
        stored.last_modified -= timedelta(seconds=HOLD_S)


def _objects(cloud: Cloud) -> dict[str, Any]:
    return dict(s3_backends[ACCOUNT]["aws"].buckets[cloud.bucket("Laion")].keys.items())


def manifest(cloud: Cloud) -> Manifest:
    """Return the manifest of the release."""
    return Manifest.load(cloud.laion().get("manifest.json"))


def released(cloud: Cloud) -> set[str]:
    """Return the ids of all images in the shards of the release."""
    found: set[str] = set()
    for part in manifest(cloud).parts():
        with tarfile.open(fileobj=io.BytesIO(cloud.laion()[part.shard])) as archive:
            found |= {one.partition(".")[0] for one in archive.getnames()}
    return found


def samples(cloud: Cloud) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Return every sample of the release: its image and its row; the manifest must be right."""
    objects, found = cloud.laion(), {}
    if "manifest.json" not in objects:
        return {}
    named = manifest(cloud)
    for file in named.files:
        body = objects[file.at or file.path]
        assert (len(body), hashlib.sha256(body).hexdigest()) == (file.bytes, file.sha256)
        if file.path.endswith(".tar"):
            files = members(body)
            names = list(files)
            assert [name.partition(".")[2] for name in names] == ["webp", "json", "txt"] * (
                len(names) // 3
            )
            assert file.images == len(names) // 3
            for name in names[::3]:
                id_ = name.partition(".")[0]
                assert id_ not in found
                row = json.loads(files[f"{id_}.json"])
                assert files[f"{id_}.txt"].decode() == row["prompt"]
                found[id_] = (files[name], row)
    assert named.images == len(found)
    return found


def untidy(cloud: Cloud) -> set[str]:
    """Return what is in the bucket, or is not, beside the manifest, its files and their copies."""
    objects, files = cloud.laion(), manifest(cloud).files
    wrong = {one.path for one in files if objects.get(one.path) != objects.get(one.at or one.path)}
    named = {one.path for one in files} | {one.at for one in files if one.at} | {"manifest.json"}
    records = {key for key in objects if re.fullmatch(r"releases/[\d.-]+\.json", key)}
    return wrong | ((set(objects) - records) ^ named)


def found_in_bucket(cloud: Cloud) -> set[str]:
    """Return what the audit finds in the data set's bucket, beside what is right."""
    bucket = Bucket(cloud.s3, cloud.bucket("Laion"))
    report = audit(Still(cloud), segments=1, pauses=(0,), bucket=bucket)
    return {f"{one.what}: {one.found}" for one in report.findings}


def removed(cloud: Cloud, folder: Path) -> list[dict[str, Any]]:
    """Return the published tombstones."""
    return [row for file in manifest(cloud).tombstones() for row in rows(cloud, file.path, folder)]


def rows(cloud: Cloud, path: str, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a table of the data set; it is copied into a folder."""
    file = folder / path.replace("/", "_")
    file.write_bytes(cloud.laion()[path])
    cursor = duckdb.execute(f"SELECT * FROM read_parquet('{file}', hive_partitioning=false)")
    names = [one[0] for one in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def in_gap(patch: pytest.MonkeyPatch, gap: str, act: Callable[[], object]) -> None:
    """Do something in a gap of the next publication, once."""
    where: tuple[Any, str] = {
        "before the file": (dataset, "write"),
        "before the record": (Sharing, "mark_shared"),
        "before the reading": (Sharing, "mark_shared"),
    }[gap]
    real, left = getattr(*where), [act]

    def acts(*arguments: Any) -> None:
        if gap == "before the reading":
            real(*arguments)
        if left:
            left.pop()()
        if gap != "before the reading":
            real(*arguments)

    patch.setattr(*where, acts)


def mentions(cloud: Cloud, image: str) -> list[str]:
    """Return the objects that have an image's name or bytes of its name, its tombstone excepted."""
    objects = {
        f"{part} {key}": body
        for part in ("Laion", "Held", "Gallery")
        for key, body in cloud.objects_of(part).items()
        if not key.startswith("removed/")
    }
    return [key for key, body in objects.items() if image in key or image.encode() in body]
