"""The CDK app. Synth is a pure function of settings and sources: no AWS call, git or network."""

import json
import os
import sys
from typing import TYPE_CHECKING

from infra.stages import ROOT, SettingsError, read, stack_of
from layers.build import BUILD, TARGETS, functions
from layers.bytecode import BuildError

if TYPE_CHECKING:
    from aws_cdk import App

    from infra.settings import StackSettings
    from infra.stack import HordeCommonsStack


def build(app: "App", stage: str, settings: "StackSettings") -> "HordeCommonsStack":
    """Add a stage's stack to an app."""
    from aws_cdk import CliCredentialsStackSynthesizer, Environment, StackProps  # noqa: PLC0415

    from infra.stack import HordeCommonsStack  # noqa: PLC0415

    # The local cloud's IAM does not know the condition on which the default synthesizer's
    # publishing role rests: with an endpoint of its own, publish as the caller.
    local = settings.endpoint_url is not None
    props = StackProps(
        synthesizer=CliCredentialsStackSynthesizer() if local else None,
        env=Environment(region="us-east-1", account="000000000000") if local else None,
    )
    return HordeCommonsStack(app, stack_of(stage), settings=settings, props=props)


def refresh(settings: "StackSettings") -> None:
    """Build the functions anew if their sources changed, so that no old ones are deployed."""
    folder = ROOT / settings.functions
    if folder.parent == BUILD / "functions" and folder.name in TARGETS:
        try:
            functions(folder.name)
        except BuildError as error:
            sys.exit(str(error))


def main() -> None:
    """Synthesize the stage that the CDK's context names; exit with one line if it is refused."""
    # Read the settings before importing the CDK, which takes seconds, so that refusals are fast.
    try:
        stage, settings = read(json.loads(os.environ.get("CDK_CONTEXT_JSON", "{}")))
    except SettingsError as error:
        sys.exit(str(error))
    refresh(settings)
    from aws_cdk import App  # noqa: PLC0415

    app = App()
    build(app, stage, settings)
    app.synth()


if __name__ == "__main__":
    main()
