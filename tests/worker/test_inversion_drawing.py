"""What textual inversions do to the drawings of tiny random models of both families."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gpu_worker.horde_client import BadJobError, Job
from tests.worker import tiny_addons
from tests.worker.fake_horde import PAYLOAD
from tests.worker.test_pipeline import difference

if TYPE_CHECKING:
    from tests.worker.studio import Studio

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]


def test_a_textual_inversion_acts_where_it_is_put(studio: Studio) -> None:
    plain = studio.drawn(prompt="a fox###mud")
    one = {"name": "fog"}
    pictures = [
        studio.drawn(prompt="a fox###mud", tis=[{**one, "inject_ti": "prompt"}]),
        studio.drawn(prompt="a fox###mud", tis=[{**one, "inject_ti": "negprompt"}]),
        studio.drawn(prompt="a embedding:fog fox###mud", tis=[one]),
        studio.drawn(prompt="a (embedding:fog:1.5) fox###mud", tis=[one]),
        studio.drawn(prompt="a embedding:mist fox###mud", tis=[{"name": "mist"}]),
    ]
    for number, picture in enumerate(pictures):
        assert difference(plain, picture) > 0
        assert all(difference(picture, other) > 0 for other in pictures[:number])
    assert difference(plain, studio.drawn(prompt="a fox###mud")) == 0


def test_its_vectors_take_the_places_of_tokens(studio: Studio) -> None:
    import torch

    job = studio.job(prompt="ab embedding:fog cd", tis=[{"name": "fog"}])
    (part,) = job.add_ons.inversions  # type: ignore[union-attr]
    for number, encoder in enumerate(studio.pipeline._model.encoders):
        chunks = encoder.chunks(job.payload["prompt"], [(part.key, part.vectors.each[number])])
        (chunk,) = chunks
        tokens = [token for token, _ in chunk]
        new = [at for at, token in enumerate(tokens) if token >= encoder._vocabulary]
        assert new == [3, 4, 5], "after the start and two letters"
        seen: list[torch.Tensor] = []
        table = encoder._model.get_input_embeddings()
        with torch.inference_mode(), encoder._inverted(tokens) as known:
            assert max(known) < encoder._vocabulary
            seen.append(table(torch.tensor([known])))
        assert torch.equal(seen[0][0, new], part.vectors.each[number])
        with torch.inference_mode():
            plain = table(torch.tensor([known]))
        rest = [at for at in range(len(tokens)) if at not in new]
        assert torch.equal(seen[0][0, rest], plain[0, rest])


def test_words_trained_into_vectors_are_those_words(studio: Studio) -> None:
    """A textual inversion whose vectors are those of a text is that text."""
    names, tensors = ("clip_l", "clip_g"), {}
    for name, encoder in zip(names, studio.pipeline._model.encoders, strict=False):
        tokens = encoder._tokenizer("fox", add_special_tokens=False).input_ids
        table = encoder._model.get_input_embeddings().weight.detach()
        tensors[name] = table[tokens].numpy().copy()
    if not studio.xl:
        tensors = {"emb_params": tensors["clip_l"]}
    tiny_addons.write(studio.folder / "word.safetensors", tensors)
    words = studio.drawn(prompt="a fox")
    assert difference(words, studio.drawn(prompt="a embedding:word", tis=[{"name": "word"}])) == 0


def test_many_vectors_make_more_chunks_and_are_kept_no_longer_than_needed(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_worker.families import clip

    tiny_addons.inversion(studio.folder / "long.safetensors", xl=studio.xl, vectors=75)
    text = "a embedding:long fox, embedding:fog"
    options: dict[str, Any] = {"prompt": text, "tis": [{"name": "long"}, {"name": "fog"}]}
    job = studio.job(**options)
    assert len(studio.pipeline._read(job).positive[0]) > 1
    first = studio.one(**options)
    monkeypatch.setattr(clip, "MAX_VECTORS", 0)
    studio.one(prompt="embedding:mist", tis=[{"name": "mist"}])
    assert len(studio.pipeline._model.encoders[0]._vectors) == 3
    assert studio.one(**options).tobytes() == first.tobytes()


def test_a_textual_inversion_that_does_not_fit_faults_its_job(studio: Studio) -> None:
    names = ("clip_l", "clip_g") if studio.xl else ("emb_params",)

    def faulted(*shapes: tuple[int, ...], fill: float = 1.0) -> str:
        tensors = {
            name: np.full(shape, fill, np.float32)
            for name, shape in zip(names, shapes * 2, strict=False)
        }
        tiny_addons.write(studio.folder / "bad.safetensors", tensors)
        return studio.fault("bad", "tis")

    assert faulted((3, 48)).startswith("baseline_mismatch")
    assert faulted((76, 32)).startswith("parse_failed")
    assert faulted((0, 32)).startswith("parse_failed")
    assert faulted((1, 1, 32)).startswith("parse_failed")
    assert faulted((3, 32), fill=np.nan).startswith("parse_failed")
    tiny_addons.inversion(studio.folder / "foreign-ti.safetensors", xl=not studio.xl)
    assert studio.fault("foreign-ti", "tis").startswith("baseline_mismatch")
    tiny_addons.write(studio.folder / "bad.safetensors", {n: np.ones(32) for n in "abc"})
    assert studio.fault("bad", "tis").startswith("parse_failed")
    if studio.xl:
        assert faulted((3, 32), (2, 32)).startswith("parse_failed")


def test_what_nobody_has_fetched_is_refused_and_never_left_out(studio: Studio) -> None:
    for name in ("loras", "tis"):
        job = Job(id="j", payload={**PAYLOAD, name: [{"name": "kohya"}]}, deadline=0)
        with pytest.raises(BadJobError, match=f"{name} is not supported"):
            studio.pipeline.draw([job])
        with pytest.raises(BadJobError):
            studio.pipeline.draw([replace(job, add_ons=None)])
