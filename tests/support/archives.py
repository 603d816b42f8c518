"""An archive of the data set as a reader of its bucket opens it: not with our own reader."""

import io
import json
import tarfile
from typing import Any


def members(archive: bytes) -> dict[str, bytes]:
    """Return the files of a tar archive by name, in its order."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r|") as stream:
        for member in stream:
            file = stream.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
    return found


def opened(archive: bytes) -> tuple[bytes, dict[str, Any]]:
    """Return the image and the row of an archive."""
    (name, image), (beside, text) = members(archive).items()
    row: dict[str, Any] = json.loads(text)
    assert (name, beside) == (f"{row['id']}.webp", f"{row['id']}.json")
    return image, row
