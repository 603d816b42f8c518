"""Horde Commons on this machine: a real ``cdk deploy`` to MiniStack, and real workers.

    client -> proxy -> MiniStack (API, Lambdas, table, queues, buckets) -> RunPod -> gpu_worker

``make demo``, ``make up`` and tests/e2e use it. Several clouds may run at once: each takes free
ports and has its own folder under ``.local/``.
"""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import boto3
import urllib3
from botocore.config import Config

from horde import clock
from horde.edge.auth import key_hash, new_key
from horde.records import ApiKey
from horde.store import Store
from horde.wire.over_botocore import over
from infra.local import fixups
from infra.local.api_client import ANONYMOUS, Client, until
from infra.local.processes import (
    BEAT_S,
    LOCAL,
    LocalCloudError,
    Part,
    Parts,
    last_line,
    raise_on_signals,
    say,
    signals_held,
)
from infra.local.proxy import HOST, Proxy
from infra.models import ModelSettings
from infra.operate import account_commands
from infra.settings import StackSettings
from infra.stages import stack_of
from layers.build import functions as build_functions
from layers.build import layer as build_layer

ROOT = Path(__file__).resolve().parents[2]
CDK = ROOT / "node_modules" / ".bin" / "cdk"
EMOJI_MODEL = ROOT / "gpu_worker" / "models" / "emoji"
"""The project's own model, which draws emoji."""
TINY_MODEL = ROOT / "build" / "models" / "tiny"
"""Draws noise with random weights, for tests where only speed matters. Built on first use."""
STAGE = "local"
STACK = stack_of(STAGE)
REGION, ACCOUNT = "us-east-1", "000000000000"
CREDENTIALS = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
ENDPOINT = "local"
MODEL = "stable_diffusion"
RUNPOD_KEY = "rpa_local"
MIN_NODE = 20
"""The oldest major version of Node.js that the AWS CDK supports."""
STARTING_S = 600
"""Seconds for a step of the start. Failures are noticed at once, so this is for what hangs."""
CHECK_S = 0.5
"""Seconds between two looks at the worker while it starts."""


class LocalCloud:
    """A running cloud, as a context manager; ``name`` is its folder under ``.local/``."""

    def __init__(
        self,
        name: str,
        *,
        port: int = 0,
        auth: bool = False,
        model: Path = EMOJI_MODEL,
        models: Mapping[str, tuple[ModelSettings, Path]] | None = None,
        folder: Path = LOCAL,
        rate_limits: bool = True,
    ) -> None:
        self.folder = folder / name
        self.model = model
        self.models = {name: path for name, (_, path) in (models or {}).items()}
        """Directories of several models, which the one endpoint draws instead of ``model``."""
        self.auth = auth
        """Whether IAM is enforced, so that each Lambda can do only what the stack grants it."""
        self.outputs: dict[str, str] = {}
        self.worker_key = new_key()
        self._proxy = Proxy(port)
        self._lasting: list[Part] = []
        self._stack = ExitStack()
        self._checked = 0.0
        self.endpoint = f"http://{HOST}:{free_port()}"
        self.runpod = f"http://{HOST}:{free_port()}"
        baseline = "stable_diffusion_1"
        self.settings = StackSettings(
            models={
                name: one.model_copy(update={"endpoint": ENDPOINT})
                for name, (one, _) in (models or {}).items()
            }
            or {MODEL: ModelSettings(endpoint=ENDPOINT, baseline=baseline, features=["lora"])},
            endpoint_url=self.endpoint,
            runpod_url=f"{self.runpod}/v2",
            runpod_management_url=f"{self.runpod}/v2",
            rate_limits=rate_limits,
            trusted_ips=["127.0.0.0/8"],
            layer="build/layer/host",
            more_layers=False,
            functions="build/functions/host",
        )

    # --- use ---------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The API's address, without ``/api/v2``."""
        return self._proxy.url

    def client(self, api_key: str | None = ANONYMOUS) -> Client:
        """Return a client of the API."""
        return Client(self.url, api_key)

    def aws(self, service: str) -> Any:
        """Return a boto3 client of the local cloud, with all rights."""
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.endpoint,
            region_name=REGION,
            config=Config(retries={"mode": "standard"}),
            **CREDENTIALS,
        )

    @property
    def store(self) -> Store:
        """The store of the deployed table, with all rights."""
        return Store(self.outputs["TableName"], over(self.aws("dynamodb")))

    def function(self, name: str) -> str:
        """Return the deployed name of ``functions/<name>.py``."""
        return self._functions[name]

    @cached_property
    def _functions(self) -> dict[str, str]:
        found = self.aws("lambda").get_paginator("list_functions").paginate()
        return {
            function["Handler"].removesuffix(".handler"): str(function["FunctionName"])
            for page in found
            for function in page["Functions"]
        }

    def dead(self) -> Part | None:
        """Return a part that has exited unexpectedly, if any."""
        return next((part for part in self._lasting if not part.running), None)

    def uploads_waiting(self) -> int:
        """Count the uploads that ``share`` has not decided on yet."""
        return self.messages("share", "UPLOADS_QUEUE_URL")

    def messages(self, function: str, variable: str) -> int:
        """Count a queue's messages, visible or not.

        The queue's URL is in an environment ``variable`` of a ``function``.
        """
        name = self.function(function)
        env = self.aws("lambda").get_function_configuration(FunctionName=name)["Environment"]
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        found = self.aws("sqs").get_queue_attributes(
            QueueUrl=env["Variables"][variable], AttributeNames=list(names)
        )
        return sum(int(found["Attributes"][name]) for name in names)

    # --- start and end -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Start everything; if this fails, end everything and raise LocalCloudError."""
        try:
            with self._stack:
                self._start()
                self._stack = self._stack.pop_all()
        except TimeoutError as error:
            raise LocalCloudError(str(error)) from None
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """End everything that was started."""
        self._stack.close()

    def _start(self) -> None:
        check_tools()
        self._claim_folder()
        parts = Parts(self.folder)
        self._stack.callback(self._end, parts)
        try:
            self._stack.enter_context(self._proxy)
        except OSError as error:
            message = f"port {self._proxy.port} is taken ({error.strerror}); choose one with PORT="
            raise LocalCloudError(message) from None
        build_layer("host")
        build_functions("host")

        env = environment(self.endpoint) | {"TMPDIR": str(self.folder / "tmp")}
        say("starting MiniStack, the local AWS" + (", with IAM enforced" if self.auth else ""))
        ministack = parts.start(
            "ministack",
            [sys.executable, "-m", "infra.local.ministack"],
            cwd=ROOT,
            env=env
            | {
                "GATEWAY_PORT": self.endpoint.rpartition(":")[2],
                "BIND_HOST": HOST,
                "IOT_MTLS_ENABLED": "0",
                "AUTH": "true" if self.auth else "false",
            },
        )
        commands = [self._synth(parts, env)]
        if (
            TINY_MODEL in {self.model, *self.models.values()}
            and not (TINY_MODEL / "model_index.json").exists()
        ):
            say("building the tiny random model")
            build = [sys.executable, "-m", "gpu_worker.tiny", str(TINY_MODEL)]
            commands.append(parts.start("tiny-model", build, cwd=ROOT, env=env))
        answers(f"{self.endpoint}/_ministack/health", ministack)
        self._put_runpod_key()
        say("cdk synth and cdk bootstrap")
        bootstrap = self._cdk("bootstrap", f"aws://{ACCOUNT}/{REGION}")
        commands.append(parts.start("bootstrap", bootstrap, cwd=self.folder, env=env))
        parts.wait(*commands, seconds=STARTING_S)

        # The worker loads its model during the deployment; its key is registered after that.
        say("starting the local RunPod with one gpu_worker, and cdk deploy")
        runpod = self._start_runpod(parts, env)
        self._lasting = [ministack, runpod]
        outputs = self.folder / "outputs.json"
        deploy = self._cdk("deploy", STACK, "--app", self.folder / "cdk.out")
        deploy += ["--require-approval", "never", "--outputs-file", outputs]
        deploying = parts.start("deploy", deploy, cwd=self.folder, env=env)
        parts.wait(deploying, seconds=STARTING_S, meanwhile=self._check_worker)
        self.outputs = json.loads(outputs.read_text())[STACK]
        for line in fixups.apply(self.aws, STACK):
            say(f"  what the local CloudFormation dropped: {line}")
        self._proxy.target = f"{self.endpoint}/_aws/execute-api/{self.outputs['ApiId']}/$default"
        answers(f"{self.url}/api/v2/status/heartbeat", ministack)
        self._open_accounts()
        self._wait_for_worker(runpod)
        # For bin/dev, which uses a cloud that another process has started.
        state = {"endpoint": self.endpoint, "worker_key": self.worker_key}
        (self.folder / "cloud.json").write_text(json.dumps(state))
        say(f"the cloud is up: {self.url}/api/v2")

    def _claim_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._stack.enter_context((self.folder / "lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another run of this checkout uses {self.folder}; end it, or run make down"
            raise LocalCloudError(message) from None
        for leftover in ("tmp", "cdk.out", "logs"):
            shutil.rmtree(self.folder / leftover, ignore_errors=True)
        (self.folder / "cloud.json").unlink(missing_ok=True)
        (self.folder / "tmp").mkdir()

    def _end(self, parts: Parts) -> None:
        with signals_held():
            parts.end()
            shutil.rmtree(self.folder / "tmp", ignore_errors=True)
            (self.folder / "processes.json").unlink(missing_ok=True)

    def _synth(self, parts: Parts, env: Mapping[str, str]) -> Part:
        """Run the CDK app once, as ``cdk synth`` does, for both bootstrap and deploy."""
        folder = self.folder / "settings"
        folder.mkdir(exist_ok=True)
        (folder / f"{STAGE}.json").write_text(self.settings.model_dump_json(indent=2))
        flags = json.loads((ROOT / "cdk.json").read_text())["context"]
        context = flags | {"stage": STAGE, "settings": str(folder)}
        cdk = {
            "CDK_OUTDIR": str(self.folder / "cdk.out"),
            "CDK_CONTEXT_JSON": json.dumps(context),
        }
        return parts.start(
            "synth", [sys.executable, "-m", "infra.app"], cwd=ROOT, env={**env, **cdk}
        )

    def _cdk(self, *arguments: str | Path) -> list[str | Path]:
        return [CDK, *arguments, "--no-notices", "--progress", "events", "--ci"]

    def _put_runpod_key(self) -> None:
        self.aws("ssm").put_parameter(
            Name=self.settings.runpod_key_parameter, Value=RUNPOD_KEY, Type="SecureString"
        )

    def _start_runpod(self, parts: Parts, env: Mapping[str, str]) -> Part:
        worker = {
            "HORDE_URL": f"{self.url}/api",
            "HORDE_API_KEY": self.worker_key,
            **self._worker_models(),
            "DEVICE": "cpu",
            "TORCH_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, "-m", "infra.local.runpod_server", "--endpoint", ENDPOINT]
        command += ["--port", self.runpod.rpartition(":")[2], "--api-key", RUNPOD_KEY]
        command += ["--workers-min", "1", "--workers-max", "1"]
        command += ["--log-dir", str(self._worker_logs)]
        return parts.start("runpod", command, cwd=ROOT, env={**env, **worker})

    def _worker_models(self) -> dict[str, str]:
        if not self.models:
            return {"MODEL_DIR": str(self.model), "MODEL_NAME": MODEL}
        table = {
            name: {"source": str(path), "controlnets": self.settings.models[name].controlnets}
            for name, path in self.models.items()
        }
        return {"MODELS": json.dumps(table)}

    def _open_accounts(self) -> None:
        # As docs/deploy.md has it: the endpoint works for an account of its own, which is trusted.
        fleet, _ = account_commands.register(self.store, "fleet")
        key, now = key_hash(self.worker_key), clock.now()
        made = ApiKey(hash=key, user_id=fleet.id, worker=True, created_at=now)
        self.store.keys.add_worker_key(made, fleet=True)

    def _wait_for_worker(self, runpod: Part) -> None:
        def ready() -> bool:
            self._check_worker()
            found = self.client().fetch("GET", f"{self.runpod}/_local/workers").json
            return any(worker["ready"] for worker in found)

        answers(f"{self.runpod}/_local/workers", runpod)
        wait("gpu_worker to load its model", ready, runpod, seconds=STARTING_S)

    def _check_worker(self) -> None:
        """Raise LocalCloudError where a worker has ended before its model was loaded.

        RunPod would start it again, in vain and for ever.
        """
        if time.monotonic() < self._checked + CHECK_S:
            return
        self._checked = time.monotonic()
        try:
            ended = self.client().fetch("GET", f"{self.runpod}/_local/ended").json
        except urllib3.exceptions.HTTPError:
            return  # the local RunPod is still starting
        for worker in ended:
            if not worker["ready"]:
                log = self._worker_logs / f"{worker['id']}.log"
                said = last_line(log) or "it said nothing"
                message = f"gpu_worker ended with {worker['code']} at its start: {said}"
                raise LocalCloudError(message, log)

    @property
    def _worker_logs(self) -> Path:
        return self.folder / "logs" / "gpu_worker"

    def worker_log(self) -> Path | None:
        """Return the log of the gpu_worker that was started last."""
        logs = self._worker_logs.glob("*.log")
        return max(logs, key=lambda log: log.stat().st_mtime, default=None)


def environment(endpoint: str) -> dict[str, str]:
    """Return the environment of the parts, without the caller's AWS, CDK or Python settings."""
    dropped = ("AWS_", "CDK_", "PYTHONPATH", "MINISTACK_", "LOCALSTACK_", "RUNPOD_", "HORDE_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    local = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": CREDENTIALS["aws_access_key_id"],
        "AWS_SECRET_ACCESS_KEY": CREDENTIALS["aws_secret_access_key"],
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "CDK_DISABLE_CLI_TELEMETRY": "true",
        "CDK_DISABLE_VERSION_CHECK": "true",
        # Else jsii prints a banner that fills the screen; check_tools checks the version.
        "JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION": "20,21,23",
        "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "true",
        "PYTHONUNBUFFERED": "1",
    }
    # Loopback must not go through a proxy.
    return inherited | local | dict.fromkeys(("NO_PROXY", "no_proxy"), f"{HOST},localhost")


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_tools() -> None:
    """Check the tools that pip does not install; raises LocalCloudError."""
    node = shutil.which("node")
    if node is None:
        message = f"node is not installed; the AWS CDK needs Node.js {MIN_NODE} or newer"
        raise LocalCloudError(message)
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").partition(".")[0]) < MIN_NODE:
        message = f"node is {version.strip()}; the AWS CDK needs Node.js {MIN_NODE} or newer"
        raise LocalCloudError(message)
    if not CDK.exists():
        message = "the AWS CDK is not installed here: run 'make setup' first"
        raise LocalCloudError(message)


def answers(url: str, part: Part, *, seconds: float = STARTING_S) -> None:
    """Wait until a part responds with 200 at a URL; raises LocalCloudError."""

    def probe() -> bool:
        try:
            return Client(url).fetch("GET", url).status == HTTPStatus.OK
        except urllib3.exceptions.HTTPError:
            return False

    wait(part.name, probe, part, seconds=seconds)


def wait(what: str, probe: Callable[[], bool], part: Part, *, seconds: float) -> None:
    """Wait until ``probe`` is true, with progress lines; raises LocalCloudError.

    It fails after ``seconds``, or when the part exits.
    """
    printed_at = time.monotonic()

    def step() -> bool:
        nonlocal printed_at
        if not part.running:
            message = f"{part.name} has ended with {part.process.returncode}"
            raise LocalCloudError(message, part.log)
        if time.monotonic() > printed_at + BEAT_S:
            printed_at = time.monotonic()
            say(f"  ... waiting for {what}")
        return probe()

    try:
        until(what, step, seconds=seconds, every=0.1)
    except TimeoutError as error:
        raise LocalCloudError(str(error), part.log) from None


def run(main: Callable[[], int], ordinary: int | None = None) -> None:
    """Run a command on a local cloud. Signals clean up, and a failure shows the relevant log.

    ``ordinary`` is a signal that ends the command normally.
    """
    raise_on_signals(ordinary)
    try:
        code = main()
    except LocalCloudError as error:
        sys.exit(f"failed: {error.tail()}")
    sys.exit(code)
