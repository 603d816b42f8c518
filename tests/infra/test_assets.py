"""What is uploaded: bytecode of the runtime's Python, and the same bytes from each build."""

import importlib.util
import json
import marshal
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from layers import build, bytecode, trimmed
from layers.bytecode import MAGIC, RUNTIME, BuildError
from tests.support import tls
from tests.support.direct import THROUGH_THE_SDK
from tests.support.template import ROOT, functions

UNCHECKED = 1
"""The flags of a ``.pyc`` that is never compared with its source (PEP 552)."""


def runtimes_python() -> Path:
    """Return a Python of the runtime's version, or skip the test where there is none."""
    try:
        return bytecode.python_for(RUNTIME)
    except BuildError as error:
        pytest.skip(str(error))


def without_bytecode(folder: Path, target: str) -> set[str]:
    """Return the modules that the target's Python would compile when they are imported."""
    major, minor = RUNTIME if target.startswith("lambda") else sys.version_info[:2]
    own = int.from_bytes(importlib.util.MAGIC_NUMBER[:2], "little")
    magic = MAGIC if target.startswith("lambda") else own
    missing = set()
    for source in folder.rglob("*.py"):
        cached = source.parent / "__pycache__" / f"{source.stem}.cpython-{major}{minor}.pyc"
        head = cached.read_bytes()[:8] if cached.exists() else bytes(8)
        if (int.from_bytes(head[:2], "little"), head[4]) != (magic, UNCHECKED):
            missing.add(str(source.relative_to(folder)))
    return missing


def contents(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return the mode, the time and the bytes of each file."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in folder.rglob("*")
    }


def inodes(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in (folder, *folder.rglob("*"))}


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.lengthy
@pytest.mark.parametrize("target", ["host", "lambda"])
def test_every_module_of_the_functions_has_the_bytecode_of_its_python(
    target: str, tmp_path: Path
) -> None:
    if target == "lambda":
        runtimes_python()
    made = build.functions(target, tmp_path)
    deployed = {path.relative_to(made) for path in made.rglob("*.py")}
    assert {
        path.relative_to(ROOT / "functions") for path in (ROOT / "functions").rglob("*.py")
    } == deployed
    assert without_bytecode(made, target) == set()


@pytest.mark.lengthy
def test_a_module_without_bytecode_is_found(tmp_path: Path) -> None:
    made = build.functions("host", tmp_path)
    next(made.glob("__pycache__/worker.*.pyc")).unlink()
    stale = next(made.glob("horde/__pycache__/aws.*.pyc"))
    stale.write_bytes(bytes(16))
    assert without_bytecode(made, "host") == {"worker.py", "horde/aws.py"}


@pytest.mark.lengthy
def test_two_builds_in_different_folders_have_the_same_bytes(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    one = contents(build.functions("host", tmp_path / "one"))
    request.getfixturevalue("umask")
    assert contents(build.functions("host", tmp_path / "a" / "longer" / "path")) == one


@pytest.mark.lengthy
def test_no_path_of_the_build_is_in_an_asset(tmp_path: Path) -> None:
    made = build.functions("host", tmp_path)
    for cached in made.rglob("*.pyc"):
        code = marshal.loads(cached.read_bytes()[16:])
        assert isinstance(code, CodeType)
        assert code.co_filename.startswith("/var/task/")
        assert str(tmp_path).encode() not in cached.read_bytes()


@pytest.mark.lengthy
def test_a_second_build_of_unchanged_sources_changes_nothing(tmp_path: Path) -> None:
    before = inodes(build.functions("host", tmp_path))
    assert inodes(build.functions("host", tmp_path)) == before


def test_a_changed_a_new_and_a_renamed_source_are_built_anew(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    (sources / "horde").mkdir(parents=True)
    (sources / "one.py").write_text("A = 1\n")

    def built() -> dict[str, bytes]:
        made = build.functions("host", tmp_path / "build", sources)
        return {path.name: path.read_bytes() for path in made.rglob("*.py")}

    assert built() == {"one.py": b"A = 1\n"}
    (sources / "one.py").write_text("A = 2\n")
    assert built() == {"one.py": b"A = 2\n"}
    (sources / "horde" / "two.py").write_text("B = 1\n")
    assert built() == {"one.py": b"A = 2\n", "two.py": b"B = 1\n"}
    (sources / "one.py").rename(sources / "three.py")
    assert built() == {"three.py": b"A = 2\n", "two.py": b"B = 1\n"}


def test_what_other_pythons_and_editors_left_is_not_deployed(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    (sources / "__pycache__").mkdir(parents=True)
    (sources / "one.py").write_text("A = 1\n")
    (sources / "__pycache__" / "one.cpython-36.pyc").write_bytes(b"old")
    (sources / ".env").write_text("SECRET=1\n")
    made = build.functions("host", tmp_path / "build", sources)
    tag = sys.implementation.cache_tag
    found = {str(path.relative_to(made)) for path in made.rglob("*") if path.is_file()}
    assert found == {"one.py", f"__pycache__/one.{tag}.pyc"}


def test_a_module_that_cannot_be_compiled_is_an_error_and_leaves_no_asset(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "broken.py").write_text("def\n")
    with pytest.raises(BuildError, match=r"broken\.py"):
        build.functions("host", tmp_path / "build", sources)
    assert not (tmp_path / "build" / "functions" / "host").exists()


def test_without_a_python_of_the_runtime_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytecode, "_candidates", lambda: iter([tmp_path / "python3.13"]))
    monkeypatch.setattr(sys, "version_info", (3, 11, 0, "final", 0))
    with pytest.raises(BuildError, match=r"Python 3\.13 is needed .* install it"):
        build.functions("lambda", tmp_path)


def test_a_python_of_the_right_name_and_another_version_is_not_taken(tmp_path: Path) -> None:
    fake = tmp_path / "python3.13"
    fake.write_text("#!/bin/sh\necho 3 13 3550\n")
    fake.chmod(0o755)
    assert not bytecode._is_the_runtimes(fake)
    fake.write_text(f"#!/bin/sh\necho 3 13 {MAGIC}\n")
    assert bytecode._is_the_runtimes(fake)


def test_synth_builds_the_functions_whose_sources_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import app
    from infra.settings import StackSettings

    built: list[str] = []
    monkeypatch.setattr(app, "functions", built.append)
    model = {"endpoint": None, "baseline": "stable_diffusion_1"}
    for folder in ("build/functions/lambda", "build/functions/host", "tests/support"):
        app.refresh(StackSettings.model_validate({"models": {"sd": model}, "functions": folder}))
    assert built == ["lambda", "host"]


def test_the_stack_deploys_what_is_built_here() -> None:
    from infra.settings import StackSettings

    fields = StackSettings.model_fields
    assert ROOT / fields["layer"].default == build.BUILD / "layer" / "lambda"
    assert ROOT / fields["functions"].default == build.BUILD / "functions" / "lambda"


@pytest.mark.slow
@pytest.mark.parametrize("target", ["host", "lambda"])
def test_two_layers_have_the_same_bytes_and_all_their_bytecode(
    target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if target == "lambda":
        runtimes_python()
    first = build.layer(target, tmp_path / "one")
    request.getfixturevalue("umask")
    second = build.layer(target, tmp_path / "a" / "longer" / "path")
    assert without_bytecode(first, target) == set()
    assert contents(first) == contents(second)
    before = inodes(first)
    assert inodes(build.layer(target, tmp_path / "one")) == before


# --- what is cut from botocore --------------------------------------------------------------


def installed_botocore() -> Path:
    import botocore

    return Path(botocore.__file__).parent


@pytest.fixture(scope="module")
def trimmed_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Botocore's data as the layer has it."""
    import shutil

    data = tmp_path_factory.mktemp("botocore") / "data"
    kept = {*trimmed.SERVICES, "acm", "ec2"}
    data.mkdir()
    for path in (installed_botocore() / "data").iterdir():
        if path.is_file():
            shutil.copyfile(path, data / path.name)
        elif path.name in kept:
            shutil.copytree(path, data / path.name)
    trimmed.trim_data(data)
    return data


class SentError(Exception):
    """A call would have gone to this URL."""


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamodb": ("get_item", {"TableName": "horde", "Key": {"pk": {"S": "A"}}}),
    "lambda": ("invoke", {"FunctionName": "f", "InvocationType": "Event", "Payload": b"{}"}),
    "s3": ("get_object", {"Bucket": "outputs-bucket", "Key": "shared/a b.webp"}),
    "secretsmanager": ("get_secret_value", {"SecretId": "hashes"}),
    "sqs": ("send_message", {"QueueUrl": "https://sqs.example.org/1/q", "MessageBody": "x"}),
    "ssm": ("get_parameter", {"Name": "/horde/key", "WithDecryption": True}),
    "sts": (
        "assume_role",
        {"RoleArn": "arn:aws:iam::123456789012:role/a", "RoleSessionName": "test"},
    ),
}


def sent_to(service: str, region: str, loader: Any) -> str:
    """Return the URL and the body of a call in a region, as a botocore with such data makes it."""
    import botocore.session
    from botocore.config import Config

    session = botocore.session.Session()
    session.register_component("data_loader", loader)
    session.set_credentials("id", "secret")
    config = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
    client = session.create_client(service, region, config=config if service == "s3" else None)

    def stop(request: Any, **_: Any) -> None:
        raise SentError(request.url, request.body)

    client.meta.events.register_first("before-send", stop)  # before moto, if this process has it
    operation, parameters = CALLS[service]
    with pytest.raises(SentError) as sent:
        THROUGH_THE_SDK(client, client.meta.method_to_api_mapping[operation], parameters)
    return f"{client.meta.endpoint_url} {sent.value}"


def regions(data: Path) -> list[str]:
    """Return every region of every partition: AWS, China, GovCloud and the isolated ones."""
    partitions = json.loads((data / "partitions.json").read_text())["partitions"]
    assert {"aws", "aws-cn", "aws-us-gov", "aws-iso", "aws-eusc"} <= {
        one["id"] for one in partitions
    }
    return [name for one in partitions for name in one["regions"] if not name.endswith("-global")]


@pytest.mark.slow
def test_each_client_calls_the_same_address_with_the_trimmed_data_in_every_region(
    trimmed_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.loaders import Loader

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    full = Loader()
    few = Loader(extra_search_paths=[str(trimmed_data)], include_default_search_paths=False)
    for region in regions(trimmed_data):
        for service in trimmed.SERVICES:
            assert sent_to(service, region, few) == sent_to(service, region, full)


def test_the_trimmed_data_has_our_services_alone_and_is_small(trimmed_data: Path) -> None:
    assert {path.name for path in trimmed_data.iterdir() if path.is_dir()} == set(trimmed.SERVICES)
    assert sum(path.stat().st_size for path in trimmed_data.rglob("*.json")) < 1_200_000


def test_the_functions_make_clients_of_no_other_service() -> None:
    import re

    sources = [path.read_text() for path in (ROOT / "functions").rglob("*.py")]
    made = {name for text in sources for name in re.findall(r'_client\("(\w+)"', text)}
    assert made - {"sts"} == set(trimmed.SERVICES) - {"sts"}


def test_a_member_called_documentation_is_kept() -> None:
    shape = {"documentation": "x", "members": {"documentation": {"shape": "Text"}}}
    assert trimmed._undocumented([shape]) == [
        {"documentation": "", "members": {"documentation": {"shape": "Text"}}}
    ]


def test_a_botocore_without_one_of_our_services_is_not_built(tmp_path: Path) -> None:
    for name in ("endpoints.json", "partitions.json", "_retry.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(BuildError, match=r"no data of .*dynamodb, .*sdk-default-configuration"):
        trimmed.trim_data(tmp_path)


# --- the roots of TLS -----------------------------------------------------------------------


def bundle() -> str:
    return (installed_botocore() / "cacert.pem").read_text("utf-8")


def test_the_small_bundle_has_amazons_roots_and_no_other() -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=trimmed.amazon_roots(bundle()))
    found: Any = [certificate["subject"] for certificate in context.get_ca_certs()]
    names = {value for subject in found for ((key, value),) in subject if key == "commonName"}
    assert (names, len(found)) == (trimmed.ROOTS, 5)


def test_a_bundle_that_lacks_one_of_the_roots_is_not_taken() -> None:
    few = trimmed.amazon_roots(bundle())
    without = few[few.index("-----END CERTIFICATE-----\n") + len("-----END CERTIFICATE-----\n") :]
    with pytest.raises(BuildError, match=r"lacks Amazon Root CA 1$"):
        trimmed.amazon_roots(without)


@pytest.mark.slow
def test_functions_know_aws_by_amazons_roots_in_its_own_partition_alone(
    template: dict[str, Any],
) -> None:
    for _, function in functions(template).values():
        chosen = function["Environment"]["Variables"]["AWS_CA_BUNDLE"]
        condition, few, otherwise = chosen["Fn::If"]
        assert template["Conditions"][condition] == {
            "Fn::Equals": [{"Ref": "AWS::Partition"}, "aws"]
        }
        assert few == f"/opt/python/{trimmed.ROOTS_FILE}"
        assert otherwise == "/opt/python/botocore/cacert.pem"


def test_calls_to_other_hosts_believe_all_roots_whatever_the_bundle_of_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's root is in the system's store and is not Amazon's."""
    from horde import outbound, runpod

    few = tmp_path / "few.pem"
    few.write_text(trimmed.amazon_roots(bundle()))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(few))
    monkeypatch.setattr(outbound, "resolve", lambda host, port: "127.0.0.1")

    def to_loopback(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        return socket.create_connection(("127.0.0.1", address[1]))

    with tls.serving(tmp_path) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        outbound.post_json(server.url(), b"{}")
        monkeypatch.setattr("urllib3.util.connection.create_connection", to_loopback)
        runpod._pool.cache_clear()
        server.body = b'{"id": "job"}'
        account = runpod.RunPod(f"https://{tls.HOST}:{server.port}/v2", "key")
        assert account.run("endpoint", model="sd", request_id=None, images=1) == "job"
        runpod._pool.cache_clear()
