"""``bin/operator scorer``: the aesthetic scorer of the releases."""

import re
from pathlib import Path
from typing import Any

from horde.release.scoring import FORMAT, MAX_BYTES

FOLDER = "lists/"
"""Where the work bucket keeps what the operator has uploaded."""


def upload(client: Any, bucket: str, path: Path) -> str:
    """Upload a scorer that ``horde-dataset train`` has written; returns its key.

    Raises ValueError for any other file, and for one that is too large for the function.
    """
    if not path.is_file():
        message = f"there is no file {path}"
        raise ValueError(message)
    if not re.fullmatch(r"[\w.-]{1,100}", path.name):
        message = f"{path.name!r} has more than letters, digits, dots, dashes and underscores"
        raise ValueError(message)
    if path.stat().st_size > MAX_BYTES:
        message = f"{path} has more than {MAX_BYTES // 2**20} MB"
        raise ValueError(message)
    data = path.read_bytes()
    if FORMAT.encode() not in data or b"aesthetic_version" not in data:
        message = f"{path} is no scorer that horde-dataset train has written"
        raise ValueError(message)
    key = f"{FOLDER}{path.name}"
    client.put_object(Bucket=bucket, Key=key, Body=data, ContentType="application/octet-stream")
    return key
