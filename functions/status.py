"""GET check and status, DELETE status, POST rate: a request's progress and its images.

No API key is needed: a request's UUID is the capability, as every client expects.

A cancel flags the request and then ends each waiting image in its own transaction. Crash window:
the request is flagged, but some images still wait. The flag also makes the request due, so the next
sweep ends and refunds them. An image that a worker claims meanwhile is delivered and charged.

A rating is checked as a whole before its one transaction.
"""

import base64
from typing import Any

from horde import aws, clock, ending, images, startup
from horde.edge import ratelimit
from horde.edge.bodies import RateRequest, parse
from horde.edge.http import ApiSettings, Call, Response, Route, prepare, serve
from horde.edge.ids import is_uuid
from horde.edge.responses import GeneratedImage, Rated, RequestCheck, RequestStatus, remarks_of
from horde.overview import chances, overview
from horde.records import DELIVERED, Generation, Request, State
from horde.rules import estimates, ratings, sharing
from horde.rules.lifecycle import Progress, expires_at, progress
from horde.rules.refusals import AestheticsError, Busy, RequestNotFound
from horde.runpod import Models
from horde.store import Store, connect

MAX_INLINE = 3_500_000
"""Most bytes of base64 images in one response; a Lambda returns at most 6 MB of JSON."""


class Settings(ApiSettings):
    """The names of this function's resources, and the operator's models."""

    table_name: str
    outputs_bucket: str
    models: Models


def check(call: Call) -> Response:
    """Return the progress of a request."""
    request, generations = _found(call)
    return Response(RequestCheck(**_counts(request, generations)))


def status(call: Call) -> Response:
    """Return the progress of a request, and its delivered images."""
    request, generations = _found(call)
    return Response(_full(request, generations))


def cancel(call: Call) -> Response:
    """Cancel a request's waiting images, and return the status before that."""
    request, generations = _find(call)
    response = Response(_full(request, generations))
    ending.cancel(_store(), request, generations)
    return response


def rate(call: Call) -> Response:
    """Rate the images of a finished shared request, once.

    Ratings belong to the data set. They earn kudos for the owner of the request, whoever rates.
    Those of images that were withdrawn are neither kept nor paid. They are not refused, since a
    client rates all images of a request at once and cannot know that one was withdrawn.
    """
    body = parse(RateRequest, call.json())
    request, generations = _find(call)
    ratings.check(body.rated, body.best_id, request, generations)
    withdrawn = (
        set(request.generations)
        if request.withdrawn_at is not None
        else _store().sharing.withdrawn(request.generations)
    )
    left = [generation for generation in generations if generation.id not in withdrawn]
    rated = [one for one in body.rated if one.generation_id not in withdrawn]
    best = None if body.best_id in withdrawn else body.best_id
    reward = ratings.reward(rated, best, request, left)
    images_left = [generation.id for generation in left if generation.state is State.OK]
    models = {generation.id: generation.model for generation in left}
    if not _store().sharing.rate(
        request, rated, best=best, reward=reward, images=images_left, models=models
    ):
        message = "This request has been rated already."
        raise AestheticsError(message, rc="AestheticsAlreadyExist")
    thanks = "Thank you! Anonymous requests earn no kudos; register at /register to earn some."
    return Response(Rated(reward=reward, message=thanks if request.anonymous else None))


def _store() -> Store:
    return connect(Settings.load().table_name)


def _find(call: Call) -> tuple[Request, list[Generation]]:
    request = _request(call)
    return _alive(request, _store().requests.generations(request))


def _found(call: Call) -> tuple[Request, list[Generation]]:
    """Return a request and its images, as ``_find`` does; its model's places are read with them."""
    request = _request(call)
    return _alive(request, _store().places.generations(request))


def _request(call: Call) -> Request:
    request_id = call.path.get("id", "")
    request = _store().requests.get(request_id.lower()) if is_uuid(request_id) else None
    if request is None:
        raise RequestNotFound(request_id[:100])
    return request


def _alive(request: Request, images: list[Generation]) -> tuple[Request, list[Generation]]:
    """Return what was read, unless it has expired: then the request is not found."""
    if expires_at(request, images) <= clock.now():
        raise RequestNotFound(request.id)
    return request, images


def _counts(request: Request, generations: list[Generation]) -> dict[str, Any]:
    state = progress(request, generations)
    ahead = _ahead(request, generations, state)
    return {
        "finished": state.finished,
        "processing": state.processing,
        "restarted": state.restarted,
        "waiting": state.waiting,
        "done": state.done,
        "faulted": state.faulted,
        "wait_time": _wait(request, generations, state, ahead),
        "queue_position": 0 if not state.waiting else ahead + 1,
        "kudos": state.kudos,
        "is_possible": state.done or state.processing > 0 or _possible(generations),
    }


def _ahead(request: Request, generations: list[Generation], state: Progress) -> int:
    if not state.waiting:
        return 0
    first = max(g.priority for g in generations if g.state is State.WAITING)
    return _store().places.ahead(request.model, first)


def _wait(request: Request, generations: list[Generation], state: Progress, ahead: int) -> int:
    """Estimate the wait from the last census, assuming average work for the images ahead."""
    load = overview(_store()).census.load(request.model)
    own = generations[0].pixelsteps if generations else 0
    return estimates.wait_seconds(
        state,
        ahead=ahead * (estimates.average_work(load) or own),
        own=own,
        speed=estimates.throughput(load),
        workers=load.workers,
    )


def _possible(generations: list[Generation]) -> bool:
    """Return whether anybody can draw what waits: all images of a request ask for the same."""
    waiting = [one for one in generations if one.state is State.WAITING]
    return not waiting or chances(_store(), Settings.load().models, waiting[0]).possible


def _full(request: Request, generations: list[Generation]) -> RequestStatus:
    budget = MAX_INLINE
    shown = []
    for generation in generations:
        if generation.state in DELIVERED:
            img = _img(request, generation, budget)
            budget -= 0 if request.r2 else len(img)
            shown.append(_generation(request, generation, img))
    return RequestStatus(
        **_counts(request, generations),
        shared=sharing.reaches_data_set(request, generations),
        generations=shown,
    )


def _img(request: Request, generation: Generation, budget: int) -> str:
    """Return a presigned URL, or base64 if the client wants it and it fits the budget in bytes."""
    bucket, key = Settings.load().outputs_bucket, generation.delivered_key
    if key is None:
        return "N/A"  # an earlier version settled it
    if not request.r2 and (generation.size or 0) * 4 // 3 <= budget:
        body = images.read(aws.s3(), bucket, key)
        return "N/A" if body is None else base64.b64encode(body).decode()
    return images.download_url(aws.s3(), bucket, key)


def _generation(request: Request, generation: Generation, img: str) -> GeneratedImage:
    return GeneratedImage(
        img=img,
        seed=str(generation.drawn_seed if generation.drawn_seed is not None else ""),
        id=generation.id,
        censored=generation.state is State.CENSORED,
        gen_metadata=remarks_of(generation.gen_metadata),
        worker_id=generation.worker_id or "",
        worker_name=generation.worker_name or "",
        model=generation.model,
        state="censored" if generation.state is State.CENSORED else "ok",
        shared=sharing.reaches_data_set(request, [generation]),
    )


ROUTES = {
    "GET /api/v2/generate/check/{id}": Route(
        run=check, responses={200: RequestCheck}, errors=(RequestNotFound,), limits=ratelimit.CHECK
    ),
    "GET /api/v2/generate/status/{id}": Route(
        run=status,
        responses={200: RequestStatus},
        errors=(RequestNotFound,),
        limits=ratelimit.STATUS,
    ),
    "POST /api/v2/generate/rate/{id}": Route(
        run=rate,
        body=RateRequest,
        responses={200: Rated},
        errors=(RequestNotFound, AestheticsError, Busy),
        limits=ratelimit.RATING,
    ),
    "DELETE /api/v2/generate/status/{id}": Route(
        run=cancel,
        responses={200: RequestStatus},
        errors=(RequestNotFound, Busy),
        limits=ratelimit.STATUS,
    ),
}
prepare(ROUTES)
startup.ready("dynamodb")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Lambda's entry point."""
    return serve(ROUTES, event)
