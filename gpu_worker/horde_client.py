"""The Horde's worker protocol: pop, fetch the source image, upload, submit.

This module never logs a prompt, a key or a presigned URL.
"""

from __future__ import annotations

import base64
import binascii
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import requests
from requests.adapters import HTTPAdapter

if TYPE_CHECKING:
    from gpu_worker.addons.parts import AddOns
    from gpu_worker.settings import Settings

State = Literal["ok", "censored", "faulted"]
Payload = Mapping[str, Any]
T = TypeVar("T")

PAINTING = ("inpainting", "outpainting")
"""The values of source_processing that repaint part of the source image."""
AGENT = "Horde Commons gpu_worker:0.1.0:https://github.com/horde-commons"
"""`name:version:url`, the form that the Horde requires of bridges (horde-api.md 2)."""

MAX_SOURCE_BYTES = 10 * 1024 * 1024
"""Largest source image that is read. The Horde itself accepts at most 5 MB by URL."""
_TOO_LARGE = f"the source image is larger than {MAX_SOURCE_BYTES} bytes"
TIMEOUT = (5, 30)
"""Seconds to connect and to wait for a response; API Gateway gives up after 29."""
MAX_INLINE_BODY = 500_000
"""Longest submit that carries its image, in bytes. API Gateway bills a request to an HTTP API in
steps of 512 KB (its pricing page), so such a submit costs no more than one without the image, and
an upload to S3 costs five requests. What is left of the step is for the headers."""
REST_OF_BODY = 1_000
"""More bytes than a submit has beside its image."""
MAX_TRIES = 4
"""Tries of every call but the submit of an image, which is tried until its job's lease expires."""
BACKOFF = 0.5
"""Seconds before the second try; doubled before each further try, up to `MAX_BACKOFF`. The horde's
`Retry-After` makes it longer."""
MAX_BACKOFF = 16.0
MAX_PAUSE = 10.0
"""Longest `Retry-After`, in seconds, that a call other than the submit of an image waits for: the
GPU costs money meanwhile, and the horde calls it again."""
MAX_CONNECTIONS = 64
"""Connections that are kept open, for what pops, uploads and submits at a time."""
MIN_TTL_S = 150
"""The shortest ttl of the Horde, in seconds (horde-api.md 2, TTL)."""

log = logging.getLogger(__name__)


class HordeError(Exception):
    """A call of the Horde or its object store failed; the message is safe to log."""


class UnavailableError(HordeError):
    """All tries ended without a response, or with 429 or 5xx."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        """Keep the seconds that the Horde asks to wait."""
        super().__init__(message)
        self.retry_after = retry_after


class RefusedError(HordeError):
    """The response is a 4xx, so a retry would not help."""

    def __init__(self, status: int, rc: str, message: str) -> None:
        """Keep the Horde's `rc` and message."""
        super().__init__(f"{status} {rc}: {message}" if rc else f"{status}: {message}")
        self.status, self.rc = status, rc
        self.is_duplicate = rc == "DuplicateGen" or "already submitted" in message
        self.is_not_uploaded = "not uploaded" in message


class BadJobError(ValueError):
    """No worker can draw this job; the message is safe to log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One image to draw, as popped."""

    id: str
    payload: Payload
    deadline: float
    """The `time.monotonic()` at which its lease expires."""
    model: str = ""
    upload_url: str | None = None
    """Presigned URL for a PUT; without one, the submit carries the image."""
    upload_form: Payload | None = None
    """Our extension: the `url` and signed `fields` of an upload by POST, used instead. A horde that
    sends it also takes the image in the submit."""
    source_image: str | None = None
    """URL or base64."""
    source_processing: str | None = None
    source_mask: str | None = None
    """URL or base64; white is repainted."""
    add_ons: AddOns | None = None
    """Its LoRAs and textual inversions, once read."""
    remarks: tuple[Mapping[str, str], ...] = ()
    """What its submit says in `gen_metadata`, beside what is said of the image."""

    def is_inline(self, image: bytes) -> bool:
        """Whether the submit carries the image, which is then not uploaded."""
        if self.upload_form is None:
            return self.upload_url is None
        return -(-len(image) // 3) * 4 + REST_OF_BODY <= MAX_INLINE_BODY

    @property
    def painting(self) -> bool:
        """Whether only part of the source image is repainted: inpainting or outpainting."""
        return bool(self.source_image) and self.source_processing in PAINTING

    @property
    def seed(self) -> int:
        """The seed, from 0 to 2^32 - 1; raises BadJobError."""
        try:
            return int(self.payload["seed"]) % 2**32
        except (KeyError, TypeError, ValueError):
            message = "the seed is not a number"
            raise BadJobError(message) from None

    @property
    def wants_censor(self) -> bool:
        """Whether nudity must be censored."""
        return bool(self.payload.get("use_nsfw_censor"))


def jobs_of(answer: Payload, now: float) -> list[Job]:
    """Return the jobs in the response to a pop; `now` is its `time.monotonic()`.

    Our server sends them as `jobs`; otherwise they come from the fields that every horde sends.
    """
    if "jobs" in answer:
        return [_job(raw, raw.get("payload") or {}, now) for raw in answer["jobs"] or []]
    payload = dict(answer.get("payload") or {})
    uploads = answer.get("r2_uploads") or [answer.get("r2_upload")]
    jobs = []
    for number, job_id in enumerate(answer.get("ids") or []):
        upload = uploads[number] if number < len(uploads) else None
        one = {**answer, "id": job_id, "r2_upload": upload}
        # The images of one request use consecutive seeds.
        seed = str(payload.get("seed", ""))
        own_seed = {"seed": str(int(seed) + number)} if seed.isdecimal() else {}
        jobs.append(_job(one, {**payload, "n_iter": 1, **own_seed}, now))
    return jobs


def _job(raw: Payload, payload: Payload, now: float) -> Job:
    return Job(
        id=str(raw["id"]),
        payload=payload,
        deadline=now + (raw.get("ttl") or MIN_TTL_S),
        model=raw.get("model") or "",
        upload_url=raw.get("r2_upload"),
        upload_form=raw.get("r2_post"),
        source_image=raw.get("source_image"),
        source_processing=raw.get("source_processing"),
        source_mask=raw.get("source_mask"),
    )


class Horde:
    """One worker's connection to one horde. It is thread-safe."""

    def __init__(self, settings: Settings, *, backoff: float = BACKOFF) -> None:
        """Create a client; it connects on the first call. `backoff` is in seconds."""
        self._settings = settings
        self.max_pixels = settings.max_pixels
        """Largest width times height to pop for any model."""
        self.offer: Payload = {"allow_post_processing": False, "allow_controlnet": False}
        """What else the worker can do: fields of its pops."""
        self._backoff = backoff
        self._session = requests.Session()
        # The connection pool is thread-safe; the cookie jar is not, and nothing here needs one.
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=MAX_CONNECTIONS))

    def pop(self, models: Sequence[str] = (), offer: Payload | None = None) -> list[Job]:
        """Claim up to `max_batch` images that can be drawn in one batch; empty if none waits.

        `models` are those that are offered, by default the one of the settings, and `offer` the
        fields that are theirs. If the response is lost, the jobs return to the queue when their ttl
        ends, since the Horde cannot know. Raises HordeError.
        """
        settings, own = self._settings, offer or {}
        now = time.monotonic()
        answer = self._post(
            "pop",
            {
                "name": settings.worker_name,
                "models": list(models) or [settings.model_name],
                "bridge_agent": AGENT,
                "amount": settings.max_batch,
                "threads": 1,
                "nsfw": True,
                "allow_img2img": True,
                "allow_painting": True,
                "allow_lora": settings.has_loras,
                **self.offer,
                **own,
                "max_pixels": min(self.max_pixels, own.get("max_pixels", self.max_pixels)),
                # Our extension: jobs of several requests in one batch. Other hordes ignore it.
                "mixed_batch": True,
            },
        )
        if skipped := answer.get("skipped"):
            log.info("skipped: %s", skipped)
        try:
            return jobs_of(answer, now)
        except (AttributeError, KeyError, TypeError) as error:
            message = f"pop: unexpected response ({type(error).__name__})"
            raise UnavailableError(message) from error

    def fetch_source(self, job: Job) -> bytes | None:
        """Return the source image's file, or None for text-to-image.

        Raises BadJobError if it is larger than `MAX_SOURCE_BYTES` or malformed, or HordeError.
        """
        return self._fetch(job.source_image)

    def fetch_mask(self, job: Job) -> bytes | None:
        """Return the mask's file, or None without painting or if the source image has the mask."""
        return self._fetch(job.source_mask) if job.painting else None

    def _fetch(self, source: str | None) -> bytes | None:
        if not source:
            return None
        if source.startswith(("http://", "https://")):
            return self._with_retries("source image", lambda: self._download(source))
        # Checked before decoding: base64 needs four characters for three bytes.
        if len(source) > MAX_SOURCE_BYTES * 4 // 3 + 4:
            raise BadJobError(_TOO_LARGE)
        try:
            return base64.b64decode(source.partition(",")[2] or source, validate=True)
        except (binascii.Error, ValueError):
            message = "the source image is neither a URL nor base64"
            raise BadJobError(message) from None

    def upload(self, job: Job, image: bytes) -> None:
        """Upload the WebP file by the job's form or URL, unless the submit carries it.

        A form's signature bounds the length. A PUT sends no Content-Type, since the Horde's
        presigned URLs sign only the host.
        """
        form, url = job.upload_form, job.upload_url

        def send() -> requests.Response:
            if form is None:
                return self._session.put(str(url), data=image, timeout=TIMEOUT)
            file = {"file": ("image.webp", image, "image/webp")}  # S3 wants it last
            return self._session.post(
                form["url"], data=dict(form["fields"]), files=file, timeout=TIMEOUT
            )

        if not job.is_inline(image):
            self._with_retries("upload", lambda: _check(send()))

    def deliver(
        self, job: Job, state: State, image: bytes, remarks: Sequence[Payload] = ()
    ) -> None:
        """Upload an image if its submit does not carry it, and submit it.

        If the upload fails (its URL has expired, the object store is away or has lost the image),
        the submit carries the image: every horde takes that (horde-api.md 2, Submit). Raises
        HordeError.
        """
        carried = job.is_inline(image)
        if not carried:
            try:
                self.upload(job, image)
            except HordeError as error:
                log.warning("job %s: %s; its submit carries the image", job.id, error)
                carried = True
        try:
            self.submit(job, state, image, remarks, carried=carried)
        except RefusedError as refusal:
            if carried or not refusal.is_not_uploaded:
                raise
            self.submit(job, state, image, remarks, carried=True)

    def submit(
        self,
        job: Job,
        state: State,
        image: bytes | None = None,
        remarks: Sequence[Payload] = (),
        *,
        carried: bool | None = None,
    ) -> None:
        """Submit a job. This can be repeated, since exactly one submit succeeds.

        `carried` says whether the submit carries the image; by default, whether it is inline.
        """
        if carried is None:
            carried = image is not None and job.is_inline(image)
        censorship = [{"type": "censorship", "value": "nsfw"}] if state == "censored" else []
        body = {
            "id": job.id,
            "generation": base64.b64encode(image or b"").decode() if carried else "R2",
            "state": state,
            "seed": job.seed if state != "faulted" else 0,
            "gen_metadata": [*censorship, *remarks],
        }
        self._post("submit", body, until=None if state == "faulted" else job.deadline)

    def _post(
        self, verb: Literal["pop", "submit"], body: Payload, until: float | None = None
    ) -> dict[str, Any]:
        url = f"{self._settings.horde_url}/v2/generate/{verb}"
        headers = {"apikey": self._settings.horde_api_key, "Client-Agent": AGENT}
        tries = 0

        def post() -> dict[str, Any]:
            nonlocal tries
            tries += 1
            try:
                return _answer(self._session.post(url, json=body, headers=headers, timeout=TIMEOUT))
            except RefusedError as refusal:
                # The key was good for the pop, so this is a horde in trouble, or a key that is
                # being replaced: no reason to throw an image away.
                if until is not None and refusal.status == HTTPStatus.UNAUTHORIZED:
                    raise UnavailableError(str(refusal)) from refusal
                raise

        try:
            return self._with_retries(verb, post, until)
        except RefusedError as refusal:
            # An earlier try, whose response was lost, had succeeded.
            if verb == "submit" and tries > 1 and refusal.is_duplicate:
                return {}
            raise

    def _download(self, url: str) -> bytes:
        with self._session.get(url, timeout=TIMEOUT, stream=True) as response:
            _check(response)
            data = bytearray()
            for chunk in response.iter_content(64 * 1024):
                data += chunk
                if len(data) > MAX_SOURCE_BYTES:
                    raise BadJobError(_TOO_LARGE)
            return bytes(data)

    def _with_retries(self, what: str, call: Callable[[], T], until: float | None = None) -> T:
        """Call until it succeeds: `MAX_TRIES` times, or to the `time.monotonic()` `until`."""
        tries = 0
        while True:
            tries += 1
            asked = 0.0
            try:
                return call()
            except UnavailableError as error:
                reason, asked = str(error), error.retry_after
            except requests.RequestException as error:
                # Only the name, since the text contains the presigned URL.
                reason = type(error).__name__
            pause = max(asked, min(MAX_BACKOFF, self._backoff * 2 ** (tries - 1)))
            if until is None:
                over = tries >= MAX_TRIES or pause > MAX_PAUSE
            else:
                over = time.monotonic() + pause > until
            if over:
                message = f"{what}: {reason} ({tries} tries)"
                raise UnavailableError(message)
            time.sleep(pause)


def _check(response: requests.Response, rc: str = "", message: str = "") -> None:
    status = response.status_code
    message = message or response.reason or "no reason given"
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        text, asked = f"{status} {message}", response.headers.get("Retry-After", "")
        # As seconds; a date, the other form, is not what a horde sends.
        raise UnavailableError(text, retry_after=float(asked) if asked.isdecimal() else 0.0)
    if not response.ok or status >= HTTPStatus.MULTIPLE_CHOICES:
        raise RefusedError(status, rc, message)


def _answer(response: requests.Response) -> dict[str, Any]:
    """Return a response's JSON object; raises HordeError with its `message` and `rc`."""
    try:
        body = response.json()
    except requests.JSONDecodeError:
        body = None
    found = body if isinstance(body, dict) else {}
    _check(response, str(found.get("rc") or ""), str(found.get("message") or ""))
    if not isinstance(body, dict):
        message = "the response is not a JSON object"
        raise UnavailableError(message)
    return body
