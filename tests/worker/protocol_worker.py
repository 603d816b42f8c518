"""A worker without the SDK: takes one job at a time and does what its input says."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from typing import Any


def call(url: str, data: Any = None) -> Any:
    body = None if data is None else json.dumps(data).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=300) as response:
        text = response.read()
        return json.loads(text) if text else None


def main() -> None:
    # The SDK's heartbeat: a child that does not end with its parent.
    subprocess.Popen(["sleep", "3000"])
    worker_id = os.environ["RUNPOD_POD_ID"]
    take = os.environ["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", worker_id)
    done = os.environ["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", worker_id)
    while True:
        job = call(take)
        if not job:
            continue
        task = job["input"]
        if task.get("die"):
            os._exit(1)
        if task.get("listen"):
            result = {"output": call(take.replace("/job-take/", "/job-stop/"))}
        else:
            time.sleep(task.get("sleep", 0))
            result = task.get("result", {"output": worker_id})
        call(done.replace("$ID", job["id"]) + "&isStream=false", result)


if __name__ == "__main__":
    main()
