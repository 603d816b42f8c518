"""The face detector's weights. ``python -m gpu_worker.face_weights`` fetches them.

They are three files of 2 MB in the wheel of facenet-pytorch (MIT), which has the networks of MTCNN.
The package is never installed: it pins an old torch. Standard library only.
"""

from __future__ import annotations

import subprocess
import sys

from gpu_worker import wheels

LOCK = wheels.lock("faces")
FOLDER = wheels.SHARE / "mtcnn"
FILES = {
    "pnet.pt": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet.pt": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet.pt": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}
"""Each file's SHA-256."""
PLACES = {name: f"facenet_pytorch/data/{name}" for name in FILES}
"""Where the wheel has each."""
FETCH = "python -m gpu_worker.face_weights"


class FaceWeightsError(RuntimeError):
    """The weights are not here, or are not what they should be."""


def read(name: str) -> bytes:
    """Return a file. Raises FaceWeightsError where it is missing or damaged, OSError."""
    found = FOLDER / name
    if not found.exists():
        message = f"the face detector's {name} is not here; fetch it: {FETCH}"
        raise FaceWeightsError(message)
    return _checked(name, found.read_bytes())


def _checked(name: str, data: bytes) -> bytes:
    if not wheels.is_pinned(data, FILES[name]):
        message = f"the face detector's {name} is not that of {LOCK.name}: its SHA-256 differs"
        raise FaceWeightsError(message)
    return data


def fetch() -> None:
    """Download the wheel and unpack the files. Raises CalledProcessError, FaceWeightsError."""
    with wheels.opened(LOCK) as archive:
        (licence,) = (name for name in archive.namelist() if name.endswith("/LICENSE.md"))
        wheels.write(FOLDER / "LICENSE.md", archive.read(licence))
        for name, place in PLACES.items():
            wheels.write(FOLDER / name, _checked(name, archive.read(place)))


if __name__ == "__main__":
    try:
        fetch()
    except FaceWeightsError as error:
        sys.exit(str(error))
    except subprocess.CalledProcessError:
        sys.exit("the face detector's weights could not be downloaded")
