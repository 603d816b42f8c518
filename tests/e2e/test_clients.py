"""Horde clients that other people wrote, unmodified, as they are published.

Each script of tests/e2e/clients is one user's whole round with one client, in a process of its own,
since the clients read their settings when they are imported. All rounds start at once; each test
reads one of them.
"""

import base64
import io
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.local.api_client import Client
from tests.e2e.conftest import PATIENCE_S, OperatedCloud, small
from tests.support.numbers import SMALL_COST_SHARED, SMALL_PRICE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "tests" / "e2e" / "clients"
PYTHON = ROOT / "build" / "clients-venv" / "bin" / "python"
BAD_KEY = "No user matching sent API Key"
TOO_POOR = "this request needs its kudos upfront"
UNKNOWN_ID = "Image Waiting Prompt with ID '00000000-0000-4000-8000-000000000000' not found."


@dataclass
class Round:
    """What one client did and saw."""

    client: Client
    """Of the account that it used."""
    before: int
    """What that account held."""
    seen: dict[str, Any]
    log: str

    @property
    def paid(self) -> int:
        return self.before - self.client.kudos()


def pictures(images: list[str]) -> list[Any]:
    """Return format and size of images as the clients report them, decoded to the last pixel."""
    found = []
    for text in images:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            image.load()
            found.append([image.format, *image.size])
    return found


TWO_PICTURES = [["WEBP", 64, 64]] * 2


def play(script: Path, folder: Path, task: dict[str, str]) -> tuple[dict[str, Any], str]:
    """Run one client's script to its end; returns what it reports, and its log."""
    python = [str(PYTHON), "-m", f"tests.e2e.clients.{script.stem}"]
    command = ["node", str(script)] if script.suffix == ".mjs" else python
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*command, json.dumps(task)],
        # horde_sdk wants the slash; a foreign setting of the same name must not win.
        env={**ours, "AI_HORDE_URL": f"{task['api']}/", "PYTHONPATH": str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{script.name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen, done.stderr


class Rounds:
    """The rounds of all clients, each under the name of its script."""

    def __init__(self, cloud: OperatedCloud, folder: Path, pool: ThreadPoolExecutor) -> None:
        self._cloud = cloud
        self._folder = folder
        # The request waits before the worker asks.
        self.client = cloud.user()
        self.drawn_by_volunteer = self.client.generate(
            small("a boat", models=["sdk_volunteer"], n=2, shared=True)
        )
        self.volunteer = cloud.worker()
        self._futures: dict[str, Future[Round]] = {
            path.name: pool.submit(self._play, path)
            for path in sorted(SCRIPTS.iterdir())
            if path.suffix in {".py", ".mjs"} and path.name != "common.py"
        }

    def __getitem__(self, script: str) -> Round:
        return self._futures[script].result()

    def _play(self, script: Path) -> Round:
        worker = script.stem == "sdk_worker"
        client = self.volunteer if worker else self._cloud.user()
        poor = self._cloud.local.client().register("newcomer")
        folder = self._folder / script.name
        folder.mkdir()
        before = client.kudos()
        task = {
            "api": f"{self._cloud.local.url}/api",
            "key": str(client.api_key),
            "poor": poor["api_key"],
            "model": "sdk_volunteer" if worker else f"nobody_draws_{script.stem}",
        }
        return Round(client, before, *play(script, folder, task))


@pytest.fixture(scope="module")
def rounds(cloud: OperatedCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rounds]:
    assert PYTHON.exists(), "the clients are not installed here: run 'make setup' first"
    # Two cores: more at a time would wait for each other, and wake more Lambdas.
    with ThreadPoolExecutor(3) as pool:
        yield Rounds(cloud, tmp_path_factory.mktemp("clients"), pool)


# --- horde_sdk ------------------------------------------------------------------------------


def test_horde_sdk_draws_two_shared_images(rounds: Rounds) -> None:
    seen = rounds["sdk_simple.py"].seen
    assert seen["heartbeat"] == "OK"
    assert seen["shared"] is True
    assert seen["decoded"] == TWO_PICTURES


def test_horde_sdk_pays_what_its_dry_run_said(rounds: Rounds) -> None:
    # And nothing else of its round was charged: what it cancelled was given back.
    for script in ("sdk_simple.py", "sdk_async.py"):
        assert rounds[script].seen["dry_run"] == rounds[script].paid == 2 * SMALL_COST_SHARED


def test_what_horde_sdk_drew_is_in_the_data_set(cloud: OperatedCloud, rounds: Rounds) -> None:
    for generation_id in rounds["sdk_simple.py"].seen["generations"]:
        row = cloud.shared_soon(generation_id)
        assert (row["prompt"], row["negative_prompt"]) == ("a fox", "blurry")


def test_horde_sdk_cancels_what_its_user_interrupts(cloud: OperatedCloud, rounds: Rounds) -> None:
    assert rounds["sdk_simple.py"].seen["interrupted"] == ["Interrupted", ""]
    counts = cloud.anonymous.check(rounds["sdk_async.py"].seen["cancelled"])
    assert (counts["done"], counts["waiting"], counts["finished"]) == (True, 0, 0)


def test_horde_sdk_raises_its_own_errors_with_our_words(rounds: Rounds) -> None:
    seen, log = rounds["sdk_simple.py"].seen, rounds["sdk_simple.py"].log
    kind, text = seen["bad_sampler"]
    assert kind in {"AIHordePayloadValidationError", "PayloadValidationError"}  # 0.18, 0.33
    assert text == "Input payload validation failed"
    assert "'params.sampler_name': \"'k_nothing' is not one of ['k_lms'" in log
    for name, words in (("bad_key", BAD_KEY), ("too_poor", TOO_POOR)):
        kind, text = seen[name]
        assert kind == "AIHordeRequestError"
        assert words in text
    for name in ("unknown_check", "unknown_status", "unknown_cancel"):
        assert seen[name] == ["AIHordeRequestError", UNKNOWN_ID]
    # It knows every rc that it met.
    assert "Failed to parse the RC" not in log


def test_horde_sdk_async_draws_two_shared_images(rounds: Rounds) -> None:
    seen = rounds["sdk_async.py"].seen
    assert seen["shared"] is True
    assert seen["decoded"] == TWO_PICTURES
    assert seen["user"]["is"] == "UserDetailsResponse"


def test_horde_sdk_reads_message_and_rc_of_each_refusal(rounds: Rounds) -> None:
    seen = rounds["sdk_async.py"].seen
    for name, words, rc in (
        ("bad_key", BAD_KEY, "InvalidAPIKey"),
        ("too_poor", TOO_POOR, "KudosUpfront"),
        ("unknown_check", UNKNOWN_ID, "RequestNotFound"),
        ("unknown_status", UNKNOWN_ID, "RequestNotFound"),
        ("unknown_cancel", UNKNOWN_ID, "RequestNotFound"),
    ):
        assert seen[name]["is"] == "RequestErrorResponse"
        assert words in seen[name]["message"]
        assert seen[name]["rc"] == rc


def test_horde_sdk_worker_delivers_each_image_under_its_own_id(rounds: Rounds) -> None:
    # The SDK sorts ids and upload links each by themselves: they must sort alike.
    worker = rounds["sdk_worker.py"]
    assert worker.seen["uploads"] == [200, 200]
    assert worker.seen["submits"] == [{"reward": SMALL_PRICE}] * 2
    status = rounds.client.status(rounds.drawn_by_volunteer["id"])
    assert status["shared"] is True
    assert {
        generation["id"]: rounds.client.download(generation["img"])
        for generation in status["generations"]
    } == {key: base64.b64decode(image) for key, image in worker.seen["drawn"].items()}


def test_horde_sdk_worker_reads_its_job_and_its_account(rounds: Rounds) -> None:
    worker = rounds["sdk_worker.py"]
    job = worker.seen["job"]
    assert job["payload"]["prompt"] == "a boat"
    assert (job["payload"]["ddim_steps"], job["payload"]["sampler_name"]) == (4, "k_euler")
    assert (job["payload"]["width"], job["payload"]["height"]) == (64, 64)
    assert len(job["ids"]) == len(job["r2_uploads"]) == job["payload"]["n_iter"] == 2
    assert (job["source_image"], job["source_processing"]) == (None, "txt2img")
    assert worker.seen["user"]["kudos"] == worker.before
    assert worker.paid == -2 * SMALL_PRICE


def test_horde_sdk_worker_understands_each_refusal(rounds: Rounds) -> None:
    seen = rounds["sdk_worker.py"].seen
    assert (seen["nothing_waits"]["id"], seen["nothing_waits"]["ids"]) == (None, [])
    # horde-worker-reGen looks for these words.
    assert "already submitted" in seen["again"]["message"]
    assert "Processing Job with ID" in seen["unknown_job"]["message"]
    assert "does not exist" in seen["unknown_job"]["message"]
    names = ("again", "unknown_job", "bad_key", "no_worker_key")
    assert [seen[name]["rc"] for name in names] == [
        "DuplicateGen",
        "InvalidJobID",
        "InvalidAPIKey",
        "NotPrivileged",
    ]


# --- @zeldafan0225/ai_horde, of npm ---------------------------------------------------------


def test_the_npm_client_draws_two_shared_images(rounds: Rounds) -> None:
    npm = rounds["npm.mjs"]
    assert npm.seen["heartbeat"] is True
    assert npm.seen["user"]["kudos"] == npm.before
    assert npm.seen["status"]["shared"] is True
    assert npm.seen["status"]["finished"] == 2
    assert pictures([found["image"] for found in npm.seen["downloads"]]) == TWO_PICTURES
    assert {found["type"] for found in npm.seen["downloads"]} == {"image/webp"}


def test_the_npm_client_pays_what_its_dry_run_said(rounds: Rounds) -> None:
    npm = rounds["npm.mjs"]
    assert npm.seen["dry"] == {"kudos": npm.paid}
    assert npm.seen["accepted"]["kudos"] == npm.paid == 2 * SMALL_COST_SHARED


def test_the_npm_client_cancels(rounds: Rounds) -> None:
    before, after = rounds["npm.mjs"].seen["cancelled"]
    assert (before["waiting"], before["done"]) == (2, False)
    assert (after["waiting"], after["done"]) == (0, True)


def test_the_npm_client_may_ask_for_some_fields_only(rounds: Rounds) -> None:
    masked = rounds["npm.mjs"].seen["masked"]
    assert (masked["done"], masked["finished"]) == (True, 2)


def test_the_npm_client_throws_an_api_error_with_our_words(rounds: Rounds) -> None:
    seen = rounds["npm.mjs"].seen
    bad = seen["bad_sampler"]
    assert (bad["status"], bad["message"]) == (400, "Input payload validation failed")
    assert "'k_nothing' is not one of" in bad["errors"]["params.sampler_name"]
    for name, status, rc, words in (
        ("bad_key", 401, "InvalidAPIKey", BAD_KEY),
        ("too_poor", 403, "KudosUpfront", TOO_POOR),
        ("unknown_check", 404, "RequestNotFound", UNKNOWN_ID),
        ("unknown_status", 404, "RequestNotFound", UNKNOWN_ID),
        ("unknown_cancel", 404, "RequestNotFound", UNKNOWN_ID),
    ):
        assert (seen[name]["status"], seen[name]["error_code"]) == (status, rc)
        assert seen[name]["name"] == rc
        # ``message`` is the client's own text for a code it knows; ours is below it.
        assert words in seen[name]["rawError"]["message"]


# --- smaller clients ------------------------------------------------------------------------


def test_stablehordeapi_draws_two_shared_images_into_files(
    cloud: OperatedCloud, rounds: Rounds
) -> None:
    small = rounds["stablehordeapi.py"]
    assert small.seen["finished"] == 2
    assert pictures(small.seen["images"]) == TWO_PICTURES
    assert all(seed.isdigit() for seed in small.seen["seeds"])
    # It cannot read ``shared``; the price says it, and for two more that nobody drew.
    assert small.paid == 2 * 2 * SMALL_COST_SHARED
    assert small.seen["message"].startswith("Warning: No available workers")


def test_stablehordeapi_raises_at_each_refusal(rounds: Rounds) -> None:
    seen = rounds["stablehordeapi.py"].seen
    for name in ("unknown_check", "unknown_status"):
        assert seen[name] == ["StatusNotFound", "You entered an UUID that is not found"]
    # It has no error for these: an answer without an id is all that it sees.
    for name in ("bad_sampler", "bad_key", "too_poor"):
        assert seen[name] == ["ValidationError", "Object missing required field `id`"]


def test_pyaihorde_shares_two_images_although_nobody_told_it_to(rounds: Rounds) -> None:
    small = rounds["pyaihorde.py"]
    assert small.seen["shared"] is True
    assert small.paid == 2 * SMALL_COST_SHARED
    assert pictures(small.seen["images"]) == TWO_PICTURES


def test_pyaihorde_never_polls_without_a_pause(rounds: Rounds) -> None:
    assert all(seconds >= 1 for seconds in rounds["pyaihorde.py"].seen["sleeps"])


def test_pyaihorde_raises_at_each_refusal_of_a_request(rounds: Rounds) -> None:
    seen = rounds["pyaihorde.py"].seen
    for name in ("bad_params", "bad_key", "too_poor"):
        assert seen[name] == ["ValidationError", "Object missing required field `id`"]
    # To it, a request that is gone looks like one of which nothing is known yet.
    assert seen["unknown_status"] == [False, []]


def test_a_client_on_the_standard_library_draws_links_and_base64(rounds: Rounds) -> None:
    plain = rounds["plain_urllib.py"]
    # What only a source image gives a meaning does not make it image-to-image.
    assert plain.seen["shared"] == [True, True]
    assert plain.paid == 2 * 2 * SMALL_COST_SHARED
    assert pictures(plain.seen["downloaded"]) == TWO_PICTURES
    assert pictures(plain.seen["inline"]) == TWO_PICTURES


def test_a_client_on_the_standard_library_reads_each_refusal(rounds: Rounds) -> None:
    seen = rounds["plain_urllib.py"].seen
    status, body = seen["bad_sampler"]
    assert (status, set(body)) == (400, {"message", "errors"})
    assert "'k_no' is not one of" in body["errors"]["params.sampler_name"]
    for name, status, rc, words in (
        ("bad_key", 401, "InvalidAPIKey", BAD_KEY),
        ("too_poor", 403, "KudosUpfront", TOO_POOR),
        ("unknown_check", 404, "RequestNotFound", UNKNOWN_ID),
        ("unknown_status", 404, "RequestNotFound", UNKNOWN_ID),
        ("unknown_cancel", 404, "RequestNotFound", UNKNOWN_ID),
    ):
        code, body = seen[name]
        assert (code, body["rc"]) == (status, rc)
        assert words in body["message"]
