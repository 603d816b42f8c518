"""``python -m tests.bench.samplers``: each sampler against the reference's maths, at equal seeds.

The shipped model draws some prompts with each sampler, and plain loops over the same network draw
them again (``tests/worker/reference_samplers``). It prints the PSNR of the pictures, and writes the
table into gpu_worker/README.md.
"""

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gpu_worker.horde_client import Job
from gpu_worker.settings import Settings
from tests.worker import reference_samplers as reference

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "gpu_worker" / "README.md"
MODEL = ROOT / "gpu_worker" / "models" / "emoji"
BEGIN, END = "<!-- samplers: begin -->\n", "<!-- samplers: end -->\n"
PROMPTS = ("a red apple", "a cat", "a blue car", "a tree on a red background")
STEPS, SIDE, CFG, SEED = 20, 64, 5.0, 7
KARRAS = {True: "karras", False: "without"}


def job(prompt: str, sampler: str, *, karras: bool) -> Job:
    """Return the job for one picture."""
    payload = {"prompt": prompt, "seed": str(SEED), "width": SIDE, "height": SIDE}
    payload |= {"ddim_steps": STEPS, "sampler_name": sampler, "karras": karras, "cfg_scale": CFG}
    return Job(id=sampler, payload=payload, deadline=0)


def own_levels(made: Any) -> list[float]:
    """Return the noise levels of a scheduler that counts in time steps, with the last one."""
    made.set_timesteps(STEPS)
    known = made.alphas_cumprod[list(dict.fromkeys(made.timesteps.tolist()))]
    return [
        math.sqrt((1 - one) / one) for one in [*known.tolist(), float(made.final_alpha_cumprod)]
    ]


def drawn_again(pipeline: Any, prompt: str, sampler: str, *, karras: bool) -> Any:
    """Return a picture that the reference's loop draws."""
    import torch

    from gpu_worker.samplers import scheduler

    model = pipeline._model
    unet, vae = model.text2img.unet, model.text2img.vae
    levels = scheduler("k_euler", model.schedule, karras=karras)
    levels.set_timesteps(STEPS)
    sigmas = [float(one) for one in levels.sigmas]
    first = float(levels.init_noise_sigma)
    if sampler in reference.OWN_LEVELS:
        sigmas = own_levels(scheduler(sampler, model.schedule, karras=karras))
        first = math.sqrt(sigmas[0] ** 2 + 1)
    known = ((1 - levels.alphas_cumprod) / levels.alphas_cumprod).numpy() ** 0.5
    if sampler in reference.TO_THE_END:
        sigmas[-2] = float(known[0])
    generator = torch.Generator().manual_seed(SEED)
    shape = (1, unet.config.in_channels, SIDE // model.scale, SIDE // model.scale)

    def noise() -> Any:
        return torch.randn(shape, generator=generator)

    texts = model.read(prompt), model.read("")
    given = model.prompts([texts[0]], [texts[1]], 1, clip_skip=1)
    both = torch.cat([given["negative_prompt_embeds"], given["prompt_embeds"]])

    def picture(x: Any, sigma: float) -> Any:
        timestep = float(levels._sigma_to_t(np.array(max(sigma, 1e-10)), np.log(known)))
        scaled = torch.cat([x / math.sqrt(sigma**2 + 1)] * 2)
        without, with_ = unet(scaled, timestep, encoder_hidden_states=both).sample.chunk(2)
        output = without + CFG * (with_ - without)
        if model.schedule.get("prediction_type") == "v_prediction":
            return x / (sigma**2 + 1) - output * sigma / math.sqrt(sigma**2 + 1)
        return x - sigma * output

    start = noise() * first
    latents = reference.LOOPS[sampler](picture, start, sigmas, noise)
    image = vae.decode(latents / vae.config.scaling_factor).sample
    return ((image[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1) * 255).round().numpy()


def psnr(one: Any, other: Any) -> float:
    """Return the peak signal-to-noise ratio of two pictures in dB; infinite for equal ones."""
    error = float(((one - other) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def measured(say: Any) -> dict[str, dict[bool, float]]:
    """Return the worst PSNR of some prompts, by sampler and by whether levels are Karras's."""
    import torch

    from gpu_worker.pipeline import Pipeline

    common: dict[str, Any] = {"horde_url": "", "horde_api_key": "", "worker_name": ""}
    pipeline = Pipeline(Settings(**common, model_dir=MODEL, device="cpu", torch_threads=1))
    pipeline._upscaler = None  # the drawing itself
    found: dict[str, dict[bool, float]] = {}
    for sampler in reference.LOOPS:
        for karras in KARRAS:
            with torch.inference_mode():
                values = [
                    psnr(
                        np.asarray(pipeline.draw([job(text, sampler, karras=karras)])[0], float),
                        drawn_again(pipeline, text, sampler, karras=karras),
                    )
                    for text in PROMPTS
                ]
            found.setdefault(sampler, {})[karras] = min(values)
        shown = ", ".join(f"{KARRAS[k]} {value:.0f} dB" for k, value in found[sampler].items())
        say(f"{sampler:<14} {shown}")
    return found


def _shown(value: float) -> str:
    return "the same picture" if math.isinf(value) else f"{value:.0f} dB"


def table(found: dict[str, dict[bool, float]]) -> str:
    """Return the table of the README."""
    lines = ["| sampler | with `karras` | without |", "|---|---|---|"]
    lines += [
        f"| `{sampler}` | {_shown(row[True])} | {_shown(row[False])} |"
        for sampler, row in found.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write the table."""
    found = measured(lambda line: sys.stdout.write(f"{line}\n"))
    text = README.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}{table(found)}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
