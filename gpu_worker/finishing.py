"""What becomes of a drawing: encoded, scored, censored, post-processed, uploaded and submitted.

Several threads finish images while the next are drawn.
"""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from gpu_worker import image_codec, safety
from gpu_worker.addons.asked import AddOnError
from gpu_worker.horde_client import BadJobError, Horde, HordeError, Job, State

if TYPE_CHECKING:
    import threading
    from concurrent.futures import Executor

    from PIL import Image

    from gpu_worker.horde_client import Payload
    from gpu_worker.post import processors
    from gpu_worker.settings import Settings

log = logging.getLogger(__name__)


class Finisher:
    """Finishes the images of one worker."""

    def __init__(
        self,
        settings: Settings,
        horde: Horde,
        detector: safety.Detector,
        post: processors.PostProcessors,
        gpu: Executor,
        cpus: threading.BoundedSemaphore,
    ) -> None:
        """Take what the worker has; `detector` is called by several threads.

        `gpu` runs what takes turns with drawing, `cpus` bounds what only the CPU does.
        """
        self._settings, self._horde, self._detector = settings, horde, detector
        self._post, self._gpu, self._cpus = post, gpu, cpus

    def deliver(self, job: Job, drawing: Image.Image | Exception) -> State | None:
        """Upload and submit a job, or fault it; None if the Horde refused the submit."""
        try:
            if isinstance(drawing, Exception):
                raise drawing  # noqa: TRY301 - handled like an image that cannot be encoded
            state, file, remarks = self._finish(job, drawing)
            told = (*job.remarks, *(job.add_ons.remarks if job.add_ons else ()))
            self._horde.deliver(job, state, file, [*remarks, *told])
        except HordeError as error:
            if isinstance(drawing, Exception):
                return self._fault(job, error)
            # The lease expired, another worker finished it, or the Horde is down. The ttl decides.
            log.warning("job %s: submit failed: %s", job.id, error)
            return None
        except Exception as error:  # noqa: BLE001 - the Horde must learn that the job failed
            return self._fault(job, error)
        return state

    def _fault(self, job: Job, error: Exception) -> State:
        log.warning("job %s faulted: %s", job.id, describe(error))
        told = [error.remark] if isinstance(error, AddOnError) else []
        try:
            self._horde.submit(job, "faulted", remarks=told)
        except HordeError as failure:
            log.warning("job %s: submit failed: %s", job.id, failure)
        return "faulted"

    def _finish(self, job: Job, image: Image.Image) -> tuple[State, bytes, list[Payload]]:
        """Return the state, file and remarks of an image; the first has its score.

        If the detector fails, an image that must be censored cannot be shown to be clean: it is
        faulted, so that another worker draws it. Any other is delivered as before, with a remark
        that it has no score; whoever publishes it screens it (the Horde's `screen` does).
        """
        if image_codec.is_blank(image):
            message = "the drawing has a single colour"
            raise BadJobError(message)
        with self._cpus:
            file = image_codec.encode_webp(image)
        remark = safety.NO_SCORE
        try:
            score = safety.score(self._detector, file, image)
        except safety.DetectorError as error:
            if job.wants_censor:
                raise
            log.warning("job %s has no safety score: %s", job.id, error)
        else:
            remark = score.remark
            if job.wants_censor and score.value >= self._settings.nsfw_threshold:
                placeholder = image_codec.censored(*image.size)
                return "censored", image_codec.encode_webp(placeholder), [remark]
        remarks: list[Payload] = [remark]
        return "ok", self._processed(job, image, file, remarks), remarks

    def _processed(
        self, job: Job, image: Image.Image, file: bytes, remarks: list[Payload]
    ) -> bytes:
        """Return the file of a drawing after its job's post-processors; `file` is without them.

        What they say of it is added to the remarks. The score is of the drawing: they show nothing
        new, and a censored image needs none.
        """
        if not self._post.asked(job):
            return file
        with self._post.turns:
            image = self._post.run(
                job, image, lambda call: self._gpu.submit(call).result(), remarks
            )
            if image_codec.is_blank(image):
                message = "a post-processor made a single colour of it"
                raise BadJobError(message)
            with self._cpus:
                return image_codec.encode_webp(image)


def describe(error: BaseException) -> str:
    """Return a safe description to log: other errors' messages may quote a prompt or URL."""
    if isinstance(error, HordeError | BadJobError | safety.DetectorError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return type(error).__name__ + where
