"""Gives a job its LoRAs and textual inversions, before the GPU is taken; by several threads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakValueDictionary

from gpu_worker.addons import asked, prompt
from gpu_worker.addons.parts import AddOns, InversionPart, LoraPart

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gpu_worker.addons.asked import Kind
    from gpu_worker.addons.found import Found
    from gpu_worker.addons.library import Library
    from gpu_worker.horde_client import Job

LOOK_S = 0.05
"""Seconds between two looks at whether there is room in memory."""


class Reader(Protocol):
    """Reads files for the model that is loaded; `addons.adapters.Adapters` is one.

    What it returns has a `size` in bytes. It raises UnusableError.
    """

    def lora(self, path: Path) -> Any:
        """Return a file's LoRA."""

    def inversion(self, path: Path) -> Any:
        """Return a file's textual inversion."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a job's files come from, and who reads them."""

    library: Library
    reader: Reader
    shape: str = ""
    """Equal for readers that read a file alike."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file that a job needs, found."""

    kind: Kind
    name: str
    found: Found
    size: int
    source: Source

    @property
    def key(self) -> str:
        return f"{self.kind} {self.source.shape} {self.found.key}"


class Loader:
    """Finds, reads and keeps what jobs ask for.

    All that is in memory, whether kept for later or still with a job, stays within a limit. A job
    waits for room for all of its files at once, so that no two wait for each other.
    """

    def __init__(self, library: Library, reader: Reader, most_bytes: int) -> None:
        """Take where files come from, and who reads them."""
        self._source, self._most = Source(library, reader), most_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Any] = OrderedDict()
        """The newest last."""
        self._alive: WeakValueDictionary[str, Any] = WeakValueDictionary()
        """What is kept, or still with a job."""
        self._reserved = 0
        """Bytes of the files that are being read."""

    def source(self, job: Job) -> Source:  # noqa: ARG002 - `several` tells jobs apart
        """Return where a job's files come from; raises BadJobError if they are not for it."""
        return self._source

    def __call__(self, job: Job) -> Job:
        """Return a job with all that it asks for; raises BadJobError if anything cannot be had."""
        loras, inversions = asked.loras(job.payload), asked.inversions(job.payload)
        if not loras and not inversions:
            return job
        source = self.source(job)
        with ExitStack() as stack:
            wanted = [
                *(self._found(stack, source, "lora", one.name, job, is_version=one.is_version)
                  for one in loras),
                *(self._found(stack, source, "ti", one.name, job) for one in inversions),
            ]  # fmt: skip
            contents = self._contents(wanted, job.deadline)
        text, absent = prompt.with_inversions(str(job.payload.get("prompt") or ""), inversions)
        remarks = [
            _remark("ti", inversions[number].name, "is not in the prompt") for number in absent
        ]
        triggers = []
        for one, file in zip(loras, wanted, strict=False):
            if one.trigger:
                found = prompt.trigger(one.trigger, file.found.triggers)
                if found is None:
                    remarks.append(_remark("lora", one.name, "has no such trigger"))
                else:
                    triggers.append(found)
        parts = [
            LoraPart(key=file.found.key, model=one.model, clip=one.clip, weights=content)
            for one, file, content in zip(loras, wanted, contents, strict=False)
        ]
        rest = zip(wanted[len(loras) :], contents[len(loras) :], strict=True)
        return replace(
            job,
            payload={**job.payload, "prompt": prompt.with_triggers(text, triggers)},
            add_ons=AddOns(
                loras=tuple(sorted(parts, key=lambda one: (one.key, one.model, one.clip))),
                inversions=tuple(
                    InversionPart(key=file.found.key, vectors=content) for file, content in rest
                ),
                remarks=tuple(remarks),
            ),
        )

    @staticmethod
    def _found(
        stack: ExitStack,
        source: Source,
        kind: Kind,
        name: str,
        job: Job,
        *,
        is_version: bool = False,
    ) -> _Wanted:
        """Return a file, which stays on disk until the stack is left."""
        with _telling(kind, name):
            using = source.library.using(kind, name, is_version=is_version, deadline=job.deadline)
            found = stack.enter_context(using)
            return _Wanted(kind, name, found, found.path.stat().st_size, source)

    def _contents(self, wanted: Sequence[_Wanted], deadline: float) -> list[Any]:
        """Return what files hold, in their order."""
        have: dict[str, Any] = {}
        with self._room(wanted, have, deadline):
            for file in wanted:
                if file.key not in have:
                    reader = file.source.reader
                    read = reader.lora if file.kind == "lora" else reader.inversion
                    with _telling(file.kind, file.name):
                        content = read(file.found.path)
                    with self._lock:
                        have[file.key] = self._alive[file.key] = content
            with self._lock:
                for key, content in have.items():
                    self._kept[key] = content
                    self._kept.move_to_end(key)
        return [have[file.key] for file in wanted]

    @contextmanager
    def _room(
        self, wanted: Sequence[_Wanted], have: dict[str, Any], deadline: float
    ) -> Iterator[None]:
        """Wait until the files that are not in memory fit; put those that are into `have`."""
        while True:
            with self._lock:
                for file in wanted:
                    if file.key in self._alive:
                        have[file.key] = self._alive[file.key]
                need = sum(
                    {file.key: file.size for file in wanted if file.key not in have}.values()
                )
                if self._fits(need):
                    self._reserved += need
                    break
            total = sum({file.key: file.size for file in wanted}.values())
            if total > self._most or time.monotonic() + LOOK_S >= deadline:
                message = "does not fit into the memory (LORA_MEMORY_MB)"
                last = wanted[-1]
                raise asked.AddOnError(last.kind, "download_failed", last.name, message)
            have.clear()  # or others would wait for it
            time.sleep(LOOK_S)
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= need

    def _fits(self, need: int) -> bool:
        """Let go of what was used longest ago until so many bytes fit; its jobs still have it."""
        while sum(one.size for one in self._alive.values()) + self._reserved + need > self._most:
            if not self._kept:
                return False
            self._kept.popitem(last=False)
        return True


@contextmanager
def _telling(kind: Kind, name: str) -> Iterator[None]:
    """Say of which file an error is."""
    try:
        yield
    except asked.UnusableError as error:
        raise asked.AddOnError(kind, error.fault, name, str(error)) from None
    except OSError as error:
        message = f"cannot be read ({type(error).__name__})"
        raise asked.AddOnError(kind, "download_failed", name, message) from None


def _remark(kind: asked.Kind, name: str, message: str) -> dict[str, str]:
    """Return what is told of a name that has no effect, in words that every client knows."""
    return {"type": kind, "value": "see_ref", "ref": f"{name} {message}"[: asked.MAX_NAME]}
