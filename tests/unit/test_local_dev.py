"""bin/dev without a cloud: what it reads, prints and refuses; and its page, docs/development.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from infra.local.dev import letters, logs, profile, running
from infra.local.dev.__main__ import main, parser
from infra.local.dev.run_handler import DevError, read_event
from infra.local.processes import identity
from tests.support.numbers import HANG_S
from tests.support.recipes import PAGE, pattern, recipes
from tests.support.template import ROOT

EVENTS = ROOT / "infra" / "local" / "events"


def put_cloud(folder: Path, name: str, *, pid: int | None = None) -> None:
    pid = pid or os.getpid()
    (folder / name).mkdir()
    record = {"run": {"pid": pid, "identity": identity(pid)}}
    (folder / name / "processes.json").write_text(json.dumps(record))
    state = {"endpoint": f"http://{name}", "worker_key": "key"}
    (folder / name / "cloud.json").write_text(json.dumps(state))


# --- which cloud ------------------------------------------------------------------------------


def test_the_only_cloud_that_runs_is_found(tmp_path: Path) -> None:
    put_cloud(tmp_path, "demo")
    assert running.find(folder=tmp_path).endpoint == "http://demo"


def test_of_several_clouds_make_up_s_is_taken(tmp_path: Path) -> None:
    for name in ("demo", "up"):
        put_cloud(tmp_path, name)
    assert running.find(folder=tmp_path).name == "up"
    assert running.find("demo", folder=tmp_path).name == "demo"


def test_between_several_others_one_must_choose(tmp_path: Path) -> None:
    for name in ("demo", "e2e"):
        put_cloud(tmp_path, name)
    with pytest.raises(DevError, match=r"choose with --cloud demo\|e2e"):
        running.find(folder=tmp_path)


def test_a_cloud_whose_process_has_ended_is_none(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    put_cloud(tmp_path, "up", pid=gone.pid)
    with pytest.raises(DevError, match="'make up' starts one"):
        running.find(folder=tmp_path)
    with pytest.raises(DevError, match="no local cloud 'up' is up"):
        running.find("up", folder=tmp_path)


# --- events -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ("[1]", "which must be a JSON object")]
)
def test_a_bad_event_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "event.json"
    path.write_text(text)
    with pytest.raises(DevError, match=message):
        read_event(str(path), {})
    with pytest.raises(DevError, match="No such file"):
        read_event(str(tmp_path / "none.json"), {})


def test_the_worker_s_key_is_filled_into_an_event() -> None:
    event = read_event(str(EVENTS / "pop.json"), {"WORKER_KEY": "abc"})
    assert event["headers"]["apikey"] == "abc"
    assert event["requestContext"]["stage"] == "$default"


def run_handler(folder: Path, code: str, *words: str, typed: str = "") -> Any:
    (folder / "handmade.py").write_text(code)
    (folder / "event.json").write_text('{"n": 3}')
    command = [sys.executable, "-m", "infra.local.dev.run_handler", "handmade"]
    return subprocess.run(
        [*command, str(folder / "event.json"), *words],
        cwd=ROOT,
        env={"PYTHONPATH": f"{folder}:{ROOT}", "PATH": os.environ["PATH"]},
        input=typed,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )


LOGGING = """
import logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
def handler(event, context):
    logging.warning("a line of the log")
    return {"twice": 2 * event["n"], "left": context.get_remaining_time_in_millis()}
"""


def test_the_log_goes_to_stderr_and_the_answer_to_stdout(tmp_path: Path) -> None:
    done = run_handler(tmp_path, LOGGING)
    assert json.loads(done.stdout) == {"twice": 6, "left": 60_000}
    assert done.stderr == "a line of the log\n"


def test_what_a_handler_raises_is_shown_and_ends_it_with_1(tmp_path: Path) -> None:
    done = run_handler(tmp_path, "def handler(event, _):\n    return event['nothing']\n")
    assert done.returncode == 1
    assert "KeyError: 'nothing'" in done.stderr


def test_breakpoint_stops_in_the_handler(tmp_path: Path) -> None:
    code = "def handler(event, _):\n    breakpoint()\n    return event\n"
    done = run_handler(tmp_path, code, typed="p event['n'] + 1\nc\n")
    assert done.returncode == 0
    assert "(Pdb) 4" in done.stdout


def test_debug_stops_at_the_first_line_and_can_be_left(tmp_path: Path) -> None:
    code = "def handler(event, _):\n    return event\n"
    done = run_handler(tmp_path, code, "--debug", typed="q\n")
    assert "-> return event" in done.stdout
    assert done.stderr == "bin/dev: left the debugger before the handler had ended\n"
    assert done.returncode == 1


# --- what a function has had ------------------------------------------------------------------


def test_a_stream_s_filter_is_read_as_lambda_reads_it() -> None:
    pattern_ = {"eventName": ["INSERT"], "dynamodb": {"Keys": {"sk": {"S": ["REQUEST", "HOOK"]}}}}

    def record(name: str, key: str) -> dict[str, Any]:
        return {"eventName": name, "dynamodb": {"Keys": {"sk": {"S": key}}}}

    assert letters.matches(pattern_, record("INSERT", "HOOK"))
    assert not letters.matches(pattern_, record("MODIFY", "HOOK"))
    assert not letters.matches(pattern_, record("INSERT", "USER"))
    assert not letters.matches(pattern_, {"eventName": "INSERT"})
    with pytest.raises(DevError, match="other than equality"):
        letters.matches({"eventName": [{"prefix": "IN"}]}, record("INSERT", "HOOK"))


# --- logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "span"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400)])
def test_a_span_of_time(text: str, span: int) -> None:
    assert logs.seconds(text) == span


@pytest.mark.parametrize("text", ["", "10", "m", "-1m", "1.5h", "10 m", "9999999s"])
def test_no_span_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s"):
        logs.seconds(text)


def test_a_line_of_a_log_for_people() -> None:
    row = {
        "level": "ERROR",
        "message": "not shared",
        "service": "horde-commons",
        "failed": 2,
        "exception": "Traceback ...\nKeyError: 'id'",
        "stack_trace": {"frames": []},
    }
    shown = logs.line({"timestamp": 1795608000123, "message": json.dumps(row)})
    assert shown == "12:00:00.123 ERROR   not shared failed=2\nTraceback ...\nKeyError: 'id'"
    assert logs.line({"timestamp": 0, "message": "START RequestId: 7 Version: 1"}) is None
    assert logs.line({"timestamp": 0, "message": "no JSON\n"}) == "00:00:00.000 no JSON"


# --- cold starts ------------------------------------------------------------------------------


def test_importtime_is_added_up_by_package_and_ours_by_module() -> None:
    text = (
        "import time: self [us] | cumulative | imported package\n"
        "import time:       100 |        100 |   botocore.config\n"
        "import time:       200 |        300 | botocore\n"
        "import time:      1000 |       1300 |     horde.store\n"
        "import time:        50 |       1350 | generate\n"
    )
    assert profile.packages(text, {"horde", "generate"}) == [
        ("horde.store", 0.001, 1),
        ("botocore", pytest.approx(0.0003), 2),
        ("generate", 0.00005, 1),
    ]


def test_a_process_that_fails_is_one_line() -> None:
    with pytest.raises(DevError, match="ended with 1: ModuleNotFoundError"):
        profile.spawn([sys.executable, "-c", "import nothing_of_this_name"], {})


# --- the command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["profile", "nothing"], "there is no functions/nothing.py"),
        (["--cloud", "nowhere", "dead"], "no local cloud 'nowhere' is up"),
    ],
)
def test_what_cannot_be_done_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^bin/dev: {message}"):
        main(words)


@pytest.mark.parametrize("words", [["profile", "generate", "--runs", "0"], ["nothing"], []])
def test_a_bad_command_line_is_refused(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    assert "usage: bin/dev" in capsys.readouterr().err


# --- the page ---------------------------------------------------------------------------------


def test_the_page_shows_every_command_at_work() -> None:
    shown = " ".join(command for recipe in recipes() for command in recipe.commands)
    (choices,) = (a.choices for a in parser()._actions if isinstance(a.choices, dict))
    for name in choices:
        assert f"bin/dev {name} " in f"{shown} ", name


def test_every_path_and_target_that_the_page_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z]+)`|^make ([a-z]+)$", PAGE, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\bpytest (tests/\w+)|\b(infra/local/events/\w+\.json)", PAGE):
        assert (ROOT / "".join(path)).exists(), path
    assert {path.name for path in EVENTS.iterdir()} == set(re.findall(r"`(\w+\.json)`", PAGE)) - {
        "launch.json"
    }


def test_the_aws_commands_of_the_page_exist() -> None:
    session = botocore.session.Session()
    named = {"payload": "Payload", "function-name": "FunctionName"}
    found = re.findall(r"`aws (sqs|lambda) ([\w-]+)([^`]*)`", PAGE)
    assert len(found) == 2
    for service, operation, options in found:
        name = "".join(word.capitalize() for word in operation.split("-"))
        shape = session.get_service_model(service).operation_model(name).input_shape
        assert shape is not None
        for option in re.findall(r"--([\w-]+)", options):
            member = named.get(option, "".join(word.capitalize() for word in option.split("-")))
            assert member in shape.members, option


def test_a_line_of_the_page_stands_for_any_numbers_and_whatever_is_left_out() -> None:
    assert re.search(pattern('{"n":1,..."done":true'), '{"n":25,"x":0,"done":true}')
    assert re.search(pattern("bare   10.5 (3 runs)"), "bare 7 (12 runs)")
    assert not re.search(pattern("1 of 1 moved from A"), "1 of 1 moved from B")
