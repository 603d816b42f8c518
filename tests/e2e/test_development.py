"""Every command of docs/development.md works as it stands, and shows what the page says."""

import ast
import json
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from infra.local.api_client import until
from infra.local.dev import letters, running
from infra.local.dev.__main__ import parser
from tests.e2e.conftest import PATIENCE_S, OperatedCloud
from tests.support.recipes import Recipe, fenced, recipes
from tests.support.template import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
LIMIT_S = PATIENCE_S
UPLOAD = ROOT / "infra" / "local" / "events" / "upload.json"


class CutError(Exception):
    """A run that dies."""


def on(cloud: OperatedCloud, command: str) -> str:
    """Say of which cloud: a developer's own may run beside the tests'."""
    return command.replace("bin/dev ", f"bin/dev --cloud {cloud.local.folder.name} ")


def shell(command: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command],
        cwd=ROOT,
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def first_line(command: str) -> str:
    """Return the first line of a command that does not end by itself, and end it."""
    process = subprocess.Popen(
        ["sh", "-c", f"exec {command}"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    watch = threading.Timer(LIMIT_S, process.kill)
    watch.start()
    with process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    watch.cancel()
    return line


def messages(cloud: OperatedCloud, function: str) -> list[str]:
    """What a deployed function has logged."""
    group = cloud.local.aws("lambda").get_function_configuration(
        FunctionName=cloud.local.function(function)
    )["LoggingConfig"]["LogGroup"]
    pages = cloud.local.aws("logs").get_paginator("filter_log_events").paginate(logGroupName=group)
    return [event["message"] for page in pages for event in page["events"]]


def bury(cloud: OperatedCloud) -> None:
    """Put a message among the dead letters of the uploads: to die takes it over an hour."""
    sqs = cloud.local.aws("sqs")
    urls = sqs.list_queues()["QueueUrls"]
    (dead,) = (url for url in urls if "UploadsDead" in url)
    body = json.loads(UPLOAD.read_text())["Records"][0]["body"]
    sqs.send_message(QueueUrl=dead, MessageBody=body)


@pytest.fixture(scope="module")
def used(cloud: OperatedCloud) -> OperatedCloud:
    """A cloud that has drawn an image, counted its reward, and has a dead letter."""
    before = len(messages(cloud, "payouts"))
    body = {"prompt": "a fox", "params": {"width": 64, "height": 64, "steps": 4}}
    cloud.done(cloud.anonymous, cloud.anonymous.generate(body)["id"])
    # Its request and its reward are counted, maybe together.
    what = "the image to be counted"
    until(what, lambda: len(messages(cloud, "payouts")) > before, seconds=PATIENCE_S)
    cloud.all_judged()
    bury(cloud)
    return cloud


def run(cloud: OperatedCloud, recipe: Recipe) -> str:
    """Run a recipe's commands in order; returns all that they show."""
    output = ""
    for command in recipe.commands:
        if command.endswith(" --follow"):
            output += first_line(on(cloud, command))
            continue
        done = shell(on(cloud, command), "".join(f"{line}\n" for line in recipe.typed))
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        output += done.stdout
    return output


def test_every_recipe_works_and_shows_what_the_page_says(used: OperatedCloud) -> None:
    # In the page's order: some use the file that the one before has written.
    ran = 0
    for recipe in recipes():
        if all(command.startswith("make ") for command in recipe.commands):
            continue  # the cloud that runs here is one
        output = run(used, recipe)
        assert not recipe.missing(output), f"{recipe.commands}\n{output}"
        for _ in recipe.typed:
            assert "(Pdb) " in output
        ran += len(recipe.commands)
    assert ran >= len(parser()._subparsers._group_actions[0].choices)  # type: ignore[union-attr,arg-type]
    used.all_judged()  # what was redriven


def test_a_breakpoint_in_the_code_stops_there(used: OperatedCloud, tmp_path: Path) -> None:
    source = (ROOT / "functions" / "sweep.py").read_text()
    (handler,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "handler"
    )
    lines = source.splitlines(keepends=True)
    lines.insert(handler.body[1].lineno - 1, "    breakpoint()\n")  # after the docstring
    (tmp_path / "sweep.py").write_text("".join(lines))
    env = shell(on(used, "bin/dev env sweep")).stdout
    command = (
        f"{sys.executable} -m infra.local.dev.run_handler sweep infra/local/events/minute.json"
    )
    script = f"set -a\n{env}\nPYTHONPATH={tmp_path}:$PYTHONPATH\nexec {command}"
    done = shell(script, f"p {handler.args.args[0].arg}['source']\nc\n")
    assert done.returncode == 0, done.stdout
    assert "(Pdb) 'aws.events'" in done.stdout
    assert '"due":' in done.stdout


def test_the_ide_s_configuration_runs_the_handler(used: OperatedCloud) -> None:
    (text,) = fenced("json")
    (launch,) = json.loads(text)["configurations"]
    path = Path(launch["envFile"].replace("${workspaceFolder}", str(ROOT)))
    assert shell(on(used, f"bin/dev env worker > {path}")).returncode == 0
    env = dict(word.split("=", 1) for word in shlex.split(path.read_text()))
    done = subprocess.run(
        [sys.executable, "-m", launch["module"], *launch["args"]],
        cwd=launch["cwd"].replace("${workspaceFolder}", str(ROOT)),
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert json.loads(done.stdout)["statusCode"] == 200


def test_every_sample_event_is_taken_here_and_deployed(used: OperatedCloud) -> None:
    for function, event in (
        ("worker", "pop"),
        ("generate", "price"),
        ("share", "upload"),
        ("enqueue", "request"),
        ("sweep", "minute"),
    ):
        for verb in ("invoke", "replay"):
            command = f"bin/dev {verb} {function} infra/local/events/{event}.json 2>{os.devnull}"
            done = shell(on(used, command))
            assert done.returncode == 0, done.stdout
            answer = json.loads(done.stdout)
            assert answer.get("statusCode", 200) == 200, (command, answer)
            assert not answer.get("batchItemFailures")


def test_a_handler_has_its_own_rights_here_and_no_more(used: OperatedCloud) -> None:
    env = shell(on(used, "bin/dev env webhook")).stdout
    # webhook reads single items of the table; it may not list the queues.
    ask = "import boto3; boto3.client('sqs').list_queues()"
    done = shell(f'set -a\n{env}\nexec {sys.executable} -c "{ask}"')
    assert "AccessDenied" in done.stdout


@pytest.mark.parametrize("cut", ["send_message", "delete_message"])
def test_a_redrive_that_is_cut_loses_no_message(
    used: OperatedCloud, monkeypatch: pytest.MonkeyPatch, cut: str
) -> None:
    cloud = running.find(used.local.folder.name)
    letters.redrive(cloud, "Uploads")  # what another test has left
    bury(used)
    real = running.Cloud.aws

    def aws(self: running.Cloud, service: str) -> Any:
        def die(**_: Any) -> None:
            raise CutError

        client = real(self, service)
        if service == "sqs":
            setattr(client, cut, die)
        return client

    with monkeypatch.context() as patch:
        patch.setattr(running.Cloud, "aws", aws)
        patch.setattr(letters, "HOLD_S", 0)
        with pytest.raises(CutError):
            letters.redrive(cloud, "Uploads")
    # It is still there. Where it was sent as well, share gets it twice, and takes that.
    assert letters.redrive(cloud, "Uploads") == "1 of 1 messages moved from UploadsDead to Uploads"
    assert letters.redrive(cloud, "UploadsDead").startswith("0 of 0 ")
    used.all_judged()
