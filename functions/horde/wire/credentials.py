"""The credentials of a function: its environment's, or what botocore finds.

A function that starts from a snapshot has an endpoint for them, since keys in its environment would
expire. Botocore asks it, and replaces them before they end; its import is in the snapshot.
"""

import os
from collections.abc import Callable
from typing import Any

from horde.wire.seam import AwsError
from horde.wire.signing import Credentials


def find() -> Callable[[], Credentials]:
    """Return what gives the credentials of this process whenever a call is signed.

    Both raise AwsError.
    """
    env = os.environ
    access, secret = env.get("AWS_ACCESS_KEY_ID"), env.get("AWS_SECRET_ACCESS_KEY")
    if access and secret and "AWS_CREDENTIAL_EXPIRATION" not in env:
        token = env.get("AWS_SECURITY_TOKEN") or env.get("AWS_SESSION_TOKEN")
        fixed = Credentials(access, secret, token)
        return lambda: fixed

    import botocore.session  # noqa: PLC0415 - heavy, and most functions need none
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    session = botocore.session.Session()

    def renewed() -> Credentials:
        try:
            found: Any = session.get_credentials()
            if found is None:
                raise AwsError("NoCredentials", "there are no credentials")
            return Credentials(*found.get_frozen_credentials()[:3])
        except (BotoCoreError, RuntimeError) as error:
            raise AwsError("CredentialRetrievalError", str(error)) from error

    return renewed
