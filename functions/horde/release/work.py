"""The bench of a release: what its steps hand to each other, in a private bucket.

    <release>/plan.json             which parts there will be; written last of the plan
    <release>/batches/<batch>.json  images to screen
    <release>/screened/<batch>.json what screening said of them
    <release>/parts/<part>.json     the batches of a part
    <release>/packed/<part>.json    the files of a part that is written
    <release>/select.json           what was withdrawn, and which parts have it
    <release>/rewrites/<part>.json  a part to write anew, without some images
    <release>/rewritten/<part>.json the files of a part that was

Each step writes its result as one object and does nothing if it is there, so any step may be tried
again, and a run that died is taken over. All of it expires after some days.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Any

from horde import aws, images, laion

HASHES = "lists/hashes.txt"
"""The operator's list of hashes, beside all releases."""
WORDS = "lists/words.txt"
"""The operator's list of words and phrases, beside those of the settings."""
PLAN, SELECTED = "plan.json", "select.json"
KEPT = "kept/"


class Folder(StrEnum):
    """A folder of the bench: what one step writes for another."""

    BATCHES = "batches"
    SCREENED = "screened"
    PARTS = "parts"
    PACKED = "packed"
    REWRITES = "rewrites"
    REWRITTEN = "rewritten"

    def of(self, name: str) -> str:
        """Return the path of a batch's or part's object in it."""
        return f"{self}/{name}.json"


class Settings(laion.Settings):
    """The names of the resources of every function that makes releases."""

    table_name: str
    held_bucket: str
    work_bucket: str


def bucket() -> Any:
    """Return the client of the data set's bucket, with all of S3's operations."""
    return laion.client(full=True)


def read(key: str) -> bytes | None:
    """Return a file of the data set, or None if there is none; raises AwsError if it is denied."""
    return images.read(bucket(), Settings.load().laion_bucket, key, missing=images.GONE)


def fetch(key: str, path: Path) -> Path:
    """Copy a file of the data set into a local one, piece by piece, and return that."""
    body = bucket().get_object(Bucket=Settings.load().laion_bucket, Key=key)["Body"]
    with path.open("wb") as file:
        while piece := body.read(2**20):
            file.write(piece)
    return path


def kept(generation_id: str) -> str:
    """Return the key of an image that is kept back, in the bucket of what is held."""
    return f"{KEPT}{generation_id}.tar"


def name_of(key: str) -> str:
    """Return the name of a batch or part by the key of its object."""
    return key.rpartition("/")[2].removesuffix(".json")


def id_of(key: str) -> str:
    """Return the id of an image by its key in ``incoming/``."""
    return key.rpartition("/")[2].partition(".")[0]


class Bench:
    """What the steps of one release have written; without a release, what lies beside them."""

    def __init__(self, bucket: str, release: str) -> None:
        self._bucket, self._prefix = bucket, f"{release}/" if release else ""

    def read_text(self, path: str) -> str | None:
        """Return an object's text, or None if there is none; a byte order mark is no text."""
        key = f"{self._prefix}{path}"
        found = images.read(aws.s3(), self._bucket, key, missing=images.GONE)
        return None if found is None else found.decode("utf-8-sig")

    def read(self, path: str) -> dict[str, Any] | None:
        """Return an object's JSON, or None if there is none."""
        text = self.read_text(path)
        if text is None:
            return None
        found: dict[str, Any] = json.loads(text)
        return found

    def must_read(self, path: str) -> dict[str, Any]:
        """Return an object's JSON; raises RuntimeError if there is none."""
        found = self.read(path)
        if found is None:
            message = f"{self._prefix}{path} is gone"
            raise RuntimeError(message)
        return found

    def write(self, path: str, value: dict[str, Any]) -> None:
        """Write an object of JSON."""
        aws.s3().put_object(
            Bucket=self._bucket,
            Key=f"{self._prefix}{path}",
            Body=json.dumps(value, separators=(",", ":")).encode(),
            ContentType="application/json",
        )
