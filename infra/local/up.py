"""``make up``: Horde Commons on this machine, until Ctrl-C. ``PORT=8080`` by default.

``VOLUME=folder`` draws with those models of ``settings/<stage>.json`` whose files are in a folder
that becomes a network volume, all by one worker, instead of the demo's model.
"""

import os
import signal
import sys
import time
from pathlib import Path

from infra.local.local_cloud import LocalCloud, run
from infra.local.processes import LocalCloudError, say
from infra.models import ModelSettings
from infra.operate import account_commands, model_commands
from infra.operate.models_file import ModelsError
from infra.stages import SettingsError, default_stage

PORT = 8080
GRANT = 10_000
LIST = """.venv/bin/python -c 'import boto3
for row in boto3.client("s3", "us-east-1").list_objects_v2(Bucket="{bucket}").get("Contents", []):
    print(row["Key"])'"""
TRY = """
Any Horde client works with {url}/api. By hand, in another terminal of this folder:

  API={url}/api KEY={key} JSON='Content-Type: application/json'

  # an account of your own; and what this key's account has
  curl -sw '\\n' $API/register -H "$JSON" -d '{{"username": "me"}}'
  curl -sw '\\n' $API/v2/find_user -H "apikey: $KEY"

  # what it would cost; then the request, its state, and its images
  BODY='"prompt": "a blue car", "shared": true, "params": {{"steps": 12, "n": 2}}'
  curl -sw '\\n' $API/v2/generate/async -H "apikey: $KEY" -H "$JSON" \\
    -d "{{$BODY, \\"dry_run\\": true}}"
  ID=$(curl -s $API/v2/generate/async -H "apikey: $KEY" -H "$JSON" -d "{{$BODY}}" | cut -d'"' -f4)
  curl -sw '\\n' $API/v2/generate/check/$ID
  curl -sw '\\n' $API/v2/generate/status/$ID

  # anonymous text-to-image is always shared, and the answer says so
  curl -sw '\\n' $API/v2/generate/async -H 'apikey: 0000000000' -H "$JSON" \\
    -d '{{"prompt": "a fox in the snow"}}'

  # what no endpoint draws waits for a volunteer; cancelled, it is refunded
  BODY='"prompt": "a fox", "models": ["volunteers_only"]'
  ID=$(curl -s $API/v2/generate/async -H "apikey: $KEY" -H "$JSON" -d "{{$BODY}}" | cut -d'"' -f4)
  curl -sw '\\n' -X DELETE $API/v2/generate/status/$ID

  # all mistakes at once, as JSON
  BODY='"prompt": 7, "params": {{"width": 100, "steps": "many"}}'
  curl -sw '\\n' $API/v2/generate/async -H "apikey: $KEY" -H "$JSON" -d "{{$BODY}}"

  # the operator's command, the shared images, the logs
  export AWS_ENDPOINT_URL={endpoint} AWS_REGION=us-east-1
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
  bin/operator --stage local grant '{username}' 500
  {laion}
  ls {logs}
"""


def wanted_port() -> int:
    """Return PORT; raises LocalCloudError where it is no port."""
    text = os.environ.get("PORT") or str(PORT)
    if not text.isdecimal() or not 0 < int(text) < 2**16:
        message = f"PORT={text} is not a port"
        raise LocalCloudError(message)
    return int(text)


def wanted_models() -> dict[str, tuple[ModelSettings, Path]]:
    """Return the models of VOLUME, none without it; raises LocalCloudError if it has none."""
    volume = os.environ.get("VOLUME")
    if not volume:
        return {}
    try:
        return model_commands.on_this_machine(default_stage(), Path(volume))
    except (ModelsError, SettingsError) as error:
        raise LocalCloudError(str(error)) from None


def main() -> int:
    """Serve until a signal."""
    auth = os.environ.get("AUTH", "0") not in {"", "0"}
    with LocalCloud("up", port=wanted_port(), auth=auth, models=wanted_models()) as cloud:
        user, key = account_commands.register(cloud.store, "local")
        user = account_commands.grant(cloud.store, user.username, GRANT)
        text = TRY.format(
            url=cloud.url,
            key=key,
            username=user.username,
            endpoint=cloud.endpoint,
            laion=LIST.format(bucket=cloud.outputs["LaionBucket"]),
            logs=os.path.relpath(cloud.folder / "logs"),
        )
        print(text, flush=True)
        say("serving; Ctrl-C ends it")
        while not (dead := cloud.dead()):
            time.sleep(1)
        message = f"{dead.name} has ended with {dead.process.returncode}"
        raise LocalCloudError(message, dead.log)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: PORT=8080 python -m infra.local.up")
    # Ctrl-C is the ordinary end here.
    run(main, ordinary=signal.SIGINT)
