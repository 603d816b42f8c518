"""CivitAI's API: what a number stands for, and the download of its file.

The host is believed only as far as it can be checked: answers, files, redirects and seconds are
bounded, downloads come over https from allowed hosts alone, and a file is used only if it has the
SHA-256 that the API named. Messages and logs have no key and no signed URL.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from gpu_worker.addons.asked import UnusableError
from gpu_worker.addons.prompt import MAX_TRIGGER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from gpu_worker.addons.asked import Kind

FILE_HOSTS = (
    "civitai.com",
    "*.civitai.com",
    "civitai-delivery-worker-prod.*.r2.cloudflarestorage.com",
)
"""Hosts from which CivitAI's own files come; a star stands for any letters."""
TIMEOUT = (5, 10)
"""Seconds to connect, and to wait for more of an answer."""
MAX_ANSWER = 4 * 1024 * 1024
"""Bytes of an answer of the API; a model with a hundred versions has half a megabyte."""
MAX_WORDS = 100
"""Triggers of a version that are read."""
MAX_REDIRECTS = 5
MAX_TRIES = 3
BACKOFF = 1.0
"""Seconds before the second try, doubled before the third; `Retry-After` makes it longer."""
MAX_PAUSE = 10.0
"""Longest `Retry-After`, in seconds, that a job waits for; a longer one is heeded by asking
nothing meanwhile."""
MAX_SILENCE = 600.0
"""Longest time, in seconds, for which nothing is asked."""
SLACK = 2048
"""Bytes that a file may have beyond what the API says, which rounds to kilobytes."""
CHUNK = 256 * 1024

TYPES: Mapping[Kind, frozenset[str]] = {
    "lora": frozenset({"LORA", "LoCon", "DoRA"}),
    "ti": frozenset({"TextualInversion"}),
}
FAMILIES = (
    (("SD 1.",), "stable_diffusion_1"),
    (("SD 2.",), "stable_diffusion_2"),
    (("SDXL", "Pony", "Illustrious", "NoobAI"), "stable_diffusion_xl"),
    (("Flux.1 D", "Flux.1 S", "Flux.1 Krea"), "flux_1"),
)
"""How names of CivitAI's base models begin -> the Horde's baseline."""
NOT_XL = frozenset({"Pony V7"})
"""A base model that begins like one of Stable Diffusion XL, and is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a model, and its file."""

    url: str
    sha256: str
    size: int
    """Most bytes of its file."""
    triggers: tuple[str, ...]
    baseline: str


class Civitai:
    """A client of the API. Thread-safe."""

    def __init__(
        self,
        url: str,
        key: str,
        hosts: Sequence[str],
        *,
        most_bytes: int,
        schemes: Sequence[str] = ("https",),
        backoff: float = BACKOFF,
    ) -> None:
        """Take the API's address, and the hosts that files may come from beside its own."""
        self._url, self._key = url.rstrip("/"), key
        self._own = urlsplit(url).hostname or ""
        self._hosts = (*hosts, self._own)
        self._most, self._schemes, self._backoff = most_bytes, tuple(schemes), backoff
        self._silent_until = 0.0
        self._local = threading.local()

    def version(self, number: str, kind: Kind, until: float) -> Version:
        """Return a version by its number; `until` is the `time.monotonic()` to end by.

        Raises UnusableError.
        """
        found = self._asked(f"/api/v1/model-versions/{int(number)}", until)
        return self._version(found, found.get("model"), kind)

    def newest(self, number: str, kind: Kind, baseline: str, until: float) -> Version:
        """Return the newest version of a model that fits `baseline`. Raises UnusableError."""
        found = self._asked(f"/api/v1/models/{int(number)}", until)
        versions = found.get("modelVersions")
        for one in versions if isinstance(versions, list) else []:
            if isinstance(one, dict) and baseline_of(one.get("baseModel")) == baseline:
                return self._version(one, found, kind)
        message = "has no version for this model's family"
        raise UnusableError("baseline_mismatch", message)

    def download(self, version: Version, path: Path, until: float) -> None:
        """Write a version's file to `path`. Raises UnusableError unless it has its SHA-256."""
        digest, size = hashlib.sha256(), 0
        with self._opened(version.url, until) as response, path.open("wb") as file:
            for chunk in _chunks(response, until):
                size += len(chunk)
                if size > min(version.size, self._most):
                    _fail("is larger than the host says")
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != version.sha256:
            _fail("has another SHA-256 than the host says")

    def _version(self, found: Mapping[str, Any], model: Any, kind: Kind) -> Version:
        said = model.get("type") if isinstance(model, dict) else None
        if said not in TYPES[kind]:
            _fail("has a number that stands for something else")
        words = found.get("trainedWords")
        words = words[:MAX_WORDS] if isinstance(words, list) else []
        url, digest, size = self._file(found.get("files"))
        return Version(
            url=url,
            sha256=digest,
            size=size,
            triggers=tuple(one[:MAX_TRIGGER] for one in words if isinstance(one, str)),
            baseline=baseline_of(found.get("baseModel")),
        )

    def _file(self, files: Any) -> tuple[str, str, int]:
        """Return the address, SHA-256 and most bytes of the file to take."""
        usable = []
        for one in files if isinstance(files, list) else []:
            try:
                digest, size = str(one["hashes"]["SHA256"]).lower(), float(one["sizeKB"]) * 1024
                is_safe = str(one["name"]).lower().endswith(".safetensors")
                is_model = one.get("type", "Model") in ("Model", "Pruned Model")
                url = str(one["downloadUrl"])
            except (AttributeError, KeyError, TypeError, ValueError):
                continue
            if is_safe and is_model and re.fullmatch(r"[0-9a-f]{64}", digest) and 0 < size < 2**60:
                usable.append((not one.get("primary"), url, digest, int(size) + SLACK))
        if not usable:
            _fail("has no safetensors file with a SHA-256 there")
        _, url, digest, size = min(usable, key=lambda one: one[0])
        if size - SLACK > self._most:
            _fail(f"has more than {self._most} bytes")
        return url, digest, size

    def _asked(self, path: str, until: float) -> dict[str, Any]:
        answer = bytearray()
        with self._opened(self._url + path, until) as response:
            for chunk in _chunks(response, until):
                answer += chunk
                if len(answer) > MAX_ANSWER:
                    _fail("is described by an answer that is too long")
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            _fail("is described by an answer that is no JSON object")
        return found

    @contextmanager
    def _opened(self, url: str, until: float) -> Iterator[requests.Response]:
        """Give a response with status 200, after redirects and tries."""
        tries = 0
        while True:
            tries += 1
            if time.monotonic() < self._silent_until:
                _fail("cannot be fetched: the host asked for silence")
            response, reason, asked = self._tried(url, until)
            if response is not None:
                break
            if asked is None:
                _fail(f"cannot be fetched: {reason}")
            pause = max(asked, self._backoff * 2 ** (tries - 1))
            if pause > MAX_PAUSE:
                self._silent_until = time.monotonic() + min(pause, MAX_SILENCE)
            if tries == MAX_TRIES or pause > MAX_PAUSE or time.monotonic() + pause >= until:
                _fail(f"cannot be fetched: {reason} ({tries} tries)")
            time.sleep(pause)
        with response:
            yield response

    def _tried(self, url: str, until: float) -> tuple[requests.Response | None, str, float | None]:
        """Return a response with status 200; else why there is none, and the seconds to wait.

        None instead of seconds says that another try would not help.
        """
        try:
            response = self._redirected(url, until)
        except UnusableError:
            raise
        # requests reads the address of a redirect, and a malformed one is a ValueError.
        except (requests.RequestException, OSError, ValueError) as error:
            return None, type(error).__name__, 0.0  # its text may have a signed URL
        status, asked = response.status_code, response.headers.get("Retry-After", "")
        if status == HTTPStatus.OK:
            return response, "", None
        response.close()
        if status != HTTPStatus.TOO_MANY_REQUESTS and status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return None, f"status {status}", None
        return None, f"status {status}", float(asked) if asked.isdecimal() else 0.0

    def _redirected(self, url: str, until: float) -> requests.Response:
        for _ in range(MAX_REDIRECTS + 1):
            host = self._check(url)
            if time.monotonic() >= until:
                _fail("cannot be fetched in time")
            headers = {"Accept-Encoding": "identity", "User-Agent": "horde-commons-gpu-worker"}
            if self._key and host == self._own:
                headers["Authorization"] = f"Bearer {self._key}"
            response = self._session.get(
                url, headers=headers, timeout=TIMEOUT, stream=True, allow_redirects=False
            )
            if not response.is_redirect:
                return response
            response.close()
            url = urljoin(url, response.headers["Location"])
        message = "cannot be fetched: too many redirects"
        raise UnusableError("download_failed", message)

    def _check(self, url: str) -> str:
        """Return a URL's host; raises UnusableError unless it is allowed."""
        try:
            parts = urlsplit(url)
            host, _ = (parts.hostname or "").lower(), parts.port
        except ValueError:
            host, parts = "", urlsplit("")
        if parts.scheme not in self._schemes:
            _fail(f"is offered at an address without {self._schemes[0]}")
        if not any(fnmatchcase(host, one.lower()) for one in self._hosts):
            _fail("is offered at a host that is not allowed")
        return host

    @property
    def _session(self) -> requests.Session:
        """A session of this thread's own, without cookies."""
        found: requests.Session | None = getattr(self._local, "session", None)
        if found is None:
            found = self._local.session = requests.Session()
            found.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return found


def baseline_of(name: Any) -> str:
    """Return the Horde's baseline for one of CivitAI's base models; empty if none is drawn here."""
    if not isinstance(name, str) or name in NOT_XL:
        return ""
    for beginnings, baseline in FAMILIES:
        if name.startswith(beginnings):
            return baseline
    return ""


def _chunks(response: requests.Response, until: float) -> Iterator[bytes]:
    """Yield a body as it arrives; raises UnusableError if it does not arrive in time."""
    try:
        # Not `iter_content`: it waits for a whole chunk, however slowly its bytes drip in.
        while chunk := response.raw.read1(CHUNK, decode_content=False):
            yield chunk
            if time.monotonic() >= until:
                _fail("does not arrive in time")
    except (HTTPError, OSError) as error:
        _fail(f"cannot be fetched: {type(error).__name__}")


def _fail(message: str) -> NoReturn:
    raise UnusableError("download_failed", message)
