"""Runs tests against mutants, each in a forked process, so that none starts from nothing.

A mutant of a function: the fork is of a process that has imported and collected all and started
moto, and gives the function its new code. That takes a tenth of a second. A mutant of what runs at
the import: the fork is of a process that has imported others' modules only, and imports ours. That
takes two. Nothing is written to the working tree. No mutant hangs: each test has its own alarm,
each process a limit of CPU and of time.
"""

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import select
import signal
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import settings

from tests.mutation.operators import Mutant
from tests.mutation.selection import SUITES

ARGUMENTS = (
    *("-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow and not e2e"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # imported before, for all forks at once
)
FACTOR, LEAST_S = 10, 5.0
"""A test may take this many times its seconds without a bug, and these more: seconds of CPU."""
MEMORY = 6 * 1024**3
SURVIVED, KILLED, TIMEOUT, BROKEN = "survived", "killed", "timeout", "broken"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: a state, and the test that saw it."""

    state: str
    test: str = ""


# --- a process for each ---------------------------------------------------------------------------


def fork(run: Callable[[], str], seconds: float, *, alone: bool = True) -> str | None:
    """Run in a forked process and return what it answers; None where it ended or hung before.

    ``alone`` gives it a group of its own, so that all that it started ends with it.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of threads, of which none is ours
        child = os.fork()
    if not child:
        says = os.dup(2)
        _be_quiet(reading, seconds if alone else None)
        try:
            os.write(writing, run().encode())
        except BaseException:  # noqa: BLE001 - whatever it is, it is only to be said
            if not alone:
                os.write(says, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    answer, until = b"", time.monotonic() + seconds
    while select.select([reading], [], [], max(0, until - time.monotonic()))[0]:
        part = os.read(reading, 1 << 16)
        if not part:
            break
        answer += part
    os.close(reading)
    for end in (os.killpg, os.kill) if alone else (os.kill,):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            end(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return answer.decode() or None


def _be_quiet(reading: int, seconds: float | None) -> None:
    """Make a child say nothing; with ``seconds`` of a group of its own, and end by itself."""
    os.close(reading)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    if seconds is None:
        return
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 2))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


# --- tests ---------------------------------------------------------------------------------------


class _Late(BaseException):
    """A test took too long; no test catches it as an error."""


class Loop:
    """The plugin of pytest that collects, and then does with the tests what it is given to do."""

    def __init__(self, then: Callable[["Loop"], None]) -> None:
        self._then = then
        self.items: dict[str, pytest.Item] = {}

    def pytest_collection(self) -> None:
        """Let hypothesis draw the same examples each time."""
        steady()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Do it in place of running all."""
        self.items = {item.nodeid: item for item in session.items}
        self._then(self)
        return True

    def first_failure(self, tests: Sequence[str], seconds: dict[str, float]) -> Outcome:
        """Run tests until one fails or takes too long."""
        items = [self.items[name] for name in tests if name in self.items]
        signal.signal(signal.SIGPROF, _ring)
        for item, following in zip(items, [*items[1:], None], strict=True):
            late = FACTOR * seconds.get(item.nodeid, 0) + LEAST_S
            signal.setitimer(signal.ITIMER_PROF, late)
            try:
                reports = runtestprotocol(item, nextitem=following, log=False)
            except _Late:
                return Outcome(TIMEOUT, item.nodeid)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            if any(report.failed for report in reports):
                return Outcome(KILLED, item.nodeid)
        return Outcome(SURVIVED)

    def warm_up(self) -> None:
        """Start what all tests share: run one test of the flows and keep what is the session's."""
        flows = next(item for name, item in self.items.items() if name.startswith(SUITES[1]))
        unit = next(item for name, item in self.items.items() if name.startswith(SUITES[0]))
        reports = runtestprotocol(flows, nextitem=unit, log=False)
        if any(report.failed for report in reports):
            message = "\n".join(report.longreprtext for report in reports if report.failed)
            raise RuntimeError(message)
        fake_runpod = importlib.import_module("tests.support.fake_runpod")
        fake_runpod._server.cache_clear()  # a fork has no threads, so it starts one of its own


def steady() -> None:
    """Let hypothesis draw the same examples each time, and keep none."""
    settings.register_profile("mutants", settings.default, derandomize=True, database=None)
    settings.load_profile("mutants")


def freeze() -> None:
    """Keep the collector from touching, and so copying, what forks share."""
    gc.collect()
    gc.freeze()


def _ring(*_: object) -> None:
    raise _Late


def collect(then: Callable[[Loop], None], files: Sequence[str] = SUITES) -> int:
    """Collect tests and do with them what is given to do."""
    return int(pytest.main([*ARGUMENTS, *files], plugins=[Loop(then)]))


def import_others(modules: Sequence[str]) -> None:
    """Import others' modules ahead; what cannot be imported by itself is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            with contextlib.suppress(BaseException):
                importlib.import_module(name)


# --- bugs ----------------------------------------------------------------------------------------


def codes(code: types.CodeType, counted: dict[str, int] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield all code objects within one by a name that a changed line does not change."""
    counted = {} if counted is None else counted
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            nth = counted[inner.co_qualname] = counted.get(inner.co_qualname, -1) + 1
            yield f"{inner.co_qualname}#{nth}", inner
            yield from codes(inner, counted)


class Functions:
    """All functions of some files in this process, by their code."""

    def __init__(self, files: Sequence[str]) -> None:
        paths = {str(Path(file).resolve()): file for file in files}
        self._of: dict[tuple[str, str, int], list[types.FunctionType]] = {}
        for each in gc.get_objects():
            # Not isinstance: other libraries have objects that warn when their class is asked for.
            if type(each) is types.FunctionType and each.__code__.co_filename in paths:
                code = each.__code__
                key = (code.co_filename, code.co_qualname, code.co_firstlineno)
                self._of.setdefault(key, []).append(each)

    def plant(self, mutant: Mutant) -> bool:
        """Give functions their code with the bug; return whether any has changed."""
        path = str(Path(mutant.file).resolve())
        source = Path(path).read_bytes()
        before = dict(codes(compile(source, path, "exec")))
        after = dict(codes(compile(mutant.apply(source), path, "exec")))
        changed = 0
        for name, code in before.items():
            new = after.get(name)
            if new is None or new == code:
                continue
            for function in self._of.get((path, code.co_qualname, code.co_firstlineno), ()):
                if len(function.__code__.co_freevars) != len(new.co_freevars):
                    return False
                function.__code__ = new
                changed += 1
        return changed > 0


class Importer(importlib.abc.MetaPathFinder):
    """Imports one module with its bug, from memory."""

    def __init__(self, mutant: Mutant) -> None:
        parts = Path(mutant.file).with_suffix("").parts[1:]
        self._module = ".".join(parts).removesuffix(".__init__")
        self._file = str(Path(mutant.file).resolve())
        self._mutant = mutant

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """Find that module."""
        if fullname != self._module:
            return None
        loader = _Loader(fullname, self._file)
        loader.mutant = self._mutant
        return importlib.util.spec_from_file_location(fullname, self._file, loader=loader)


class _Loader(importlib.machinery.SourceFileLoader):
    mutant: Mutant

    def get_code(self, fullname: str) -> Any:
        return compile(self.mutant.apply(Path(self.path).read_bytes()), self.path, "exec")
