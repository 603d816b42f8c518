"""What FLUX.1 looks like in a single file, and the configuration that such a file lacks.

The file is one with all four parts, as ComfyUI saves them: the transformer by the names of Black
Forest Labs, CLIP and T5 by those of transformers, and the autoencoder. The numbers are those of the
published models; `tests/worker/test_flux_file.py` holds them against the sizes of published files.
"""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

from gpu_worker import layouts, vocabulary
from gpu_worker.layouts import TEXTS, VAES, refuse, write_json
from gpu_worker.vocabulary import VocabularyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gpu_worker.tensor_files import Tensor

TRANSFORMER, CLIP = "model.diffusion_model.", "text_encoders.clip_l.transformer."
T5, VAE = "text_encoders.t5xxl.transformer.", "vae."
PARTS = {
    "transformer": TRANSFORMER,
    "text encoder CLIP": CLIP,
    "text encoder T5": T5,
    "autoencoder": VAE,
}
"""What the names of each part's tensors begin with."""
UNUSED = {
    "text_encoders.clip_l.logit_scale",
    "text_encoders.t5xxl.logit_scale",
    "text_encoders.clip_l.text_projection",
    f"{CLIP}text_projection.weight",
    f"{CLIP}text_model.embeddings.position_ids",
}
"""Tensors that ComfyUI saves, and that FLUX does not read: of CLIP's comparison with pictures."""
FLUX = "flux_1"
MARK = "double_blocks."
"""What names of FLUX's transformer have, and no other family's."""
GUIDED = f"{TRANSFORMER}guidance_in.in_layer.weight"
"""A tensor that [dev] has, and [schnell] has not."""
CHANNELS = 64
"""Numbers of a token that it takes: 16 latents of 2 x 2 places."""
SCALES = re.compile(r"(?:^|\.)(?:scaled_fp8|comfy_quant|scale_(?:weight|input)|\w+_scale(?:_2)?)$")
"""Names of tensors that float8 weights are multiplied by, or that mark such files."""
NUMBERS = {"F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
"""Types that weights are converted from."""
PIECES, SPECIAL = 32_100, {"<pad>": 0, "</s>": 1, "<unk>": 2}
"""Tokens of T5, and the numbers of those that are no text."""
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model",
)  # fmt: skip


def family_of(tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the family of a single file and the channels that its network takes.

    FLUX has a transformer, which takes tokens of as many numbers; of others see `layouts`. Raises
    LayoutError for a file that cannot be converted, by its header.
    """
    mixes = any(MARK in name for name in tensors)
    if not mixes or any("lora_" in name for name in tensors):
        return layouts.family_of(tensors)
    _check(tensors)
    return FLUX, CHANNELS


def _check(tensors: Mapping[str, Tensor]) -> None:
    if any("double_stream_modulation" in name for name in tensors):
        refuse("the file is a FLUX.2 model; FLUX.1 can be converted")
    if any(name.startswith(MARK) for name in tensors):  # as Black Forest Labs published it
        refuse(
            "the file is FLUX's transformer alone, without autoencoder and text encoders (CLIP, "
            "T5): take a file that has all, by ComfyUI's names, or a directory of diffusers"
        )
    lacking = [
        f"{part} ({prefix})"
        for part, prefix in PARTS.items()
        if not any(name.startswith(prefix) for name in tensors)
    ]
    if lacking:
        refuse(f"the file is of FLUX and lacks its {_listed(lacking)}: take one that has all parts")
    used = sorted(tensors.keys() - UNUSED)
    for name in used:
        if SCALES.search(name):
            refuse(f"its weights have scales ({name}): take a file of FLUX with plain weights")
    for name in used:
        if tensors[name].kind not in NUMBERS:
            refuse(f"it is quantized: {name} has numbers of the type {tensors[name].kind}")
        if not name.startswith(tuple(PARTS.values())):
            refuse(f"the file has more than FLUX.1 has: {name}")
    first = tensors.get(f"{TRANSFORMER}img_in.weight")
    if first and first.shape[1:] != (CHANNELS,):
        taken = first.shape[-1] if first.shape else 0
        refuse(f"its transformer takes {taken} channels, as Fill's does; {CHANNELS} can be drawn")


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def write(folder: Path, tokenizer: Path | None, *, guided: bool) -> None:
    """Write the configuration of [dev], if `guided`, or of [schnell], with the tokenizers.

    `tokenizer` is a directory with T5's, which no file of FLUX has. Raises VocabularyError.
    """
    if tokenizer is None:
        message = (
            "FLUX needs T5's tokenizer, which the file does not have: name the directory "
            "tokenizer_2 of FLUX.1 [schnell] in diffusers' form by --tokenizer"
        )
        raise VocabularyError(message)
    check_tokenizer(tokenizer)
    vocabulary.tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "tokenizer_2").mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / "tokenizer_2" / name)
    parts = {
        "transformer": {**NETWORK, "guidance_embeds": guided},
        "vae": AUTOENCODER,
        "text_encoder": TEXTS[""],
        "text_encoder_2": SECOND_TEXT,
    }
    for part, config in parts.items():
        write_json(folder / part / "config.json", config)
    schedule = {**SCHEDULE, "shift": 3.0 if guided else 1.0, "use_dynamic_shifting": guided}
    write_json(folder / "scheduler" / "scheduler_config.json", schedule)
    write_json(folder / "model_index.json", INDEX)


def check_tokenizer(folder: Path) -> None:
    """Raise VocabularyError unless a directory has T5's tokenizer."""
    file = folder / "tokenizer.json"
    if not file.is_file():  # transformers makes up an empty one
        message = f"{folder} has no tokenizer of T5 (no tokenizer.json)"
        raise VocabularyError(message)
    from transformers import T5Tokenizer  # noqa: PLC0415

    try:
        found = T5Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # noqa: BLE001 - transformers and tokenizers raise any
        message = f"{file} is no tokenizer of T5 ({type(error).__name__})"
        raise VocabularyError(message) from None
    numbers = {token: found.convert_tokens_to_ids(token) for token in SPECIAL}
    if len(found) != PIECES or numbers != SPECIAL:
        message = f"{file} is no tokenizer of T5: its {len(found)} tokens are others"
        raise VocabularyError(message)


INDEX: dict[str, Any] = {
    "_class_name": "FluxPipeline",
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "T5Tokenizer"],
    "image_encoder": [None, None],
    "feature_extractor": [None, None],
}
NETWORK: dict[str, Any] = {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1,
    "in_channels": CHANNELS,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "axes_dims_rope": [16, 56, 56],
}
AUTOENCODER: dict[str, Any] = {
    **VAES[True],
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
SECOND_TEXT: dict[str, Any] = {
    "model_type": "t5",
    "architectures": ["T5EncoderModel"],
    "vocab_size": 32_128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10_240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "is_encoder_decoder": False,
    "use_cache": False,
}
SCHEDULE: dict[str, Any] = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
