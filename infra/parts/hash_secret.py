"""The secret of the keyed hashes (``horde.rules.hashes``)."""

from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_secretsmanager as secretsmanager
from constructs import Construct


class HashSecret(Construct):
    """A random secret that CloudFormation makes: no person and no configuration holds it.

    ``Id`` is its ARN here and in the local cloud, whose ``Ref`` is its name.
    """

    def __init__(self, scope: Construct, name: str) -> None:
        super().__init__(scope, name)
        random = secretsmanager.CfnSecret.GenerateSecretStringProperty(
            password_length=64, exclude_punctuation=True
        )
        self._arn = secretsmanager.CfnSecret(
            self,
            "Secret",
            description="Key of the hashes of requests in the data set and of callers' addresses",
            generate_secret_string=random,
        ).attr_id
        self.env = {"HASH_SECRET": self._arn}
        """The environment of a function that makes such hashes."""

    def allow(self, *functions: lambda_.Function) -> None:
        """Let functions read the secret."""
        for function in functions:
            function.add_to_role_policy(
                iam.PolicyStatement(
                    actions=["secretsmanager:GetSecretValue"], resources=[self._arn]
                )
            )
