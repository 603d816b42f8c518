"""moto's DynamoDB without HTTP between: a call takes a fifth of the time.

The other tests go through the SDK's whole path; here thousands of calls are made.
"""

import json
import pickle
from functools import cache
from typing import Any

from botocore import xform_name
from botocore.exceptions import ClientError
from moto.core.exceptions import JsonRESTError
from moto.core.responses import ActionResult
from moto.dynamodb.responses import DynamoHandler

from tests.support.cloud import ACCOUNT, REGION


@cache
def _method(operation: str) -> str:
    return xform_name(operation)


def dynamodb(operation: str, params: dict[str, Any]) -> Any:
    """Make one call; raises ClientError as the SDK does."""
    handler = DynamoHandler()
    handler.region, handler.current_account = REGION, ACCOUNT
    # moto keeps what it is given.
    handler.body = handler.params = pickle.loads(pickle.dumps(params))
    try:
        answer = getattr(handler, _method(operation))()
    except JsonRESTError as error:
        said = json.loads(error.description)
        code = said["__type"].rpartition("#")[2]
        told: Any = {
            "Error": {"Code": code, "Message": error.message},
            "ResponseMetadata": {"HTTPStatusCode": 400},
            "CancellationReasons": said.get("CancellationReasons", []),
        }
        raise ClientError(told, operation) from None
    assert isinstance(answer, ActionResult), operation
    found: Any = answer.result
    return found
