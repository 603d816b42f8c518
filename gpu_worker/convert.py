"""`python -m gpu_worker.convert CHECKPOINT DIR`: make a directory for the worker of a single file.

The file is a checkpoint of Stable Diffusion 1, 2 or XL as it is shared: one safetensors file with
UNet, autoencoder and text encoders. Every tensor is accounted for, must be finite in half precision
and have the shape of its family. The directory appears whole or not at all. Nothing is downloaded
but CLIP's vocabulary, once. `bin/operator model add` does the same and writes the table.
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
from safetensors.torch import load_file

from gpu_worker import layouts, model_files, vocabulary
from gpu_worker.layouts import LARGE, SD2, UNET_PREFIX, VAE_PREFIX, LayoutError
from gpu_worker.model_files import ModelError
from gpu_worker.model_table import SOURCE
from gpu_worker.tensor_files import TensorFileError, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

diffusers: Any = import_module("diffusers")
transformers: Any = import_module("transformers")
mapping: Any = import_module("diffusers.loaders.single_file_utils")

transformers.logging.disable_progress_bar()

PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"PK\x03\x04")
"""How files of `torch.save` begin."""
COPIED = ("model_index.json", "horde.json", "scheduler", "tokenizer", "tokenizer_2")
V_PREDICTION = "v_pred"
"""A tensor that only marks checkpoints of XL that predict the velocity."""
SHOWN = 3
"""Names of tensors that a message lists."""


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
    file: Path, target: Path, *, baseline: str = "", config: Path | None = None
) -> Converted:
    """Write a checkpoint to a directory, unless that is what the directory was made of.

    `config` is a diffusers directory whose configuration and tokenizers are taken, for models that
    are not their family's usual size. Raises ConvertError; then there is no directory.
    """
    try:
        with _alone(target) as scratch:
            sha256 = digest(file)
            if target.exists():
                return _found(target, sha256)
            found = _convert(file, scratch, baseline, config, sha256)
            _sync(scratch)
            scratch.chmod(0o755)
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
    file: Path, scratch: Path, baseline: str, config: Path | None, sha256: str
) -> Converted:
    with file.open("rb") as opened:
        if opened.read(4).startswith(PICKLES):
            message = f"{file.name} is a pickle, and loading it runs code: take a safetensors file"
            raise ConvertError(message)
    heads = tensors(file)
    family, channels = layouts.family_of(heads)
    baseline = _baseline(family, baseline)
    needed = 2 * sum(head.count for head in heads.values())
    if (free := shutil.disk_usage(scratch.parent).free) < needed:
        message = f"{needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} are free"
        raise ConvertError(message)
    with tempfile.TemporaryDirectory() as made:
        if config is None:
            vocabulary.fetch()
            velocity = V_PREDICTION in heads
            layouts.write(Path(made), baseline, channels=channels, velocity=velocity)
        parts = _loaded(load_file(file), family, config or Path(made))
        for name in COPIED:
            one = (config or Path(made)) / name
            if one.is_dir():
                shutil.copytree(one, scratch / name)
            elif one.exists():
                shutil.copy(one, scratch / name)
    for name, part in parts.items():
        part.save_pretrained(scratch / name)
    model_files.read(scratch)
    unet, vae = parts["unet"].config, parts["vae"].config
    found = Converted(
        baseline=baseline,
        sha256=sha256,
        parameters=sum(one.numel() for part in parts.values() for one in part.parameters()),
        native_size=int(unet.sample_size) * 2 ** (len(vae.block_out_channels) - 1),
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


def _loaded(checkpoint: dict[str, torch.Tensor], family: str, config: Path) -> dict[str, Any]:
    """Return the models of a checkpoint by their folders, in half precision."""
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


def _filled(model: Any, weights: dict[str, torch.Tensor], what: str) -> Any:
    """Return a model with all its weights in half precision; raises ConvertError."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for problem, names in (
        ("lacks", shapes.keys() - weights.keys()),
        ("has more than its family:", weights.keys() - shapes.keys()),
        (
            "has other shapes than its family:",
            {name for name in shapes if name in weights and weights[name].shape != shapes[name]},
        ),
    ):
        if names:
            shown = ", ".join(sorted(names)[:SHOWN])
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            message = f"the {what} {problem} {shown}{more}"
            raise ConvertError(message)
    half = {}
    for name in shapes:
        tensor = weights.pop(name).to(torch.float16).contiguous()
        if not torch.isfinite(tensor).all():
            message = f"the {what} is damaged: {name} is not finite in half precision"
            raise ConvertError(message)
        half[name] = tensor
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


def _sync(folder: Path) -> None:
    """Bring all files to the disk, so that the rename never shows half of one after a crash."""
    for file in [*folder.rglob("*"), folder]:
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
    args = parser.parse_args()
    try:
        found = convert(args.checkpoint, args.directory, baseline=args.baseline, config=args.config)
    except ConvertError as error:
        sys.exit(f"gpu_worker.convert: {error}")
    print(f"{args.directory}: {found.baseline}, {found.parameters / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main()
