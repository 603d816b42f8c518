"""What jobs ask for, what it does to their prompts, and how it fails; nothing here needs torch."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gpu_worker import pop_timing
from gpu_worker.addons import asked, prompt
from gpu_worker.addons.asked import AddOnError, Inversion, UnusableError
from gpu_worker.addons.library import Library
from gpu_worker.addons.loader import Loader
from gpu_worker.horde_client import BadJobError, Horde, Job
from gpu_worker.settings import Settings
from gpu_worker.shifts import Worker
from tests.worker import tiny_addons
from tests.worker.add_on_helpers import (
    MOST,
    SD1,
    Reader,
    a_job,
    a_library,
    fault,
    fetched,
)
from tests.worker.fake_civitai import FakeCivitai, FakeFile
from tests.worker.test_shifts import noise

if TYPE_CHECKING:
    from pathlib import Path

    from tests.worker.fake_horde import FakeHorde

# What a job asks for


@pytest.mark.parametrize(
    "payload",
    [
        {"loras": 7},
        {"loras": ["neon"]},
        {"loras": [{}]},
        {"loras": [{"name": ""}]},
        {"loras": [{"name": "x" * 256}]},
        {"loras": [{"name": "x", "model": "strong"}]},
        {"loras": [{"name": "x", "clip": float("nan")}]},
        {"loras": [{"name": "x"}] * 6},
        {"tis": [{"name": "x"}] * 21},
        {"tis": [{"name": "x", "inject_ti": "everywhere"}]},
        {"tis": [{"name": "x", "strength": float("inf")}]},
    ],
)
def test_a_list_that_no_client_may_send_faults_its_job(
    library: Library, payload: dict[str, Any]
) -> None:
    with pytest.raises(BadJobError):
        Loader(library, Reader(), MOST)(a_job(**payload))


def test_strengths_are_one_unless_they_are_given_and_never_beyond_five() -> None:
    payload = {"loras": [{"name": "a"}, {"name": "b", "model": -9, "clip": 0}]}
    first, second = asked.loras(payload)
    assert (first.model, first.clip) == (1, 1)
    assert (second.model, second.clip) == (-5, 0)


def test_a_job_gets_its_loras_and_trigger_and_reads_each_file_once(
    host: FakeCivitai, library: Library, lora: bytes
) -> None:
    host.files[7] = FakeFile(lora, words=["neon sign of", "glowing tubes"])
    reader = Reader()
    load = Loader(library, reader, MOST)
    one = {"name": "7", "is_version": True, "model": 0.5, "clip": 2}
    jobs = [
        load(a_job(prompt="a fox###fog", loras=[{**one, "inject_trigger": trigger}]))
        for trigger in ("any", "glowing tube", "NEON SIGN OF", "horse")
    ]
    assert reader.reads == 1
    assert [job.payload["prompt"] for job in jobs] == [
        "a fox, neon sign of###fog",
        "a fox, glowing tubes###fog",
        "a fox, neon sign of###fog",
        "a fox###fog",
    ]
    (part,) = jobs[0].add_ons.loras  # type: ignore[union-attr]
    assert (part.model, part.clip, part.key) == (0.5, 2, hashlib.sha256(lora).hexdigest())
    assert [len(job.add_ons.remarks) for job in jobs] == [0, 0, 0, 1]  # type: ignore[union-attr]
    assert load(plain := a_job()) is plain


def test_a_set_of_loras_is_the_same_in_any_order(
    host: FakeCivitai, library: Library, lora: bytes
) -> None:
    for number in (1, 2):
        host.files[number] = FakeFile(
            lora if number == 1 else tiny_addons_other(lora), base="SD 1.5"
        )
    load = Loader(library, Reader(), MOST)
    both = [{"name": "1", "is_version": True}, {"name": "2", "is_version": True, "model": 0.3}]
    first, second = load(a_job(loras=both)), load(a_job(loras=both[::-1]))
    assert first.add_ons == second.add_ons
    assert hash(first.add_ons) == hash(second.add_ons)
    stronger = load(a_job(loras=[both[0], {**both[1], "model": 0.4}]))
    assert stronger.add_ons != first.add_ons


def tiny_addons_other(lora: bytes) -> bytes:
    return lora[:-4] + b"\0\0\0\0"


def test_what_was_read_longest_ago_is_let_go_when_the_memory_is_full(
    host: FakeCivitai, library: Library, lora: bytes
) -> None:
    others = [lora[:-4] + bytes([n, 0, 0, 0]) for n in range(3)]
    for number, content in enumerate(others):
        host.files[number] = FakeFile(content)
    reader = Reader()
    load = Loader(library, reader, 2 * len(lora))
    for number in (0, 1, 0, 2, 0, 1):
        load(a_job(loras=[{"name": str(number), "is_version": True}]))
    assert reader.reads == 4


@pytest.mark.lengthy
def test_a_job_waits_for_the_memory_of_another_and_none_gets_more_than_there_is(
    host: FakeCivitai, library: Library, lora: bytes
) -> None:
    for number in range(3):
        host.files[number] = FakeFile(lora[:-4] + bytes([number, 0, 0, 0]))
    load = Loader(library, Reader(), 2 * len(lora))
    both = [{"name": "0", "is_version": True}, {"name": "1", "is_version": True}]
    third = {"name": "2", "is_version": True}
    first = [load(a_job(loras=both))]
    with pytest.raises(AddOnError, match="does not fit into the memory"):
        load(a_job(seconds=0.2, loras=[third]))
    assert load(a_job(loras=both)).add_ons == first[0].add_ons, "what a job has needs no room"
    waiting = threading.Thread(target=lambda: first.append(load(a_job(loras=[third]))))
    waiting.start()
    first.pop(0)
    waiting.join()
    assert len(first) == 1
    with pytest.raises(AddOnError, match="does not fit into the memory"):
        load(a_job(loras=[*both, third]))


def test_a_pickle_with_the_right_checksum_is_still_no_safetensors_file(
    host: FakeCivitai, library: Library
) -> None:
    host.files[7] = FakeFile(b"\x80\x04\x95" + bytes(100))
    with pytest.raises(AddOnError, match="is no safetensors file") as caught:
        Loader(library, Reader(), MOST)(a_job(loras=[{"name": "7", "is_version": True}]))
    assert caught.value.remark == {"type": "lora", "value": "parse_failed", "ref": "7"}


def test_a_textual_inversion_is_found_by_its_number(host: FakeCivitai, tmp_path: Path) -> None:
    content = tiny_addons.inversion(tmp_path / "made.safetensors").read_bytes()
    host.files[7] = FakeFile(content, kind="TextualInversion")
    library = a_library(host, tmp_path)
    assert fetched(library, "7", kind="ti") == content
    assert "stands for something else" in fault(library, "7", kind="lora")


# The prompt


def ti(name: str = "fog", inject: Any = None, strength: float = 1.0) -> Inversion:
    return Inversion(name=name, inject=inject, strength=strength)


P = [prompt.placeholder(number) for number in range(3)]


@pytest.mark.parametrize(
    ("text", "inversions", "wanted"),
    [
        ("a fox", [ti(inject="prompt")], f"({P[0]}:1), a fox"),
        ("a fox", [ti(inject="negprompt", strength=1.2)], f"a fox###({P[0]}:1.2)"),
        ("a fox###mud", [ti(inject="negprompt")], f"a fox###mud, ({P[0]}:1)"),
        ("a embedding:fog fox", [ti()], f"a ({P[0]}:1) fox"),
        ("a EMBEDDING:Fog.safetensors", [ti(strength=0.5)], f"a ({P[0]}:0.5)"),
        ("a (embedding:fog:1.3) fox", [ti()], f"a (({P[0]}:1.3)) fox"),
        ("embedding:fog:-0.5, fox", [ti()], f"({P[0]}:-0.5), fox"),
        ("x###embedding:fog", [ti()], f"x###({P[0]}:1)"),
        ("embedding:foggy fox", [ti()], "embedding:foggy fox"),
        ("embedding:foggy embedding:fog", [ti(), ti("foggy")], f"({P[1]}:1) ({P[0]}:1)"),
        ("embedding:a.b(c", [ti("a.b(c")], f"({P[0]}:1)"),
        (f"{P[0]} and {P[1]}", [ti()], " and "),
    ],
)
def test_a_textual_inversion_stands_where_comfyui_reads_it(
    text: str, inversions: list[Inversion], wanted: str
) -> None:
    assert prompt.with_inversions(text, inversions)[0] == wanted


def test_a_textual_inversion_that_changes_nothing_is_told(
    host: FakeCivitai, library: Library, tmp_path: Path
) -> None:
    tiny_addons.inversion(tmp_path / "ti" / "fog.safetensors")
    load = Loader(library, Reader(), MOST)
    told = load(a_job(tis=[{"name": "fog"}])).add_ons
    assert told
    assert told.remarks[0]["ref"] == "fog is not in the prompt"
    assert not host.calls


def test_a_trigger_ends_no_prompt_and_has_a_limit() -> None:
    assert prompt.with_triggers("a fox", ["neon###blood"]) == "a fox, neon blood"
    assert len(prompt.with_triggers("", ["x" * 10_000])) < 400
    assert prompt.with_triggers("a Neon fox", ["neon"]) == "a Neon fox"


def test_the_part_of_a_prompt_before_a_placeholder_is_kept() -> None:
    assert [*prompt.split(f"a{P[2]}{P[0]} b")] == ["a", 2, 0, " b"]
    with contextlib.suppress(StopIteration):
        assert next(prompt.split("")) is None


# In the worker


def test_a_lora_that_cannot_be_had_faults_its_job_alone_and_its_reason_is_told(
    horde: FakeHorde, settings: Settings, client: Horde, library: Library, host: FakeCivitai,
    lora: bytes,
) -> None:  # fmt: skip
    host.files[7] = FakeFile(lora)
    good = horde.add(loras=[{"name": "7", "is_version": True}])
    bad = horde.add(loras=[{"name": "404", "is_version": True}])
    plain = horde.add()
    seen: list[Job] = []

    def draw(jobs: Any, sources: Any) -> Any:
        seen.extend(jobs)
        return noise(jobs, sources)

    load = Loader(library, Reader(), MOST)
    worker = Worker(settings, client, draw, lambda *_: (0.01, "stand-in"), add_ons=load)
    result = asyncio.run(worker.work({"id": "t"}))
    assert result == {"images": 2, "faulted": 1, "pops": 2}
    assert {job.id: job.add_ons is not None for job in seen} == {good: True, plain: False}
    told = horde.settled[bad]
    assert told["state"] == "faulted"
    assert told["gen_metadata"] == [{"type": "lora", "value": "download_failed", "ref": "404"}]


def test_a_client_is_told_of_what_has_no_effect(
    horde: FakeHorde, settings: Settings, client: Horde, library: Library, tmp_path: Path
) -> None:
    tiny_addons.inversion(tmp_path / "ti" / "fog.safetensors")
    job = horde.add(tis=[{"name": "fog"}])
    load = Loader(library, Reader(), MOST)
    worker = Worker(settings, client, noise, lambda *_: (0.01, "stand-in"), add_ons=load)
    asyncio.run(worker.work({"id": "t"}))
    _, remark = horde.settled[job]["gen_metadata"]
    assert remark == {
        "type": "ti",
        "value": "see_ref",
        "ref": "fog is not in the prompt",
    }


@pytest.mark.lengthy
def test_loras_are_fetched_while_the_gpu_draws_other_images(
    horde: FakeHorde, settings: Settings, library: Library, host: FakeCivitai, lora: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(pop_timing, "SLOW_S", 0.05)
    host.files[7] = FakeFile(lora)
    host.hold.clear()
    slow = horde.add(loras=[{"name": "7", "is_version": True}])
    for _ in range(3):
        horde.add()
    drawn: list[str] = []

    def draw(jobs: Any, sources: Any) -> Any:
        drawn.extend(job.id for job in jobs)
        if len(drawn) == 3:
            host.hold.set()
        return noise(jobs, sources)

    load = Loader(library, Reader(), MOST)
    alone = replace(settings, max_batch=1)
    worker = Worker(alone, Horde(alone), draw, lambda *_: (0.01, "stand-in"), add_ons=load)
    assert asyncio.run(worker.work({"id": "t"}))["images"] == 4
    assert drawn[-1] == slow


def test_loras_are_offered_only_where_there_are_any(
    horde: FakeHorde, settings: Settings, tmp_path: Path
) -> None:
    for more in ({}, {"lora_dir": tmp_path}, {"ti_dir": tmp_path}, {"civitai_url": "https://h"}):
        Horde(replace(settings, **more)).pop()
    assert [pop["allow_lora"] for pop in horde.pops] == [False, True, True, True]


ENV = {"HORDE_URL": "http://h/api", "HORDE_API_KEY": "k"}


def test_a_models_own_folders_are_taken_unless_others_are_named(tmp_path: Path) -> None:
    env = {**ENV, "MODEL_DIR": str(tmp_path)}
    assert not Settings.from_env(env).has_loras
    assert Library.of(Settings.from_env(env), SD1) is None
    for name in ("loras", "embeddings", "mine"):
        (tmp_path / name).mkdir()
    settings = Settings.from_env(env)
    assert (settings.lora_dir, settings.ti_dir) == (tmp_path / "loras", tmp_path / "embeddings")
    named = Settings.from_env({**env, "LORA_DIR": str(tmp_path / "mine")})
    assert named.lora_dir == tmp_path / "mine"
    assert Library.of(named, SD1)


def test_what_is_wrong_with_the_settings_is_named_all_at_once(tmp_path: Path) -> None:
    wrong = {"LORA_DIR": "/nowhere", "CIVITAI_URL": "http://civitai.com", "LORA_MAX_MB": "0"}
    with pytest.raises(ValueError, match=r"LORA_MAX_MB.*LORA_DIR is no folder.*https://"):
        Settings.from_env({**ENV, "MODEL_DIR": str(tmp_path), **wrong})


def test_the_folders_of_several_models_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "loras").mkdir()
    env = {**ENV, "MODELS": json.dumps({"a": {"source": str(tmp_path)}})}
    assert not Settings.from_env({**env, "MODEL_DIR": str(tmp_path)}).has_loras
    for name in ("LORA_DIR", "TI_DIR"):
        assert Settings.from_env({**env, name: str(tmp_path)}).has_loras


def test_a_host_of_the_settings_may_send_files_from_the_hosts_of_the_settings(
    tmp_path: Path,
) -> None:
    env = {**ENV, "MODEL_DIR": str(tmp_path), "CIVITAI_URL": "https://civitai.com/"}
    env |= {"LORA_CACHE_DIR": str(tmp_path / "cache"), "CIVITAI_KEY": "k"}
    library = Library.of(Settings.from_env(env), SD1)
    assert library
    client = library._host
    assert client
    for good in ("https://civitai.com/x", "https://b2.civitai.com/x"):
        client._check(good)
    for bad in ("https://evilcivitai.com/", "https://civitai.com.evil/", "https://u@evil/", "x"):
        with pytest.raises(UnusableError):
            client._check(bad)
    only = Library.of(Settings.from_env({**env, "CIVITAI_HOSTS": "a.b , *.c"}), SD1)
    assert only
    assert only._host
    assert only._host._hosts == ("a.b", "*.c", "civitai.com")
