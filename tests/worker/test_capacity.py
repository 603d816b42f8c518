"""How many images fit into the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpu_worker.capacity import MARGIN, Capacity

if TYPE_CHECKING:
    from pathlib import Path

GB = 10**9


def a_capacity(**changes: float) -> Capacity:
    return Capacity(**{"free": 10 * GB, "denoising": 1000, "decoding": 4000, **changes})


def test_the_largest_image_is_one_that_the_hungrier_part_can_have_alone() -> None:
    most = a_capacity().max_pixels
    assert most is not None
    assert most * 4000 <= MARGIN * 10 * GB < (most + 64 * 64) * 4000
    assert most % (64 * 64) == 0
    assert a_capacity(denoising=40_000).max_pixels == pytest.approx(most / 10, rel=0.02)


def test_a_pass_has_as_many_images_as_can_be_denoised_together_but_one_in_any_case() -> None:
    known = a_capacity()
    assert known.most(1_000_000) == 8
    assert known.most(4_000_000) == 2
    assert known.most(400_000_000) == 1


def test_images_are_decoded_together_only_if_all_of_them_fit() -> None:
    known = a_capacity()
    assert known.decodes(2, 1_000_000)
    assert not known.decodes(3, 1_000_000)


def test_what_nobody_measured_limits_nothing_and_is_decoded_one_by_one() -> None:
    unknown = a_capacity(denoising=0, decoding=0)
    assert unknown.max_pixels is None
    assert unknown.most(1_000_000) is None
    assert not unknown.decodes(1, 64 * 64)


@pytest.mark.slow
def test_the_memory_of_a_call_is_what_it_had_at_its_highest_not_what_it_left() -> None:
    import torch

    from gpu_worker.device_memory import DeviceMemory

    def call() -> None:
        first = torch.ones(20, 1024, 1024)
        del first
        torch.ones(30, 1024, 1024)

    found = DeviceMemory("cpu").peak(call)
    assert 110 < found / 2**20 < 160


@pytest.mark.slow
def test_a_container_has_no_more_memory_than_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker import device_memory

    memory = device_memory.DeviceMemory("cpu")
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(device_memory, "CGROUP", tmp_path)
    unlimited = memory.total()
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert memory.total() == GB < unlimited
    assert memory.free() < GB
    (tmp_path / "memory.max").write_text("1000\n")
    assert memory.free() == 0


@pytest.mark.slow
def test_where_no_system_tells_nothing_is_measured_or_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker import device_memory

    for name in ("MEMINFO", "STATUS", "RESET", "CGROUP"):
        monkeypatch.setattr(device_memory, name, tmp_path / "none" / name)
    memory = device_memory.DeviceMemory("cpu")
    called: list[int] = []
    assert memory.peak(lambda: called.append(1)) == 0
    assert called == [1]
    assert memory.total() == memory.free() == device_memory.UNKNOWN
