"""Where a release is read from: a folder, an S3 bucket, or a base URL."""

import ipaddress
import re
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlsplit

from horde_dataset import __version__, manifest
from horde_dataset.errors import BrokenOffError, DatasetError, MissingError, shown
from horde_dataset.manifest import Manifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK = 1 << 18
TIMEOUT_S = 60.0
"""Seconds without a byte after which a transfer is given up."""
MAX_REDIRECTS = 3
MAX_LISTED = 20_000
"""Most manifests under releases/ that are listed."""


class Source(Protocol):
    """Anything with files of a release."""

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes from ``start``, all or ``length`` of them.

        The caller counts them. Raises MissingError, BrokenOffError (try again) or DatasetError.
        """

    def releases(self) -> list[str] | None:
        """Return the paths of all releases' manifests; None where they cannot be listed."""


def read(source: Source, path: str, most: int) -> bytes:
    """Return a small file. Raises DatasetError where it has more than ``most`` bytes."""
    data = bytearray()
    for chunk in source.stream(path):
        data += chunk
        if len(data) > most:
            raise DatasetError(f"{path} is larger than {most} bytes: refused")
    return bytes(data)


def read_manifest(source: Source, path: str = manifest.NAME) -> Manifest:
    """Return a source's manifest. Raises DatasetError."""
    try:
        return manifest.parse(read(source, path, manifest.MAX_BYTES))
    except MissingError as error:
        raise DatasetError(f"there is no release: {error}") from error


@dataclass(frozen=True)
class FolderSource:
    """A folder, such as a mounted disk."""

    folder: Path

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes; see Source."""
        left = length
        try:
            with (self.folder / path).open("rb") as file:
                file.seek(start)
                while chunk := file.read(CHUNK if left is None else min(CHUNK, left)):
                    left = None if left is None else left - len(chunk)
                    yield chunk
        except FileNotFoundError as error:
            raise MissingError(f"{self.folder} has no {path}") from error

    def releases(self) -> list[str] | None:
        """List them; see Source."""
        names = sorted(path.name for path in (self.folder / "releases").glob("*.json"))
        return [f"releases/{name}" for name in names]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few, and none from an encrypted page to an unencrypted one."""

    def __init__(self) -> None:
        self.followed = 0

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request to follow a redirect with. Raises DatasetError."""
        self.followed += 1
        if self.followed > MAX_REDIRECTS:
            raise DatasetError(f"more than {MAX_REDIRECTS} redirects from {shown(req.full_url)}")
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise DatasetError(f"a redirect away from https, to {shown(newurl)}: refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@dataclass(frozen=True)
class WebSource:
    """A base URL, below which the files have the release's paths."""

    base: str
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes; see Source."""
        headers = {
            "Accept-Encoding": "identity",
            "User-Agent": f"horde-dataset/{__version__}",
        }
        if start or length is not None:
            last = "" if length is None else str(start + length - 1)
            headers["Range"] = f"bytes={start}-{last}"
        with self._open(path, headers) as response:
            self._check_range(response, path, start, ranged="Range" in headers)
            try:
                while chunk := response.read(CHUNK):
                    yield chunk
            except (OSError, HTTPException) as error:
                raise BrokenOffError(f"{path} broke off: {shown(error)}") from error

    def _open(self, path: str, headers: dict[str, str]) -> HTTPResponse:
        https = urllib.request.HTTPSHandler(context=self.context)
        opener = urllib.request.build_opener(https, _Redirects())
        request = urllib.request.Request(f"{self.base}/{quote(path, safe='/=')}", headers=headers)  # noqa: S310 - open_source has checked the scheme
        try:
            response: HTTPResponse = opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            error.close()
            message = f"{shown(request.full_url)} answers {error.code}"
            if error.code in {403, 404, 410}:
                raise MissingError(message) from error
            if error.code in {408, 429} or error.code >= 500:  # noqa: PLR2004 - the server's fault
                raise BrokenOffError(message) from error
            raise DatasetError(message) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            message = f"{shown(self.base)} cannot be reached: {shown(reason)}"
            if isinstance(reason, ssl.SSLCertVerificationError | socket.gaierror):
                raise DatasetError(message) from error
            raise BrokenOffError(message) from error
        return response

    def _check_range(self, response: HTTPResponse, path: str, start: int, *, ranged: bool) -> None:
        """Raise DatasetError where the server does not send what was asked for."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DatasetError(f"{self.base} sends {path} encoded: refused")
        begun = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        as_asked = response.status == 206 and begun and int(begun[1]) == start  # noqa: PLR2004
        if ranged and not as_asked:
            raise DatasetError(f"{self.base} does not answer Range requests as they are asked")

    def releases(self) -> list[str] | None:
        """List nothing: a plain web server has no list."""
        return None


@dataclass(frozen=True)
class BucketSource:
    """An S3 bucket, below a prefix that is empty or ends with a slash."""

    client: "S3Client"
    bucket: str
    prefix: str
    options: dict[str, Any]

    def stream(self, path: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Yield a file's bytes; see Source."""
        options = dict(self.options)
        if start or length is not None:
            last = "" if length is None else str(start + length - 1)
            options["Range"] = f"bytes={start}-{last}"
        try:
            body = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path, **options)
            yield from body["Body"].iter_chunks(CHUNK)
        except Exception as error:
            raise self._explained(error, path) from error

    def _explained(self, error: Exception, path: str) -> Exception:
        """Return what is to be raised for an error of boto3."""
        from botocore import exceptions  # noqa: PLC0415 - an extra

        at = f"s3://{self.bucket}/{self.prefix}{path}"
        if isinstance(error, exceptions.ClientError):
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in {"NoSuchKey", "404"}:
                return MissingError(f"there is no {at}")
            kind = BrokenOffError if status >= 500 else DatasetError  # noqa: PLR2004
            return kind(f"S3 answers {shown(code)} for {at}")
        if isinstance(error, exceptions.NoCredentialsError):
            return DatasetError(
                f"there are no AWS credentials for {at} (--no-sign-request reads a public bucket)"
            )
        if isinstance(error, exceptions.BotoCoreError | OSError):
            return BrokenOffError(f"{at} broke off: {shown(error)}")
        return error

    def releases(self) -> list[str] | None:
        """List them; see Source. None where listing is forbidden."""
        from botocore.exceptions import ClientError  # noqa: PLC0415 - an extra

        found: list[str] = []
        start = f"{self.prefix}releases/"
        pages = self.client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self.bucket, Prefix=start, **self.options):
                found += [each["Key"] for each in page.get("Contents", [])][:MAX_LISTED]
                if len(found) >= MAX_LISTED:
                    break
        except ClientError as error:
            if error.response["Error"]["Code"] in {"AccessDenied", "403"}:
                return None
            raise self._explained(error, "releases/") from error
        except Exception as error:
            raise self._explained(error, "releases/") from error
        return [key.removeprefix(self.prefix) for key in found if key.endswith(".json")]


def open_source(text: str, *, sign: bool = True, requester_pays: bool = False) -> Source:
    """Return the source that a command line names. Raises DatasetError."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        if not Path(text).is_dir():
            raise DatasetError(f"there is no folder {shown(text)}")
        return FolderSource(Path(text))
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.rstrip("/")
        return _bucket(bucket, f"{prefix}/" if prefix else "", sign, requester_pays)
    if scheme not in {"https", "http"}:
        raise DatasetError(f"{shown(text)} is no folder, s3:// or https:// address")
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError as error:
        raise DatasetError(f"{shown(text)} is no address: {error}") from error
    if parts.query or parts.fragment or parts.username or not host:
        raise DatasetError(f"{shown(text)} is no plain base address")
    if scheme == "http" and not _loopback(host):
        raise DatasetError(f"{shown(text)} is not encrypted: use https://")
    return WebSource(text.rstrip("/"))


def _loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _bucket(bucket: str, prefix: str, sign: bool, requester_pays: bool) -> BucketSource:  # noqa: FBT001
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,62}", bucket):
        raise DatasetError(f"{shown(bucket)!r} is no name of a bucket")
    try:
        import boto3  # noqa: PLC0415 - an extra
        from botocore import UNSIGNED  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
    except ImportError as error:
        raise DatasetError("s3:// needs boto3: pip install 'horde-dataset[s3]'") from error
    config = Config(
        read_timeout=TIMEOUT_S,
        connect_timeout=TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 5},
        max_pool_connections=32,
        **({} if sign else {"signature_version": UNSIGNED}),
    )
    options = {"RequestPayer": "requester"} if requester_pays else {}
    try:
        # An access point or a copy in another region is found by the credentials' own settings.
        session = boto3.session.Session()
        region = session.region_name or "us-east-1"
        client = session.client("s3", region_name=region, config=config)
    except Exception as error:
        raise DatasetError(f"boto3 cannot start: {shown(error)}") from error
    return BucketSource(client, bucket, prefix, options)
