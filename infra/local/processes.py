"""Processes that cannot outlive the run that started them.

Each one gets a process group of its own, and in it a leash: a shell that reads a pipe from here
and kills its whole group when the pipe closes. The kernel closes the pipe however this process
ends, so even its SIGKILL leaves nothing behind. What was started is also written down, with start
times, so that ``make down`` can end it and never a stranger that got the same number.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LOCAL = Path(__file__).resolve().parents[2] / ".local"
"""Where each run of this checkout has a folder of its own."""
GRACE_S = 3.0
LEASH = "read _; kill -9 0"
STARTED = time.monotonic()
BEAT_S = 5.0
"""Seconds of silence after which a wait says what it waits for."""


class LocalCloudError(Exception):
    """Something of the local cloud did not work; ``log`` is the file that may say why."""

    def __init__(self, message: str, log: Path | None = None) -> None:
        super().__init__(message)
        self.log = log

    def tail(self, lines: int = 25) -> str:
        """Return the message and the end of the log."""
        if self.log is None or not self.log.exists():
            return str(self)
        last = self.log.read_text(errors="replace").splitlines()[-lines:]
        shown = "\n".join(f"  | {line}" for line in last)
        return f"{self}\n{self.log} ends with:\n{shown}"


def say(text: str) -> None:
    """Print a line of progress, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.1f} s] {text}", flush=True)


def identity(pid: int) -> str | None:
    """Return what tells a process from any other that ever had its number; None if it is gone."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Fields after the name, which may hold spaces and brackets; the 22nd is the start time.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return None
        ps = ["ps", "-o", "lstart=", "-p", str(pid)]
        shown = subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
        return shown or None
    except ProcessLookupError:
        return None
    return None if stat[0] in "ZX" else f"{boot} {stat[19]}"


def nothing() -> None:
    """Do nothing meanwhile."""


@dataclass(slots=True)
class Part:
    """A running process, its leash and its log."""

    name: str
    process: subprocess.Popen[bytes]
    leash: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        """Whether its main process lives."""
        return self.process.poll() is None

    def last_line(self) -> str:
        """Return the last line of its log, short enough for a progress line."""
        return last_line(self.log)[:90]


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


class Parts:
    """What one run has started; ``end`` leaves nothing of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parts: list[Part] = []
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        self._write()

    def start(
        self, name: str, command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path
    ) -> Part:
        """Start a process in its own group; its output goes to ``logs/<name>.log``."""
        log = self._folder / "logs" / f"{name}.log"
        leash = subprocess.Popen(["sh", "-c", LEASH], stdin=subprocess.PIPE, process_group=0)
        try:
            with log.open("wb") as out:
                process = subprocess.Popen(
                    command,
                    cwd=cwd,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    process_group=leash.pid,
                )
        except BaseException:
            _pull(leash)
            raise
        part = Part(name, process, leash, log)
        self._parts.append(part)
        self._write()
        return part

    def wait(self, *parts: Part, seconds: float, meanwhile: Callable[[], None] = nothing) -> None:
        """Wait until commands have ended well; raises LocalCloudError for the first that did not.

        A part that has ended needs its leash no more. ``meanwhile`` is called over and over; what
        it raises ends the wait.
        """
        for part in until_all(parts, seconds=seconds, meanwhile=meanwhile):
            code = part.process.returncode
            _pull(part.leash)
            self._parts.remove(part)
            self._write()
            if code:
                message = f"{part.name} ended with {code}"
                raise LocalCloudError(message, part.log)

    def end(self, grace: float = GRACE_S) -> None:
        """End everything: SIGTERM, and after the grace the leashes."""
        for part in self._parts:
            part.process.terminate()
        deadline = time.monotonic() + grace
        for part in self._parts:
            with contextlib.suppress(subprocess.TimeoutExpired):
                part.process.wait(max(0.0, deadline - time.monotonic()))
        for part in self._parts:
            _pull(part.leash)
            part.process.wait()
        self._parts.clear()
        self._write()

    def _write(self) -> None:
        rows = [
            {"name": part.name, "group": part.leash.pid, "pid": pid, "identity": identity(pid)}
            for part in self._parts
            for pid in (part.leash.pid, part.process.pid)
        ]
        own = {"pid": os.getpid(), "identity": identity(os.getpid())}
        text = json.dumps({"run": own, "parts": rows}, indent=1)
        scratch = self._folder / f"processes.json.{os.getpid()}"
        scratch.write_text(text)
        scratch.replace(self._folder / "processes.json")


def _pull(leash: subprocess.Popen[bytes]) -> None:
    """Kill a leash's group and see it gone."""
    if leash.stdin is not None:
        with contextlib.suppress(OSError):
            leash.stdin.close()
    leash.wait()


def until_all(
    parts: Sequence[Part], *, seconds: float, meanwhile: Callable[[], None]
) -> Iterator[Part]:
    """Yield parts as they end, with a line of progress where that takes long."""
    waiting, begun = list(parts), time.monotonic()
    said = begun
    while waiting:
        for part in [part for part in waiting if not part.running]:
            waiting.remove(part)
            yield part
        meanwhile()
        now = time.monotonic()
        if waiting and now > begun + seconds:
            message = f"{waiting[0].name} has not ended after {seconds:.0f} s"
            raise LocalCloudError(message, waiting[0].log)
        if waiting and now > said + BEAT_S:
            said = now
            say("  ... " + "; ".join(f"{part.name}: {part.last_line()}" for part in waiting))
        time.sleep(0.05)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raise_on_signals(ordinary: int | None = None) -> None:
    """Turn SIGINT, SIGTERM and SIGHUP into SystemExit, so that everything is cleaned up.

    The exit code is 128 + signal, or 0 for the ``ordinary`` one.
    """

    def end(number: int, _frame: object) -> None:
        for other in SIGNALS:  # a second Ctrl-C must not cut the cleaning short
            signal.signal(other, signal.SIG_IGN)
        say(f"{signal.Signals(number).name}: ending everything")
        sys.exit(0 if number == ordinary else 128 + number)

    for number in SIGNALS:
        signal.signal(number, end)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let nothing but SIGKILL interrupt what is inside."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
