"""Draws batches of jobs with diffusers. The only module that needs torch (and best a GPU)."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

# Before diffusers is imported: a worker never downloads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from PIL import Image, ImageOps

from gpu_worker import upscale
from gpu_worker.horde_client import PAINTING, BadJobError, Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gpu_worker.settings import Settings

# Neither is typed.
diffusers: Any = import_module("diffusers")
transformers: Any = import_module("transformers")

# Horde sampler -> diffusers scheduler and its options. diffusers has no dpm_fast, dpm_adaptive or
# ancestral 2s: their rows are the nearest relatives. DPMSolverSDE is left out on purpose, since its
# noise comes from one tree for the whole batch and would tie an image to its mates.
SAMPLERS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "k_euler": ("EulerDiscreteScheduler", {}),
    "k_euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "k_heun": ("HeunDiscreteScheduler", {}),
    "k_lms": ("LMSDiscreteScheduler", {}),
    "k_dpm_2": ("KDPM2DiscreteScheduler", {}),
    "k_dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "k_dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmsolver": ("DPMSolverMultistepScheduler", {}),
    "k_dpmpp_2s_a": ("DPMSolverSinglestepScheduler", {}),
    "k_dpmpp_sde": ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "k_dpm_fast": ("DPMSolverSinglestepScheduler", {"solver_order": 3}),
    "k_dpm_adaptive": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "ddim": ("DDIMScheduler", {}),
    "lcm": ("LCMScheduler", {}),
}

HIRES_STRENGTH = 0.65
"""The Horde's default for hires_fix_denoising_strength."""
IMG2IMG_STRENGTH = 0.75
"""For a job that names no denoising_strength."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What all images drawn in one pass have in common; prompt, seed and source may differ."""

    width: int
    height: int
    steps: int
    sampler: str
    karras: bool
    cfg_scale: float
    clip_skip: int
    tiling: bool
    strength: float | None
    """Share of the steps that is run from the source image; None for text-to-image."""
    paints: bool
    """Whether only a part of the source image is painted anew."""
    hires_strength: float | None
    """The same for the second pass of hires_fix; None without it."""

    @classmethod
    def of(cls, job: Job) -> Pass:
        """Read a job's payload. Raises BadJobError: what cannot be done is never left out."""
        payload = job.payload
        if job.source_image and job.source_processing not in (None, "img2img", *PAINTING):
            _refuse("this source_processing")
        for name in ("post_processing", "loras", "tis", "control_type", "workflow", "transparent"):
            if payload.get(name):
                _refuse(name)
        sampler = str(payload.get("sampler_name") or "k_euler_a").lower()
        if sampler not in SAMPLERS:
            _refuse("this sampler_name")
        try:
            is_img2img = bool(job.source_image)
            hires = bool(payload.get("hires_fix")) and not is_img2img
            return cls(
                width=int(payload["width"]),
                height=int(payload["height"]),
                steps=max(1, int(payload["ddim_steps"])),
                sampler=sampler,
                karras=bool(payload.get("karras", True)),
                cfg_scale=float(payload.get("cfg_scale", 5.0)),
                clip_skip=int(payload.get("clip_skip") or 1),
                tiling=bool(payload.get("tiling")),
                paints=job.paints,
                strength=_strength(payload, "denoising_strength", IMG2IMG_STRENGTH)
                if is_img2img
                else None,
                hires_strength=_strength(payload, "hires_fix_denoising_strength", HIRES_STRENGTH)
                if hires
                else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            message = f"the payload is unreadable ({type(error).__name__})"
            raise BadJobError(message) from error


def _refuse(what: str) -> None:
    message = f"{what} is not supported"
    raise BadJobError(message)


def _strength(payload: Mapping[str, Any], name: str, default: float) -> float:
    value = payload.get(name)
    return min(1.0, max(0.0, float(default if value is None else value)))


class Pipeline:
    """One model on one device. For one thread at a time: schedulers and tiling are state."""

    def __init__(self, settings: Settings) -> None:
        """Load the model: seconds, and the GPU's memory.

        Raises UpscalerMissingError for a model that draws one size, where nothing can enlarge it.
        """
        only_size = upscale.native_size(settings.model_dir)
        self._upscaler = upscale.Upscaler(settings.torch_threads) if only_size else None
        # diffusers quotes the part of a prompt that CLIP cannot hold: keep it out of the logs.
        diffusers.logging.set_verbosity_error()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        diffusers.logging.disable_progress_bar()
        if settings.torch_threads:
            torch.set_num_threads(settings.torch_threads)
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._text2img = diffusers.StableDiffusionPipeline.from_pretrained(
            settings.model_dir,
            dtype=torch.float16 if device.startswith("cuda") else torch.float32,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(device)
        # One image at a time: a batch of large images needs its memory for the UNet.
        self._text2img.vae.enable_slicing()
        self._text2img.set_progress_bar_config(disable=True)
        self._img2img = diffusers.StableDiffusionImg2ImgPipeline(
            **self._text2img.components, requires_safety_checker=False
        )
        self._img2img.set_progress_bar_config(disable=True)
        self._inpaint = diffusers.StableDiffusionInpaintPipeline(
            **self._text2img.components, requires_safety_checker=False
        )
        self._inpaint.set_progress_bar_config(disable=True)
        self._schedule = dict(self._text2img.scheduler.config)
        self._model_name = settings.model_name
        self._max_batch = settings.max_batch
        scale = self._text2img.vae_scale_factor
        self.native_size = only_size or int(self._text2img.unet.config.sample_size) * scale
        """Side in pixels of the images that the model was trained on."""

    def draw(
        self, jobs: Sequence[Job], sources: Sequence[Image.Image | None] | None = None
    ) -> list[Image.Image]:
        """Draw the jobs, those that allow it in one pass, and return the images in their order.

        `sources` holds each job's source image, already in the size of its drawing; one that is
        painted anew in part is RGBA, opaque where it is kept. Raises MemoryError when the device's
        memory is too small for the batch.
        """
        passes: dict[Pass, list[int]] = {}
        wanted = [Pass.of(job) for job in jobs]
        for number, job in enumerate(jobs):
            if job.model not in ("", self._model_name):
                _refuse("this model")
            passes.setdefault(self._drawable(wanted[number]), []).append(number)
        images: dict[int, Image.Image] = {}
        for common, numbers in passes.items():
            for start in range(0, len(numbers), self._max_batch):
                chunk = numbers[start : start + self._max_batch]
                drawn = self._draw_pass(
                    common,
                    [jobs[number] for number in chunk],
                    [sources[number] if sources else None for number in chunk],
                )
                images.update(zip(chunk, drawn, strict=True))
        sized = [self._in_size(images[number], wanted[number]) for number in range(len(jobs))]
        # What is kept is the source's own pixels, not what the autoencoder made of them.
        return [
            Image.composite(source.convert("RGB"), drawing, source.getchannel("A"))
            if pass_.paints and source is not None
            else drawing
            for drawing, pass_, source in zip(
                sized, wanted, sources or [None] * len(jobs), strict=True
            )
        ]

    def _drawable(self, wanted: Pass) -> Pass:
        """Return the pass in the only size that the model draws; hires_fix is the upscaler's."""
        if not self._upscaler:
            return wanted
        return replace(wanted, width=self.native_size, height=self.native_size, hires_strength=None)

    def _in_size(self, drawing: Image.Image, wanted: Pass) -> Image.Image:
        if not self._upscaler:
            return drawing
        if wanted.strength is None:
            return self._upscaler.fit(drawing, wanted.width, wanted.height)
        # The source was squeezed into the model's square whole; its drawing is pulled out again.
        return self._upscaler.stretch(drawing, wanted.width, wanted.height)

    def _draw_pass(
        self, common: Pass, jobs: list[Job], sources: list[Image.Image | None]
    ) -> list[Image.Image]:
        # An image drawn in a batch of another size differs by a level here and there, in a batch
        # of the same size by nothing. Padding to few sizes makes it the same more often, and
        # keeps compiled kernels few.
        padding = bucket(len(jobs), self._max_batch) - len(jobs)
        padded = jobs + jobs[-1:] * padding
        try:
            with torch.inference_mode(), self._tiling(common.tiling):
                images = self._run(common, padded, sources + sources[-1:] * padding)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise MemoryError from None
        return images[: len(jobs)]

    def _run(
        self, common: Pass, jobs: list[Job], sources: list[Image.Image | None]
    ) -> list[Image.Image]:
        prompts = [str(job.payload.get("prompt") or "").partition("###") for job in jobs]
        shared: dict[str, Any] = {
            "prompt_embeds": self._encode([text for text, _, _ in prompts], common),
            "negative_prompt_embeds": self._encode([text for _, _, text in prompts], common),
            "guidance_scale": common.cfg_scale,
            # On the CPU, so that a seed means the same on every GPU; one per image, so that it
            # means the same in every batch.
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
        }
        if common.strength is not None:
            size = (common.width, common.height)
            given = [source for source in sources if source is not None]
            if common.paints:
                # White is painted. Nearest, so that no pixel is half kept and half painted.
                masks = [ImageOps.invert(source.getchannel("A")) for source in given]
                shared["mask_image"] = [
                    mask.resize(size, Image.Resampling.NEAREST) for mask in masks
                ]
                shared |= {"width": common.width, "height": common.height}
                given = [source.convert("RGB") for source in given]
            return self._refine(
                common,
                image=[
                    source if source.size == size else source.resize(size, Image.Resampling.LANCZOS)
                    for source in given
                ],
                steps=common.steps,
                run=int(common.steps * common.strength + 1e-6),
                **shared,
            )
        width, height = common.width, common.height
        hires = common.hires_strength
        if hires is None or min(width, height) <= self.native_size:
            return list(self._start(common, width=width, height=height, **shared).images)
        shrink = self.native_size / min(width, height)
        latents = self._start(
            common,
            width=max(64, round(width * shrink / 64) * 64),
            height=max(64, round(height * shrink / 64) * 64),
            output_type="latent",
            **shared,
        ).images
        scale = self._text2img.vae_scale_factor
        latents = torch.nn.functional.interpolate(
            latents, size=(height // scale, width // scale), mode="nearest-exact"
        )
        # ComfyUI, and so the Horde's reference worker, stretches this many steps over the strength.
        run = max(1, min(common.steps, round(3 + (common.steps - 3) * hires**2)))
        return self._refine(
            common, image=latents, steps=math.ceil(run / max(hires, 0.01)), run=run, **shared
        )

    def _start(self, common: Pass, **options: Any) -> Any:
        self._text2img.scheduler = self._scheduler(common)
        return self._text2img(num_inference_steps=common.steps, **options)

    def _refine(self, common: Pass, *, steps: int, run: int, **options: Any) -> list[Image.Image]:
        """Run the last `run`, at least one, of `steps` steps over an image or its latents."""
        pipeline = self._inpaint if common.paints else self._img2img
        pipeline.scheduler = self._scheduler(common)
        run = min(steps, max(1, run))
        # diffusers runs int(steps * strength); half a step keeps that exact.
        strength = min(1.0, (run + 0.5) / steps)
        images = pipeline(num_inference_steps=steps, strength=strength, **options).images
        return list(images)

    def _encode(self, prompts: list[str], common: Pass) -> torch.Tensor:
        # By hand: diffusers applies clip_skip to the positive prompt alone, and with transformers 5
        # to none (`text_model` is gone); it also logs what it cuts off a long prompt.
        tokenizer, encoder = self._text2img.tokenizer, self._text2img.text_encoder
        tokens = tokenizer(
            prompts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(encoder.device)
        layers = int(encoder.config.num_hidden_layers)
        # hidden_states[0] is the embedding of the tokens; clip_skip 1 is the last layer.
        layer = max(1, layers + 1 - max(1, common.clip_skip))
        hidden = encoder(tokens, output_hidden_states=True).hidden_states[layer]
        return cast("torch.Tensor", encoder.final_layer_norm(hidden))

    def _scheduler(self, common: Pass) -> Any:
        """Make a fresh one: schedulers remember the steps that they took."""
        name, options = SAMPLERS[common.sampler]
        cls = getattr(diffusers, name)
        config = {**self._schedule, **options}
        if "use_karras_sigmas" in cls._get_init_keys(cls):
            config["use_karras_sigmas"] = common.karras
        return cls.from_config(config)

    @contextmanager
    def _tiling(self, wanted: bool) -> Iterator[None]:  # noqa: FBT001
        """Let convolutions wrap around, so that the image's edges meet; undone afterwards."""
        if not wanted:
            yield
            return
        convolutions = [
            module
            for model in (self._text2img.unet, self._text2img.vae)
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


def bucket(count: int, max_batch: int) -> int:
    """Return the size that a batch of `count` is padded to: 1, 2, 4, ... up to `max_batch`."""
    return min(max_batch, 1 << (count - 1).bit_length())
