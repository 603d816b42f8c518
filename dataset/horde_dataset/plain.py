"""The plain embedder: fifty numbers of an image, without weights.

It sees the image squeezed to ``SIZE`` by ``SIZE`` pixels, in channels from 0 to 1; luma is Rec.
601's. What it measures is in ``names``; it knows nothing of what is shown.
"""

import numpy as np

from horde_dataset.graph import EMBEDDING, Embedder, Floats, Nodes, model_of, resized

VERSION = 1
SIZE = 128
"""Pixels of a side of what it sees."""
BANDS = 5
"""Scales of detail: each is half as fine as the one before."""
PERCENTILES = (5, 25, 50, 75, 95)
GRID = 4
"""Fields of a side of the grid."""
SPREAD = ("mean", "deviation")
MIDDLE = slice(SIZE // 4, 3 * SIZE // 4)
TINY = 1e-8
FAINT = 1e-3
"""What is added before a logarithm."""


def names() -> list[str]:
    """Return what each number of an embedding is, in their order."""
    planes = ("red", "green", "blue", "luma", "saturation", "red - green", "yellow - blue")
    return [
        "log of width by height",
        "log of megapixels",
        *(f"{plane}, {which}" for plane in planes for which in SPREAD),
        "colourfulness (Hasler and Suesstrunk, 2003)",
        *(f"luma, percentile {one}" for one in PERCENTILES),
        *(f"log of detail at {SIZE >> band} pixels" for band in range(BANDS)),
        "steps across",
        "steps down",
        "difference from its mirror image",
        "difference from itself upside down",
        "luma of the middle - luma",
        "saturation of the middle - saturation",
        *(f"luma of field {n // GRID}, {n % GRID}" for n in range(GRID**2)),
    ]


def embedder() -> Embedder:
    """Return it."""
    about = f"`plain` {VERSION}: {len(names())} numbers of colour, light, detail and symmetry"
    return Embedder(f"plain-{VERSION}", about, model_of(_nodes()))


class _Planes(Nodes):
    """Numbers of planes ``[N, h, w]``; each number is ``[N, 1, 1]``."""

    def mean(self, plane: str, count: int = SIZE**2) -> str:
        summed = self("ReduceSum", plane, np.array([1, 2]), keepdims=1)
        return self("Div", summed, float(count))

    def spread(self, plane: str) -> list[str]:
        """Mean and standard deviation."""
        mean = self.mean(plane)
        apart = self("Sub", plane, mean)
        squared = self.mean(self("Mul", apart, apart))
        return [mean, self("Sqrt", self("Add", squared, TINY))]

    def apart(self, one: str, other: str, count: int = SIZE**2) -> str:
        """Mean difference."""
        return self.mean(self("Abs", self("Sub", one, other)), count)

    def taken(self, plane: str, rows: Floats | None, columns: Floats | None = None) -> str:
        """Add what makes other rows and columns of a plane, by matrices."""
        if rows is not None:
            plane = self("MatMul", rows, plane)
        return plane if columns is None else self("MatMul", plane, columns.T)


def _blocks(size: int, count: int) -> Floats:
    """Return the matrix that averages ``size`` rows to ``count``."""
    return np.kron(np.eye(count), np.full((1, size // count), count / size))


def _nodes() -> Nodes:
    nodes = _Planes("horde/plain/")
    image, height, width = resized(nodes, SIZE, crop=False)
    red, green, blue = (nodes("Gather", image, np.int64(one), axis=1) for one in range(3))
    luma = nodes(
        "Add",
        nodes("Add", nodes("Mul", red, 0.299), nodes("Mul", green, 0.587)),
        nodes("Mul", blue, 0.114),
    )
    saturation = nodes("Sub", nodes("Max", red, green, blue), nodes("Min", red, green, blue))
    red_green = nodes("Sub", red, green)
    yellow_blue = nodes("Sub", nodes("Mul", nodes("Add", red, green), 0.5), blue)
    planes = [red, green, blue, luma, saturation, red_green, yellow_blue]
    spreads = [number for plane in planes for number in nodes.spread(plane)]
    numbers = [
        *_shape(nodes, height, width, spreads[0]),
        *spreads,
        _colourfulness(nodes, *spreads[-4:]),
        _percentiles(nodes, luma),
        *_detail(nodes, luma),
        *_steps(nodes, luma),
        nodes("Sub", _middle(nodes, luma), spreads[6]),
        nodes("Sub", _middle(nodes, saturation), spreads[8]),
        nodes("Reshape", nodes.taken(luma, _FIELDS, _FIELDS), np.array([0, -1, 1])),
    ]
    nodes("Flatten", nodes("Concat", *numbers, axis=1), axis=1, name=EMBEDDING)
    return nodes


_FIELDS = _blocks(SIZE, GRID)


def _shape(nodes: _Planes, height: str, width: str, any_number: str) -> list[str]:
    """Aspect and size, which are of the whole batch, for each image."""
    nothing = nodes("Mul", any_number, 0.0)
    aspect = nodes("Log", nodes("Div", width, height))
    size = nodes("Log", nodes("Div", nodes("Mul", width, height), 1e6))
    return [nodes("Add", nothing, one) for one in (aspect, size)]


def _colourfulness(nodes: _Planes, mean_1: str, spread_1: str, mean_2: str, spread_2: str) -> str:
    def length(one: str, other: str) -> str:
        squares = nodes("Add", nodes("Mul", one, one), nodes("Mul", other, other))
        return nodes("Sqrt", nodes("Add", squares, TINY))

    return nodes("Add", length(spread_1, spread_2), nodes("Mul", length(mean_1, mean_2), 0.3))


def _percentiles(nodes: _Planes, luma: str) -> str:
    falling = nodes.topk(nodes("Reshape", luma, np.array([0, SIZE**2])), SIZE**2)
    places = [round((100 - one) / 100 * (SIZE**2 - 1)) for one in PERCENTILES]
    found = nodes("Gather", falling, np.array(places), axis=1)
    return nodes("Reshape", found, np.array([0, -1, 1]))


def _detail(nodes: _Planes, luma: str) -> list[str]:
    """How far each scale is from the next coarser one."""
    found = []
    for band in range(BANDS):
        size = SIZE >> band
        half = _blocks(size, size // 2)
        coarse = nodes.taken(luma, half, half)
        again = nodes.taken(coarse, half.T * 2, half.T * 2)
        detail = nodes.apart(luma, again, size**2)
        found.append(nodes("Log", nodes("Add", detail, FAINT)))
        luma = coarse
    return found


def _steps(nodes: _Planes, luma: str) -> list[str]:
    """How far neighbours are from each other, and the picture from its mirror images."""
    every = np.eye(SIZE)
    back = every[::-1]
    pairs = SIZE * (SIZE - 1)
    first, second = every[:-1], every[1:]
    return [
        nodes.apart(nodes.taken(luma, None, first), nodes.taken(luma, None, second), pairs),
        nodes.apart(nodes.taken(luma, first), nodes.taken(luma, second), pairs),
        nodes.apart(luma, nodes.taken(luma, None, back)),
        nodes.apart(luma, nodes.taken(luma, back)),
    ]


def _middle(nodes: _Planes, plane: str) -> str:
    middle = np.eye(SIZE)[MIDDLE]
    return nodes.mean(nodes.taken(plane, middle, middle), len(middle) ** 2)
