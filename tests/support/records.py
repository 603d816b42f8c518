"""Doubles nothing: a usual request, its image and a worker, for tests of pure rules."""

from typing import Any

from horde.records import NO_STATS, Generation, Request, State, User, Worker, WorkerContext
from tests.support.numbers import FLOOR, PRICE, REWARD, TAX

PAYLOAD = {
    "prompt": "a fox",
    "ddim_steps": 30,
    "sampler_name": "k_euler_a",
    "cfg_scale": 5.0,
    "width": 512,
    "height": 512,
    "karras": True,
    "tiling": False,
    "hires_fix": False,
    "clip_skip": 1,
}
"""What a worker needs to draw it."""
REQUEST = Request(
    id="r",
    user_id=1,
    created_at=0,
    expires_at=1000,
    model="m",
    n=3,
    generations=["a", "b", "c"],
    payload={},
    price=PRICE,
    tax=TAX,
    reward=REWARD,
    share_reason="",
)
IMAGE = Generation(
    id="a",
    request_id="r",
    index=0,
    seed=1,
    state=State.WAITING,
    model="m",
    priority=0,
    created_at=0,
    batch_key="k",
    pixels=64 * 64,
    ttl=150,
    user_id=1,
    slow_workers=True,
)
DELIVERY: dict[str, Any] = {
    "state": State.OK,
    "seed": 1,
    "gen_metadata": [],
    "sha256": "0" * 64,
    "size": 4711,
}
"""What a settlement records of a delivered image."""
OWNER = User(id=7, alias="owner", kudos=FLOOR, floor=FLOOR, created_at=0)
WORKER = Worker(id="w", name="w", user_id=OWNER.id, created_at=0, seen_at=0, gone_at=0)
CONTEXT = WorkerContext(worker=WORKER, stats=NO_STATS, owner=OWNER)
"""A worker that has drawn nothing yet, of somebody who is not trusted."""
