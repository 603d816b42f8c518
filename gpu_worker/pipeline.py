"""Draw batches of jobs with diffusers. No other module of the worker needs torch."""

from __future__ import annotations

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

# Set before diffusers is imported: a worker never downloads.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from PIL import Image, ImageOps

from gpu_worker import upscale
from gpu_worker.horde_client import PAINTING, BadJobError, Job

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gpu_worker.settings import Settings

# Both lack type hints.
diffusers: Any = import_module("diffusers")
transformers: Any = import_module("transformers")

# Horde sampler -> diffusers scheduler and its options. diffusers has no dpm_fast, dpm_adaptive or
# ancestral 2s, so they map to the nearest relatives. DPMSolverSDE is not used, since it draws noise
# from one tree per batch: an image would depend on the others in its batch.
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
"""The default denoising_strength, for hordes that send none."""
ADAPTIVE_STEPS = 40
"""Steps of k_dpm_adaptive, which chooses them itself; the Horde prices it so, whatever is sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """The parameters that all images of one pass share; prompt, seed and source may differ."""

    width: int
    height: int
    steps: int
    sampler: str
    karras: bool
    cfg_scale: float
    clip_skip: int
    tiling: bool
    strength: float | None
    """Fraction of the steps to run on the source image; None for text-to-image."""
    painting: bool
    """Whether only part of the source image is repainted."""
    hires_strength: float | None
    """Fraction of the steps to run in the second pass of hires_fix; None without hires_fix."""

    @classmethod
    def of(cls, job: Job) -> Pass:
        """Return the pass for a job; raises BadJobError for any unsupported parameter."""
        payload = job.payload
        if job.source_image and job.source_processing not in (None, "img2img", *PAINTING):
            _refuse("this source_processing")
        for name in ("post_processing", "loras", "tis", "control_type", "workflow", "transparent"):
            if payload.get(name):
                _refuse(name)
        sampler = str(payload.get("sampler_name") or "k_euler_a").lower()
        if sampler not in SAMPLERS:
            _refuse("this sampler_name")
        adaptive = sampler == "k_dpm_adaptive"
        try:
            is_img2img = bool(job.source_image)
            hires = bool(payload.get("hires_fix")) and not is_img2img
            return cls(
                width=int(payload["width"]),
                height=int(payload["height"]),
                steps=ADAPTIVE_STEPS if adaptive else max(1, int(payload["ddim_steps"])),
                sampler=sampler,
                karras=bool(payload.get("karras", True)),
                cfg_scale=float(payload.get("cfg_scale", 5.0)),
                clip_skip=int(payload.get("clip_skip") or 1),
                tiling=bool(payload.get("tiling")),
                painting=job.painting,
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
    """One model on one device. Not thread-safe, since schedulers and tiling are state."""

    def __init__(self, settings: Settings) -> None:
        """Load the model, which takes seconds.

        Raises UpscalerMissingError for a model that draws one size, if the upscaler is missing.
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
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._text2img = diffusers.StableDiffusionPipeline.from_pretrained(
            settings.model_dir,
            dtype=torch.float16 if device.startswith("cuda") else torch.float32,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(device)
        # Decode one image at a time, since a batch of large images needs the memory for the UNet.
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
        """Draw jobs in as few passes as possible, and return the images in the order of the jobs.

        `sources` has each job's source image in the size of its drawing. For painting it is RGBA,
        opaque where the image is kept. Raises BadJobError, or MemoryError if the batch does not fit
        into the device's memory.
        """
        passes: dict[Pass, list[int]] = {}
        requested = [Pass.of(job) for job in jobs]
        for number, job in enumerate(jobs):
            if job.model not in ("", self._model_name):
                _refuse("this model")
            passes.setdefault(self._drawable(requested[number]), []).append(number)
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
        self, common: Pass, jobs: list[Job], sources: list[Image.Image | None]
    ) -> list[Image.Image]:
        # The same image drawn in a batch of another size may differ by one level in some pixels.
        # Padding to a few batch sizes makes this rarer, and needs fewer compiled kernels.
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
            # On the CPU, so that a seed gives the same image on every GPU; one generator per
            # image, so that it does in every batch.
            "generator": [torch.Generator("cpu").manual_seed(job.seed) for job in jobs],
        }
        if common.strength is not None:
            size = (common.width, common.height)
            present = [source for source in sources if source is not None]
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
        latents = self._start(
            common, width=small, height=low, output_type="latent", **shared
        ).images
        scale = self._text2img.vae_scale_factor
        latents = torch.nn.functional.interpolate(
            latents, size=(height // scale, width // scale), mode="nearest-exact"
        )
        # ComfyUI, and so the Horde's reference worker, spreads this many steps over the strength.
        run = max(1, min(common.steps, round(3 + (common.steps - 3) * hires**2)))
        return self._refine(
            common, image=latents, steps=math.ceil(run / max(hires, 0.01)), run=run, **shared
        )

    def _start(self, common: Pass, **options: Any) -> Any:
        self._text2img.scheduler = self._scheduler(common)
        return self._text2img(num_inference_steps=common.steps, **options)

    def _refine(self, common: Pass, *, steps: int, run: int, **options: Any) -> list[Image.Image]:
        """Run the last `run` of `steps` steps, at least one, on images or latents."""
        pipeline = self._inpaint if common.painting else self._img2img
        pipeline.scheduler = self._scheduler(common)
        run = min(steps, max(1, run))
        # diffusers runs int(steps * strength); half a step keeps that exact.
        strength = min(1.0, (run + 0.5) / steps)
        images = pipeline(num_inference_steps=steps, strength=strength, **options).images
        return list(images)

    def _encode(self, prompts: list[str], common: Pass) -> torch.Tensor:
        # Not by diffusers: it applies clip_skip only to the positive prompt, and with transformers
        # 5 (without `text_model`) to neither. It also logs the truncated part of a long prompt.
        tokenizer, encoder = self._text2img.tokenizer, self._text2img.text_encoder
        tokens = tokenizer(
            prompts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids.to(encoder.device)
        layers = int(encoder.config.num_hidden_layers)
        # hidden_states[0] is the token embedding; clip_skip 1 selects the last layer.
        layer = max(1, layers + 1 - max(1, common.clip_skip))
        hidden = encoder(tokens, output_hidden_states=True).hidden_states[layer]
        return cast("torch.Tensor", encoder.final_layer_norm(hidden))

    def _scheduler(self, common: Pass) -> Any:
        """Return a new scheduler, since schedulers keep the state of their steps."""
        name, options = SAMPLERS[common.sampler]
        cls = getattr(diffusers, name)
        config = {**self._schedule, **options}
        if "use_karras_sigmas" in cls._get_init_keys(cls):
            config["use_karras_sigmas"] = common.karras
        return cls.from_config(config)

    @contextmanager
    def _tiling(self, enabled: bool) -> Iterator[None]:  # noqa: FBT001
        """Make convolutions wrap around while in this context, so that opposite edges match."""
        if not enabled:
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


def first_pass_size(width: int, height: int, native: int) -> tuple[int, int]:
    """Return the size of the first pass of hires_fix, whose short side is the native one."""
    shrink = native / min(width, height)
    return (
        max(64, round(width * shrink / 64) * 64),
        max(64, round(height * shrink / 64) * 64),
    )


def bucket(count: int, max_batch: int) -> int:
    """Return the size to which a batch of `count` is padded: 1, 2, 4 and so on to `max_batch`."""
    return min(max_batch, 1 << (count - 1).bit_length())
