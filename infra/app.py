"""The CDK app. Synth is a pure function of the context: no AWS call, no git, no network."""

from aws_cdk import App, CliCredentialsStackSynthesizer, Environment, StackProps

from infra.settings import StackSettings
from infra.stack import HordeCommonsStack

STACK = "HordeCommons"


def build(app: App) -> HordeCommonsStack:
    """Add the stack to an app."""
    settings = StackSettings.of(app)
    # The local cloud's IAM does not know the condition on which the default synthesizer's
    # publishing role rests (local-cloud.md): with an own endpoint, publish as the caller.
    synthesizer = CliCredentialsStackSynthesizer() if settings.endpoint_url else None
    env = Environment(region="us-east-1", account="000000000000") if settings.endpoint_url else None
    return HordeCommonsStack(
        app, STACK, settings=settings, props=StackProps(synthesizer=synthesizer, env=env)
    )


if __name__ == "__main__":
    app = App()
    build(app)
    app.synth()
