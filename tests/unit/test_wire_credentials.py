"""Credentials: where they are found, and when they are replaced."""

import datetime as dt
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.utils import ContainerMetadataFetcher

from horde.wire.credentials import find
from horde.wire.seam import AwsError
from tests.support.scripted_server import ScriptedServer, answer, serving

FULL_URI = "AWS_CONTAINER_CREDENTIALS_FULL_URI"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment without credentials."""
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_CREDENTIAL_EXPIRATION",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_PROFILE",
        FULL_URI,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """Lambda's endpoint of credentials."""
    with serving() as made:
        monkeypatch.setenv(FULL_URI, f"{made.url}/2021-04-23/credentials?x=y")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret token")
        yield made


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, ("a", "s", None)),
        ({"AWS_SESSION_TOKEN": "t"}, ("a", "s", "t")),
        ({"AWS_SECURITY_TOKEN": "old"}, ("a", "s", "old")),
        ({"AWS_SESSION_TOKEN": "t", "AWS_SECURITY_TOKEN": "old"}, ("a", "s", "old")),
        ({FULL_URI: "http://127.0.0.1:1/"}, ("a", "s", None)),
    ],
)
def test_keys_in_the_environment_come_first_as_botocore_has_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: tuple[str, str, str | None]
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "s"}
    for name, value in {**keys, **variables}.items():
        monkeypatch.setenv(name, value)
    theirs: Any = botocore.session.Session().get_credentials()
    assert find()() == found == tuple(theirs.get_frozen_credentials())[:3]


# --- Lambda's endpoint ---------------------------------------------------------------------------


def keys(name: str, seconds: float) -> bytes:
    """Return the endpoint's answer: keys that are good for so many seconds."""
    end = dt.datetime.fromtimestamp(time.time() + seconds, dt.UTC).isoformat()
    found = {"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": end}
    return answer(json.dumps(found).encode())


def test_a_function_from_a_snapshot_asks_its_endpoint_with_its_token(
    server: ScriptedServer,
) -> None:
    server.script(keys("a", 3600))
    credentials = find()
    assert [credentials(), credentials()] == [("a", "s", "t")] * 2
    (heard,) = server.heard
    assert (heard.method, heard.path) == ("GET", "/2021-04-23/credentials?x=y")
    assert heard.headers["authorization"] == "secret token"


def test_keys_are_replaced_before_they_end(server: ScriptedServer) -> None:
    server.script(keys("first", 800), keys("second", 3600))
    credentials = find()
    assert [credentials().access_key for _ in range(3)] == ["second"] * 3
    assert len(server.heard) == 2


def test_keys_that_cannot_be_replaced_are_used_while_they_are_good(server: ScriptedServer) -> None:
    server.script(keys("first", 800), answer(b"", 500))
    assert find()().access_key == "first"


@pytest.mark.parametrize("said", [answer(b"", 500), answer(b"no json")], ids=str)
def test_an_endpoint_that_gives_no_keys_is_an_error_of_aws(
    server: ScriptedServer, said: bytes
) -> None:
    server.script(said)
    with pytest.raises(AwsError, match="CredentialRetrievalError"):
        find()()


def test_keys_that_are_over_are_an_error_of_aws(server: ScriptedServer) -> None:
    server.script(keys("over", -60))
    with pytest.raises(AwsError, match="still expired"):
        find()()


# --- anything else -------------------------------------------------------------------------------


def test_what_is_not_in_the_environment_is_botocores_to_find(tmp_path: Path) -> None:
    profile = tmp_path / "credentials"
    profile.write_text("[default]\naws_access_key_id = file\naws_secret_access_key = s\n")
    assert find()() == ("file", "s", None)
    profile.write_text("")
    with pytest.raises(AwsError, match="NoCredentials"):
        find()()


def test_keys_that_end_are_botocores(monkeypatch: pytest.MonkeyPatch) -> None:
    end = dt.datetime.fromtimestamp(time.time() + 9999, dt.UTC).isoformat()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_CREDENTIAL_EXPIRATION": end,
    }.items():
        monkeypatch.setenv(name, value)
    assert find()() == ("a", "s", None)
    assert "botocore.credentials" in sys.modules
