"""LoRA, LoHa, LoKr and DoRA: what a file adds to a weight, against the formulas of their papers.

The formulas are written out here with numpy, one element after the other where that is clearer.
LyCORIS 4.1 and peft 0.21, which are no dependencies, gave the same to 1.2e-7.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from gpu_worker.addons import forms, layers, lora
from gpu_worker.addons.alphas import Alphas
from gpu_worker.addons.asked import UnusableError
from gpu_worker.addons.parts import LoraPart
from tests.worker import tiny_addons

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.slow  # importing torch takes seconds

SHAPES = {"proj": (20, 12), "square": (16, 16), "conv": (8, 6, 3, 3)}
RANK, ALPHA = 2, 3.0
Tensors = dict[str, Any]


class Model:
    """A model of three layers, which stands for a text encoder."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.module: Any = torch.nn.ModuleDict(
            {
                "proj": torch.nn.Linear(12, 20),
                "square": torch.nn.Linear(16, 16),
                "conv": torch.nn.Conv2d(6, 8, 3),
            }
        )
        parts = {"text_encoder": self.module}
        self.known = layers.places(parts)
        self.merged = lora.Merged(parts)
        self.before = self.weights()

    def weights(self) -> dict[str, Any]:
        return {name: self.module[name].weight.detach().numpy().copy() for name in SHAPES}

    def read(self, path: Path, tensors: Tensors, metadata: Any = None) -> Any:
        return lora.read(tiny_addons.write(path / "a.safetensors", tensors, metadata), self.known)

    def use(self, *parts: tuple[Any, float]) -> dict[str, Any]:
        self.merged.use(
            [
                LoraPart(key=f"{id(weights)}", model=0, clip=strength, weights=weights)
                for weights, strength in parts
            ]
        )
        return self.weights()


@pytest.fixture
def model() -> Model:
    return Model()


def random(*shape: int, seed: int = 0) -> Any:
    made = np.random.default_rng([seed, *shape]).normal(0, 0.5, shape)
    return made.astype(np.float32)


# The forms: the tensors of a file, and the change that they mean at an alpha of the rank


def plain(rows: int, columns: int, *kernel: int) -> tuple[Tensors, Any]:
    up = random(rows, RANK, *(1 for _ in kernel))
    down = random(RANK, columns, *kernel)
    wanted = np.einsum("or,rc->oc", up.reshape(rows, RANK), down.reshape(RANK, -1))
    return {"lora_up.weight": up, "lora_down.weight": down}, wanted


def with_core(rows: int, columns: int, *kernel: int) -> tuple[Tensors, Any]:
    up, down = random(rows, RANK, 1, 1), random(RANK, columns, 1, 1)
    core = random(RANK, RANK, *kernel)
    wanted = np.zeros((rows, columns, *kernel))
    for o, c in np.ndindex(rows, columns):
        for i, j in np.ndindex(RANK, RANK):
            wanted[o, c] += up[o, i, 0, 0] * core[i, j] * down[j, c, 0, 0]
    tensors = {"lora_up.weight": up, "lora_mid.weight": core, "lora_down.weight": down}
    return tensors, wanted


def loha(rows: int, columns: int, *kernel: int) -> tuple[Tensors, Any]:
    flat = columns * int(np.prod(kernel))
    tensors = {
        f"hada_w{n}_{side}": random(*shape, seed=n)
        for n in (1, 2)
        for side, shape in (("a", (rows, RANK)), ("b", (RANK, flat)))
    }
    first, second = (tensors[f"hada_w{n}_a"] @ tensors[f"hada_w{n}_b"] for n in (1, 2))
    return tensors, first * second


def loha_tucker(rows: int, columns: int, *kernel: int) -> tuple[Tensors, Any]:
    tensors: Tensors = {}
    wanted: Any = 1.0
    for n in (1, 2):
        a, b = random(RANK, rows, seed=n), random(RANK, columns, seed=n + 2)
        core = random(RANK, RANK, *kernel, seed=n)
        tensors |= {f"hada_w{n}_a": a, f"hada_w{n}_b": b, f"hada_t{n}": core}
        wanted = wanted * np.einsum("ijkl,io,jc->ockl", core, a, b)
    return tensors, wanted


def kronecker(first: Any, second: Any) -> Any:
    """Each number of the first matrix times all of the second one, in its place."""
    (a, b), (c, d, *kernel) = first.shape, second.shape
    found = np.zeros((a * c, b * d, *kernel))
    for i, j in np.ndindex(a, b):
        found[i * c : (i + 1) * c, j * d : (j + 1) * d] = first[i, j] * second
    return found


def lokr(*, one: bool, two: bool, core: bool = False) -> Callable[..., tuple[Tensors, Any]]:
    """LoKr with the matrices that are said made of factors."""

    def made(rows: int, columns: int, *kernel: int) -> tuple[Tensors, Any]:
        (a, c), (b, d) = (2, rows // 2), (3 if columns % 3 == 0 else 2, 0)
        d = columns // b
        tensors: Tensors = {}
        if one:
            tensors |= {"lokr_w1_a": random(a, RANK), "lokr_w1_b": random(RANK, b)}
            first = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
        else:
            tensors["lokr_w1"] = first = random(a, b)
        if core:
            t2, a2, b2 = random(RANK, RANK, *kernel), random(RANK, c), random(RANK, d)
            tensors |= {"lokr_t2": t2, "lokr_w2_a": a2, "lokr_w2_b": b2}
            second = np.einsum("ijkl,io,jc->ockl", t2, a2, b2)
        elif two:
            a2, b2 = random(c, RANK), random(RANK, d * int(np.prod(kernel)))
            tensors |= {"lokr_w2_a": a2, "lokr_w2_b": b2}
            second = (a2 @ b2).reshape(c, d, *kernel)
        else:
            tensors["lokr_w2"] = second = random(c, d, *kernel)
        return tensors, kronecker(first, second)

    return made


LINEAR = ("proj", "square", "conv")
FORMS: dict[str, tuple[Callable[..., tuple[Tensors, Any]], tuple[str, ...]]] = {
    "lora": (plain, LINEAR),
    "lora with a core": (with_core, ("conv",)),
    "loha": (loha, LINEAR),
    "loha tucker": (loha_tucker, ("conv",)),
    "lokr": (lokr(one=False, two=False), LINEAR),
    "lokr, second of factors": (lokr(one=False, two=True), LINEAR),
    "lokr, first of factors": (lokr(one=True, two=False), LINEAR),
    "lokr, both of factors": (lokr(one=True, two=True), LINEAR),
    "lokr tucker": (lokr(one=False, two=True, core=True), ("conv",)),
}
CASES = [(name, layer) for name, (_, some) in FORMS.items() for layer in some]
PAIRS = {"lora": "loha", "loha": "lokr", "lokr": "lora"}


def made(form: str, layer: str, alpha: float | None = ALPHA) -> tuple[Tensors, Any]:
    """Return the tensors of a layer as LyCORIS names them, and what they add to its weight."""
    shape = SHAPES[layer]
    tensors, wanted = FORMS[form][0](*shape)
    named = {f"lora_te_{layer}.{name}": tensor for name, tensor in tensors.items()}
    has_rank = form != "lokr"
    if alpha is not None:
        named[f"lora_te_{layer}.alpha"] = np.array(alpha, np.float32)
    factor = alpha / RANK if alpha is not None and has_rank else 1.0
    return named, wanted.reshape(shape) * factor


@pytest.mark.parametrize(("form", "layer"), CASES)
def test_a_form_adds_what_its_paper_says_times_alpha_by_rank_and_strength(
    model: Model, tmp_path: Path, form: str, layer: str
) -> None:
    for alpha in (ALPHA, None):
        tensors, wanted = made(form, layer, alpha)
        weights = model.read(tmp_path, tensors)
        for strength in (1.0, 0.6, -1.0):
            after = model.use((weights, strength))
            assert np.abs(wanted).max() > 0.1
            assert np.allclose(after[layer], model.before[layer] + strength * wanted, atol=2e-6)
            rest = [name for name in SHAPES if name != layer]
            assert all((after[name] == model.before[name]).all() for name in rest)
    assert all((model.use()[name] == model.before[name]).all() for name in SHAPES)


def lengths(weight: Any, axis: int) -> Any:
    """The lengths of a weight's vectors: one for each output (0) or input channel (1)."""
    others = tuple(one for one in range(weight.ndim) if one != axis)
    return np.sqrt((weight.astype(np.float64) ** 2).sum(others, keepdims=True))


DORA: dict[str, tuple[str, int, Callable[[Any, Any], Any]]] = {
    "LyCORIS, by row": ("dora_scale", 0, lambda found, _: found),
    "LyCORIS, by input": ("dora_scale", 1, lambda found, _: found),
    "peft": ("lora_magnitude_vector", 0, lambda found, _: found.reshape(-1)),
    "peft, a module": ("lora_magnitude_vector.weight", 0, lambda found, _: found.reshape(-1)),
    "peft, as of a convolution": (
        "lora_magnitude_vector",
        0,
        lambda found, shape: found.reshape(1, -1, *(1 for _ in shape[2:])),
    ),
}


@pytest.mark.parametrize("kind", DORA)
@pytest.mark.parametrize(("form", "layer"), CASES)
def test_dora_gives_the_changed_weight_vectors_of_the_trained_lengths(
    model: Model, tmp_path: Path, form: str, layer: str, kind: str
) -> None:
    name, axis, written = DORA[kind]
    tensors, added = made(form, layer)
    before = model.before[layer]
    trained = lengths(before, axis) * 1.5
    tensors[f"lora_te_{layer}.{name}"] = written(trained, before.shape).astype(np.float32)
    weights = model.read(tmp_path, tensors)
    changed = before + added
    wanted = trained * changed / lengths(changed, axis)
    after = model.use((weights, 1.0))[layer]
    assert np.allclose(after, wanted, atol=2e-6)
    assert np.allclose(lengths(after, axis), trained, atol=1e-5)
    # ComfyUI's rule, since it is not linear.
    half = model.use((weights, 0.5))[layer]
    assert np.allclose(half, before + 0.5 * (wanted - before), atol=2e-6)
    assert (model.use()[layer] == before).all()


def test_dora_acts_at_an_alpha_of_nothing_and_survives_rows_of_nothing(
    model: Model, tmp_path: Path
) -> None:
    tensors, _ = made("lora", "proj", alpha=0)
    tensors["lora_te_proj.dora_scale"] = np.full((20, 1), 2, np.float32)
    weights = model.read(tmp_path, tensors)
    assert np.allclose(lengths(model.use((weights, 1.0))["proj"], 0), 2)
    for tensor in ("lora_up.weight", "lora_down.weight"):
        tensors[f"lora_te_proj.{tensor}"] = np.zeros_like(tensors[f"lora_te_proj.{tensor}"])
    empty = Model()
    with torch.no_grad():
        empty.module["proj"].weight.zero_()
    after = empty.use((empty.read(tmp_path, tensors), 1.0))["proj"]
    assert (after == 0).all()


@pytest.mark.parametrize("form", PAIRS)
def test_several_add_up_from_the_original_whatever_their_order(
    model: Model, tmp_path: Path, form: str
) -> None:
    scale = np.full((16, 1), 1.5, np.float32)
    first = {**made(form, "square")[0], "lora_te_square.dora_scale": scale}
    both = [model.read(tmp_path, first), model.read(tmp_path, made(PAIRS[form], "square")[0])]
    alone = [model.use((one, 0.7))["square"] - model.before["square"] for one in both]
    together = model.use((both[0], 0.7), (both[1], 0.7))["square"]
    assert np.allclose(together, model.before["square"] + sum(alone), atol=2e-6)
    turned = model.use((both[1], 0.7), (both[0], 0.7))["square"]
    assert np.allclose(together, turned, atol=1e-6)


def test_some_rows_of_a_change_are_those_of_the_whole_one(model: Model, tmp_path: Path) -> None:
    for form, layer in CASES:
        weights = model.read(tmp_path, made(form, layer)[0])
        ((_, change),) = weights.changes
        rows = SHAPES[layer][0]
        zeros = torch.zeros(rows, int(np.prod(SHAPES[layer][1:])))
        whole = change.added(zeros, 0, 1.0)
        for start, stop in ((0, 1), (1, rows), (rows // 2 - 1, rows // 2 + 1)):
            part = change.added(zeros[start:stop], start, 1.0)
            assert torch.allclose(part, whole[start:stop], atol=1e-6), (form, start, stop)


# What is refused


def refused(model: Model, path: Path, tensors: Tensors, metadata: Any = None) -> str:
    with pytest.raises(UnusableError) as caught:
        model.read(path, tensors, metadata)
    return f"{caught.value.fault}: {caught.value}"


@pytest.mark.parametrize(
    "name",
    ["diff", "diff_b", "oft_blocks", "w_norm", "a1.weight", "on_input", "lokr_t1", "hada_w3_a",
     "lora_B.bias", "scalar", "reshape_weight"],
)  # fmt: skip
def test_a_tensor_of_another_kind_refuses_its_file(model: Model, tmp_path: Path, name: str) -> None:
    tensors = {**made("lora", "proj")[0], f"lora_te_proj.{name}": random(20, 12)}
    assert "of a kind that is not read" in refused(model, tmp_path, tensors)


@pytest.mark.parametrize(("form", "layer"), CASES)
def test_every_tensor_of_a_form_is_needed(
    model: Model, tmp_path: Path, form: str, layer: str
) -> None:
    tensors, _ = made(form, layer, alpha=None)
    for name in tensors:
        rest = {other: tensor for other, tensor in tensors.items() if other != name}
        if not rest or (name.endswith(("mid.weight", "t2")) and "hada" not in name):
            continue  # it means something else without its core, which has another shape
        assert "without its other half" in refused(model, tmp_path, rest), name


@pytest.mark.parametrize("form", ["lora with a core", "lokr tucker"])
def test_a_form_without_its_core_does_not_fit(model: Model, tmp_path: Path, form: str) -> None:
    tensors, _ = made(form, "conv")
    rest = {name: one for name, one in tensors.items() if not name.endswith(("mid.weight", "t2"))}
    assert refused(model, tmp_path, rest).startswith("baseline_mismatch")


def test_forms_are_not_mixed_in_a_layer_and_nothing_stands_alone(
    model: Model, tmp_path: Path
) -> None:
    for form in ("loha", "lokr"):
        mixed = {**made("lora", "proj")[0], **made(form, "proj")[0]}
        assert "without its other half" in refused(model, tmp_path, mixed)
    both = {**made("lokr", "proj")[0], **made("lokr, both of factors", "proj")[0]}
    assert "without its other half" in refused(model, tmp_path, both)
    for name in ("alpha", "dora_scale", "lora_magnitude_vector"):
        alone = {**made("lora", "proj")[0], f"lora_te_square.{name}": random(16, 1)}
        assert "without its other half" in refused(model, tmp_path, alone)
    two = made("lora", "proj")[0]
    two |= {
        f"lora_te_proj.{name}": random(20, 1) for name in ("dora_scale", "lora_magnitude_vector")
    }
    assert "twice" in refused(model, tmp_path, two)


def test_a_layer_under_two_names_is_refused(model: Model, tmp_path: Path) -> None:
    tensors = made("lora", "proj")[0]
    again = {name.replace("lora_te_", "lora_te1_"): one for name, one in tensors.items()}
    assert "names a layer twice" in refused(model, tmp_path, {**tensors, **again})
    dotted = {name.replace("lora_te_", "text_encoder."): one for name, one in tensors.items()}
    assert "names a layer twice" in refused(model, tmp_path, {**tensors, **dotted})


@pytest.mark.parametrize(
    "shapes",
    [
        {"lokr_w1": (2, 3), "lokr_w2": (10, 5)},
        {"lokr_w1": (12, 20), "lokr_w2": (1, 1)},
        {"lokr_w1": (6,), "lokr_w2": (40, 1)},
        {"lokr_w1": (2, 3), "lokr_w2_a": (10, 2), "lokr_w2_b": (3, 4)},
        {"lokr_w1": (2, 3), "lokr_w2_a": (2, 10), "lokr_w2_b": (2, 4), "lokr_t2": (2, 3, 1, 1)},
        {"lokr_w1": (2, 3), "lokr_w2_a": (2, 10), "lokr_w2_b": (2, 4), "lokr_t2": (2, 2)},
        {"hada_w1_a": (20, 2), "hada_w1_b": (2, 12), "hada_w2_a": (20, 2), "hada_w2_b": (2, 1)},
        {"hada_w1_a": (20, 2), "hada_w1_b": (2, 6), "hada_w2_a": (20, 2), "hada_w2_b": (2, 6)},
        {"lora_up.weight": (20, 2), "lora_down.weight": (2, 12), "dora_scale": (19, 1)},
        {"lora_up.weight": (20, 2), "lora_down.weight": (2, 12), "dora_scale": (12,)},
        {"lora_up.weight": (20, 2), "lora_down.weight": (2, 12), "dora_scale": (1, 20)},
        {"lora_up.weight": (20, 2), "lora_down.weight": (2, 12), "lora_magnitude_vector": (12,)},
    ],
)  # fmt: skip
def test_a_file_of_other_sizes_than_its_layers_is_refused(
    model: Model, tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    tensors = {f"lora_te_proj.{name}": random(*shape) for name, shape in shapes.items()}
    assert refused(model, tmp_path, tensors).startswith("baseline_mismatch")


@pytest.mark.parametrize("form", ["lora", "loha", "lokr, both of factors"])
def test_a_rank_has_a_bound(model: Model, tmp_path: Path, form: str) -> None:
    tensors, _ = made(form, "proj")
    for name, one in tensors.items():
        if one.ndim > 1:
            at = one.shape.index(RANK) if "lokr_w1_a" not in name else 1
            for rank in (0, lora.MAX_RANK + 1):
                shape = [rank if side == at else size for side, size in enumerate(one.shape)]
                wrong = {**tensors, name: np.ones(shape, np.float32)}
                assert "has a rank that is not from 1 to" in refused(model, tmp_path, wrong)


BOMBS: dict[str, dict[str, tuple[int, ...]]] = {
    "a Kronecker product of 10**12 numbers": {
        "lokr_w1": (1_000_000, 1),
        "lokr_w2": (1, 1_000_000),
    },
    "a product of 10**12 numbers": {
        "lora_up.weight": (1_000_000, 1),
        "lora_down.weight": (1, 1_000_000),
    },
    "two products of 10**12 numbers": {
        "hada_w1_a": (1_000_000, 1), "hada_w1_b": (1, 1_000_000),
        "hada_w2_a": (1_000_000, 1), "hada_w2_b": (1, 1_000_000),
    },
    "factors of a Kronecker product": {
        "lokr_w1_a": (1_000_000, 1), "lokr_w1_b": (1, 1), "lokr_w2_a": (1, 1),
        "lokr_w2_b": (1, 1_000_000),
    },
    "a core": {
        "lokr_w1": (1, 1), "lokr_w2_a": (1, 1_000_000), "lokr_w2_b": (1, 1_000_000),
        "lokr_t2": (1, 1, 1, 1),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_that_means_a_huge_matrix_is_refused_before_it_is_made(
    model: Model, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        pytest.fail("a product was made")

    monkeypatch.setattr(forms.Matrix, "rows", never)
    tensors = {f"lora_te_proj.{name}": np.ones(shape, np.float32)
               for name, shape in BOMBS[kind].items()}  # fmt: skip
    assert refused(model, tmp_path, tensors).startswith("baseline_mismatch")


# Alphas in the metadata, as diffusers writes peft's configuration


@pytest.mark.parametrize(
    ("said", "factor"),
    [
        ({}, 1),
        ({"lora_alpha": 4}, 4 / RANK),
        ({"lora_alpha": 4, "use_rslora": True}, 4 / RANK**0.5),
        ({"lora_alpha": 4, "alpha_pattern": {"proj": 6}}, 6 / RANK),
        ({"lora_alpha": 4, "alpha_pattern": {"text_model.proj": 6}}, 6 / RANK),
        ({"lora_alpha": 4, "alpha_pattern": {"roj": 6, "conv": 7}}, 4 / RANK),
        ({"lora_alpha": 4, "alpha_pattern": None}, 4 / RANK),
    ],
)
def test_an_alpha_of_the_metadata_counts_as_peft_counts_it(
    model: Model, tmp_path: Path, said: dict[str, Any], factor: float
) -> None:
    tensors, wanted = made("lora", "proj", alpha=None)
    about = {f"text_encoder.{key}": value for key, value in said.items()}
    about["unet.lora_alpha"] = 99
    weights = model.read(tmp_path, tensors, {"lora_adapter_metadata": json.dumps(about)})
    after = model.use((weights, 1.0))["proj"]
    assert np.allclose(after, model.before["proj"] + factor * wanted, atol=2e-6)


def test_the_end_of_a_name_is_enough_and_the_longest_counts() -> None:
    said = {"unet.lora_alpha": 2, "unet.alpha_pattern": {"to_q": 4, "attn2.to_q": 6, "o_k": 8}}
    found = Alphas.of({"lora_adapter_metadata": json.dumps(said)})
    names = {"attn1.to_q": 4, "mid.attn2.to_q": 6, "attn2.to_k": 2}
    for name, alpha in names.items():
        assert found.factor(layers.Target("unet", name, (1, 1)), 2) == alpha / 2
        assert found.factor(layers.Target("text_encoder", name, (1, 1)), 2) == 1


@pytest.mark.parametrize(
    "said",
    [
        "[",
        "[" * 100_000,
        "7",
        '{"text_encoder.lora_alpha": "much"}',
        '{"text_encoder.lora_alpha": [1]}',
        '{"text_encoder.alpha_pattern": [1]}',
        '{"text_encoder.alpha_pattern": {"(a+)+$": 1}}',
        '{"text_encoder.lora_alpha": NaN}',
        '{"text_encoder.lora_alpha": 1e999}',
        f'{{"text_encoder.lora_alpha": 1{"0" * 400}}}',
    ],
)
def test_metadata_that_say_no_alpha_are_refused(model: Model, tmp_path: Path, said: str) -> None:
    tensors, _ = made("lora", "proj", alpha=None)
    assert refused(model, tmp_path, tensors, {"lora_adapter_metadata": said}).startswith(
        "parse_failed"
    )
