"""LoRAs and textual inversions of a worker with several models: each job has those of its model.

The library is one, seen by each family; what is in memory is one, too, within one limit. A file is
checked against the layers of the job's model before that is loaded, so a LoRA of another family
costs no GPU second. Models of the same shape share what was read.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from gpu_worker import model_files
from gpu_worker.addons.adapters import Adapters
from gpu_worker.addons.loader import Loader, Source
from gpu_worker.families import skeleton
from gpu_worker.horde_client import BadJobError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gpu_worker.addons.library import Library
    from gpu_worker.addons.loader import Reader
    from gpu_worker.horde_client import Job


class ModelsLoader(Loader):
    """A loader for several models."""

    def __init__(self, library: Library, directories: Mapping[str, Path], most_bytes: int) -> None:
        """Take the library of any family, and where the files of each model are, by its name."""
        super().__init__(library, _NoReader(), most_bytes)
        self._library, self._directories = library, directories
        self._making = threading.Lock()
        self._libraries: dict[str, Library] = {}
        self._readers: dict[str, Reader] = {}
        """By shape."""
        self._sources: dict[str, Source] = {}
        """By model."""

    def source(self, job: Job) -> Source:
        """Return where a job's files come from; raises BadJobError if its model takes none."""
        with self._making:
            found = self._sources.get(job.model)
            if found is None:
                found = self._sources[job.model] = self._made(job.model)
            return found

    def _made(self, name: str) -> Source:
        directory = self._directories.get(name)
        if directory is None:
            message = f"{name!r} is no model of this worker"
            raise BadJobError(message)
        files = model_files.read(directory)
        if not skeleton.family(files).takes_add_ons:
            message = "LoRAs and textual inversions are not for this model"
            raise BadJobError(message)
        shape = skeleton.shape(directory, files)
        if shape not in self._readers:
            self._readers[shape] = Adapters(skeleton.build(directory, files))
        baseline = files.baseline
        if baseline not in self._libraries:
            self._libraries[baseline] = self._library.of_family(baseline)
        return Source(self._libraries[baseline], self._readers[shape], shape)


class _NoReader:
    """Reads nothing: every job has its model's reader."""

    def lora(self, path: Path) -> None:
        raise NotImplementedError(path)

    inversion = lora
