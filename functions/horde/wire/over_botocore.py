"""Botocore's clients behind the seam: for the operator's tools, and as the way back."""

from typing import Any, TypeVar, cast

from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError

from horde.wire.seam import AwsError, Client, NoAnswerError

T = TypeVar("T")


def over(client: T) -> T:
    """Return a client that is called as botocore's, and raises the seam's errors."""
    return cast("T", BotocoreClient(client))


class BotocoreClient(Client):
    """A client of botocore or boto3 whose errors are the seam's."""

    def __init__(self, client: Any) -> None:
        self.botocore, self.service = client, client.meta.service_model.service_name
        self.generate_presigned_url = client.generate_presigned_url
        if self.service == "s3":
            self.generate_presigned_post = client.generate_presigned_post

    def call(self, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        """Make one call; raises AwsError."""
        try:
            answer: dict[str, Any] = getattr(self.botocore, xform_name(operation))(**params)
        except ClientError as error:
            raise _refusal(error) from error
        except BotoCoreError as error:
            raise NoAnswerError(str(error)) from error
        return answer


def _refusal(error: ClientError) -> AwsError:
    body: Any = error.response
    found, status = body.get("Error", {}), body.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return AwsError(
        found.get("Code", ""), found.get("Message", ""), status=status or 400, body=body
    )
