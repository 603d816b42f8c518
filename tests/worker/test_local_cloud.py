"""A local cloud does not wait for a worker that cannot work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from infra.local.local_cloud import LocalCloud, environment
from infra.local.processes import LocalCloudError, Parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    made = Parts(tmp_path / "broken")
    yield made
    made.end(grace=0)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[LocalCloud]:
    made = LocalCloud("broken", model=tmp_path / "no-model", folder=tmp_path)
    yield made
    made._proxy._loop.close()


SENTENCE = "gpu_worker ended with 1 at its start: gpu_worker: MODEL_DIR holds no diffusers model"


@pytest.mark.slow
def test_a_worker_that_ends_at_its_start_ends_the_start_with_its_own_sentence(
    cloud: LocalCloud, parts: Parts
) -> None:
    runpod = cloud._start_runpod(parts, environment(cloud.endpoint))
    with pytest.raises(LocalCloudError, match=SENTENCE) as raised:
        cloud._wait_for_worker(runpod)
    assert raised.value.log is not None
    assert raised.value.log.parent.name == "gpu_worker"


@pytest.mark.slow
def test_it_does_so_while_the_stack_is_still_being_deployed(
    cloud: LocalCloud, parts: Parts, tmp_path: Path
) -> None:
    cloud._start_runpod(parts, environment(cloud.endpoint))
    deploy = parts.start("deploy", ["sleep", "3600"], env=dict(os.environ), cwd=tmp_path)
    with pytest.raises(LocalCloudError, match=SENTENCE):
        parts.wait(deploy, seconds=3600, meanwhile=cloud._check_worker)
