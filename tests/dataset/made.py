"""Writes synthetic releases of the data set, as the contract of a release has them.

A hundred small images over three days, two parts on one of them, and three withdrawn ones. Equal
calls write equal bytes, but for the parquet files' own notes on their writer. As in a bucket, what
each release has anew lies in a folder of the release (``at``), and a copy of it at its path.
"""

import hashlib
import io
import json
import shutil
import tarfile
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from PIL import Image, ImageDraw

from horde.release.documents import croissant
from horde.release.names import File, Manifest

BASE_URL = "https://images.example.org/horde-commons"
"""Where croissant.json says that the files are."""
PARTS = {
    "part-2026-11-25-00000": 40,
    "part-2026-11-26-00000": 25,
    "part-2026-11-26-00001": 15,
    "part-2026-11-28-00000": 20,
}
REMOVED_BEFORE = 3
"""Images that were withdrawn before this release."""
RELEASE = "2026-11-28"
SIZES = [(64, 48), (48, 64), (32, 32)]
PROMPTS = [
    "a fox in the snow",
    "a red boat, 猫",
    'a "quoted" line\nand a second one',
    "x" * 400,
    "$$",
]
TYPES = {
    "id": "VARCHAR", "set": "VARCHAR", "batch_index": "INTEGER", "created_on": "VARCHAR",
    "prompt": "VARCHAR", "negative_prompt": "VARCHAR", "seed": "BIGINT", "steps": "INTEGER",
    "cfg_scale": "DOUBLE", "sampler": "VARCHAR", "karras": "BOOLEAN", "clip_skip": "INTEGER",
    "hires_fix": "BOOLEAN", "tiling": "BOOLEAN", "width": "INTEGER", "height": "INTEGER",
    "model": "VARCHAR", "model_sha256": "VARCHAR", "model_license": "VARCHAR",
    "backend": "VARCHAR", "backend_version": "VARCHAR", "post_processing": "VARCHAR",
    "loras": "VARCHAR", "tis": "VARCHAR",
    "drawn_by": "VARCHAR", "user_hash": "VARCHAR", "user_type": "VARCHAR", "consent": "VARCHAR",
    "terms_version": "VARCHAR", "license": "VARCHAR", "nsfw_requested": "BOOLEAN",
    "censored": "BOOLEAN", "nsfw_score": "DOUBLE", "screened_by": "VARCHAR", "sha256": "VARCHAR",
    "md5": "VARCHAR", "phash": "VARCHAR", "bytes": "INTEGER", "format": "VARCHAR",
    "file_name": "VARCHAR", "shard": "VARCHAR", "offset": "BIGINT", "size": "BIGINT",
    "aesthetic_score": "DOUBLE", "aesthetic_version": "VARCHAR",
}  # fmt: skip
"""The columns of the parquet files."""
ANEW = ("metadata.parquet", "README.md", "LICENSE", "croissant.json", "contact-sheet.webp")
"""What a release has anew."""
IN_PARQUET_ONLY = ("shard", "offset", "size", "aesthetic_score", "aesthetic_version")
TOMBSTONE = {"id": "VARCHAR", "removed_on": "VARCHAR", "reason": "VARCHAR"}


def image_id(number: int) -> str:
    """Return the id of an image."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"image {number}"))


def picture(number: int) -> bytes:
    """Return a small WebP, another one for each number."""
    image = Image.new("RGB", SIZES[number % len(SIZES)], (number * 2 % 256, 90, 200 - number))
    ImageDraw.Draw(image).ellipse((4, 4, 10 + number % 20, 24), fill=(250, number % 256, 30))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=95)
    return out.getvalue()


def dhash(data: bytes) -> str:
    """Return the dHash-64 of an image, as 16 hex digits."""
    with Image.open(io.BytesIO(data)) as image:
        small = list(image.convert("L").resize((9, 8)).tobytes())
    bits = [small[9 * y + x] < small[9 * y + x + 1] for y in range(8) for x in range(8)]
    return f"{sum(bit << place for place, bit in enumerate(reversed(bits))):016x}"


def row_of(number: int, day: str, data: bytes) -> dict[str, Any]:
    """Return an image's row, as the JSON in the tar has it."""
    width, height = SIZES[number % len(SIZES)]
    anonymous = number % 3 == 0
    return {
        "id": image_id(number),
        "set": str(uuid.uuid5(uuid.NAMESPACE_URL, f"request {number // 2}")),
        "batch_index": number % 2,
        "created_on": day,
        "prompt": PROMPTS[number % len(PROMPTS)],
        "negative_prompt": "" if number % 4 else "blurry",
        "seed": 2**62 + number,
        "steps": 20 + number % 5,
        "cfg_scale": 7.0 if number < 10 else 7.5,
        "sampler": "k_euler",
        "karras": bool(number % 2),
        "clip_skip": 1,
        "hires_fix": False,
        "tiling": False,
        "width": width,
        "height": height,
        "model": ["stable_diffusion", "emoji", "Deliberate"][number % 7 % 3],
        "model_sha256": "" if number % 2 else "ab" * 32,
        "model_license": "CreativeML OpenRAIL-M",
        "backend": "horde-commons",
        "backend_version": "1.0",
        "post_processing": "RealESRGAN_x4plus, strip_background" if number % 9 == 0 else "",
        "loras": "ink:0.8:1" if number % 7 == 0 else "",
        "tis": "",
        "drawn_by": "endpoint",
        "user_hash": "" if anonymous else hashlib.sha256(bytes([number % 6])).hexdigest(),
        "user_type": "anon" if anonymous else "pseudonymous",
        "consent": "anonymous-default" if anonymous else "request-flag",
        "terms_version": "2026-11-01",
        "license": "CC0-1.0",
        "nsfw_requested": number % 11 == 0,
        "censored": False,
        "nsfw_score": round(number * 37 % 100 / 250, 4),
        "screened_by": "opennsfw 1",
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5": hashlib.md5(data).hexdigest(),
        "phash": dhash(data),
        "bytes": len(data),
        "format": "webp",
        "file_name": f"{image_id(number)}.webp",
    }


def member(name: str, data: bytes) -> bytes:
    """Return a file as a tar has it."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def parquet(path: Path, types: dict[str, str], rows: Iterable[dict[str, Any]]) -> None:
    """Write rows to a parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.with_suffix(".ndjson")
    lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    listed = ", ".join(f"'{name}': '{kind}'" for name, kind in types.items())
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_json('{lines}', format='newline_delimited', "
            f"hive_partitioning=false, columns={{{listed}}})) "
            f"TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
        )
    lines.unlink()


@dataclass
class Release:
    """A release that was written."""

    folder: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    """The number of images of each file that has any."""
    released: str = "none"
    """The release that was published last."""

    @property
    def ids(self) -> list[str]:
        """The ids of all images."""
        return [row["id"] for row in self.rows]

    def add_part(self, name: str, numbers: Sequence[int]) -> None:
        """Write a tar and its table."""
        day = name[5:15]
        shard, table = f"images/date={day}/{name}.tar", f"metadata/date={day}/{name}.parquet"
        tar, rows = b"", []
        for number in numbers:
            data = picture(number)
            row = row_of(number, day, data)
            place = {"shard": shard, "offset": len(tar) + tarfile.BLOCKSIZE, "size": len(data)}
            text = json.dumps(row, ensure_ascii=False).encode()
            tar += member(f"{row['id']}.webp", data) + member(f"{row['id']}.json", text)
            tar += member(f"{row['id']}.txt", row["prompt"].encode())
            scored = number % 3 > 0
            score = {
                "aesthetic_score": 5.5 if scored else None,
                "aesthetic_version": "plain-1" if scored else "",
            }
            rows.append({**row, **place, **score})
            self.pictures[row["id"]] = data
        (self.folder / shard).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / shard).write_bytes(tar + bytes(2 * tarfile.BLOCKSIZE))
        parquet(self.folder / table, TYPES, rows)
        self.rows = [row for row in self.rows if row["shard"] != shard] + rows
        self.images |= {shard: len(rows), table: len(rows)}

    def remove(self, ids: Sequence[str], day: str) -> None:
        """Write tombstones, and nothing else."""
        path = f"removed/date={day}/removed-{day}-00000.parquet"
        rows = [{"id": each, "removed_on": day, "reason": "owner"} for each in ids]
        parquet(self.folder / path, TOMBSTONE, rows)
        self.images[path] = len(rows)

    def forget_part(self, name: str) -> None:
        """Delete a tar and its table."""
        for path in [path for path in self.images if f"/{name}." in path]:
            (self.folder / path).unlink()
            del self.images[path]
            self.rows = [row for row in self.rows if row["shard"] != path]

    def publish(self, release: str = RELEASE, **fields: Any) -> dict[str, Any]:
        """Write the table of all rows and the manifest, which names what there is.

        ``fields`` are the manifest's, in place of the right ones.
        """
        (self.folder / "croissant.json").unlink(missing_ok=True)
        parquet(self.folder / "metadata.parquet", TYPES, self.rows)
        self.images["metadata.parquet"] = len(self.rows)
        shutil.rmtree(self.folder / "releases" / self.released, ignore_errors=True)
        self.released = release
        listed = []
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name != "manifest.json" and not name.startswith("releases/"):
                listed.append(self._listed(name))
        released_at = f"{release[:10]}T03:10:00Z"
        named = Manifest(release, released_at, files=tuple(File(**each) for each in listed))
        (self.folder / "croissant.json").write_bytes(croissant(named, BASE_URL))
        listed.append(self._listed("croissant.json"))
        manifest = {
            "format": 1,
            "name": "horde-commons",
            "release": release,
            "released_at": released_at,
            "license": "CC0-1.0",
            "images": len(self.rows),
            "bytes": sum(each["bytes"] for each in listed),
            "removed": sum(
                self.images[path] for path in self.images if path.startswith("removed/")
            ),
            "kept_back": {"nsfw score": 12, "prompt": 3},
            "files": listed,
            **fields,
        }
        write_manifest(self.folder, manifest)
        return manifest

    def _listed(self, name: str) -> dict[str, Any]:
        found = entry(self.folder, name, self.images.get(name))
        if name in ANEW:
            found["at"] = f"releases/{self.released}/{name}"
            (self.folder / "releases" / self.released).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.folder / name, self.folder / found["at"])
        return found


def entry(folder: Path, name: str, images: int | None) -> dict[str, Any]:
    """Return a file's entry in the manifest."""
    data = (folder / name).read_bytes()
    found: dict[str, Any] = {
        "path": name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return found if images is None else {**found, "images": images}


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, and its copy under releases/."""
    text = json.dumps(manifest, ensure_ascii=False, sort_keys=True)
    (folder / "manifest.json").write_text(text)
    (folder / "releases").mkdir(exist_ok=True)
    (folder / "releases" / f"{manifest['release']}.json").write_text(text)


def make(folder: Path) -> Release:
    """Write the synthetic release into a new folder."""
    folder.mkdir(parents=True)
    release = Release(folder)
    number = 0
    for name, count in PARTS.items():
        release.add_part(name, range(number, number + count))
        number += count
    release.remove([image_id(1000 + n) for n in range(REMOVED_BEFORE)], "2026-11-27")
    (folder / "README.md").write_text(CARD)
    (folder / "LICENSE").write_text("CC0 1.0 Universal\n")
    (folder / "contact-sheet.webp").write_bytes(picture(7))
    release.publish()
    return release


CARD = """---
license: cc0-1.0
configs:
- config_name: default
  data_files:
  - split: train
    path: images/**/*.tar
---
# Synthetic
"""
