"""ControlNets beside a model of Stable Diffusion 1, 2 or XL, and diffusers' pipelines with them."""

from __future__ import annotations

import gc
import logging
from collections import OrderedDict
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError

from gpu_worker import control_files, tensor_files
from gpu_worker.families.stable_diffusion import MAX_MESSAGE
from gpu_worker.families.stable_diffusion_xl import StableDiffusionXL
from gpu_worker.horde_client import BadJobError
from gpu_worker.model_files import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from PIL import Image

    from gpu_worker.families.stable_diffusion import StableDiffusion
    from gpu_worker.model_files import ModelFiles

    Directories = Mapping[str, Path]

diffusers: Any = import_module("diffusers")

CLASSES = ("StableDiffusionControlNetPipeline", "StableDiffusionControlNetImg2ImgPipeline")
XL_CLASSES = ("StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetImg2ImgPipeline")

log = logging.getLogger(__name__)


class Guided:
    """A model whose drawings follow maps of one type; used like the model itself."""

    def __init__(self, model: StableDiffusion, kind: str, directory: Path) -> None:
        """Load the ControlNet of a type; raises ModelError."""
        loaded = model.text2img
        variant = control_files.check(directory, kind, loaded.unet.config, model.scale)
        try:
            self.network = diffusers.ControlNetModel.from_pretrained(
                directory,
                variant=variant,
                local_files_only=True,
                use_safetensors=True,
            ).to(loaded.unet.device, loaded.unet.dtype)
        except torch.OutOfMemoryError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            message = f"the ControlNet {kind} cannot be loaded ({type(error).__name__}): {error}"
            raise ModelError(" ".join(message.split())[:MAX_MESSAGE]) from None
        names = XL_CLASSES if isinstance(model, StableDiffusionXL) else CLASSES
        self._text2img, self._img2img = (
            getattr(diffusers, name)(**loaded.components, controlnet=self.network, **model.options)
            for name in names
        )
        for pipeline in (self._text2img, self._img2img):
            pipeline.set_progress_bar_config(disable=True)

    def use(self, scheduler: Any) -> None:
        """Draw the next batch with a scheduler of its own."""
        for pipeline in (self._text2img, self._img2img):
            pipeline.scheduler = scheduler

    def draw(self, *, maps: list[Image.Image], **options: Any) -> Any:
        """Draw a batch from noise, each image by its map."""
        return self._text2img(image=maps, controlnet_conditioning_scale=1.0, **options)

    def redraw(self, *, maps: list[Image.Image], **options: Any) -> Any:
        """Draw a batch from pictures, each image by its map."""
        return self._img2img(control_image=maps, controlnet_conditioning_scale=1.0, **options)


class Controls:
    """The ControlNets of a model by type, each loaded when it is first drawn with."""

    def __init__(self, model: StableDiffusion, directories: Mapping[str, Path]) -> None:
        """Take where each is; nothing is loaded yet."""
        self._model, self._directories = model, dict(directories)
        self._loaded: OrderedDict[str, Guided] = OrderedDict()
        """The last drawn at the end."""
        self.reserve: Callable[[int], None] = lambda _parameters: None
        """Called before one of so many numbers is loaded; may free memory."""
        self.lost: Callable[[str], None] = lambda _kind: None
        """Called with the type of one that cannot be loaded, which is not drawn with any more."""

    def __iter__(self) -> Iterator[str]:
        """Return the types."""
        return iter(self._directories)

    def __getitem__(self, kind: str) -> Guided:
        """Return the model with one of them; raises BadJobError, or torch.OutOfMemoryError."""
        found = self._loaded.get(kind)
        if found is None:
            self.reserve(tensor_files.parameters_of(self._directories[kind]))
            try:
                found = self._loaded[kind] = Guided(self._model, kind, self._directories[kind])
            except ModelError as error:
                log.error("%s", error)  # noqa: TRY400 - one sentence says it all
                del self._directories[kind]
                self.lost(kind)
                message = f"the control_type {kind} is not supported"
                raise BadJobError(message) from None
        self._loaded.move_to_end(kind)
        return found

    @property
    def networks(self) -> list[Any]:
        """The networks that are loaded."""
        return [one.network for one in self._loaded.values()]

    def load_all(self) -> None:
        """Load all of them now; raises ModelError."""
        for kind, directory in self._directories.items():
            self._loaded[kind] = Guided(self._model, kind, directory)

    def forget(self, but: str | None = None) -> bool:
        """Let go of all that are loaded but one; returns whether there were any."""
        gone = [kind for kind in self._loaded if kind != but]
        for kind in gone:
            del self._loaded[kind]
        if gone:
            gc.collect()  # pipelines refer to themselves in circles
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return bool(gone)


def load(
    model: StableDiffusion, files: ModelFiles, root: Path | None, directories: Directories | None
) -> Controls:
    """Return a model's ControlNets: those of `directories`, or all of `root`, loaded at once.

    `root` is the `CONTROLNET_DIR` of a worker of one model. Raises ModelError for one that does
    not fit, since such a worker must not start.
    """
    if directories is not None:
        return Controls(model, directories)
    folder = control_files.folder(root, files.baseline, alone=True)
    if folder is None or (folder != root and not control_files.is_drawn(files.kind)):
        return Controls(model, {})
    control_files.refuse_others(files.kind)
    controls = Controls(model, control_files.types(folder))
    controls.load_all()
    return controls
