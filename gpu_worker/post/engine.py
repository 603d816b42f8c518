"""Upscalers in torch: one network on one device."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from gpu_worker import weights
from gpu_worker.post import networks, rrdb, tiles
from gpu_worker.post.kinds import UPSCALERS
from gpu_worker.post.networks import Network

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

    from gpu_worker.post.face_detector import Detector
    from gpu_worker.post.faces import FaceFixer
    from gpu_worker.settings import Settings

SIDES = (256, 128, 64)
"""Sides of tiles in pixels, from the largest: the next one is taken where the memory is short."""
CPU_SECONDS = 2.1e-11
"""CPU-seconds for a multiplication of the network, measured (README, "Post-processors")."""

log = logging.getLogger(__name__)


class Engine:
    """A network that enlarges pictures. For one thread at a time."""

    def __init__(self, net: Network, device: str, cores: int) -> None:
        """Move it to its device, in half precision on a GPU if that is enough for its weights."""
        self._device, self._cores, self._side = device, cores, 0
        half = device.startswith("cuda") and net.half
        self._dtype = torch.float16 if half else torch.float32
        self._net = net.module.to(device, self._dtype)
        self._factor, self._multiple, self._smallest = net.factor, net.multiple, net.smallest
        self._format = torch.channels_last if net.channels_last else torch.contiguous_format
        cast("Any", self._net).to(memory_format=self._format)
        self._per_pixel = net.work * CPU_SECONDS
        if device.startswith("cuda"):
            self._try()
        elif not net.work:
            noise = _noise(SIDES[-1])
            self._per_pixel = networks.cpu_seconds(lambda: self._raw(noise)) / noise.size * 3

    def _try(self) -> None:
        """Measure the network with noise, and take single precision if half overflows."""
        noise = _noise(SIDES[0])
        if not bool(self._raw(noise).isfinite().all()):
            self._dtype = torch.float32
            self._net = self._net.float()
            self._raw(noise)
        event: Any = torch.cuda.Event
        start, end = (event(enable_timing=True) for _ in range(2))
        start.record()
        self._raw(noise)
        end.record()
        torch.cuda.synchronize()
        self._per_pixel, self._cores = float(start.elapsed_time(end)) / 1000 / noise.size * 3, 1

    def seconds(self, pixels: int) -> float:
        """Return about how long a square picture of so many pixels takes."""
        return _area(pixels, SIDES[self._side]) * self._per_pixel / self._cores

    def enlarged(self, image: Image.Image, check: Callable[[], None]) -> Image.Image:
        """Return a picture enlarged by the network's factor; see `tiles.enlarged`.

        Raises MemoryError if not even a small tile fits into the memory.
        """
        while True:
            try:
                side = SIDES[self._side]
                return tiles.enlarged(image, self._enlarge, self._factor, side, check)
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                if self._side + 1 == len(SIDES):
                    raise MemoryError from None
            self._side += 1
            log.warning("upscaling takes tiles of %d pixels from now on", SIDES[self._side])

    def _enlarge(self, pixels: tiles.Bytes) -> tiles.Bytes:
        found = self._raw(pixels)[0].float().clamp(0, 1).mul(255).add(0.5).byte()
        return np.asarray(found.permute(1, 2, 0).cpu().numpy())

    def _raw(self, pixels: tiles.Bytes) -> torch.Tensor:
        with torch.inference_mode():
            taken = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
            taken = taken.permute(2, 0, 1)[None].to(self._dtype).div(255)
            height, width = taken.shape[2:]
            across, down = (self._lacking(side) for side in (width, height))
            if across or down:
                taken = torch.nn.functional.pad(taken, (0, across, 0, down), mode="replicate")
            found = self._net(taken.contiguous(memory_format=self._format))
            return found[..., : height * self._factor, : width * self._factor]  # type: ignore[no-any-return]

    def _lacking(self, side: int) -> int:
        """Return how many pixels the network wants more of a side."""
        more = max(side, self._smallest) - side
        return more + -(side + more) % self._multiple


def _noise(side: int) -> tiles.Bytes:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


def _of_rrdb(net: rrdb.RRDBNet) -> Network:
    fold = rrdb.ENLARGED // net.factor
    return Network(net, net.factor, fold, channels_last=True, work=net.work)


def _area(pixels: int, side: int) -> int:
    length = max(1, int(pixels**0.5))
    return tiles.area(length, length, side)


class Loader:
    """Loads networks, each file once."""

    def __init__(self, settings: Settings) -> None:
        """Choose the device of the settings."""
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = settings.device or default
        self._cores = settings.torch_threads or torch.get_num_threads()
        self._kept: dict[str, Engine] = {}
        self._detector: Detector | None = None
        self.on_gpu = not self._device.startswith("cpu")
        """Whether the networks run where the worker draws, and not on a CPU."""

    def expected(self, blocks: int, pixels: int) -> float:
        """Return about how long a CPU takes for a picture, before anything is loaded; else 0."""
        if self.on_gpu:
            return 0.0
        with torch.device("meta"):
            work = rrdb.RRDBNet(blocks=blocks).work
        return _area(pixels, SIDES[0]) * work * CPU_SECONDS / self._cores

    def shipped(self, name: str) -> Engine:
        """Return the network of a package's files; raises weights.WeightsError."""
        if name not in self._kept:
            net = rrdb.of_ncnn(*(weights.path(f"{name}{end}") for end in (".param", ".bin")))
            self._kept[name] = self._engine(_of_rrdb(net))
        return self._kept[name]

    def given(self, name: str, file: Path) -> Engine:
        """Return the network of an operator's file, which must enlarge by the name's factor.

        Raises NetworkError or OSError. A network that enlarges by more is made smaller after.
        """
        net = networks.upscaler(file)
        if net.factor < UPSCALERS[name]:
            message = f"{file.name} enlarges by {net.factor}, not by {UPSCALERS[name]}"
            raise networks.NetworkError(message)
        return self._engine(net)

    def fixer(self, file: Path) -> FaceFixer:
        """Return the face fixer of an operator's file.

        Raises NetworkError or OSError, and face_weights.FaceWeightsError without a detector.
        """
        # Imported late, since few need it.
        from gpu_worker.post.face_detector import Detector  # noqa: PLC0415
        from gpu_worker.post.faces import FaceFixer  # noqa: PLC0415

        self._detector = self._detector or Detector()
        net = networks.face_fixer(file)
        try:
            return FaceFixer(net, self._detector, self._device, self._cores)
        except networks.NetworkError as error:
            message = f"{file.name} cannot be used: {error}"
            raise networks.NetworkError(message) from None

    def _engine(self, net: Network) -> Engine:
        return Engine(net, self._device, self._cores)


def tensors(file: Path) -> dict[str, Any]:
    """Return the tensors of a checkpoint in torch's own format, without running its code.

    What trainers put around them (`params_ema`, `params`, `state_dict`) is taken off. Raises
    NetworkError, OSError.
    """
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001 - torch and pickle may raise anything
        message = f"{file.name} cannot be read without running its code ({type(error).__name__})"
        raise networks.NetworkError(message) from None
    for name in ("params_ema", "params", "state_dict"):
        found = found[name] if isinstance(found, dict) and name in found else found
    if not isinstance(found, dict) or not all(
        isinstance(one, torch.Tensor) for one in found.values()
    ):
        message = f"{file.name} holds no tensors by name"
        raise networks.NetworkError(message)
    # Copies, since safetensors holds no two tensors of the same memory.
    return {str(name): one.contiguous().clone() for name, one in found.items()}
