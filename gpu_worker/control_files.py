"""Where the ControlNets of a model are, and whether they fit it: read before anything is loaded.

A model has those of its own entry in the table of models (`controlnets`), else those of
`CONTROLNET_DIR`: of its folder for the model's family (`stable_diffusion_1/canny`). A worker of
one model may have them in `CONTROLNET_DIR` itself (`canny`). Each is a `ControlNetModel` of
diffusers with safetensors. Standard library only.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gpu_worker import model_files, tensor_files
from gpu_worker.model_files import LATENTS, ModelError
from gpu_worker.tensor_files import TensorFileError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TYPES = ("canny", "hed", "depth", "normal", "openpose", "seg", "scribble", "fakescribbles", "hough")
"""The Horde's types."""
FAMILIES = ("stable_diffusion_1", "stable_diffusion_2", "stable_diffusion_xl")
"""The families of models that are drawn with ControlNets."""
SAME = (
    "cross_attention_dim",
    "block_out_channels",
    "down_block_types",
    "layers_per_block",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
)
"""What the configurations of a ControlNet and of its UNet agree in."""


def folder(root: Path | None, baseline: str, *, alone: bool) -> Path | None:
    """Return the folder of `CONTROLNET_DIR` for a family, or None if it has none.

    `alone` says that the worker has one model. Raises ModelError for a folder that is neither that
    of a family nor, for such a worker, of a control type; or if it cannot be read.
    """
    if root is None:
        return None
    names = {one.name for one in _folders(root)}
    families = names.intersection(FAMILIES)
    if alone and not families:
        return root
    if others := sorted(names - families):
        message = f"CONTROLNET_DIR: {others[0]!r} is no family of {', '.join(FAMILIES)}"
        raise ModelError(message)
    return root / baseline if baseline in names else None


def types(directory: Path) -> dict[str, Path]:
    """Return the folders of control types in a directory; raises ModelError for any other."""
    found = {one.name: one for one in _folders(directory)}
    for name in found:
        if name not in TYPES:
            message = f"CONTROLNET_DIR: {name!r} is no control type of {', '.join(TYPES)}"
            raise ModelError(message)
    return found


def is_drawn(kind: str) -> bool:
    """Return whether models of this pipeline class are drawn with ControlNets."""
    return kind.startswith("StableDiffusion") and "Inpaint" not in kind


def refuse_others(kind: str) -> None:
    """Raise ModelError unless models of this pipeline class are drawn with ControlNets."""
    if not is_drawn(kind):
        message = "CONTROLNET_DIR: FLUX, Z-Image and inpainting checkpoints have no ControlNet here"
        raise ModelError(message)


def usable(model: Path, directory: Path, most_bytes: float, parameter: int) -> tuple[
    dict[str, Path], list[str]
]:  # fmt: skip
    """Return the ControlNets in a directory that fit a model, and what is wrong with the others.

    `model` is the directory of the model. `most_bytes` is the memory that one may take, at
    `parameter` bytes for each of its numbers.
    """
    try:
        kind = model_files.read(model).kind
        refuse_others(kind)
        found = types(directory)
    except ModelError as error:
        return {}, [str(error)]
    unet, vae = (model_files.config(model / part / "config.json") for part in ("unet", "vae"))
    scale = 2 ** (len(vae.get("block_out_channels", ())) - 1)
    good, wrong = {}, []
    for name, one in found.items():
        try:
            check(one, name, unet, scale)
            for file in one.glob("*.safetensors"):
                tensor_files.tensors(file)
        except ModelError as error:
            wrong.append(str(error))
        except (TensorFileError, OSError) as error:
            wrong.append(f"the ControlNet {name} in CONTROLNET_DIR cannot be loaded: {error}")
        else:
            need = tensor_files.parameters_of(one) * parameter
            if need <= most_bytes:
                good[name] = one
            else:
                gb, left = need / 1e9, max(0.0, most_bytes / 1e9)
                why = f"needs {gb:.1f} GB beside the model, and the device has {left:.1f}"
                wrong.append(f"the ControlNet {name} {why}")
    return good, wrong


def check(directory: Path, kind: str, unet: Mapping[str, Any], scale: int) -> str | None:
    """Return the variant of the weights' names; raises ModelError if they do not fit the model.

    `unet` is the configuration of the model's UNet, `scale` the pixels of a latent's side.
    """

    def refuse(why: str) -> ModelError:
        return ModelError(f"the ControlNet {kind} in CONTROLNET_DIR {why}")

    found = _json(directory / "config.json", refuse("has no readable config.json"))
    if found.get("_class_name") != "ControlNetModel":
        raise refuse("is no ControlNetModel of diffusers")
    for name in SAME:
        if _plain(found.get(name)) != _plain(unet.get(name)):
            why = f"does not fit the model: their {name} differ"
            raise refuse(why)
    taken = found.get("in_channels", 4), found.get("conditioning_channels", 3)
    if taken != (unet.get("in_channels", LATENTS), 3):
        raise refuse("does not fit the model: it takes other channels")
    steps = found.get("conditioning_embedding_out_channels")
    if not isinstance(steps, list) or 2 ** (len(steps) - 1) != scale:
        raise refuse("does not fit the model: it reads maps in another scale")
    files = [one.name for one in directory.iterdir() if one.stat().st_size]
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights:
        raise refuse("has no weights as safetensors; other formats run code")
    return "fp16" if all(".fp16." in name for name in weights) else None


def _folders(directory: Path) -> list[Path]:
    try:
        return sorted(one for one in directory.iterdir() if one.is_dir())
    except OSError as error:
        message = f"CONTROLNET_DIR cannot be read: {error.strerror}"
        raise ModelError(message) from None


def _json(file: Path, error: ModelError) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        raise error from None
    return found if isinstance(found, dict) else {}


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else value
