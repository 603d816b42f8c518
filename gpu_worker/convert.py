"""`python -m gpu_worker.convert CHECKPOINT DIR`: make a directory for the worker of a single file.

The file is a checkpoint of Stable Diffusion 1, 2, XL or FLUX.1 as it is shared: one safetensors
file with UNet or transformer, autoencoder and text encoders. Every tensor is accounted for, must be
finite in half precision and have the shape of its family. The directory appears whole or not at
all. Nothing is downloaded but CLIP's vocabulary, once; FLUX needs a directory with T5's tokenizer.
`bin/operator model add` does the same and writes the table.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from gpu_worker import flux_file, flux_layouts, layouts, model_files, vocabulary
from gpu_worker.flux_layouts import FLUX
from gpu_worker.layouts import LARGE, SD2, UNET_PREFIX, VAE_PREFIX, LayoutError
from gpu_worker.model_files import ModelError
from gpu_worker.model_table import SOURCE
from gpu_worker.tensor_files import TensorFileError, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpu_worker.tensor_files import Tensor

diffusers: Any = import_module("diffusers")
transformers: Any = import_module("transformers")
mapping: Any = import_module("diffusers.loaders.single_file_utils")

transformers.logging.disable_progress_bar()

PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"PK\x03\x04")
"""How files of `torch.save` begin."""
COPIED = ("model_index.json", "horde.json", "scheduler", "tokenizer", "tokenizer_2")
V_PREDICTION = "v_pred"
"""A tensor that only marks checkpoints of XL that predict the velocity."""


class ConvertError(RuntimeError):
    """The file cannot be converted; says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A directory that the worker loads."""

    baseline: str
    """The Horde's name of its family."""
    sha256: str
    """Of the file that it was made of."""
    parameters: int
    native_size: int
    """Side in pixels of the images that it was trained on."""
    made: bool
    """False if it was there already."""


def convert(
    file: Path,
    target: Path,
    *,
    baseline: str = "",
    config: Path | None = None,
    tokenizer: Path | None = None,
) -> Converted:
    """Write a checkpoint to a directory, unless that is what the directory was made of.

    `config` is a diffusers directory whose configuration and tokenizers are taken, for models that
    are not their family's usual size. Without it FLUX needs `tokenizer`, a directory with that of
    T5. Raises ConvertError; then there is no directory.
    """
    try:
        with _alone(target) as scratch:
            sha256 = digest(file)
            if target.exists():
                return _found(target, sha256)
            found = _convert(file, scratch, baseline, config, tokenizer, sha256)
            _settle(scratch)
            scratch.rename(target)
            return found
    except (LayoutError, ModelError, TensorFileError, vocabulary.VocabularyError) as error:
        raise ConvertError(str(error).replace("MODEL_DIR", str(target))) from None
    except OSError as error:
        name = error.filename or file
        message = f"{name}: {error.strerror or type(error).__name__}"
        raise ConvertError(message) from None


def digest(file: Path) -> str:
    """Return the SHA-256 of a file; raises OSError."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _found(target: Path, sha256: str) -> Converted:
    """Return what is in a directory already, if it was made of the same file."""
    try:
        noted = json.loads((target / SOURCE).read_text("utf-8"))
        found = Converted(**{**noted, "made": False})
    except (OSError, ValueError, TypeError):
        message = f"{target} is there already, and was not made by this command"
        raise ConvertError(message) from None
    if found.sha256 != sha256:
        message = f"{target} is there already, made of another file: remove it first"
        raise ConvertError(message)
    model_files.read(target)
    return found


def _convert(
    file: Path,
    scratch: Path,
    baseline: str,
    config: Path | None,
    tokenizer: Path | None,
    sha256: str,
) -> Converted:
    with file.open("rb") as opened:
        if opened.read(4).startswith(PICKLES):
            message = f"{file.name} is a pickle, and loading it runs code: take a safetensors file"
            raise ConvertError(message)
    heads = tensors(file)
    family, channels = flux_layouts.family_of(heads)
    baseline = _baseline(family, baseline)
    needed = 2 * sum(head.count for head in heads.values())
    if (free := shutil.disk_usage(scratch.parent).free) < needed:
        message = f"{needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} are free"
        raise ConvertError(message)
    with tempfile.TemporaryDirectory() as made:
        if config is None:
            vocabulary.fetch()
            config = Path(made)
            if family == FLUX:
                flux_layouts.write(config, tokenizer, guided=flux_layouts.GUIDED in heads)
            else:
                velocity = V_PREDICTION in heads
                layouts.write(config, baseline, channels=channels, velocity=velocity)
        if family == FLUX:
            parts, streamed = _small_parts(file, config), _flux(file, heads, config, scratch)
        else:
            parts, streamed = _loaded(file, family, config), 0
        for name in COPIED:
            one = config / name
            if one.is_dir():
                shutil.copytree(one, scratch / name)
            elif one.exists():
                shutil.copy(one, scratch / name)
    for name, part in parts.items():
        part.save_pretrained(scratch / name)
    model_files.read(scratch)
    count = sum(one.numel() for part in parts.values() for one in part.parameters())
    found = Converted(
        baseline=baseline,
        sha256=sha256,
        parameters=streamed + count,
        native_size=_side(parts),
        made=True,
    )
    noted = {name: getattr(found, name) for name in found.__dataclass_fields__}
    (scratch / SOURCE).write_text(json.dumps(noted, indent=2) + "\n")
    return found


def _baseline(family: str, wanted: str) -> str:
    if family == SD2 and wanted not in (f"{SD2}_512", LARGE):
        message = (
            f"the file is of Stable Diffusion 2, and does not say which: --baseline {SD2}_512 or "
            f"{LARGE}"
        )
        raise ConvertError(message)
    if wanted and not wanted.startswith(family):
        message = f"the file is of the family {family}, not {wanted}"
        raise ConvertError(message)
    return wanted or family


def _side(parts: Mapping[str, Any]) -> int:
    """Return the side in pixels of the images that a model was trained on."""
    vae = parts["vae"].config
    if "unet" in parts:
        blocks = len(vae.block_out_channels)
        return int(parts["unet"].config.sample_size * 2 ** (blocks - 1))
    return int(vae.sample_size)  # a transformer says none


def _loaded(file: Path, family: str, config: Path) -> dict[str, Any]:
    """Return the models of a checkpoint by their folders, in half precision."""
    checkpoint = load_file(file)
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(_json(config, "unet"))
        vae = diffusers.AutoencoderKL.from_config(_json(config, "vae"))
    weights = mapping.convert_ldm_unet_checkpoint(_under(checkpoint, UNET_PREFIX), unet.config)
    parts = {"unet": _filled(unet, weights, "UNet")}
    weights = mapping.convert_ldm_vae_checkpoint(_under(checkpoint, VAE_PREFIX), vae.config)
    parts["vae"] = _filled(vae, weights, "autoencoder")
    for encoder in layouts.ENCODERS[family]:
        kind = "CLIPTextModelWithProjection" if encoder.part.endswith("_2") else "CLIPTextModel"
        settings = transformers.CLIPTextConfig.from_pretrained(config / encoder.part)
        with torch.device("meta"):
            model = getattr(transformers, kind)(settings)
        own = _under(checkpoint, encoder.prefix)
        if encoder.open_clip:
            weights = mapping.convert_open_clip_checkpoint(model, own, prefix=encoder.prefix)
        else:
            weights = mapping.convert_ldm_clip_checkpoint(own)
        parts[encoder.part] = _filled(model, _text_weights(model, weights), encoder.part)
    return parts


def _json(config: Path, part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((config / part / "config.json").read_text("utf-8"))
    return found


def _under(checkpoint: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in checkpoint.items() if name.startswith(prefix)}


def _text_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights as transformers names them: some releases keep a wrapper, `text_model`."""
    wrapped = hasattr(model, "text_model")
    wanted = {}
    for name, tensor in weights.items():
        bare = name.removeprefix("text_model.")
        if bare.endswith("position_ids"):
            continue
        outer = bare.startswith("text_projection")
        wanted[f"text_model.{bare}" if wrapped and not outer else bare] = tensor
    if "text_projection.weight" not in model.state_dict():
        wanted.pop("text_projection.weight", None)
    return wanted


def _flux(file: Path, heads: Mapping[str, Tensor], config: Path, scratch: Path) -> int:
    """Write FLUX's transformer and T5 of a file; returns how many numbers they have."""
    if not (config / "tokenizer_2" / "tokenizer.json").is_file():
        message = f"{config} has no tokenizer of T5 (tokenizer_2/tokenizer.json)"
        raise ConvertError(message)
    with torch.device("meta"):
        network = diffusers.FluxTransformer2DModel.from_config(_json(config, "transformer"))
        settings = transformers.T5Config.from_pretrained(config / "text_encoder_2")
        text = transformers.T5EncoderModel(settings)
    parts = flux_file.parts(network, text, heads)
    for part in parts:
        flux_file.compare(part, heads)
    network.save_config(scratch / "transformer")
    text.config.dtype = torch.bfloat16
    text.config.save_pretrained(scratch / "text_encoder_2")
    return sum(flux_file.write(part, file, scratch) for part in parts)


def _small_parts(file: Path, config: Path) -> dict[str, Any]:
    """Return FLUX's autoencoder and CLIP of a file by their folders, in bfloat16."""
    with torch.device("meta"):
        vae = diffusers.AutoencoderKL.from_config(_json(config, "vae"))
        settings = transformers.CLIPTextConfig.from_pretrained(config / "text_encoder")
        text = transformers.CLIPTextModel(settings)
    own = _read(file, flux_layouts.VAE)
    weights = mapping.convert_ldm_vae_checkpoint(dict(own), vae.config)
    used = {tensor.data_ptr() for tensor in weights.values()}
    if more := sorted(name for name, tensor in own.items() if tensor.data_ptr() not in used):
        message = f"the autoencoder has more than its family: {more[0]}"
        raise ConvertError(message)
    parts = {"vae": _filled(vae, weights, "autoencoder", torch.bfloat16)}
    own = _read(file, flux_layouts.CLIP)
    weights = {name.removeprefix(flux_layouts.CLIP): tensor for name, tensor in own.items()}
    weights = _text_weights(text, weights)
    parts["text_encoder"] = _filled(text, weights, "text_encoder", torch.bfloat16)
    return parts


def _read(file: Path, prefix: str) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt") as opened:
        names = [name for name in opened.keys() if name.startswith(prefix)]  # noqa: SIM118
        return {name: opened.get_tensor(name) for name in names}


def _filled(
    model: Any,
    weights: dict[str, torch.Tensor],
    what: str,
    dtype: torch.dtype = torch.float16,
) -> Any:
    """Return a model with all its weights in half precision; raises LayoutError."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    layouts.compare(what, shapes, {name: tensor.shape for name, tensor in weights.items()})
    # Popped, so that both types of all weights are never in memory at once.
    half = {name: layouts.halved(weights.pop(name), dtype, what, name) for name in shapes}
    model.load_state_dict(half, strict=True, assign=True)
    return model.eval()


@contextmanager
def _alone(target: Path) -> Iterator[Path]:
    """Give an empty folder beside a directory to be, which nobody else writes; it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.part")
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another run is making {target}"
            raise ConvertError(message) from None
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _settle(folder: Path) -> None:
    """Bring all files to the disk, so that the rename never shows half of one after a crash.

    safetensors writes files for their owner alone. On a volume a worker may have another user.
    """
    for file in [*folder.rglob("*"), folder]:
        file.chmod(0o755 if file.is_dir() else 0o644)
        number = os.open(file, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def main() -> None:
    """Convert the file that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m gpu_worker.convert", description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--baseline", default="", help="the Horde's name of its family")
    parser.add_argument("--config", type=Path, help="a diffusers directory of the same shape")
    parser.add_argument("--tokenizer", type=Path, help="a directory with T5's, for FLUX")
    args = parser.parse_args()
    more = {"config": args.config, "tokenizer": args.tokenizer}
    try:
        found = convert(args.checkpoint, args.directory, baseline=args.baseline, **more)
    except ConvertError as error:
        sys.exit(f"gpu_worker.convert: {error}")
    print(f"{args.directory}: {found.baseline}, {found.parameters / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main()
