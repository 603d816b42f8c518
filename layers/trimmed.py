"""Cut the layer's botocore to what the functions use of it.

Botocore describes 440 services in 18 MB, looks at each of their folders for its first client, and
parses the endpoints of all of them (lambda-performance.md 1.1). Its code is not changed.

Its bundle of 117 root certificates is parsed for every new connection: 18 ms, where Amazon's own
five take 1 ms. They are taken out of that bundle, which is Mozilla's as certifi has it.
"""

import gzip
import json
import re
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layers.bytecode import BuildError

SERVICES = ("dynamodb", "lambda", "s3", "secretsmanager", "sqs", "ssm", "sts")
"""The services that the functions call; ``sts`` for the role of another account's bucket."""
SHARED_DATA = ("_retry", "endpoints", "partitions", "sdk-default-configuration")
"""Botocore's data that is of no single service."""
ROOTS_FILE = "amazon_roots.pem"
"""The file of Amazon's roots in the layer, beside the packages."""
ALL_ROOTS_FILE = "botocore/cacert.pem"
"""The file of all roots that botocore believes."""
ROOTS = {
    "Amazon Root CA 1",
    "Amazon Root CA 2",
    "Amazon Root CA 3",
    "Amazon Root CA 4",
    "Starfield Services Root Certificate Authority - G2",
}
"""The roots that Amazon Trust Services asks every trust store to hold, by their common names."""
OWNERS = {"Amazon", "Starfield Technologies, Inc."}
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\n.+?-----END CERTIFICATE-----\n", re.DOTALL)


def trim_data(data: Path) -> None:
    """Drop from botocore's ``data`` folder what no client of ``SERVICES`` reads.

    What is left is written without its documentation, as plain JSON. Raises BuildError where
    something is missing.
    """
    missing = {*SERVICES, *SHARED_DATA} - {path.name.partition(".")[0] for path in data.iterdir()}
    if missing:
        message = f"botocore has no data of {', '.join(sorted(missing))} in {data}"
        raise BuildError(message)
    _drop_the_rest(data)
    for path in sorted(data.rglob("*.json*")):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        content = _undocumented(json.loads(text))
        path.unlink()
        name = path.name.removesuffix(".gz")
        if name == "endpoints.json":
            content = _of_our_services(content, _prefixes(data))
        path.with_name(name).write_text(json.dumps(content, separators=(",", ":")))


def _drop_the_rest(data: Path) -> None:
    """Drop the files of other services, old versions, and examples for documentation."""
    for path in data.iterdir():
        if path.is_dir() and path.name not in SERVICES:
            shutil.rmtree(path)
        elif path.is_file() and path.name.partition(".")[0] not in SHARED_DATA:
            path.unlink()
    for service in SERVICES:
        *old, _ = sorted(data.joinpath(service).iterdir())  # by date: the last one is used
        for version in old:
            shutil.rmtree(version)
        for path in (data / service).rglob("examples-1.json*"):
            path.unlink()


def _undocumented(value: Any) -> Any:
    """Return JSON with empty texts of documentation; a member of that name is an object, and kept.

    Botocore reads some of the texts, so they are not dropped.
    """
    if isinstance(value, list):
        return [_undocumented(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: "" if key == "documentation" and isinstance(item, str) else _undocumented(item)
        for key, item in value.items()
    }


def _prefixes(data: Path) -> set[str]:
    """Return the names by which the endpoints know our services."""
    found = set()
    for service in SERVICES:
        (model,) = (data / service).glob("*/service-2.json*")
        raw = model.read_bytes()
        text = gzip.decompress(raw) if model.suffix == ".gz" else raw
        found.add(json.loads(text)["metadata"]["endpointPrefix"])
    return found


def _of_our_services(endpoints: dict[str, Any], prefixes: set[str]) -> dict[str, Any]:
    for partition in endpoints["partitions"]:
        services = partition["services"]
        partition["services"] = {name: services[name] for name in services if name in prefixes}
    return endpoints


def amazon_roots(bundle: str) -> str:
    """Return the certificates of ``ROOTS`` in a bundle, as PEM; raises BuildError if one lacks."""
    found = {name: pem for name, pem in _named(bundle) if name in ROOTS}
    if ROOTS - found.keys():
        message = f"the bundle of roots lacks {', '.join(sorted(ROOTS - found.keys()))}"
        raise BuildError(message)
    return "".join(found[name] for name in sorted(found))


def _named(bundle: str) -> Iterator[tuple[str, str]]:
    """Yield the common name and the PEM of each certificate whose owner is Amazon or Starfield."""
    for pem in _CERTIFICATE.findall(bundle):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=pem)
        for certificate in context.get_ca_certs():
            subject: Any = certificate["subject"]  # pairs within relative names
            parts = {key: value for names in subject for key, value in names}
            if parts.get("organizationName") in OWNERS:
                yield parts.get("commonName", ""), pem
