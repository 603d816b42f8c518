"""What a function does at its start, before its first request.

A Lambda has its full CPU then, whatever its memory, so a handler's module opens the connections
that its first request needs. Under SnapStart the start happens once for each published version: its
memory is kept, and each process goes on from there. What must not be shared by processes, or does
not live so long, is dropped before the snapshot and made again after it.
"""

import gc
import os
import random
from functools import partial

from horde import aws
from horde.log import logger


def ready(*services: str) -> None:
    """End a Lambda's start: collect garbage from now on, and connect to these services.

    Elsewhere, as in a test or a synth, do nothing. It never fails: what it could not open is opened
    by the first call. The first failure ends it, since a network that is down costs seconds for
    each try.
    """
    if "AWS_LAMBDA_FUNCTION_NAME" not in os.environ:
        return
    gc.freeze()  # what was imported is never looked at again
    gc.enable()
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        # Of the runtime itself; no other place has it.
        from snapshot_restore_py import (  # noqa: PLC0415
            register_after_restore,
            register_before_snapshot,
        )

        register_before_snapshot(forget)
        register_after_restore(partial(restore, *services))
    _open(services)


def forget() -> None:
    """Drop connections and credentials before a snapshot.

    Every other cache is filled by requests alone, and there was none.
    """
    aws.clear_cache()


def restore(*services: str) -> None:
    """Go on from a snapshot: with random numbers of this process's own, and new connections.

    Ids and keys come from the operating system, which does not repeat itself.
    """
    random.seed()
    _open(services)


def _open(services: tuple[str, ...]) -> None:
    try:
        for service in services:
            aws.warm(service)
    except Exception:  # noqa: BLE001 - a start must not fail
        logger.warning("not connected", exc_info=True)
