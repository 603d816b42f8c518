"""Draw batches of jobs with diffusers: what is drawn together, in which size, and how often.

`families` says how a model is loaded and how it reads prompts. No module that the handler imports
needs torch.
"""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

# Set before diffusers is imported: a worker never downloads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from PIL import Image, ImageOps

from gpu_worker import control, dpm_solver, image_codec, model_files, speed, upscale
from gpu_worker.addons.adapters import Adapters
from gpu_worker.capacity import Capacity, Learnt
from gpu_worker.compile_cache import CompileCache
from gpu_worker.device_memory import DeviceMemory, device_of
from gpu_worker.families import guided
from gpu_worker.families import stable_diffusion as families
from gpu_worker.families.flux import Flux
from gpu_worker.families.inpainting import StableDiffusionInpainting, StableDiffusionXLInpainting
from gpu_worker.families.stable_diffusion_xl import StableDiffusionXL
from gpu_worker.families.z_image import ZImage
from gpu_worker.horde_client import BadJobError, Job
from gpu_worker.model_files import ModelError
from gpu_worker.passes import Pass, bucket, first_pass_size, refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from gpu_worker.settings import Settings

# Both lack type hints.
diffusers: Any = import_module("diffusers")
transformers: Any = import_module("transformers")


@dataclass(frozen=True, slots=True)
class Text:
    """A job's prompts in chunks of tokens, see `prompts`."""

    positive: families.Text
    negative: families.Text
    length: int
    """The number of chunks that both have in a pass."""


FAMILIES: Mapping[str, type[families.StableDiffusion]] = {
    "StableDiffusionPipeline": families.StableDiffusion,
    "StableDiffusionImg2ImgPipeline": families.StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "StableDiffusionXLImg2ImgPipeline": StableDiffusionXL,
    "StableDiffusionInpaintPipeline": StableDiffusionInpainting,
    "StableDiffusionXLInpaintPipeline": StableDiffusionXLInpainting,
    "FluxPipeline": Flux,
    "ZImagePipeline": ZImage,
}
"""By the class that a model's `model_index.json` names (`model_files.DRAWN`)."""


class Pipeline:
    """One model on one device. Not thread-safe, since schedulers and tiling are state."""

    def __init__(self, settings: Settings, controls: Mapping[str, Path] | None = None) -> None:
        """Load the model, which takes seconds.

        `controls` are where its ControlNets are, by type, each to be loaded when it is first drawn
        with; by default those of the settings are, and all are loaded now. Raises
        UpscalerMissingError for a model that draws one size, if the upscaler is missing.
        """
        only_size = upscale.native_size(settings.model_dir)
        self._upscaler = upscale.Upscaler(settings.torch_threads) if only_size else None
        # diffusers logs the part of a prompt that is too long for CLIP. Prompts are never logged.
        diffusers.logging.set_verbosity_error()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        diffusers.logging.disable_progress_bar()
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        device = device_of(settings.device, os.environ)
        self.files = files = model_files.read(settings.model_dir)
        """What the model's configuration says."""
        family = FAMILIES[files.kind]
        dtype = family.half if device.startswith("cuda") else torch.float32
        self._model = family(settings.model_dir, device, dtype, files.variant)
        self._memory = DeviceMemory(device)
        if device.startswith("cuda"):
            speed.arrange(self._model)
        self.controls = guided.load(self._model, files, settings.controlnet_dir, controls)
        """The model with the ControlNet of each type."""
        self.adapters = Adapters(self._model)
        """What reads LoRAs and textual inversions for this model; any thread may call it."""
        self._model_name = settings.model_name
        self._max_batch = settings.max_batch
        self._compiled_shapes = settings.compiled
        self._compile_cache = _compile_cache(settings, device, self._model)
        self.make_room: Callable[[], bool] = lambda: False
        """Called if the memory is short; returns whether some was freed (`model_cache`)."""
        self.learnt = Learnt()
        """What is known of the memory; of a model that was loaded before, what was learnt then."""
        self.native_size = only_size or self._model.native_size
        """Side in pixels of the images that the model was trained on."""

    def draw(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | None] | None = None
    ) -> list[Image.Image]:
        """Draw jobs in as few passes as possible, and return the images in the order of the jobs.

        `sources` has each job's source image in the size of its drawing. For painting it is RGBA,
        opaque where the image is kept; for ControlNet see `control.prepared`. Raises BadJobError,
        or MemoryError if the batch does not fit into the device's memory.
        """
        self._model.forget()
        passes: dict[tuple[Pass, int], list[int]] = {}
        requested = [Pass.of(job) for job in jobs]
        texts = [self._read(job) for job in jobs]
        for number, job in enumerate(jobs):
            if job.model not in ("", self._model_name):
                refuse("this model")
            if requested[number].control not in (None, *self.controls):
                refuse(f"the control_type {requested[number].control}")
            key = self._drawable(requested[number]), texts[number].length
            passes.setdefault(key, []).append(number)
        images: dict[int, Image.Image] = {}
        for (common, _), numbers in passes.items():
            left = numbers
            while left:
                most = self.learnt.most(common.width * common.height, self._max_batch)
                most = 1 if common.is_alone else most
                chunk, left = left[:most], left[most:]
                try:
                    drawn = self._draw_pass(
                        common,
                        most,
                        [(jobs[number], texts[number]) for number in chunk],
                        [sources[number] if sources else None for number in chunk],
                    )
                except MemoryError:
                    if self.controls.forget(but=common.control) or self.make_room():
                        left = chunk + left
                        continue
                    if len(chunk) == 1:
                        raise
                    self.learnt.limits[common.width * common.height] = bucket(len(chunk), most) // 2
                    left = chunk + left
                    continue
                images.update(zip(chunk, drawn, strict=True))
        sized = [self._in_size(images[number], requested[number]) for number in range(len(jobs))]
        # Keep the source's own pixels, since the autoencoder would change them.
        return [
            Image.composite(source.convert("RGB"), drawing, source.getchannel("A"))
            if pass_.painting and source is not None
            else drawing
            for drawing, pass_, source in zip(
                sized, requested, sources or [None] * len(jobs), strict=True
            )
        ]

    @property
    def takes_add_ons(self) -> bool:
        """Whether LoRAs and textual inversions change the model."""
        return self._model.takes_add_ons

    def warm_up(self) -> None:
        """Draw one image, so that a worker that cannot draw ends before it takes anybody's job.

        Measures the memory that an image needs, and compiles for the shapes that the settings name.
        Raises ModelError if the image is blank, as weights that overflow in half precision make it.
        """
        side = self.native_size
        job = _trial(side, side)
        images: list[Image.Image] = []
        try:
            whole = self._memory.peak(lambda: images.extend(self.draw([job])))
        except MemoryError:
            message = f"an image of {side} x {side} pixels does not fit into the device's memory"
            raise ModelError(message) from None
        if image_codec.is_blank(images[0]):
            message = "the model in MODEL_DIR draws a single colour"
            raise ModelError(message)
        if not self._upscaler:  # else it draws this size alone
            denoising = self._memory.peak(lambda: self._denoise(job))
            self.learnt.capacity = Capacity(
                free=self._memory.free(), denoising=denoising / side**2, decoding=whole / side**2
            )
        if self._compiled_shapes:
            self._compile()

    def _compile(self) -> None:
        """Compile for the shapes that the settings name; raises ModelError."""
        draws = [
            partial(self.draw, [_trial(width, height)] * count)
            for width, height, count in self._compiled_shapes
        ]
        cache = self._compile_cache
        if cache:
            cache.load()
        try:
            compiled = speed.compile_for(self._model, draws)
        except MemoryError:
            message = "a size of COMPILE does not fit into the device's memory"
            raise ModelError(message) from None
        if cache and compiled:
            cache.save()
        elif cache:
            cache.drop()

    def _denoise(self, job: Job) -> None:
        """Draw an image of the model's own size, without the autoencoder."""
        common = Pass.of(job)
        size = {"width": self.native_size, "height": self.native_size}
        with torch.inference_mode():
            shared = self._shared(common, [(job, self._read(job))])
            self._start(common, **size, output_type="latent", **shared)

    def _drawable(self, requested: Pass) -> Pass:
        """Return the pass in the size that the model draws; the upscaler replaces hires_fix."""
        if not self._upscaler:
            return requested
        return replace(
            requested, width=self.native_size, height=self.native_size, hires_strength=None
        )

    def _in_size(self, drawing: Image.Image, requested: Pass) -> Image.Image:
        if not self._upscaler:
            return drawing
        if requested.strength is None:
            return self._upscaler.fit(drawing, requested.width, requested.height)
        # The source image was squeezed into the model's square; stretch its drawing back.
        return self._upscaler.stretch(drawing, requested.width, requested.height)

    def _draw_pass(
        self,
        common: Pass,
        most: int,
        jobs: list[tuple[Job, Text]],
        sources: list[Image.Image | None],
    ) -> list[Image.Image]:
        # The same image drawn in a batch of another size may differ by one level in some pixels.
        # Padding to a few batch sizes makes this rarer, and needs fewer compiled kernels.
        padding = bucket(len(jobs), most) - len(jobs)
        padded = jobs + jobs[-1:] * padding
        at_once = self.learnt.decodes(len(padded), common.width * common.height)
        try:
            self._model.decode(at_once=at_once)
            self._drawer(common)  # its ControlNet is loaded before convolutions are changed
            self.adapters.use(common.loras)
            with torch.inference_mode(), self._tiling(common.tiling and self._model.tiles):
                images = self._run(common, padded, sources + sources[-1:] * padding)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise MemoryError from None
        return images[: len(jobs)]

    def _run(
        self, common: Pass, jobs: list[tuple[Job, Text]], sources: list[Image.Image | None]
    ) -> list[Image.Image]:
        shared = self._shared(common, jobs)
        size = (common.width, common.height)
        present = [source for source in sources if source is not None]
        if common.control:
            shared["maps"] = [control.map_of(source).resize(size) for source in present]
            present = [source.convert("RGB") for source in present]
        if common.strength is not None:
            if common.painting:
                # White is repainted. NEAREST, so that no pixel is only half repainted.
                masks = [ImageOps.invert(source.getchannel("A")) for source in present]
                shared["mask_image"] = [
                    mask.resize(size, Image.Resampling.NEAREST) for mask in masks
                ]
                shared |= {"width": common.width, "height": common.height}
                present = [source.convert("RGB") for source in present]
            return self._refine(
                common,
                image=[
                    source if source.size == size else source.resize(size, Image.Resampling.LANCZOS)
                    for source in present
                ],
                steps=common.steps,
                run=int(common.steps * common.strength + 1e-6),
                **shared,
            )
        width, height = common.width, common.height
        hires = common.hires_strength
        if hires is None or min(width, height) <= self.native_size:
            return list(self._start(common, width=width, height=height, **shared).images)
        small, low = first_pass_size(width, height, self.native_size)
        larger = self._enlarged(common, small, low, shared)
        # ComfyUI, and so the Horde's reference worker, spreads this many steps over the strength.
        run = max(1, min(common.steps, round(3 + (common.steps - 3) * hires**2)))
        return self._refine(
            common, image=larger, steps=math.ceil(run / max(hires, 0.01)), run=run, **shared
        )

    def _shared(self, common: Pass, jobs: list[tuple[Job, Text]]) -> dict[str, Any]:
        """Return what diffusers' pipelines take for images of any kind."""
        texts = [text for _, text in jobs]
        return {
            **self._model.prompts(
                [text.positive for text in texts],
                [text.negative for text in texts],
                texts[0].length,
                common.clip_skip,
            ),
            "guidance_scale": common.cfg_scale,
            # On the CPU, so that a seed gives the same image on every GPU; one generator per
            # image, so that it does in every batch.
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job, _ in jobs],
        }

    def _enlarged(self, common: Pass, width: int, height: int, shared: dict[str, Any]) -> Any:
        """Return the first pass of hires_fix in the size of the second one."""
        size = {"width": width, "height": height}
        if not self._model.takes_latents:
            images = self._start(common, **size, **shared).images
            wanted = common.width, common.height
            return [image.resize(wanted, Image.Resampling.LANCZOS) for image in images]
        latents = self._start(common, **size, output_type="latent", **shared).images
        wanted = common.height // self._model.scale, common.width // self._model.scale
        return torch.nn.functional.interpolate(latents, size=wanted, mode="nearest-exact")

    def _start(self, common: Pass, **options: Any) -> Any:
        drawer = self._drawer(common)
        options |= self._use(drawer, common)
        return drawer.draw(num_inference_steps=common.steps, **options)

    def _drawer(self, common: Pass) -> families.StableDiffusion | guided.Guided:
        return self.controls[common.control] if common.control else self._model

    def _refine(self, common: Pass, *, steps: int, run: int, **options: Any) -> list[Image.Image]:
        """Run the last `run` of `steps` steps, at least one, on images or latents."""
        drawer = self._drawer(common)
        run = min(steps, max(1, run))
        options |= self._use(drawer, common, begin=steps - run)
        # diffusers runs int(steps * strength); half a step keeps that exact.
        strength = min(1.0, (run + 0.5) / steps)
        options |= {"num_inference_steps": steps, "strength": strength}
        return list(drawer.redraw(**options).images)

    def _read(self, job: Job) -> Text:
        """Return a job's prompts in chunks; raises BadJobError if they are too long."""
        positive, _, negative = str(job.payload.get("prompt") or "").partition("###")
        try:
            added = job.add_ons.inversions if job.add_ons else ()
            both = self._model.read(positive, added), self._model.read(negative, added)
        except ValueError as error:
            raise BadJobError(str(error)) from None
        return Text(*both, self._model.length(*both))

    def _use(
        self, drawer: families.StableDiffusion | guided.Guided, common: Pass, begin: int = 0
    ) -> dict[str, Any]:
        """Give a drawer its next scheduler; returns what diffusers' pipeline must be told of it."""
        scheduler = self._model.scheduler(common.sampler, karras=common.karras)
        scheduler.begin = begin  # DPM-Solver lays its steps out from there
        drawer.use(scheduler)
        is_open = isinstance(scheduler, dpm_solver.DpmAdaptive)
        return {"callback_on_step_end": dpm_solver.stop} if is_open else {}

    @contextmanager
    def _tiling(self, enabled: bool) -> Iterator[None]:  # noqa: FBT001
        """Make convolutions wrap around while in this context, so that opposite edges match."""
        if not enabled:
            yield
            return
        convolutions = [
            module
            for model in (
                self._model.network,
                self._model.text2img.vae,
                *self.controls.networks,
            )
            for module in model.modules()
            if isinstance(module, torch.nn.Conv2d)
        ]
        before = [module.padding_mode for module in convolutions]
        try:
            for module in convolutions:
                module.padding_mode = "circular"
            yield
        finally:
            for module, mode in zip(convolutions, before, strict=True):
                module.padding_mode = mode


def _compile_cache(settings: Settings, device: str, model: Any) -> CompileCache | None:
    """Return where the code of the settings' shapes is kept, if it is anywhere."""
    folder, limit = settings.compile_cache_dir, settings.compile_cache_mb * 1024 * 1024
    if not settings.compiled or not folder or not limit:
        return None
    layers = [
        (name, tuple(weight.shape), str(weight.dtype))
        for part in (model.network, model.text2img.vae)
        for name, weight in part.named_parameters()
    ]
    return CompileCache(folder, limit, device, layers, settings.compiled)


def _trial(width: int, height: int) -> Job:
    """Return a job that is nobody's."""
    payload = {"prompt": "a red apple", "seed": "1", "ddim_steps": 2, "sampler_name": "k_euler"}
    payload |= {"width": width, "height": height, "karras": True, "cfg_scale": 5.0}
    return Job(id="warm-up", payload=payload, deadline=0)
