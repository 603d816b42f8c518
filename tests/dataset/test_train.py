"""Fitting a scorer to ratings: what it finds, what it writes, and what it refuses."""

import hashlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from horde_dataset import embeddings, figures, graph, pictures, plain, ridge, split, train, vision
from horde_dataset.errors import DatasetError
from tests.dataset import made, rated
from tests.dataset.conftest import Run

WRITTEN = {"scorer.onnx", "scorer.md", "report.json", "held-out.png"}
Make = Callable[..., rated.Rated]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> rated.Rated:
    """A release whose ratings follow how colourful an image is; no test changes it."""
    return rated.make(tmp_path_factory.mktemp("rated") / "data")


@pytest.fixture(scope="module")
def trained(good: rated.Rated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train` writes of it."""
    target = tmp_path_factory.mktemp("trained") / "scorer"
    train.train(good.folder, target, train.Options())
    return target


@pytest.fixture
def small(tmp_path: Path) -> rated.Rated:
    """A release of few images, which a test may change."""
    return rated.make(tmp_path / "small", 60)


def report_of(target: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((target / "report.json").read_text())
    return found


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(pictures.decoded(data), np.uint8)


# --- what it finds -------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_ratings_follow_is_found_on_images_that_were_held_out(trained: Path) -> None:
    found = report_of(trained)
    assert found["images"] == 240
    assert 36 <= found["held_out"] <= 60
    assert found["correlation"]["low"] > 0.5
    assert (
        found["correlation"]["low"] < found["correlation"]["value"] < found["correlation"]["high"]
    )
    assert found["error"] < found["baseline_error"] / 2
    assert 0.9 < found["ceiling"] < 1


@pytest.mark.slow
def test_nothing_is_found_in_random_ratings(good: rated.Rated, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rows = [{**row, "rating": int(rng.integers(1, 11))} for row in good.ratings]
    made.parquet(tmp_path / "random.parquet", rated.RATING, rows)
    copy = rated.Rated(good.release, rows, good.truth)
    values, covered = [], 0
    for seed in range(6):
        report = _train_on(copy, tmp_path, seed)
        values.append(report.correlation.value)
        covered += report.correlation.low <= 0 <= report.correlation.high
        said = "not shown to know anything" in (tmp_path / "out/scorer.md").read_text()
        assert said == (report.correlation.low <= 0)
        assert report.ceiling is not None
        assert report.ceiling < 0.5
    assert covered >= 5  # one in twenty does not
    assert abs(float(np.mean(values))) < 0.15


@pytest.mark.slow
def test_of_many_random_ratings_the_intervals_leave_out_zero_as_seldom_as_they_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "RESAMPLES", 300)
    rng = np.random.default_rng(2)
    group, names = split.groups([(f"set {n // 2}", "", str(n)) for n in range(200)])
    values, covered = [], 0
    for seed in range(80):
        seen, truth = rng.normal(size=(200, 40)), rng.uniform(1, 10, 200)
        out = split.held_out(group, names, 0.2, seed)
        folds = split.folds(group[~out], names, 5, seed)
        head = ridge.fit(seen[~out], truth[~out], np.ones(int((~out).sum())), folds).head
        drawn = np.unique(group[out], return_inverse=True)[1]
        found = figures.interval(head.predict(seen[out]), truth[out], drawn, seed)
        values.append(found.value)
        covered += found.low <= 0 <= found.high
    assert covered >= 70
    assert abs(float(np.mean(values))) < 0.05


def _train_on(data: rated.Rated, tmp_path: Path, seed: int) -> train.Report:
    """Train on other ratings of a release that stays as it is."""
    folder = tmp_path / "linked"
    if not folder.is_dir():
        folder.mkdir()
        for path in data.folder.iterdir():
            if path.name not in {"ratings", "manifest.json"}:
                (folder / path.name).symlink_to(path)
        text = json.loads((data.folder / "manifest.json").read_text())
        text["files"] = [one for one in text["files"] if not one["path"].startswith("ratings/")]
        (folder / "manifest.json").write_text(json.dumps(text))
    options = train.Options(seed=seed, tables=(tmp_path / "random.parquet",))
    return train.train(folder, tmp_path / "out", options)


def test_alike_images_do_not_make_random_ratings_look_known() -> None:
    """Each request has one picture twice, with one rating: to know one is to know the other."""
    rng = np.random.default_rng(1)
    keys = [(f"set {n // 2}", f"prompt {n // 4}", str(n)) for n in range(200)]
    seen = np.repeat(rng.normal(size=(100, 60)), 2, axis=0)
    truth = np.repeat(rng.uniform(1, 10, 100), 2)
    group, names = split.groups(keys)
    out = split.held_out(group, names, 0.25, 0)
    fit = ridge.fit(
        seen[~out], truth[~out], np.ones(int((~out).sum())), split.folds(group[~out], names, 5, 0)
    )
    assert not set(group[out]) & set(group[~out])
    assert abs(figures.spearman(fit.head.predict(seen[out]), truth[out])) < 0.35
    assert abs(fit.cross_validated) < 0.35


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_file_says_of_each_image_what_numpy_says(good: rated.Rated, trained: Path) -> None:
    model = onnx.load(trained / "scorer.onnx")
    onnx.checker.check_model(model, full_check=True)
    numbers = [
        numpy_helper.to_array(one)
        for one in model.graph.initializer
        if one.name.startswith("horde/head/")
    ]
    mean, deviation, weights, bias = (one.astype(float) for one in numbers[:4])
    embedder = embeddings.Model(graph.packed(plain.embedder().model), graph.EMBEDDING, "plain")
    runs = session(trained / "scorer.onnx")
    for data in list(good.release.pictures.values())[:80]:
        picture = pixels(data)
        (found,) = runs.run(None, {"image": picture[None]})
        standard = (embedder.run(picture).astype(float) - mean) / deviation
        expected = np.clip(standard @ weights[:, 0] + bias, 1, 10)
        assert found.shape == (1,)
        assert found[0] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.lengthy
def test_images_of_one_size_are_scored_as_a_batch(trained: Path) -> None:
    runs = session(trained / "scorer.onnx")
    batch = np.random.default_rng(0).integers(0, 256, (3, 70, 41, 3), dtype=np.uint8)
    (together,) = runs.run(None, {"image": batch})
    alone = [runs.run(None, {"image": one[None]})[0][0] for one in batch]
    assert together == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("size", [(64, 48), (500, 333), (128, 128), (3, 900), (1, 1)])
def test_the_plain_embedding_is_what_its_names_say(size: tuple[int, int]) -> None:
    """Made anew by Pillow and numpy."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    picture = np.asarray(coarse.resize(size, Image.Resampling.BILINEAR), np.uint8)
    model = embeddings.Model(graph.packed(plain.embedder().model), graph.EMBEDDING, "plain")
    found = dict(zip(plain.names(), model.run(picture).tolist(), strict=True))
    expected = _by_numpy(picture)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, abs=2e-4)


def _by_numpy(picture: NDArray[np.uint8]) -> dict[str, float]:
    height, width = picture.shape[:2]
    small = [
        np.asarray(Image.fromarray(picture[..., n].astype(np.float32)).resize((128, 128), 3))
        for n in range(3)
    ]
    red, green, blue = (np.clip(one / 255, 0, 1).astype(float) for one in small)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    top, bottom = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    planes = {
        "red": red, "green": green, "blue": blue, "luma": luma, "saturation": top - bottom,
        "red - green": red - green, "yellow - blue": (red + green) / 2 - blue,
    }  # fmt: skip
    found = {
        "log of width by height": np.log(width / height),
        "log of megapixels": np.log(width * height / 1e6),
    }
    for name, plane in planes.items():
        found |= {f"{name}, mean": plane.mean(), f"{name}, deviation": np.sqrt(plane.var() + 1e-8)}
    both = planes["red - green"], planes["yellow - blue"]
    spread = np.sqrt(both[0].var() + both[1].var())
    mean = np.hypot(both[0].mean(), both[1].mean())
    found["colourfulness (Hasler and Suesstrunk, 2003)"] = spread + 0.3 * mean
    for one in plain.PERCENTILES:
        found[f"luma, percentile {one}"] = np.percentile(luma, one, method="nearest")
    level = luma
    for band in range(plain.BANDS):
        half = level.reshape(len(level) // 2, 2, -1, 2).mean((1, 3))
        detail = np.abs(level - half.repeat(2, 0).repeat(2, 1)).mean()
        found[f"log of detail at {128 >> band} pixels"] = np.log(detail + 1e-3)
        level = half
    found["steps across"] = np.abs(np.diff(luma, axis=1)).mean()
    found["steps down"] = np.abs(np.diff(luma, axis=0)).mean()
    found["difference from its mirror image"] = np.abs(luma - luma[:, ::-1]).mean()
    found["difference from itself upside down"] = np.abs(luma - luma[::-1]).mean()
    for name in ("luma", "saturation"):
        plane = planes[name]
        found[f"{name} of the middle - {name}"] = plane[32:96, 32:96].mean() - plane.mean()
    fields = luma.reshape(4, 32, 4, 32).mean((1, 3))
    found |= {f"luma of field {y}, {x}": fields[y, x] for y in range(4) for x in range(4)}
    return {name: float(value) for name, value in found.items()}


@pytest.mark.slow
def test_two_runs_write_the_same_bytes(good: rated.Rated, trained: Path, tmp_path: Path) -> None:
    for _ in range(2):  # without the embeddings of the run before, and with them
        train.train(good.folder, tmp_path / "again", train.Options())
        for name in WRITTEN:
            assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes(), name
    other = train.train(good.folder, tmp_path / "again", train.Options(seed=1))
    assert other.version != report_of(trained)["version"]


def test_the_card_and_the_plot_show_the_figures(trained: Path) -> None:
    found = report_of(trained)
    assert {path.name for path in trained.iterdir() if path.suffix != ".cache"} == WRITTEN
    card = (trained / "scorer.md").read_text()
    interval = found["correlation"]
    assert f"{interval['value']:.2f} [{interval['low']:.2f}, {interval['high']:.2f}]" in card
    assert found["version"] in card
    with Image.open(trained / "held-out.png") as image:
        assert image.size == (1200, 675)
    noted = session(trained / "scorer.onnx").get_modelmeta().custom_metadata_map
    assert noted["aesthetic_version"] == found["version"]
    assert noted["release"] == "2026-11-28"


# --- a vision model ------------------------------------------------------------------------------


def vision_model(
    path: Path, size: int | str = 16, kind: int = TensorProto.FLOAT, **more: Any
) -> Path:
    """Write a model that averages each channel over four rows: twelve numbers."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    block = np.kron(np.eye(4), np.full((1, 4), 1 / 4)).astype(dtype)
    across = np.full((16, 1), 1 / 16, dtype)
    nodes = [
        helper.make_node("MatMul", ["block", "image"], ["rows"]),
        helper.make_node("MatMul", ["rows", "across"], ["cells"]),
        helper.make_node("Flatten", ["cells"], ["embedding"], axis=1),
    ]
    outputs = [
        helper.make_tensor_value_info("cells", kind, ["n", 3, 4, 1]),
        helper.make_tensor_value_info("embedding", kind, ["n", 12]),
    ]
    options: dict[str, Any] = {"inputs": 1, "opset": 13, "outputs": outputs, "channels": 3, **more}
    inputs = [
        helper.make_tensor_value_info("image", kind, ["n", options["channels"], size, size]),
        helper.make_tensor_value_info("text", TensorProto.INT64, ["n", 77]),
    ]
    made_graph = helper.make_graph(
        nodes,
        "tiny",
        inputs[: options["inputs"]],
        options["outputs"],
        [numpy_helper.from_array(block, "block"), numpy_helper.from_array(across, "across")],
    )
    opset = helper.make_opsetid("", options["opset"])
    onnx.save(helper.make_model(made_graph, opset_imports=[opset], ir_version=7), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_vision_model_of_ones_own_is_part_of_the_file(
    good: rated.Rated, tmp_path: Path, run: Run, kind: int
) -> None:
    path = vision_model(tmp_path / "tiny clip.onnx", kind=kind)
    code, said, _ = run("train", good.folder, "-o", tmp_path / "out", "--embedder", f"onnx:{path}")
    assert code == 0, said
    runs = session(tmp_path / "out/scorer.onnx")
    assert [one.name for one in runs.get_inputs()] == ["image"]
    assert [one.name for one in runs.get_outputs()] == ["aesthetic_score"]
    assert report_of(tmp_path / "out")["dimension"] == 12
    picture = pixels(good.release.pictures[good.release.ids[0]])
    assert 1 <= runs.run(None, {"image": picture[None]})[0][0] <= 10
    assert run("score", good.folder, "--model", tmp_path / "out/scorer.onnx", "-o",
               tmp_path / "s.parquet")[0] == 0  # fmt: skip


def test_a_vision_model_is_given_the_middle_as_clip_has_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    wide = coarse.resize((96, 64), Image.Resampling.BILINEAR)
    model = vision.embedder(vision.Vision(vision_model(tmp_path / "tiny.onnx")))
    found = embeddings.Model(graph.packed(model.model), "embedding", "tiny").run(np.asarray(wide))
    square = wide.resize((24, 16), Image.Resampling.BICUBIC).crop((4, 0, 20, 16))
    planes = (np.asarray(square, float) / 255 - vision.CLIP_MEAN) / vision.CLIP_STD
    expected = planes.reshape(4, 4, 16, 3).mean((1, 2)).T.ravel()
    assert found == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inputs": 2}, "image encoder alone"),
        ({"channels": 4}, "does not take images"),
        ({"kind": TensorProto.DOUBLE}, "does not take images"),
        ({"opset": 12}, "opset 12"),
        ({"outputs": [helper.make_tensor_value_info("cells", 1, ["n", 3, 4, 1])]}, "no output of"),
    ],
)
def test_a_model_that_is_no_image_encoder_is_said(
    good: rated.Rated, tmp_path: Path, run: Run, options: dict[str, Any], said: str
) -> None:
    path = vision_model(tmp_path / "other.onnx", **options)
    code, _, error = run("train", good.folder, "-o", tmp_path / "o", "--embedder", f"onnx:{path}")
    assert (code, error.count("\n")) == (1, 1)
    assert said in error


@pytest.mark.parametrize(
    "embedder", ["onnx:none.onnx", "onnx:", "clip", "onnx:README.md", "onnx:tiny.onnx:17",
                 "onnx:tiny.onnx:99999", "onnx:any.onnx:24"]
)  # fmt: skip
def test_an_embedder_that_cannot_be_used_is_said(
    good: rated.Rated, tmp_path: Path, run: Run, embedder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    vision_model(tmp_path / "tiny.onnx")
    vision_model(tmp_path / "any.onnx", "size")  # takes any size, it says, but its weights do not
    Path("README.md").write_text("no model\n")
    code, _, error = run("train", good.folder, "-o", "out", "--embedder", embedder)
    assert (code, error.count("\n")) == (1, 1)
    assert not (tmp_path / "out/scorer.onnx").exists()


# --- ratings -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ratings_that_do_not_count_are_left_out_and_counted(
    good: rated.Rated, tmp_path: Path, run: Run
) -> None:
    bad = [
        *({**good.ratings[0], "rating": value} for value in (0, 11, -3, 10**9)),
        {**good.ratings[0], "rating": None},
        {**good.ratings[0], "id": made.image_id(99_999)},
        {**good.ratings[0], "id": None},
        {**good.ratings[3], "rated_on": "2026-11-20", "rating": 1},
        {**good.ratings[5], "own": True, "rater": "", "rating": 10},
        {**good.ratings[5], "own": True, "rater": "", "rating": 9},
    ]
    table = tmp_path / "bad.parquet"
    made.parquet(table, rated.RATING, bad)
    report = train.train(good.folder, tmp_path / "out", train.Options(tables=(table,)))
    assert report.left_out == {
        "ratings by authors of their own images": 2,
        "ratings of images that are not in the copy": 2,
        "ratings that are no number from 1 to 10": 5,
        "ratings that are there twice": 1,
    }
    assert report.ratings == len(good.ratings)
    with_own = train.train(good.folder, tmp_path / "out", train.Options(tables=(table,), own=True))
    assert with_own.ratings == len(good.ratings) + 1
    card = (tmp_path / "out/scorer.md").read_text()
    assert "5 ratings that are no number from 1 to 10" in card


@pytest.mark.slow
def test_numbers_that_are_none_are_no_ratings(small: rated.Rated, tmp_path: Path) -> None:
    folder = str(small.folder / "ratings/date=2026-11-28/odd.parquet")
    duckdb.sql(
        f"COPY (SELECT '{made.image_id(0)}' AS id, unnest(['NaN', 'inf', '5e400', 'seven', '7']) "
        f"AS rating) TO '{folder}' (FORMAT parquet)"
    )
    small.release.publish()
    report = train.train(small.folder, tmp_path / "out", train.Options())
    assert report.left_out["ratings that are no number from 1 to 10"] == 4
    assert report.ratings == len(small.ratings) + 1


@pytest.mark.slow
def test_a_table_of_means_serves_where_single_ratings_are_not_there(
    small: rated.Rated, tmp_path: Path
) -> None:
    by_image: dict[str, list[int]] = {}
    for row in small.ratings:
        by_image.setdefault(row["id"], []).append(row["rating"])
    means = [
        {"id": name, "ratings_count": len(all_of), "rating": sum(all_of) / len(all_of),
         "artifacts_count": 0, "artifacts": -1.0}
        for name, all_of in by_image.items()
    ]  # fmt: skip
    single = train.train(small.folder, tmp_path / "single", train.Options())
    small.ratings = means
    small.write(rated.MEAN)
    report = train.train(small.folder, tmp_path / "means", train.Options())
    assert report.ceiling is None
    assert single.ceiling is not None
    assert (report.ratings, report.correlation) == (single.ratings, single.correlation)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [row for row in rows if row["id"] in _some(rows, 49)], "49 images"),
        (lambda rows: [{**row, "rating": 7} for row in rows], "the same rating"),
        (lambda rows: [{**row, "rating": 11} for row in rows], "0 images"),
        (lambda rows: [{**row, "own": True} for row in rows], "own images"),
        (lambda rows: [row for n, row in enumerate(rows) if n % 5 < 2], "fewer than 3 ratings"),
        (lambda _: [], "0 images"),
    ],
)
def test_too_little_to_learn_from_is_said_and_nothing_is_written(
    small: rated.Rated, tmp_path: Path, run: Run, change: Callable[[Any], Any], said: str
) -> None:
    small.ratings = change(small.ratings)
    small.write()
    code, _, error = run("train", small.folder, "-o", tmp_path / "out")
    assert (code, error.count("\n")) == (1, 1)
    assert said in error
    assert not any((tmp_path / "out" / name).exists() for name in WRITTEN)


def _some(rows: list[dict[str, Any]], number: int) -> set[str]:
    return set(sorted({row["id"] for row in rows})[:number])


@pytest.mark.lengthy
def test_images_of_few_requests_are_not_measured(
    small: rated.Rated, tmp_path: Path, run: Run
) -> None:
    for n, row in enumerate(small.release.rows):
        row["set"] = f"set {n % 8}"
    small.release.publish()
    code, _, error = run("train", small.folder, "-o", tmp_path / "out")
    assert (code, error.count("\n")) == (1, 1)
    assert "held out" in error


def test_a_release_without_ratings_is_said(
    pristine: made.Release, tmp_path: Path, run: Run
) -> None:
    code, _, error = run("train", pristine.folder, "-o", tmp_path / "out")
    assert (code, error.count("\n")) == (1, 1)
    assert "no ratings" in error
    other = pristine.folder / "metadata.parquet"
    code, _, error = run("train", pristine.folder, "-o", tmp_path / "out", "--ratings", other)
    assert (code, error.count("\n")) == (1, 1)
    assert "no table of ratings" in error


# --- images --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_images_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path, run: Run) -> None:
    data = rated.make(tmp_path / "data", 70)
    rows = data.release.rows
    shard = data.folder / rows[0]["shard"]
    torn = bytearray(shard.read_bytes())
    torn[rows[0]["offset"] + 30] ^= 1  # another file than its row says
    shard.write_bytes(torn)
    for row, broken in ((rows[1], bytes(200)), (rows[2], b"RIFF\x10\0\0\0WEBPVP8 ")):
        row["size"], row["sha256"] = len(broken), hashlib.sha256(broken).hexdigest()
        torn[row["offset"] : row["offset"] + len(broken)] = broken
    shard.write_bytes(torn)
    rows[3]["shard"] = "images/date=2026-11-25/none.tar"
    data.release.publish()
    code, said, _ = run("train", data.folder, "-o", tmp_path / "out")
    assert code == 0
    found = report_of(tmp_path / "out")
    assert found["images"] == 66
    assert found["left_out"] == {
        "images: the file does not decode": 2,
        "images: the file is not that of its SHA-256": 1,
        "images: the file is not there": 1,
    }
    out = tmp_path / "scores.parquet"
    code, said, _ = run("score", data.folder, "--model", tmp_path / "out/scorer.onnx", "-o", out)
    assert code == 0
    assert "66 images scored" in said
    scores = {row[0]: row[1:] for row in duckdb.connect().execute(f"FROM '{out}'").fetchall()}
    assert scores[rows[1]["id"]] == (None, "")
    assert len(scores) == 70


def test_an_image_of_too_many_pixels_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made.picture(1)
    assert pictures.decoded(data) is not None
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    assert pictures.decoded(data) is None


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_a_torn_cache_is_mended(
    small: rated.Rated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    seen: list[int] = []
    whole = embeddings.Model.run

    def counted(model: embeddings.Model, picture: NDArray[np.uint8]) -> embeddings.Vector:
        seen.append(1)
        if len(seen) == 30:
            raise KeyboardInterrupt
        return whole(model, picture)

    monkeypatch.setattr(embeddings.Model, "run", counted)
    assert run("train", small.folder, "-o", tmp_path / "out")[0] == 130
    (cache,) = (tmp_path / "out").glob("*.cache")
    data = bytearray(cache.read_bytes()[:-7])
    data[60] ^= 1  # and one bit of the first record has tipped
    cache.write_bytes(data)
    seen[:] = [1] * 100
    assert run("train", small.folder, "-o", tmp_path / "out")[0] == 0
    assert len(seen) - 100 == 1 + 60 - 26  # to learn the dimension; 28 were there, and two torn
    train.train(small.folder, tmp_path / "fresh", train.Options())
    for name in WRITTEN:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


# --- scores --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--where", "true"]])
def test_a_copy_is_scored(
    good: rated.Rated, trained: Path, tmp_path: Path, run: Run, options: list[str]
) -> None:
    run("download", good.folder, tmp_path / "copy", *options)
    out = tmp_path / "scores.parquet"
    code, said, _ = run("score", tmp_path / "copy", "--model", trained / "scorer.onnx", "-o", out)
    assert code == 0
    assert "240 images scored" in said
    described = duckdb.connect().execute(f"DESCRIBE FROM '{out}'").fetchall()
    assert [row[1] for row in described] == ["VARCHAR", "DOUBLE", "VARCHAR"]
    rows = duckdb.connect().execute(f"FROM '{out}'").fetchall()
    assert {row[0] for row in rows} == set(good.release.ids)
    assert {row[2] for row in rows} == {report_of(trained)["version"]}
    scores = {row[0]: row[1] for row in rows}
    ordered = np.array([scores[name] for name in good.release.ids])
    assert figures.spearman(ordered, good.truth) > 0.9
    first = out.read_bytes()
    run("score", tmp_path / "copy", "--model", trained / "scorer.onnx", "-o", out)
    assert out.read_bytes() == first


def test_a_file_that_is_no_scorer_is_said(pristine: made.Release, tmp_path: Path, run: Run) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty.onnx").write_bytes(b"")
    onnx.save(plain.embedder().model, tmp_path / "embedder.onnx")
    vision_model(tmp_path / "tiny.onnx")
    for name in ("text.onnx", "empty.onnx", "embedder.onnx", "tiny.onnx", "none.onnx"):
        out = tmp_path / "scores.parquet"
        code, _, error = run("score", pristine.folder, "--model", tmp_path / name, "-o", out)
        assert (code, error.count("\n")) == (1, 1), error
        assert not out.exists()


def test_a_copy_without_images_is_neither_learned_from_nor_scored(
    good: rated.Rated, trained: Path, tmp_path: Path, run: Run
) -> None:
    run("download", good.folder, tmp_path / "rows", "--metadata-only")
    for command in (
        ["train", tmp_path / "rows", "-o", tmp_path / "out"],
        ["score", tmp_path / "rows", "--model", trained / "scorer.onnx"],
    ):
        code, _, error = run(*command)
        assert (code, error.count("\n")) == (1, 1)
        assert "no images" in error


@pytest.mark.parametrize(
    "options", [["--held-out", "0"], ["--held-out", "1"], ["--seed", "-1"], ["--min-ratings", "0"],
                ["--mean", "1,2"], ["--held-out", "nan"]]
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(
    pristine: made.Release, run: Run, options: list[str]
) -> None:
    assert run("train", pristine.folder, *options)[0] == 2


@pytest.mark.slow
def test_the_readmes_lines_run_as_they_are_printed(
    good: rated.Rated, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(good.folder)
    vision_model(tmp_path / "clip.onnx")
    text = (Path(train.__file__).parents[1] / "README.md").read_text()
    lines = re.findall(r"^horde-dataset ((?:train|score) .*?)(?:  +#.*)?$", text, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert run(*shlex.split(line))[0] == 0, line
    assert (tmp_path / "scores.parquet").is_file()


# --- figures -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rank_correlation_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.integers(0, 12, (2, 40)).astype(float)
        assert figures.spearman(one, other) == pytest.approx(stats.spearmanr(one, other)[0])
    assert figures.spearman(np.ones(5), np.arange(5.0)) == 0


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        one = rng.normal(size=80)
        other = rng.normal(size=80)
        found = figures.interval(one, other, np.arange(80) // 2, seed)
        covered += found.low <= 0 <= found.high
    assert 52 <= covered <= 60


def test_the_ceiling_is_what_a_scorer_that_knows_the_truth_reaches() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(5, 1, 3000)
    given = truth[:, None] + rng.normal(0, 1.5, (3000, 5))
    means = given.mean(1)
    spreads = given.var(1) * 5
    numbers = np.full(3000, 5)
    found = figures.ceiling(means, numbers, spreads, numbers, 0)
    assert found == pytest.approx(figures.spearman(truth, means), abs=0.02)


def test_groups_are_whole_and_about_a_share_is_held_out() -> None:
    keys = [(f"s{n // 3}", f"p{n // 6}" if n < 300 else "a cat", str(n)) for n in range(600)]
    group, names = split.groups(keys)
    assert len(names) == 50 + 100  # the common prompt joins nothing
    for seed in range(5):
        out = split.held_out(group, names, 0.2, seed)
        assert 0.18 <= out.mean() <= 0.25
        assert not set(group[out]) & set(group[~out])
        folds = split.folds(group, names, 5, seed)
        assert all(len(set(folds[group == one])) == 1 for one in range(len(names)))
    more = keys + [(f"s{n}", f"p{n}", str(n)) for n in range(1000, 1100)]
    later, later_names = split.groups(more)
    before = split.held_out(group, names, 0.2, 0)
    after = split.held_out(later, later_names, 0.2, 0)[: len(keys)]
    assert (before != after).mean() < 0.1


def test_what_raises_is_a_sentence() -> None:
    with pytest.raises(DatasetError, match="neither plain nor onnx"):
        train.embedder_of(train.Options(embedder="\x1b[31m"))
