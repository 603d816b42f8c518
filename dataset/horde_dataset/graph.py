"""ONNX graphs: an image goes in, and an embedding or a score comes out.

The image is ``uint8 [N, H, W, 3]``, RGB, of any size; all of a batch have one. What resizes it is
in the graph, so who has onnxruntime needs nothing else. It resizes as Pillow's ``BICUBIC`` does,
without Pillow's rounding. All operators mean the same from opset 13 on, so that they fit into
others' models as well.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from horde_dataset import __version__
from horde_dataset.errors import DatasetError, shown

Floats = NDArray[np.float64]
IMAGE, EMBEDDING, SCORE = "image", "embedding", "aesthetic_score"
"""The names of inputs and outputs."""
FORMAT = "horde-aesthetic 1"
LOWEST, HIGHEST = 1.0, 10.0
"""The range of ratings, and so of scores."""
OPSET, IR = 17, 8
CUBIC = -0.5
"""The parameter of the bicubic kernel, as Pillow has it."""


@dataclass(frozen=True)
class Embedder:
    """A model from image to embedding ``float [N, dimension]``."""

    name: str
    """Short, for the version of a scorer."""
    about: str
    """A sentence for the card."""
    model: onnx.ModelProto

    def key(self) -> bytes:
        """Return what tells its embeddings from those of any other: 32 bytes."""
        return hashlib.sha256(packed(self.model)).digest()


class Nodes:
    """Nodes in the order in which they run, and their constants."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix

    def __call__(self, operator: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """Add a node; numbers and arrays become constants. Returns the name of its output."""
        at = f"{self._prefix}{len(self.nodes)}"
        names = [
            one if isinstance(one, str) else self._constant(one, f"{at}_{number}")
            for number, one in enumerate(inputs)
        ]
        name = name or at
        self.nodes.append(helper.make_node(operator, names, [name], name=at, **attributes))
        return name

    def topk(self, values: str, count: int) -> str:
        """Add what sorts the last axis, largest first."""
        at = f"{self._prefix}{len(self.nodes)}"
        number = self._constant(np.array([count], np.int64), f"{at}_k")
        self.nodes.append(
            helper.make_node("TopK", [values, number], [at, f"{at}_places"], name=at, axis=-1)
        )
        return at

    def _constant(self, value: Any, name: str) -> str:
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name


# --- resizing ------------------------------------------------------------------------------------


def _weights(nodes: Nodes, length: str, scale: str, start: Any, count: int) -> str:
    """Add the weights of each of ``length`` pixels for each of ``count`` new ones.

    New pixels are ``scale`` old ones apart, and the first begins at ``start``.
    """
    counted = nodes("Range", np.int64(0), length, np.int64(1))
    middles = nodes("Add", nodes("Cast", counted, to=TensorProto.FLOAT), 0.5)
    centres = nodes("Add", nodes("Mul", scale, np.arange(count)[:, None] + 0.5), start)
    apart = nodes("Div", nodes("Sub", middles, centres), nodes("Max", scale, 1.0))
    t = nodes("Abs", apart)
    steep = nodes("Sub", nodes("Mul", t, CUBIC + 2), CUBIC + 3)
    near = nodes("Add", nodes("Mul", nodes("Mul", steep, t), t), 1.0)
    far = nodes("Add", nodes("Mul", nodes("Sub", t, 5.0), t), 8.0)
    far = nodes("Mul", nodes("Sub", nodes("Mul", far, t), 4.0), CUBIC)
    outer = nodes("Where", nodes("Less", t, 2.0), far, 0.0)
    kernel = nodes("Where", nodes("Less", t, 1.0), near, outer)
    return nodes("Div", kernel, nodes("ReduceSum", kernel, np.array([1]), keepdims=1))


def resized(nodes: Nodes, size: int, *, crop: bool) -> tuple[str, str, str]:
    """Add what makes the image ``float [N, 3, size, size]`` from 0 to 1.

    Returns its name, and those of height and width in pixels. With ``crop``, the shorter side is
    fitted and the middle kept, as CLIP has it; without, the image is squeezed.
    """
    shape = nodes("Shape", IMAGE)
    lengths = [nodes("Gather", shape, np.int64(axis)) for axis in (1, 2)]
    sides = [nodes("Cast", one, to=TensorProto.FLOAT) for one in lengths]
    if crop:
        scale = nodes("Div", nodes("Min", *sides), float(size))
        used = nodes("Mul", scale, float(size))
        scales = [scale, scale]
        starts: list[Any] = [nodes("Mul", nodes("Sub", side, used), 0.5) for side in sides]
    else:
        scales = [nodes("Div", side, float(size)) for side in sides]
        starts = [0.0, 0.0]
    down, across = (
        _weights(nodes, length, scale, start, size)
        for length, scale, start in zip(lengths, scales, starts, strict=True)
    )
    planes = nodes("Transpose", IMAGE, perm=[0, 3, 1, 2])
    planes = nodes("Cast", planes, to=TensorProto.FLOAT)
    planes = nodes("MatMul", down, planes)
    planes = nodes("MatMul", planes, nodes("Transpose", across, perm=[1, 0]))
    return nodes("Clip", nodes("Div", planes, 255.0), 0.0, 1.0), sides[0], sides[1]


# --- models --------------------------------------------------------------------------------------


def model_of(nodes: Nodes) -> onnx.ModelProto:
    """Return the model of an image's nodes, the last of which is named EMBEDDING."""
    image = helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["N", "H", "W", 3])
    out = helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["N", "D"])
    graph = helper.make_graph(nodes.nodes, "horde", [image], [out], initializer=nodes.constants)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="horde-dataset",
        producer_version=__version__,
    )


@dataclass(frozen=True)
class Head:
    """A linear head: standardises an embedding, weighs it, and clips the sum to 1 to 10."""

    mean: Floats
    deviation: Floats
    weights: Floats
    bias: float

    def predict(self, embeddings: Floats) -> Floats:
        """Return the scores of embeddings ``[N, D]``."""
        raw = (embeddings - self.mean) / self.deviation @ self.weights + self.bias
        return np.clip(raw, LOWEST, HIGHEST)


def scorer(embedder: Embedder, head: Head, release: str) -> onnx.ModelProto:
    """Return the model from image to score ``float [N]``; its metadata says what it is."""
    model = onnx.ModelProto()
    model.CopyFrom(embedder.model)
    nodes = Nodes("horde/head/")
    apart = nodes("Div", nodes("Sub", EMBEDDING, head.mean), head.deviation)
    summed = nodes("Add", nodes("MatMul", apart, head.weights[:, None]), head.bias)
    nodes("Clip", nodes("Reshape", summed, np.array([-1])), LOWEST, HIGHEST, name=SCORE)
    model.graph.node.extend(nodes.nodes)
    model.graph.initializer.extend(nodes.constants)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(SCORE, TensorProto.FLOAT, ["N"]))
    mark = hashlib.sha256(packed(model)).hexdigest()[:8]
    helper.set_model_props(
        model,
        {
            "format": FORMAT,
            "aesthetic_version": f"{embedder.name}/{release}/{mark}",
            "embedder": embedder.name,
            "embedder_sha256": embedder.key().hex(),
            "release": release,
        },
    )
    return model


def packed(model: onnx.ModelProto) -> bytes:
    """Return a model as the bytes of its file. Raises DatasetError where it is too large."""
    try:
        data: bytes = model.SerializeToString(deterministic=True)
    except Exception as error:  # protobuf's own, which differ by its implementation
        raise DatasetError(f"the model is too large for one file: {shown(error)}") from error
    return data
