"""TLS, other processes, and what is never imported."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from horde import aws
from horde.wire.seam import NoAnswerError
from tests.support import tls
from tests.support.scripted_server import ScriptedServer, answer, serving
from tests.support.template import ROOT

GET: dict[str, Any] = {"TableName": "t", "Key": {"pk": {"S": "a"}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedServer]:
    """A server of AWS with a certificate of its own, for a name that resolves to this machine."""
    certificate, key = tls.certificate(tmp_path)
    real = socket.create_connection

    def resolved(address: Any, *more: Any) -> Any:
        host = "127.0.0.1" if address[0] == tls.HOST.encode() else address[0]
        return real((host, address[1]), *more)

    monkeypatch.setattr(socket, "create_connection", resolved)
    with serving((certificate, key)) as made:
        made.host = tls.HOST
        made.script(answer())
        for name, value in {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": made.url,
            "AWS_CA_BUNDLE": str(certificate),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_CLIENT", raising=False)
        aws.clear_cache()
        yield made
        aws.clear_cache()


def test_a_link_over_tls_is_kept_for_the_next_call(server: ScriptedServer) -> None:
    client: Any = aws.dynamodb()
    for _ in range(3):
        assert client.get_item(**GET) == {}
    assert server.links == 1
    assert server.heard[0].headers["host"] == f"{tls.HOST}:{server.port}"


def test_a_link_made_before_the_first_call_is_used_by_it(server: ScriptedServer) -> None:
    client: Any = aws.dynamodb()
    client.warm()
    assert (server.links, server.heard) == (1, [])
    client.get_item(**GET)
    assert (server.links, len(server.heard)) == (1, 1)


@pytest.mark.parametrize("why", ["unknown authority", "another name"])
def test_a_server_without_a_good_certificate_is_told_nothing(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    if why == "another name":
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url.replace(tls.HOST, "127.0.0.1"))
    else:
        monkeypatch.delenv("AWS_CA_BUNDLE")
    with pytest.raises(NoAnswerError, match="CERTIFICATE_VERIFY_FAILED"):
        aws.dynamodb().get_item(**GET)
    assert server.heard == []


# --- other processes -----------------------------------------------------------------------------

FORKED = """
import os
from horde import aws
from horde.wire import sockets
client = aws.dynamodb()
ask = lambda: client.get_item(TableName="t", Key={"pk": {"S": "a"}})
ask()
child = os.fork()
if not child:
    assert not sockets._idle
    ask()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
ask()
"""
IMPORTED = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
from horde import aws
aws.dynamodb().get_item(TableName="t", Key={"pk": {"S": "a"}})
aws.s3().generate_presigned_url("put_object", Params={"Bucket": "b", "Key": "k"}, ExpiresIn=9)
aws.secret("arn")
print(json.dumps(sorted(sys.modules)))
"""


@pytest.fixture
def plain() -> Iterator[ScriptedServer]:
    """A server of AWS without TLS."""
    with serving() as made:
        made.script(answer(b'{"SecretString":"x"}'))
        yield made


def run(server: ScriptedServer, code: str, *words: str) -> str:
    env = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "functions"),
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
    }
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_process_does_not_speak_on_the_links_of_its_parent(plain: ScriptedServer) -> None:
    run(plain, FORKED)
    assert [heard.link for heard in plain.heard] == [1, 2, 1]


@pytest.mark.lengthy
@pytest.mark.parametrize("function", ["generate", "status", "worker"])
def test_a_function_that_users_wait_for_never_imports_botocore(
    plain: ScriptedServer, function: str
) -> None:
    loaded = set(json.loads(run(plain, IMPORTED, function)))
    assert function in loaded
    assert not loaded & {"boto3", "urllib3", "asyncio"}
    botocores = {name for name in loaded if name.startswith("botocore.")}
    assert botocores == {"botocore.retries", "botocore.retries.quota"}
