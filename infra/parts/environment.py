"""The operator's settings as environment variables of the Lambdas."""

import json

from aws_cdk import aws_s3 as s3

from infra.models import FOR_THE_WORKER
from infra.settings import MAX_VARIABLE, StackSettings
from layers.build import IN_LAYER

MODELS_FILE = "models.json"


def api_env(settings: StackSettings) -> dict[str, str]:
    """Return the environment of every function behind the API."""
    return {
        "RATE_LIMITS": json.dumps(settings.rate_limits),
        "TRUSTED_IPS": ",".join(settings.trusted_ips),
        "ADMINS": ",".join(map(str, settings.admins)),
    }


def worker_env(settings: StackSettings) -> dict[str, str]:
    """Return the environment of the function that workers call."""
    return {"ACCOUNT_KEYS_POP": json.dumps(settings.account_keys_pop)}


def models_env(settings: StackSettings) -> dict[str, str]:
    """Return the environment of a function that needs the operator's models.

    A table that is too long for an environment is a file of a layer (``Functions.make``).
    """
    text = models_table(settings)
    short = len(text.encode()) <= MAX_VARIABLE or settings.endpoint_url is not None
    return {"MODELS": text if short else f"{IN_LAYER}/{MODELS_FILE}"}


def models_table(settings: StackSettings) -> str:
    """Return what the functions read of the table of models, as JSON.

    The order of the file is kept: a request that names no model gets the first one.
    """
    models = {
        name: model.model_dump(exclude_defaults=True, exclude=set(FOR_THE_WORKER))
        | {"endpoint": model.endpoint}
        for name, model in settings.models.items()
    }
    return json.dumps(models, separators=(",", ":"))


def runpod_env(settings: StackSettings) -> dict[str, str]:
    """Return the environment of a function that sends tickets."""
    return {
        "RUNPOD_URL": settings.runpod_url,
        "RUNPOD_KEY_PARAMETER": settings.runpod_key_parameter,
        "IMAGES_PER_TICKET": str(settings.images_per_ticket),
        "COLD_START_SECONDS": str(settings.cold_start_seconds),
        "MAX_WAIT_SECONDS": str(settings.max_wait_seconds),
    }


def holding_env(settings: StackSettings, held: s3.IBucket) -> dict[str, str]:
    """Return the environment of the function that holds images back."""
    return {
        "HOLD_VOLUNTEERS": json.dumps(settings.hold_volunteers),
        "HELD_BUCKET": held.bucket_name,
    }


def screening_env(settings: StackSettings) -> dict[str, str]:
    """Return the environment of the function that screens images before their publication."""
    return {
        "DETECTOR": settings.detector,
        "NSFW_THRESHOLD": str(settings.nsfw_threshold),
        "SCREENING_WORDS": json.dumps(settings.screening_words),
        "AESTHETIC_SCORER": settings.aesthetic_scorer or "",
    }


def sweep_env(settings: StackSettings) -> dict[str, str]:
    """Return the environment of the function that trusts volunteers and looks after endpoints."""
    needed = settings.trusted_after_images
    return {
        "TRUSTED_AFTER_IMAGES": "" if needed is None else str(needed),
        "RUNPOD_MANAGEMENT_URL": settings.runpod_management_url or "",
    }
