"""The table of models, and the files that a worker loads of each.

    bin/operator model add 'Dreamer' --file dreamer.safetensors --volume volume --license MIT

makes ``volume/models/dreamer`` and writes the model to ``models`` in ``settings/<stage>.json``.
What is in the folder ``volume`` goes to the network volume of the endpoint, which its workers see
as ``/runpod-volume``. ``model env`` then prints the variable ``MODELS`` of the endpoint.
"""

import argparse
import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_worker import model_files, model_table, tensor_files
from gpu_worker.model_files import ModelError
from gpu_worker.model_table import SOURCE
from gpu_worker.tensor_files import TensorFileError
from infra.models import BASELINES, ModelSettings
from infra.operate.controlnets import control_problems, with_controls
from infra.operate.models_file import (
    ModelsError,
    line,
    listed,
    settings_file,
    worker_table,
    written,
)
from infra.settings import StackSettings
from infra.stages import ROOT, load

MOUNT = "/runpod-volume"
"""Where RunPod's workers see a network volume."""
HUB_CACHE = "huggingface-cache/hub"
"""The hub's cache on it."""
DRAWING_GB = 3.0
"""Memory for drawing, beside the weights, in the first guess of what a model needs."""
PROMPT, STEPS, SEED = "a red apple", 20, 1
"""Of the picture that ``--draw`` draws."""


# --- files ---------------------------------------------------------------------------------------


def folder_of(name: str) -> str:
    """Return the name of a model's folder; raises ModelsError if none can be made of its name."""
    folder = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")[:80]
    if not folder:
        message = f"no folder can be named after {name!r}"
        raise ModelsError(message)
    return folder


def on_volume(source: str, revision: str, volume: Path) -> Path:
    """Return where a model's files are in our copy of the volume; raises ModelsError."""
    model = model_table.Model(name="", source=source, revision=revision)
    if not source.startswith("/"):
        try:
            return model.directory(volume / HUB_CACHE)
        except ModelError as error:
            raise ModelsError(str(error)) from None
    inside = Path(source)
    if not inside.is_relative_to(MOUNT) or ".." in inside.parts:
        message = f"{source} is not on the volume, {MOUNT}"
        raise ModelsError(message)
    return volume / inside.relative_to(MOUNT)


def problems(name: str, one: ModelSettings, directory: Path) -> Iterator[str]:
    """Yield what is wrong with a model's files, each in one sentence."""
    try:
        model_files.read(directory)
        for file in sorted(directory.glob("*/*.safetensors")):
            tensor_files.tensors(file)
    except (ModelError, TensorFileError, OSError) as error:
        yield f"{name!r}: {str(error).replace('MODEL_DIR', str(directory))}"
        return
    side = native_size(directory)
    if one.native_size and side != one.native_size:
        yield f"{name!r}: its images are {side} pixels wide, not {one.native_size}"
    noted = directory / SOURCE
    if one.sha256 and noted.exists() and model_files.config(noted).get("sha256") != one.sha256:
        yield f"{name!r}: {directory} was made of another file than the table's sha256 says"


def native_size(directory: Path) -> int:
    """Return the side in pixels of the images that a model was trained on; 0 if it says none."""
    own = model_files.config(directory / "horde.json").get("native_size")
    if isinstance(own, int):
        return own
    unet, vae = (model_files.config(directory / part / "config.json") for part in ("unet", "vae"))
    if not unet:  # a transformer says no size, and its autoencoder counts in pixels
        side = vae.get("sample_size")
        return side if isinstance(side, int) else 0
    blocks = vae.get("block_out_channels")
    side = unet.get("sample_size")
    if not isinstance(side, int) or not isinstance(blocks, list):
        return 0
    return int(side * 2 ** (len(blocks) - 1))


def memory_gb(parameters: int) -> float:
    """Return a first guess of the memory that a model needs, in GB, from its parameters."""
    return round(2 * parameters / 1e9 + DRAWING_GB, 1)


# --- the commands --------------------------------------------------------------------------------


def add(options: argparse.Namespace) -> str:
    """Add a model to the table, and make its files if it is a single one; returns what to print.

    Raises ModelsError, SettingsError. The same twice changes nothing.
    """
    file, name = settings_file(options.stage), options.name
    before = load(file).models.get(name)
    entry = dict(before.model_dump(exclude_defaults=True) if before else {})
    found, directory = _source(options)
    if before and before.source and before.source != found["source"]:
        message = f"{name!r} is in the table already, with {before.source}: remove it first"
        raise ModelsError(message)
    given = {
        "endpoint": options.endpoint,
        "baseline": options.baseline,
        "license": options.license,
        "sha256": options.sha256,
        "memory_gb": options.memory_gb,
        "max_pixels": options.max_pixels,
        "controlnets": options.controlnets,
    }
    entry = {"endpoint": None, **entry, **found}
    entry |= {key: value for key, value in given.items() if value is not None}
    if "baseline" not in entry:
        message = "--baseline is missing: a checkpoint alone tells its family by itself"
        raise ModelsError(message)
    if directory and (wrong := list(problems(name, ModelSettings(**entry), directory))):
        raise ModelsError(wrong[0])
    if directory and options.controlnets:
        controls = on_volume(options.controlnets, "", options.volume)
        entry["features"] = with_controls(name, ModelSettings(**entry), directory, controls)
    if options.draw:
        if directory is None:
            message = "--draw needs --volume, where the files are"
            raise ModelsError(message)
        drawn(directory, options.draw)
    entry = {key: entry[key] for key in ModelSettings.model_fields if key in entry}
    settings = written(file, {name: entry})
    return "\n".join(
        [
            f"{name} is in {file.relative_to(ROOT)}: {line(entry)}",
            *_next_steps(settings, name, options.volume),
        ]
    )


def _source(options: argparse.Namespace) -> tuple[dict[str, Any], Path | None]:
    """Return what an entry says of a model's files, and where they are here, if they are."""
    if options.file:
        if not options.volume:
            message = "--file needs --volume, the folder that becomes the network volume"
            raise ModelsError(message)
        folder = folder_of(options.name)
        directory = options.volume / "models" / folder
        more = {"config": options.config, "tokenizer": options.tokenizer}
        made = converted(options.file, directory, options.baseline or "", **more)
        return {
            "source": f"{MOUNT}/models/{folder}",
            "baseline": made.baseline,
            "sha256": made.sha256,
            "memory_gb": memory_gb(made.parameters),
            "native_size": made.native_size,
        }, directory
    if options.hub and not options.revision:
        message = "--hub needs --revision, the commit that is drawn"
        raise ModelsError(message)
    found: dict[str, Any] = {"source": options.hub or options.path}
    if options.hub:
        found["revision"] = options.revision
    if not options.volume:
        return found, None
    directory = on_volume(found["source"], options.revision or "", options.volume)
    if directory.is_dir():
        found["memory_gb"] = memory_gb(tensor_files.parameters(directory))
        found["native_size"] = native_size(directory) or None
    return found, directory


def converted(file: Path, directory: Path, baseline: str, **more: Path | None) -> Any:
    """Convert a checkpoint; see ``gpu_worker.convert``. Raises ModelsError."""
    convert = _worker_module("convert")
    try:
        return convert.convert(file, directory, baseline=baseline, **more)
    except convert.ConvertError as error:
        raise ModelsError(str(error)) from None


def drawn(directory: Path, picture: Path) -> None:
    """Draw an image with a model's files, as a worker does, into a PNG file; raises ModelsError."""
    pipeline, grid, settings = map(_worker_module, ("pipeline", "grid", "settings"))
    try:
        made = pipeline.Pipeline(
            settings.Settings(
                horde_url="", horde_api_key="", worker_name="", model_dir=directory, max_batch=1
            )
        )
        (image,) = made.draw([grid.job(PROMPT, SEED, made.native_size, STEPS)])
    except (ModelError, MemoryError, RuntimeError) as error:
        what = str(error).replace("MODEL_DIR", str(directory)) or type(error).__name__
        message = f"nothing can be drawn: {what}"
        raise ModelsError(message) from None
    image.save(picture)


def _worker_module(name: str) -> Any:
    try:
        return importlib.import_module(f"gpu_worker.{name}")
    except ImportError as error:
        message = (
            f"the worker's packages are not here ({error.name}): run 'make setup', or 'python -m "
            "gpu_worker.convert' in the worker's image and then 'model add --path'"
        )
        raise ModelsError(message) from None


def _next_steps(settings: StackSettings, name: str, volume: Path | None) -> Iterator[str]:
    one = settings.models[name]
    if one.endpoint is None:
        yield "no endpoint draws it yet: --endpoint names one"
        return
    if volume and one.source.startswith(MOUNT):
        yield f"next: copy {volume}/ to the network volume of endpoint {one.endpoint}"
    if not one.source.startswith("/"):
        yield f"next: set {one.source} as the cached model of endpoint {one.endpoint}"
    yield f"next: set MODELS of endpoint {one.endpoint}; bin/operator model env {one.endpoint}"
    yield "next: make deploy"


def on_this_machine(stage: str, volume: Path) -> dict[str, tuple[ModelSettings, Path]]:
    """Return the models of a stage whose files are in our copy of the volume, and where.

    Raises ModelsError if there is none, or if files are wrong; SettingsError.
    """
    found = {}
    for name, one in load(settings_file(stage)).models.items():
        wrong, directory = _checked(name, one, volume)
        if directory and directory.is_dir():
            if wrong:
                raise ModelsError(wrong[0])
            if one.controlnets:
                here = str(on_volume(one.controlnets, "", volume).resolve())
                one = one.model_copy(update={"controlnets": here})  # noqa: PLW2901
            found[name] = one, directory.resolve()
    if not found:
        message = f"{volume} has the files of no model of {settings_file(stage).name}"
        raise ModelsError(message)
    return found


def remove(options: argparse.Namespace) -> str:
    """Take a model out of the table, with its files if asked; returns what to print."""
    file, name = settings_file(options.stage), options.name
    models = load(file).models
    if name not in models:
        return f"{name} is not in {file.relative_to(ROOT)}"
    if len(models) == 1:
        message = f"{name!r} is the only model; a horde needs one"
        raise ModelsError(message)
    if options.files:
        if not options.volume:
            message = "--files needs --volume, where they are"
            raise ModelsError(message)
        directory = on_volume(models[name].source, models[name].revision, options.volume)
        if directory.exists() and not (directory / SOURCE).exists():
            message = f"{directory} was not made by this command: delete it yourself"
            raise ModelsError(message)
    written(file, {name: None})
    if options.files and directory.exists():
        gone = directory.with_name(f".{directory.name}.gone")
        shutil.rmtree(gone, ignore_errors=True)
        directory.rename(gone)
        shutil.rmtree(gone)
    return f"{name} is no longer in {file.relative_to(ROOT)}; 'make deploy' takes it from the API"


def check(options: argparse.Namespace) -> tuple[str, bool]:
    """Return what is wrong with the files of models, and whether nothing is; raises ModelsError."""
    models = load(settings_file(options.stage)).models
    if options.name and options.name not in models:
        message = f"{options.name!r} is not in the table"
        raise ModelsError(message)
    lines, good = list[str](), True
    for name, one in models.items():
        if options.name not in (None, name) or (not one.source and options.name is None):
            continue
        wrong, directory = _checked(name, one, options.volume)
        if options.draw and not wrong and directory:
            drawn(directory, options.draw)
        good = good and not wrong
        lines += wrong or [f"{name!r}: in order, {directory}"]
    return "\n".join(lines) or "no model of the table has a source", good


def _checked(name: str, one: ModelSettings, volume: Path) -> tuple[list[str], Path | None]:
    """Return what is wrong with a model's files, and where they are."""
    if not one.source:
        return [f"{name!r} has no source: nobody knows where its files are"], None
    try:
        directory = on_volume(one.source, one.revision, volume)
    except ModelsError as error:
        return [f"{name!r}: {error}"], None
    wrong = list(problems(name, one, directory))
    if one.controlnets and not wrong:
        try:
            folder = on_volume(one.controlnets, "", volume)
        except ModelsError as error:
            return [f"{name!r}: {error}"], directory
        wrong += control_problems(name, one, directory, folder)
    return wrong, directory


def run(options: argparse.Namespace) -> None:
    """Run a ``model`` command and print what it says; raises ModelsError, SettingsError."""
    if options.stack or options.table:
        message = "the table of models is that of a stage: --stage"
        raise ModelsError(message)
    try:
        match options.model_command:
            case "add":
                print(add(options))
            case "remove":
                print(remove(options))
            case "list":
                print(listed(load(settings_file(options.stage))))
            case "env":
                print(worker_table(load(settings_file(options.stage)), options.endpoint))
            case _:
                text, good = check(options)
                print(text)
                sys.exit(0 if good else 1)
    except OSError as error:
        message = f"{error.filename}: {error.strerror or type(error).__name__}"
        raise ModelsError(message) from None


def add_parser(commands: Any) -> None:
    """Add the commands to the command line."""
    top = commands.add_parser(
        "model",
        help="add, list, check and remove models; print MODELS for an endpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).add_subparsers(dest="model_command", required=True)
    parser: Any = top.add_parser("add", help="add a model, from a single file if need be")
    parser.add_argument("name", help="the Horde's name of the model")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--file", type=Path, help="a checkpoint: one safetensors file")
    which.add_argument("--hub", metavar="ORG/NAME", help="a model that the endpoint caches")
    which.add_argument("--path", help=f"a directory that is on the volume, {MOUNT}/...")
    parser.add_argument("--revision", metavar="SHA", help="the hub's commit, 40 digits")
    parser.add_argument("--baseline", choices=BASELINES, help="its family, if it does not say")
    parser.add_argument("--license", required=True, help="of its weights; an SPDX identifier")
    parser.add_argument("--endpoint", help="the id of the RunPod endpoint that draws it")
    parser.add_argument("--memory-gb", type=float, help="memory that it needs, if known")
    parser.add_argument("--max-pixels", type=int, help="the largest image, width x height")
    parser.add_argument(
        "--controlnets",
        metavar="PATH",
        help=f"its ControlNets, {MOUNT}/...; with --volume they are checked and become features",
    )
    parser.add_argument("--sha256", help="of its weights, if they are no single file")
    parser.add_argument("--config", type=Path, help="a diffusers directory of the same shape")
    parser.add_argument(
        "--tokenizer", type=Path, help="with --file: a directory with T5's, for FLUX"
    )
    parser.add_argument("--draw", type=Path, metavar="PNG", help="draw an image with it first")
    _volume(parser, required=False)
    parser = top.add_parser("list", help="print the table")
    parser = top.add_parser("env", help="print MODELS of an endpoint's workers")
    parser.add_argument("endpoint")
    parser = top.add_parser("check", help="check the files of one model, or of all")
    parser.add_argument("name", nargs="?")
    parser.add_argument("--draw", type=Path, metavar="PNG", help="draw an image with it")
    _volume(parser, required=True)
    parser = top.add_parser("remove", help="take a model out of the table")
    parser.add_argument("name")
    parser.add_argument("--files", action="store_true", help="delete its converted files as well")
    _volume(parser, required=False)


def _volume(parser: Any, *, required: bool) -> None:
    parser.add_argument(
        "--volume",
        type=Path,
        required=required,
        metavar="DIR",
        help=f"the folder here that the workers see as {MOUNT}",
    )
