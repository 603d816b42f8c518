"""A model's own ControlNets: whether they fit it, and the features that they make."""

import math
from collections.abc import Iterator
from pathlib import Path

from gpu_worker import control_files
from infra.models import ModelSettings
from infra.operate.models_file import ModelsError


def control_problems(name: str, one: ModelSettings, directory: Path, folder: Path) -> Iterator[str]:
    """Yield what is wrong with a model's own ControlNets, which are in ``folder``."""
    good, wrong = control_files.usable(directory, folder, math.inf, 2)
    for what in wrong:
        yield f"{name!r}: {what.replace('CONTROLNET_DIR', str(folder))}"
    for kind in one.features:
        if kind in control_files.TYPES and kind not in good and not wrong:
            yield f"{name!r}: its features say {kind}, and {folder} has none of that type"


def with_controls(name: str, one: ModelSettings, directory: Path, folder: Path) -> list[str]:
    """Return the features of a model with its ControlNets' types; raises ModelsError."""
    others = [feature for feature in one.features if feature not in control_files.TYPES]
    plain = one.model_copy(update={"features": others})
    if wrong := list(control_problems(name, plain, directory, folder)):
        raise ModelsError(wrong[0])
    return [*others, *control_files.types(folder)]
