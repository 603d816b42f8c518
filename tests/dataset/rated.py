"""A synthetic release whose ratings follow from what its images look like, or from nothing."""

import colorsys
import hashlib
import io
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.dataset import made

TABLE = "ratings/date=2026-11-28/ratings-2026-11-28-00000.parquet"
RATING = {
    "id": "VARCHAR", "rater": "VARCHAR", "rating": "INTEGER", "artifacts": "INTEGER",
    "own": "BOOLEAN", "proven": "BOOLEAN", "rated_on": "VARCHAR",
}  # fmt: skip
MEAN = {
    "id": "VARCHAR", "ratings_count": "INTEGER", "rating": "DOUBLE",
    "artifacts_count": "INTEGER", "artifacts": "DOUBLE",
}  # fmt: skip
RATERS = 5


def colourful(rng: np.random.Generator) -> tuple[bytes, float]:
    """Return a WebP of coloured ellipses, and how saturated they are, from 0 to 1."""
    vivid = float(rng.uniform())
    size = (int(rng.integers(48, 97)), int(rng.integers(48, 97)))

    def colour() -> tuple[int, int, int]:
        hue, value = float(rng.uniform()), float(rng.uniform(0.4, 1))
        red, green, blue = colorsys.hsv_to_rgb(hue, vivid, value)
        return int(red * 255), int(green * 255), int(blue * 255)

    image = Image.new("RGB", size, colour())
    for _ in range(8):
        x, y, w, h = (int(one) for one in rng.integers(0, 60, 4))
        ImageDraw.Draw(image).ellipse((x, y, x + w + 2, y + h + 2), fill=colour())
    out = io.BytesIO()
    image.save(out, "WEBP", quality=90)
    return out.getvalue(), vivid


@dataclass
class Rated:
    """A release, its rows of ratings, and what each image really is worth."""

    release: made.Release
    ratings: list[dict[str, Any]]
    truth: NDArray[np.float64]

    @property
    def folder(self) -> Path:
        return self.release.folder

    def write(self, types: dict[str, str] = RATING, table: str = TABLE) -> None:
        """Write the ratings, and the manifest anew."""
        made.parquet(self.folder / table, types, self.ratings)
        self.release.publish()


def make(folder: Path, count: int = 240, *, seed: int = 0, noise: float = 1.0) -> Rated:
    """Write a release of images two of which have one request, with five ratings each."""
    rng = np.random.default_rng(seed)
    pictures = [colourful(rng) for _ in range(count)]
    folder.mkdir(parents=True)
    release = made.Release(folder)
    files = {number: picture[0] for number, picture in enumerate(pictures)}
    _part(release, files)
    truth = np.array([2 + 7 * vivid for _, vivid in pictures])
    rated = [
        {
            "id": made.image_id(number),
            "rater": hashlib.sha256(bytes([rater])).hexdigest()[:32],
            "rating": int(np.clip(round(truth[number] + noise * rng.normal()), 1, 10)),
            "artifacts": -1,
            "own": False,
            "proven": True,
            "rated_on": "2026-11-27",
        }
        for number in range(count)
        for rater in range(RATERS)
    ]
    found = Rated(release, rated, truth)
    found.write()
    return found


def _part(release: made.Release, files: dict[int, bytes]) -> None:
    """Write one part of these images, each with a prompt of its own."""
    name, day = "part-2026-11-25-00000", "2026-11-25"
    shard, table = f"images/date={day}/{name}.tar", f"metadata/date={day}/{name}.parquet"
    tar, rows = b"", []
    for number, data in files.items():
        row = made.row_of(number, day, data)
        row["set"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"set {number // 2}"))
        row["prompt"] = f"prompt {number // 2}"
        place = {"shard": shard, "offset": len(tar) + 512, "size": len(data)}
        tar += made.member(f"{row['id']}.webp", data)
        rows.append({**row, **place})
        release.pictures[row["id"]] = data
    (release.folder / shard).parent.mkdir(parents=True)
    (release.folder / shard).write_bytes(tar + bytes(1024))
    made.parquet(release.folder / table, made.TYPES, rows)
    release.rows = rows
    release.images |= {shard: len(rows), table: len(rows)}
