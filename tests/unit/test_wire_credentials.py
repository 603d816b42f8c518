"""Credentials: where they are found, and when they are replaced, beside botocore's."""

import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.credentials import RefreshableCredentials

from horde.wire import credentials, sockets
from horde.wire.credentials import Renewed, find
from horde.wire.seam import AwsError
from horde.wire.signing import Credentials
from tests.support.scripted_server import CLOSE, ScriptedServer, answer, serving

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without credentials."""
    for name in (
        *credentials.ELSEWHERE,
        credentials.FULL_URI,
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_SECURITY_TOKEN",
        "AWS_CREDENTIAL_EXPIRATION",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Lambda's endpoint of credentials."""
    with serving() as made:
        yield made
        sockets.forget()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made; none is waited for."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, ("a", "s", None)),
        ({"AWS_SESSION_TOKEN": "t"}, ("a", "s", "t")),
        ({"AWS_SECURITY_TOKEN": "old"}, ("a", "s", "old")),
        ({"AWS_SESSION_TOKEN": "t", "AWS_SECURITY_TOKEN": "old"}, ("a", "s", "old")),
        ({credentials.FULL_URI: "http://127.0.0.1:1/"}, ("a", "s", None)),
    ],
)
def test_keys_in_the_environment_come_first_as_botocore_has_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], found: tuple[str, str, str | None]
) -> None:
    import botocore.session

    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "s",
        **variables,
    }.items():
        monkeypatch.setenv(name, value)
    theirs: Any = botocore.session.Session().get_credentials()
    assert find()() == found == tuple(theirs.get_frozen_credentials())[:3]


# --- Lambda's endpoint ---------------------------------------------------------------------------


def keys(name: str = "a", end: str = "2100-01-01T00:00:00Z") -> bytes:
    found = {"AccessKeyId": name, "SecretAccessKey": "s", "Token": "t", "Expiration": end}
    return answer(json.dumps(found).encode())


def test_a_function_from_a_snapshot_asks_its_endpoint_with_its_token(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import botocore.session

    monkeypatch.setenv(credentials.FULL_URI, f"{server.url}/2021-04-23/credentials?x=y")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "secret token")
    server.script(keys())
    theirs: Any = botocore.session.Session().get_credentials()
    assert find()() == ("a", "s", "t") == tuple(theirs.get_frozen_credentials())[:3]
    first, second = server.heard
    for heard in (first, second):
        assert (heard.method, heard.path) == ("GET", "/2021-04-23/credentials?x=y")
        assert heard.headers["authorization"] == "secret token"
        assert heard.headers["accept"] == "application/json"


@pytest.mark.parametrize(
    "bad", [answer(b"", 500), answer(b"no json"), answer(b"{}"), answer(b"[]"), CLOSE], ids=str
)
def test_the_endpoint_is_asked_three_times_a_second_apart(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, pauses: list[float], bad: bytes
) -> None:
    monkeypatch.setenv(credentials.FULL_URI, server.url)
    server.script(bad, bad, keys())
    assert find()() == ("a", "s", "t")
    assert pauses == [1, 1]
    server.script(bad)
    with pytest.raises(AwsError, match="CredentialRetrievalError"):
        find()
    assert len(server.heard) == 3


@pytest.mark.parametrize(
    "url", ["http://example.com/", "http://10.0.0.1/", "http://169.254.169.254/"]
)
def test_credentials_come_from_this_machine_or_over_tls(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float], url: str
) -> None:
    monkeypatch.setenv(credentials.FULL_URI, url)
    with pytest.raises(AwsError, match="CredentialRetrievalError"):
        find()


# --- their end -----------------------------------------------------------------------------------

GOOD, SHORT, OVER, FAILS = 3600.0, 700.0, -1.0, None
"""Seconds that new credentials are good for; or the endpoint does not answer."""
LIVES = [
    [(1000, GOOD)],
    [(2699, GOOD), (2701, GOOD), (2702, GOOD)],
    [(2701, FAILS), (2702, GOOD), (2703, GOOD)],
    [(3001, FAILS), (3002, GOOD)],
    [(3601, GOOD), (3602, GOOD)],
    [(3601, FAILS), (9999, FAILS)],
    [(2701, OVER), (2702, GOOD)],
    [(3001, OVER), (3002, OVER)],
    [(2701, SHORT), (2702, SHORT), (3300, GOOD), (3600, GOOD)],
]
"""What happens when: seconds after the first credentials were made, which are good for an hour."""


@pytest.mark.parametrize("life", LIVES, ids=str)
def test_credentials_are_replaced_when_botocore_replaces_them(
    monkeypatch: pytest.MonkeyPatch, life: list[tuple[float, float | None]]
) -> None:
    now, made = [NOW], [0]
    outcome: list[float | None] = [GOOD]

    def next_end() -> float:
        made[0] += 1
        if outcome[0] is None:
            raise AwsError("CredentialRetrievalError")
        return now[0] + outcome[0]

    def ours() -> Callable[[], str]:
        monkeypatch.setattr(time, "time", lambda: now[0])

        def fetch() -> tuple[Credentials, float]:
            end = next_end()
            return Credentials(f"key {made[0]}", "s"), end

        renewed = Renewed(fetch)
        return lambda: renewed().access_key

    def theirs() -> Callable[[], str]:
        def fetch() -> dict[str, Any]:
            end = dt.datetime.fromtimestamp(next_end(), dt.UTC).isoformat()
            return {
                "access_key": f"key {made[0]}",
                "secret_key": "s",
                "token": None,
                "expiry_time": end,
            }

        monkeypatch.setattr(
            RefreshableCredentials.__init__,
            "__defaults__",
            (lambda: dt.datetime.fromtimestamp(now[0], dt.UTC), None, None, None),
        )
        renewed = RefreshableCredentials.create_from_metadata(fetch(), fetch, "container-role")
        return lambda: str(renewed.get_frozen_credentials().access_key)

    def lived(start: Callable[[], Callable[[], str]]) -> list[str]:
        now[0], outcome[0], made[0] = NOW, GOOD, 0
        current, found = start(), []
        for at, then in life:
            now[0], outcome[0] = NOW + at, then
            try:
                found.append(f"{current()} after {made[0]}")
            except (AwsError, RuntimeError):
                found.append(f"error after {made[0]}")
        return found

    assert lived(ours) == lived(theirs)


def test_one_thread_replaces_credentials_while_others_use_the_old_ones() -> None:
    found: list[str] = []
    ends = iter([time.time() + 800, time.time() + 3600])

    def fetch() -> tuple[Credentials, float]:
        end = next(ends)
        if end > time.time() + 900:
            found.append(renewed().access_key)  # as another thread, which does not wait
        return Credentials(f"until {end:.0f}", "s"), end

    renewed = Renewed(fetch)
    first = renewed._found.access_key
    assert renewed().access_key != first
    assert found == [first]


# --- anything else -------------------------------------------------------------------------------


def test_what_is_not_known_here_is_botocores_to_find(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, server: ScriptedServer
) -> None:
    profile = tmp_path / "credentials"
    profile.write_text("[default]\naws_access_key_id = file\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    assert find()() == ("file", "s", None)
    monkeypatch.setenv(credentials.FULL_URI, server.url)
    monkeypatch.setenv("AWS_PROFILE", "default")
    assert find()() == ("file", "s", None)
    assert server.heard == []
    monkeypatch.delenv("AWS_PROFILE")
    profile.write_text("")
    monkeypatch.delenv(credentials.FULL_URI)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AwsError, match="NoCredentials"):
        find()


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
