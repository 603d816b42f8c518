"""A batch of requests of every kind, and those who draw them, all over the real HTTP API.

Some images are drawn by the gpu_worker with the demo's model. The others come from made-up workers
that pop, upload and submit as any worker does. Each kind is for the data set or not; ``Fate`` says
why. Prompts tell the requests apart.
"""

import hashlib
import io
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from http import HTTPStatus
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from PIL import Image as Picture

from horde.detector import dhash
from infra.local.api_client import Client, Refused, until
from infra.local.dataset import scenery
from infra.local.local_cloud import MODEL, LocalCloud
from infra.local.processes import say
from infra.operate import account_commands

ACCOUNTS, WORKERS = 4, 3
AT_ONCE, SPECIAL_AT_ONCE = 12, 5
"""Images of a made-up request."""
STEPS, DRAWN_STEPS = 20, 12
GRANT = 100_000
PATIENCE_S = 900
AGENT = "AI Horde Worker reGen:10.1.0:https://example.org/worker"
MADE_UP, UNTRUSTED = "made_up", "made_up_by_strangers"
"""Models that only the made-up workers draw: those that are trusted, and one that is not."""


class Fate(StrEnum):
    """What becomes of an image, and why."""

    RELEASED = "shareable"
    PRIVATE = "shared: false"
    IMG2IMG = "image-to-image"
    INPAINTING = "inpainting"
    CENSORED = "censored by its worker"
    CSAM = "of a request marked as CSAM"
    UNTRUSTED = "of an untrusted volunteer"
    WITHDRAWN = "withdrawn during the hold"
    WORD = "its prompt has a listed word"
    HASH = "it is on the list of hashes"
    REMOVED = "withdrawn after the first release"


DELIVERED_ONLY = frozenset(
    {Fate.PRIVATE, Fate.IMG2IMG, Fate.INPAINTING, Fate.CENSORED, Fate.CSAM, Fate.UNTRUSTED}
)
"""What does not reach the data set's bucket at all."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: what becomes of it, its body, and which account sends it (None: nobody)."""

    fate: Fate
    body: dict[str, Any]
    account: int | None = 0

    @property
    def prompt(self) -> str:
        """Its prompt, which no other request has."""
        return str(self.body["prompt"])

    @property
    def n(self) -> int:
        """How many images."""
        return int(self.body["params"]["n"])


@dataclass(frozen=True, slots=True)
class Image:
    """An image that was delivered: its request, and what its worker uploaded."""

    id: str
    ask: Ask
    file: bytes = field(repr=False)
    seed: int | None
    """None where the test did not choose it."""


@dataclass
class Batch:
    """All images of a run, by id, and the hashes of pictures that may not be published."""

    images: dict[str, Image] = field(default_factory=dict)
    hashes: list[str] = field(default_factory=list)

    def of(self, *fates: Fate) -> list[str]:
        """Return the ids of images of some fates."""
        return sorted(one.id for one in self.images.values() if one.ask.fate in fates)

    def counts(self) -> Counter[Fate]:
        """Return how many images have each fate."""
        return Counter(one.ask.fate for one in self.images.values())


def asks(images: int, prompts: Sequence[str], side: int, word: str) -> list[Ask]:
    """Return the requests of a batch of so many images; ``prompts`` are for the real worker.

    Of each fate but the usual one it has a hundredth of the images, and at least one; one in five
    of the others is anonymous. ``word`` is one for which images are kept back. Raises ValueError
    for too few images.
    """
    special = [fate for fate in Fate if fate is not Fate.RELEASED]
    each = max(1, images // 100)
    left = images - each * len(special) - len(prompts)
    if left < 1:
        message = f"{images} images are too few for one of each kind"
        raise ValueError(message)
    found = [
        Ask(Fate.RELEASED, body(prompt, MODEL, 1, (side, side), steps=DRAWN_STEPS))
        for prompt in prompts
    ]
    for fate in special:
        for number, n in enumerate(_split(each, SPECIAL_AT_ONCE)):
            found.append(_special(fate, number, n, word))
    sizes = scenery.SIZES
    for number, n in enumerate(_split(left, AT_ONCE)):
        account = None if number % 5 == 0 else number % ACCOUNTS
        prompt = f"a made-up landscape, number {number}: hills ### blurry"
        shape = sizes[number % len(sizes)]
        found.append(Ask(Fate.RELEASED, body(prompt, MADE_UP, n, shape), account))
    return found


def _split(total: int, most: int) -> Iterator[int]:
    for start in range(0, total, most):
        yield min(most, total - start)


def _special(fate: Fate, number: int, n: int, word: str) -> Ask:
    prompt = f"landscape {number}, {fate.name.lower()}"
    model = UNTRUSTED if fate is Fate.UNTRUSTED else MADE_UP
    made = body(prompt, model, n, scenery.SIZES[0])
    if fate is Fate.PRIVATE:
        made["shared"] = False
    if fate is Fate.WORD:
        made["prompt"] = f"{prompt}, {word}"
    if fate in {Fate.IMG2IMG, Fate.INPAINTING}:
        made["source_image"] = scenery.png_base64(scenery.landscape(number, scenery.SIZES[0]))
        made["source_processing"] = "img2img" if fate is Fate.IMG2IMG else "inpainting"
    if fate is Fate.INPAINTING:
        made["source_mask"] = scenery.png_base64(scenery.chequers(number, scenery.SIZES[0]))
    return Ask(fate, made, number % ACCOUNTS)


def body(
    prompt: str, model: str, n: int, size: tuple[int, int], steps: int = STEPS
) -> dict[str, Any]:
    """Return the body of a request that is to be shared; ``size`` is in pixels."""
    params = {"width": size[0], "height": size[1], "steps": steps, "sampler_name": "k_euler"}
    return {
        "prompt": prompt,
        "models": [model],
        "params": {**params, "n": n, "cfg_scale": 7.0},
        "shared": True,
        "nsfw": False,
        "censor_nsfw": False,
    }


class _StoppedError(Exception):
    """Another thread has ended the batch."""


class Sender:
    """Sends requests and draws them; ``batch`` grows meanwhile."""

    def __init__(self, cloud: LocalCloud, requests: Sequence[Ask]) -> None:
        self.batch = Batch()
        self._cloud = cloud
        self._asks = {ask.prompt.partition("###")[0].strip(): ask for ask in requests}
        self._total = sum(ask.n for ask in requests)
        self._numbers, self._lock, self._stop = count(1), threading.Lock(), threading.Event()
        self._delivered, self._told = Counter[str](), 0

    def run(self) -> Batch:
        """Send all requests, wait until all images are drawn and shared; returns the batch.

        Raises TimeoutError, or what a thread has raised.
        """
        accounts = [self._account(f"author{number}") for number in range(ACCOUNTS)]
        workers = [(self._worker(trusted=True), MADE_UP) for _ in range(WORKERS)]
        workers.append((self._worker(trusted=False), UNTRUSTED))
        with ThreadPoolExecutor(len(workers) + ACCOUNTS + 2) as pool:
            drawing = [pool.submit(self._draw, worker, model) for worker, model in workers]
            try:
                self._meet_models(accounts[0])
                self._send_all(pool, accounts)
            except _StoppedError:
                pass  # by a worker, whose error is raised below
            finally:
                self._stop.set()
            for one in drawing:
                one.result()
        until("uploads", lambda: self._cloud.uploads_waiting() == 0, seconds=PATIENCE_S)
        return self.batch

    def _send_all(self, pool: ThreadPoolExecutor, accounts: Sequence[Client]) -> None:
        queues = {number: SimpleQueue[Ask]() for number in (None, *range(ACCOUNTS))}
        real = [ask for ask in self._asks.values() if ask.body["models"] == [MODEL]]
        for ask in self._asks.values():
            if ask not in real:
                queues[ask.account].put(ask)
        # Those that a model draws take longest: they are sent first, and waited for last.
        painter = self._account("painter")
        sent = [(ask, painter.generate(ask.body)["id"]) for ask in real]
        clients: dict[int | None, Client] = {None: self._cloud.client()}
        clients |= dict(enumerate(accounts))
        asking = [
            pool.submit(self._ask_each, client, queues[number])
            for number, client in clients.items()
        ]
        for one in asking:
            one.result()
        for ask, request in sent:
            self._wait(painter, request)
            (found,) = painter.status(request)["generations"]
            file = painter.download(found["img"])
            self._add(Image(found["id"], ask, file, int(found["seed"])))

    def _account(self, alias: str) -> Client:
        account = self._cloud.client().register(alias)
        account_commands.grant(self._cloud.store, account["username"], GRANT)
        return self._cloud.client(account["api_key"])

    def _worker(self, *, trusted: bool) -> Client:
        owner, _ = account_commands.register(self._cloud.store, "volunteer")
        if trusted:
            self._cloud.store.accounts.change(owner, {"trusted": True})
        return self._cloud.client(account_commands.worker_key(self._cloud.store, owner.username))

    def _meet_models(self, client: Client) -> None:
        """Wait until it is known that the models are drawn, without which nobody may ask."""

        def known() -> bool:
            self._cloud.aws("lambda").invoke(FunctionName=self._cloud.function("sweep"))
            try:
                anonymous = self._cloud.client()
                anonymous.dry_run(body("a test", MADE_UP, 1, scenery.SIZES[0]))
            except Refused as error:
                if error.response.status != HTTPStatus.BAD_REQUEST:
                    raise
                return False
            return True

        client.dry_run(body("a test", MADE_UP, 1, scenery.SIZES[0]))
        until("the models to be known", known, seconds=PATIENCE_S, every=1)

    # --- clients -----------------------------------------------------------------------------

    def _ask_each(self, client: Client, queue: "SimpleQueue[Ask]") -> None:
        while not self._stop.is_set():
            try:
                ask = queue.get_nowait()
            except Empty:
                return
            self._wait(client, client.generate(ask.body)["id"])

    def _wait(self, client: Client, request: str) -> None:
        def done() -> bool:
            if self._stop.is_set():
                raise _StoppedError
            return bool(client.check(request)["done"])

        until(f"{request} to be done", done, seconds=PATIENCE_S, every=0.5)

    # --- workers -----------------------------------------------------------------------------

    def _draw(self, worker: Client, model: str) -> None:
        """Pop, upload and submit until all is drawn."""
        try:
            while not self._stop.is_set():
                offer = {"models": [model], "amount": 10, "mixed_batch": True}
                found = worker.pop(**offer, bridge_agent=AGENT, max_pixels=2**22)
                for job in found.get("jobs") or ():
                    self._deliver(worker, job)
                if not found["id"]:
                    self._stop.wait(0.3)
        except BaseException:
            self._stop.set()
            raise

    def _deliver(self, worker: Client, job: dict[str, Any]) -> None:
        payload, number = job["payload"], next(self._numbers)
        ask = self._asks[payload["prompt"].partition("###")[0].strip()]
        size = payload["width"], payload["height"]
        picture = partial(scenery.chequers if ask.fate is Fate.HASH else scenery.landscape, number)
        file = scenery.webp(picture(size))
        if ask.fate is Fate.HASH:
            self._list_hash(number, file)
        fields: dict[str, Any] = {"seed": number}
        if ask.fate is Fate.CENSORED:
            fields["state"] = "censored"
        if self._add(Image(job["id"], ask, file, number)) and ask.fate is Fate.CSAM:
            # The last image alone: the others may be on their way to the data set, or in it.
            fields["state"] = "csam"
        put = worker.fetch("PUT", job["r2_upload"], file)
        answer = worker.submit(job["id"], **fields) if put.status == HTTPStatus.OK else put
        if answer.status != HTTPStatus.OK:
            what = f"delivery of {job['id']}"
            raise Refused(what, answer)

    def _add(self, image: Image) -> bool:
        """Note an image; returns whether it is the last one of its request."""
        with self._lock:
            self.batch.images[image.id] = image
            self._delivered[image.ask.prompt] += 1
            done = len(self.batch.images)
            if done * 10 // self._total > self._told:
                self._told = done * 10 // self._total
                say(f"  {done} of {self._total} images are delivered")
            return self._delivered[image.ask.prompt] == image.ask.n

    def _list_hash(self, number: int, file: bytes) -> None:
        """List the MD5 of every second picture, and of the others how another encoding looks."""
        found = hashlib.md5(file, usedforsecurity=False).hexdigest()
        if number % 2:
            with Picture.open(io.BytesIO(file)) as opened:
                again = scenery.webp(opened.convert("RGB"), scenery.LISTED_QUALITY)
            with Picture.open(io.BytesIO(again)) as opened:
                found = dhash(opened.convert("RGB"))
        with self._lock:
            self.batch.hashes.append(found)
