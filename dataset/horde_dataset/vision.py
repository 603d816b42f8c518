"""A vision model of the user's own, as an ONNX file, as an embedder."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from horde_dataset.errors import DatasetError, shown
from horde_dataset.graph import EMBEDDING, IMAGE, Embedder, Nodes, resized

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""What CLIP's image encoders expect their input to be normalised by."""
SIZE = 224
"""Pixels of a side, where neither the model nor the user says."""
MAX_SIZE = 2048
OLDEST_OPSET = 13
PREFERRED = ("image_embeds", "image_embeddings", "embedding", "embeddings", "pooler_output")
"""Which output is the embedding, if there are several."""
FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
PREFIX = "vision/"
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Vision:
    """Which model it is, and what it is given: ``float [N, 3, size, size]``, normalised."""

    path: Path
    size: int | None = None
    """Pixels of a side; None: as the model says."""
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD


def embedder(vision: Vision) -> Embedder:
    """Return a vision model with what it is given in front of it. Raises DatasetError."""
    model = _read(vision.path)
    given, kind, size = _input(model, vision)
    out = _output(model, vision.path)
    compose.add_prefix(model, PREFIX, inplace=True)
    nodes = Nodes("horde/vision/")
    image, _, _ = resized(nodes, size, crop=True)
    image = nodes("Sub", image, np.array(vision.mean).reshape(3, 1, 1))
    image = nodes("Div", image, np.array(vision.std).reshape(3, 1, 1))
    nodes("Cast", image, to=kind, name=f"{PREFIX}{given}")
    graph = model.graph
    last = helper.make_node(
        "Cast", [f"{PREFIX}{out}"], [EMBEDDING], name="horde/embedding", to=TensorProto.FLOAT
    )
    whole = [*nodes.nodes, *graph.node, last]
    del graph.node[:]
    graph.node.extend(whole)
    graph.initializer.extend(nodes.constants)
    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", "H", "W", 3]))
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", "D"]))
    mark = hashlib.sha256(vision.path.read_bytes()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", vision.path.stem)[:30]
    about = (
        f"`{stem}`, a vision model (SHA-256 {mark}…), on the middle of the image at {size} pixels, "
        f"normalised by {_listed(vision.mean)} and {_listed(vision.std)}"
    )
    return Embedder(f"{stem}-{mark}", about, model)


def _listed(values: Triple) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _read(path: Path) -> onnx.ModelProto:
    if not path.is_file():
        raise DatasetError(f"there is no file {shown(path)}")
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's and onnx' own, of no common class
        raise DatasetError(f"{shown(path)} is no ONNX model: {shown(error)}") from error
    if not model.graph.node:
        raise DatasetError(f"{shown(path)} is no ONNX model: it has no nodes")
    opset = max(
        (one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), default=0
    )
    if opset < OLDEST_OPSET:
        raise DatasetError(
            f"{shown(path)} has opset {opset}: export it with {OLDEST_OPSET} or a later one"
        )
    return model


def _input(model: onnx.ModelProto, vision: Vision) -> tuple[str, int, int]:
    """Return a model's input, its type, and pixels of a side. Raises DatasetError."""
    constants = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    if len(inputs) != 1:
        listed = ", ".join(one.name for one in inputs)
        raise DatasetError(
            f"{shown(vision.path)} has the inputs {shown(listed)}: give the image encoder alone"
        )
    kind = inputs[0].type.tensor_type
    sides = [one.dim_value for one in kind.shape.dim]
    if kind.elem_type not in FLOATS or len(sides) != 4 or sides[1] not in {0, 3}:  # noqa: PLR2004
        raise DatasetError(
            f"{shown(vision.path)} does not take images as float N x 3 x size x size"
        )
    own = sides[2]
    if sides[2] != sides[3] or (own and vision.size and own != vision.size) or own > MAX_SIZE:
        raise DatasetError(
            f"{shown(vision.path)} takes images of {sides[3]} by {sides[2]} pixels, "
            f"not {vision.size or 'square ones'}"
        )
    return inputs[0].name, kind.elem_type, vision.size or own or SIZE


def _output(model: onnx.ModelProto, path: Path) -> str:
    """Return the name of the output that is the embedding. Raises DatasetError."""
    ranks = {one.name: _rank(one) for one in model.graph.output}
    fit = [name for name, rank in ranks.items() if rank in {None, 2}]
    chosen = [name for name in PREFERRED if name in fit]
    chosen += [name for name in fit if ranks[name] == 2]  # noqa: PLR2004
    chosen += fit if len(ranks) == 1 else []
    if not chosen:
        raise DatasetError(
            f"{shown(path)} has no output of N x numbers, but {shown(', '.join(ranks))}"
        )
    return chosen[0]


def _rank(value: onnx.ValueInfoProto) -> int | None:
    kind = value.type.tensor_type
    return len(kind.shape.dim) if kind.HasField("shape") else None
