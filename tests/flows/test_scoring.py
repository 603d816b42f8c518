"""Aesthetic scores in a release: who gives them, where they are, and what never waits for them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import screen
from horde import detector
from horde.log import logger
from horde.release import scoring, tables
from horde.rules.columns import COLUMNS, IN_SHARD, SCORES, checked
from infra.operate import OperatorError, commands
from tests.flows.test_release import withdraw
from tests.support.cloud import Cloud
from tests.support.releasing import HOLD_S, age, manifest, rows, samples, share
from tests.support.step_functions import Machine

KEY = "lists/scorer.onnx"


@pytest.fixture(autouse=True)
def harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds nothing."""
    monkeypatch.setattr(detector, "_detector", lambda _name: lambda *_: (0.01, "none 1"))


def scorer(version: str = "mean-1", **changes: str) -> bytes:
    """Return a scorer: 1 for black to 10 for white, by the mean of all channels."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "one"], ["aesthetic_score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info("aesthetic_score", TensorProto.FLOAT, ["N"])],
        [
            numpy_helper.from_array(np.array(changes.get("scale", 9 / 255), np.float32), "scale"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    noted = {"format": scoring.FORMAT, "aesthetic_version": version, **changes}
    helper.set_model_props(model, {name: str(value) for name, value in noted.items()})
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def configured(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts a scorer into use, as a deploy with the setting does."""
    load = screen.Settings.load

    def use(data: bytes | None) -> None:
        if data is not None:
            cloud.s3.put_object(Bucket=cloud.bucket("ReleasesWork"), Key=KEY, Body=data)
        monkeypatch.setattr(
            screen.Settings,
            "load",
            lambda: load().model_copy(update={"aesthetic_scorer": KEY}),
        )
        screen._scorer.cache_clear()

    yield use
    screen._scorer.cache_clear()


def table_of(cloud: Cloud, tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows(cloud, "metadata.parquet", tmp_path)}


def expected(file: bytes) -> float:
    with images_of(file) as picture:
        return float(1 + np.asarray(picture.convert("RGB"), float).mean() * 9 / 255)


def images_of(file: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(file))


@pytest.mark.lengthy
def test_the_tables_have_the_scores_and_the_shards_do_not(
    cloud: Cloud, worker: str, configured: Any, tmp_path: Path
) -> None:
    configured(scorer())
    ids = share(cloud, worker, count=3)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    found, table = samples(cloud), table_of(cloud, tmp_path)
    assert sorted(table) == ids
    for id_, (file, row) in found.items():
        assert list(row) == [column.name for column in IN_SHARD]
        assert table[id_]["aesthetic_score"] == pytest.approx(expected(file), abs=1e-3)
        assert table[id_]["aesthetic_version"] == "mean-1"
    (part,) = manifest(cloud).parts()
    assert {row["id"]: row for row in rows(cloud, part.table, tmp_path)} == table
    assert [column.name for column in SCORES] == ["aesthetic_score", "aesthetic_version"]
    cloud.audit()


@pytest.mark.lengthy
def test_without_a_scorer_the_columns_are_there_and_empty(
    cloud: Cloud, worker: str, tmp_path: Path
) -> None:
    (id_,) = share(cloud, worker)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    row = table_of(cloud, tmp_path)[id_]
    assert (row["aesthetic_score"], row["aesthetic_version"]) == (None, "")
    assert list(row) == [column.name for column in COLUMNS]


@pytest.mark.lengthy
def test_a_part_that_is_written_anew_keeps_its_scores(
    cloud: Cloud, worker: str, configured: Any, tmp_path: Path
) -> None:
    configured(scorer())
    first, *others = share(cloud, worker, count=3)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    before = table_of(cloud, tmp_path)
    configured(scorer("mean-2"))
    withdraw(cloud, first)
    (new,) = share(cloud, worker)
    age(cloud)
    Machine(cloud).run()
    after = table_of(cloud, tmp_path)
    assert sorted(after) == sorted([*others, new])
    for id_ in others:
        assert after[id_]["aesthetic_score"] == before[id_]["aesthetic_score"] is not None
        assert after[id_]["aesthetic_version"] == "mean-1"
        assert after[id_]["shard"] != before[id_]["shard"]
    assert after[new]["aesthetic_version"] == "mean-2"
    assert sorted(samples(cloud)) == sorted(after)


@pytest.mark.slow
def test_parts_of_before_there_were_scores_stay_readable_and_are_rewritten(
    cloud: Cloud, worker: str, configured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = tables.from_lines
    old_columns = COLUMNS[: -len(SCORES)]
    monkeypatch.setattr(tables, "from_lines", lambda lines, table: write(lines, table, old_columns))
    first, second = share(cloud, worker, count=2)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    monkeypatch.setattr(tables, "from_lines", write)
    (part,) = manifest(cloud).parts()
    assert "aesthetic_score" not in rows(cloud, part.table, tmp_path)[0]
    assert table_of(cloud, tmp_path)[first]["aesthetic_version"] == ""
    configured(scorer())
    (new,) = share(cloud, worker)
    age(cloud)
    Machine(cloud).run()
    table = table_of(cloud, tmp_path)
    assert table[first]["aesthetic_score"] is None
    assert table[new]["aesthetic_score"] is not None
    withdraw(cloud, first)
    Machine(cloud).run()
    table = table_of(cloud, tmp_path)
    assert sorted(table) == sorted([second, new])
    assert (table[second]["aesthetic_score"], table[second]["aesthetic_version"]) == (None, "")


@pytest.mark.slow
@pytest.mark.parametrize("data", [None, b"no model", b"", scorer(format="other"), scorer("")])
def test_a_scorer_that_cannot_be_loaded_is_logged_and_nothing_waits(
    cloud: Cloud,
    worker: str,
    configured: Any,
    tmp_path: Path,
    data: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(logger, "error", lambda text, **_: said.append(text))
    configured(data)
    ids = share(cloud, worker, count=2)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    assert sorted(samples(cloud)) == ids
    assert {row["aesthetic_version"] for row in table_of(cloud, tmp_path).values()} == {""}
    assert said == ["no scorer"]


@pytest.mark.lengthy
def test_an_image_that_has_no_finite_score_is_published_without_one(
    cloud: Cloud, worker: str, configured: Any, tmp_path: Path
) -> None:
    configured(scorer(scale="nan"))
    (id_,) = share(cloud, worker)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    row = table_of(cloud, tmp_path)[id_]
    assert (row["aesthetic_score"], row["aesthetic_version"]) == (None, "")


def test_a_file_that_is_no_image_has_no_score() -> None:
    assert scoring.Scorer(scorer()).columns(b"no image") == scoring.unscored()


def test_what_is_kept_back_is_not_scored(
    cloud: Cloud, worker: str, configured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(scorer())
    monkeypatch.setattr(detector, "_detector", lambda _name: lambda *_: (0.9, "none 1"))
    monkeypatch.setattr(scoring.Scorer, "columns", lambda *_: pytest.fail("it was scored"))
    share(cloud, worker)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    assert samples(cloud) == {}


@pytest.mark.lengthy
def test_a_batch_that_was_screened_before_the_change_is_packed_without_scores(
    cloud: Cloud, worker: str, configured: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result has neither column."""
    assert checked({}, SCORES) == {"aesthetic_score": None, "aesthetic_version": ""}
    configured(scorer())
    monkeypatch.setattr(scoring.Scorer, "columns", lambda *_: {})
    (id_,) = share(cloud, worker)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    assert table_of(cloud, tmp_path)[id_]["aesthetic_version"] == ""


@pytest.mark.lengthy
def test_the_horde_datasets_own_scorer_scores_a_release_alike(
    cloud: Cloud, worker: str, configured: Any, tmp_path: Path
) -> None:
    from horde_dataset import graph, plain

    size = len(plain.names())
    rng = np.random.default_rng(0)
    head = graph.Head(np.zeros(size), np.ones(size), rng.normal(size=size) / 10, 5.0)
    model = graph.scorer(plain.embedder(), head, "2026-11-28")
    onnx.save(model, tmp_path / "scorer.onnx")
    text = commands.upload_scorer(cloud.s3, cloud.bucket("ReleasesWork"), tmp_path / "scorer.onnx")
    assert json.dumps(KEY) in text
    configured(None)
    (id_,) = share(cloud, worker)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    ((file, _),) = samples(cloud).values()
    row = table_of(cloud, tmp_path)[id_]
    version = {one.key: one.value for one in model.metadata_props}["aesthetic_version"]
    assert row["aesthetic_version"] == version
    again = scoring.Scorer(graph.packed(model)).columns(file)
    assert row["aesthetic_score"] == again["aesthetic_score"]
    assert 1 <= row["aesthetic_score"] <= 10


def test_no_other_file_is_uploaded_as_a_scorer(cloud: Cloud, tmp_path: Path) -> None:
    bucket = cloud.bucket("ReleasesWork")
    (tmp_path / "other.onnx").write_bytes(b"another model")
    (tmp_path / "a b.onnx").write_bytes(scorer())
    for name in ("other.onnx", "a b.onnx", "none.onnx"):
        with pytest.raises(OperatorError):
            commands.upload_scorer(cloud.s3, bucket, tmp_path / name)
    with pytest.raises(OperatorError, match="--stage"):
        commands.upload_scorer(cloud.s3, "", tmp_path / "other.onnx")
    assert cloud.objects_of("ReleasesWork") == {}


@pytest.mark.lengthy
def test_shards_have_no_score_in_any_text(cloud: Cloud, worker: str, configured: Any) -> None:
    configured(scorer())
    share(cloud, worker)
    cloud.clock.pass_seconds(HOLD_S)
    Machine(cloud).run()
    (part,) = manifest(cloud).parts()
    body = cloud.laion()[part.shard]
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        assert len(archive.getnames()) == 3
    assert b"aesthetic" not in body
