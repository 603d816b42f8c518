"""The rules a second time, from the docs and the Horde's API, with no table.

One thread, plain dictionaries, time as a number: the state that the handlers must reach, however
they are driven. Of the code under test it takes the numbers of the ruleset; the logic is its own,
that of prices and leases too. CONTRIBUTING.md says how it stands to the audit.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from horde.rules.ruleset import IN_FORCE, Ruleset

FLOOR = IN_FORCE.floor
"""Kudos of a new account; no balance falls below them."""
MINUTE_S = 60
DAY_S = 24 * 3600
MAX_KEYS = 3
ADMINS = frozenset({1})
"""The accounts that the operator named."""
SLIDE_S = 60
"""A life is not renewed within this time, but by the end of a request."""
WINDOW = 32
"""Waiting images that a pop looks at together."""
BAD = "bad"
"""An upload that is no picture."""
HOUR_S = 3600
MOST_DROPPED = 20
"""Images that a worker may drop in an hour before it must rest."""
UNLIMITED = -1

WAITING, PROCESSING, OK, CENSORED = "waiting", "processing", "ok", "censored"
FAULTED, CANCELLED, EXPIRED = "faulted", "cancelled", "expired"


class Refused(Exception):  # noqa: N818 - an answer
    """A call is refused, with this ``rc``."""

    def __init__(self, rc: str) -> None:
        super().__init__(rc)
        self.rc = rc


@dataclass
class Account:
    """Somebody with kudos, and what moved them."""

    id: int
    kudos: int = FLOOR
    deleted: bool = False
    withdrawn_before: int | None = None
    """When it withdrew all that it had asked for by then, in ms."""
    moves: list[tuple[str, int]] = field(default_factory=lambda: [("FLOOR_ADJUSTMENT", FLOOR)])

    @property
    def spendable(self) -> int:
        return max(0, self.kudos - FLOOR)

    def move(self, kind: str, amount: int) -> None:
        self.kudos += amount
        self.moves.append((kind, amount))


@dataclass
class SharedKey:
    """Lets others spend an account's kudos."""

    id: str
    owner: Account
    budget: int
    expires_at: int | None
    used: int = 0
    removed: bool = False
    budgets: int = 0
    """How often its owner has set the budget."""

    def spend(self, amount: int) -> None:
        """Spend, or get back where negative."""
        self.used += amount
        if self.budget != UNLIMITED:
            self.budget -= amount


@dataclass(frozen=True)
class Work:
    """What is drawn, as docs/kudos.md prices it."""

    width: int = 512
    height: int = 512
    steps: int = 30
    sampler: str = "k_euler_a"
    strength: float | None = None
    """Of the source image, if there is one: the share of the steps that is computed."""
    hires_fix: bool = False
    family: str = ""
    fast_only: bool = False
    blacklist: bool = False

    @property
    def first_pass(self) -> int:
        """Pixels of the smaller image that hires_fix draws first; 0 if it draws none."""
        native = {
            "stable_diffusion_2": 768,
            "stable_diffusion_2_768": 768,
            **dict.fromkeys(
                ("stable_diffusion_xl", "stable_cascade", "flux_1", "z_image_turbo", "qwen_image"),
                1024,
            ),
        }.get(self.family, 512)
        short, long = sorted((self.width, self.height))
        if not self.hires_fix or self.strength is not None or short <= native:
            return 0
        return native * 64 * round(Fraction(long * native, short * 64))

    def counted_steps(self, rules: Ruleset = IN_FORCE) -> float:
        """Steps of the full size, with what is computed twice, in part or before."""
        steps: float = self.steps * (1 + (self.sampler in rules.two_pass_samplers))
        if self.sampler == "k_dpm_adaptive":
            steps = rules.adaptive_steps
        if self.strength is not None:
            steps *= self.strength
        before = self.first_pass if rules.counts_hires_fix else 0
        return steps + steps * before / (self.width * self.height)

    def _base(self, rules: Ruleset) -> Decimal:
        pixels, steps = self.width * self.height, self.counted_steps(rules)
        area = math.pow((pixels - 4096) / 1_044_480, 1.75)
        kudos = Decimal(0.1232 * steps + area * 0.1232 * steps * 8.75)
        special = rules.families_hires_fix if self.first_pass else ()
        factors = [*special, *rules.families, (self.family, Decimal(1))]
        factor = next(one for family, one in factors if family == self.family)
        return kudos.quantize(Decimal("0.01"), ROUND_HALF_UP) * factor

    def reward(self, rules: Ruleset = IN_FORCE) -> int:
        """Kudos of a worker."""
        return whole(self._base(rules))

    def price(self, rules: Ruleset = IN_FORCE) -> int:
        """Kudos of a requester, without tax."""
        kudos = self._base(rules)
        kudos *= rules.source_image if self.strength is not None else 1
        kudos *= rules.fast_workers_only if self.fast_only else 1
        kudos *= rules.worker_blacklist if self.blacklist else 1
        return whole(kudos)

    @property
    def heavy(self) -> bool:
        """Whether it must be paid in full."""
        return self.counted_steps() > IN_FORCE.max_steps

    @property
    def lease_s(self) -> int:
        """Seconds for one image."""
        quarters = self.width * self.height / (512 * 512)
        seconds = 30 + self.counted_steps() * 2 * quarters
        slow = self.family in {"flux_1", "qwen_image", "z_image_turbo"}
        return math.ceil(max(150, seconds * (3 if slow else 1)))


def whole(kudos: Decimal) -> int:
    """Round half up; nothing is free."""
    return max(1, int(kudos.quantize(Decimal(1), ROUND_HALF_UP)))


@dataclass(frozen=True)
class Body:
    """What a request asks for."""

    side: int = 64
    steps: int = 4
    hires_fix: bool = False
    n: int = 1
    shared: bool = False
    img2img: bool = False

    @property
    def work(self) -> Work:
        """What is drawn; image-to-image computes 0.8 of its steps."""
        strength = 0.8 if self.img2img else None
        return Work(self.side, self.side, self.steps, strength=strength, hires_fix=self.hires_fix)


@dataclass
class Image:
    """One image of a request."""

    id: str
    request: "Request"
    state: str = WAITING
    claims: int = 0
    holder: int | None = None
    """Whose worker took it last."""
    lease_until: int = 0
    uploads: dict[int, str] = field(default_factory=dict)
    """What is uploaded, by claim: a picture's colour, or ``BAD``."""
    delivered: str = ""
    """The colour of the picture that was delivered."""
    copied: bool = False
    """Whether it came into the data set, withdrawn since or not."""
    withdrawn: bool = False
    """Whether it was taken back, before it came into the data set or after."""
    failed: set[int] = field(default_factory=set)
    """Whose worker has taken it and not drawn it."""
    preferred: bool = False
    """Whether the worker that holds it, or drew it, preferred its owner."""

    @property
    def shareable(self) -> bool:
        """Whether it was delivered and may be in the data set, if nothing forbids it."""
        return self.request.shared and self.state == OK

    @property
    def forbidden(self) -> bool:
        """Whether it may not be in the data set, whoever delivered it."""
        owner, before = self.request.owner, None
        if owner is not None:
            before = owner.withdrawn_before
            if owner.deleted:
                return True
        return self.request.csam or (before is not None and self.request.asked_ms <= before)

    @property
    def failed_claims(self) -> int:
        return self.claims - (self.state in {PROCESSING, OK, CENSORED})


@dataclass
class Request:
    """What was asked for, and what was paid for it."""

    owner: Account | None
    body: Body
    price: int
    tax: int
    reward: int
    shared: bool
    waived: int
    key: SharedKey | None
    budgets: int
    """Which of its budgets it was paid from."""
    rank: int
    """Its place in the queue: best is largest."""
    lease_s: int
    asked_at: int
    asked_ms: int
    expires_at: int
    only: int | None = None
    """Whose worker alone may draw it."""
    id: str = ""
    images: list[Image] = field(default_factory=list)
    cancelled: bool = False
    faulted: bool = False
    rated: bool = False
    csam: bool = False
    """Whether a worker marked an image of it."""

    def named(self, request_id: str, image_ids: Iterable[str]) -> None:
        """Take the ids that the system gave."""
        self.id = request_id
        self.images = [Image(one, self) for one in image_ids]

    def count(self, *states: str) -> int:
        return sum(image.state in states for image in self.images)

    @property
    def ends_with_image(self) -> bool:
        return self.body.n == 1 and not self.body.img2img

    @property
    def done(self) -> bool:
        return self.faulted or not self.count(WAITING, PROCESSING)

    @property
    def cost(self) -> int:
        """Kudos that were consumed so far."""
        return self.count(OK) * (self.price + self.tax) + self.count(CENSORED) * self.tax

    def counts(self) -> dict[str, int | bool]:
        """Return what ``check`` shows."""
        return {
            "finished": self.count(OK, CENSORED),
            "processing": self.count(PROCESSING),
            "waiting": self.count(WAITING),
            "restarted": sum(image.failed_claims for image in self.images),
            "done": self.done,
            "faulted": self.faulted,
            "kudos": self.cost,
        }


class Rules:
    """The system as it should be. ``now_ms`` is set by whoever moves the clock."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.accounts: dict[int, Account] = {}
        self.keys: dict[str, SharedKey] = {}
        self.requests: dict[str, Request] = {}
        self.unjudged: list[Image] = []
        """Delivered images of which ``share`` has not decided yet."""
        self.data_set: dict[str, str] = {}
        """The images that are in it, by the colour of the picture that was delivered."""
        self._told: list[Request] = []
        """Whose mark as CSAM has reached ``share``."""
        self.delivered = 0
        self._done: dict[tuple[int, str], tuple[object, int]] = {}
        self._sent: dict[frozenset[int], tuple[int, int]] = {}
        self.resting: set[int] = set()
        """Whose worker is in maintenance."""
        self._dropped: Counter[tuple[int, int]] = Counter()
        """What workers dropped, by their owner and the hour."""

    @property
    def now(self) -> int:
        return self.now_ms // 1000

    @property
    def images(self) -> Iterator[Image]:
        return (image for request in self.requests.values() for image in request.images)

    def image(self, image_id: str) -> Image:
        return next(image for image in self.images if image.id == image_id)

    # --- accounts -------------------------------------------------------------------------------

    def register(self, user_id: int) -> Account:
        self.accounts[user_id] = Account(user_id)
        return self.accounts[user_id]

    def caller(self, user_id: int) -> Account:
        account = self.accounts[user_id]
        if account.deleted:
            raise Refused("DeletedUser")
        return account

    def delete(self, user_id: int) -> None:
        """Close an account; what it has open is cancelled as if by its owner."""
        account = self.caller(user_id)
        account.deleted = True
        for request in self.requests.values():
            if request.owner is account and not request.faulted:
                self._cancel(request)

    def grant(self, user_id: int, amount: int) -> bool:
        """The operator's hand; it takes no more than there is above the floor."""
        account = self.accounts[user_id]
        if amount < 0 and account.spendable < -amount:
            return False
        account.move("ADMIN_ADJUSTMENT", amount)
        return True

    # --- requests -------------------------------------------------------------------------------

    def ask(
        self, payer: int | SharedKey | None, body: Body, *, only: int | None = None
    ) -> tuple[Request, int]:
        """Ask for images; returns the request, still without ids, and what it says it costs.

        ``payer``: an account, a shared key, or nobody. ``only``: whose worker it names.
        """
        key = payer if isinstance(payer, SharedKey) else None
        owner = self._spender(payer)
        shared = not body.img2img and (owner is None or body.shared)
        tax = IN_FORCE.tax_shared if shared else IN_FORCE.tax_private
        price = body.work.price()
        total = (price + tax) * body.n
        if owner is not None and self.waiting_of(owner) + body.n > IN_FORCE.concurrency:
            raise Refused("TooManyPrompts")
        if key is not None and key.budget != UNLIMITED and key.budget < total:
            raise Refused("SharedKeyInsufficientKudos")
        if body.work.heavy and (0 if owner is None else owner.spendable) < total:
            raise Refused("KudosUpfront")
        effective_kudos = IN_FORCE.floor_anonymous if owner is None else owner.kudos
        paid = total if owner is None else min(total, owner.spendable)
        if owner is not None:
            owner.move("GENERATION", -paid)
        if key is not None:
            key.spend(paid)
        request = Request(
            owner=owner,
            body=body,
            price=price,
            tax=tax,
            reward=body.work.reward(),
            shared=shared,
            waived=total - paid,
            key=key,
            budgets=0 if key is None else key.budgets,
            rank=effective_kudos * 1000 - 5 * self.now_ms,
            lease_s=body.work.lease_s,
            asked_at=self.now,
            asked_ms=self.now_ms,
            expires_at=self.now + IN_FORCE.request_life_s,
            only=only,
        )
        return request, total

    def _spender(self, payer: int | SharedKey | None) -> Account | None:
        if not isinstance(payer, SharedKey):
            return None if payer is None else self.caller(payer)
        if payer.removed:
            raise Refused("InvalidAPIKey")
        if payer.owner.deleted:
            raise Refused("DeletedUser")
        if payer.expires_at is not None and payer.expires_at <= self.now:
            raise Refused("SharedKeyExpired")
        if payer.budget == 0:
            raise Refused("SharedKeyEmpty")
        return payer.owner

    def waiting_of(self, owner: Account) -> int:
        return sum(i.state == WAITING and i.request.owner is owner for i in self.images)

    def open_of(self, owner: Account) -> int:
        return sum(
            i.state in {WAITING, PROCESSING} and i.request.owner is owner for i in self.images
        )

    def visible(self, request: Request) -> None:
        if request.expires_at <= self.now:
            raise Refused("RequestNotFound")

    def cancel(self, request: Request) -> None:
        """Cancel what waits; what a worker holds is delivered and charged."""
        self.visible(request)
        self._cancel(request)

    def _cancel(self, request: Request) -> None:
        if request.count(WAITING, PROCESSING):
            request.cancelled = True
            self._end_waiting(request, CANCELLED)

    def _end_waiting(self, request: Request, state: str) -> None:
        for image in request.images:
            if image.state == WAITING:
                self._end(image, state)

    def _end(self, image: Image, state: str) -> None:
        image.state = state
        request = image.request
        self._give_back(request, request.price + request.tax)

    def _give_back(self, request: Request, amount: int) -> None:
        """What was waived was never paid: it comes off first."""
        if request.owner is None:
            return
        off = min(amount, request.waived)
        request.waived -= off
        request.owner.move("REFUND", amount - off)
        key = request.key
        if key is not None and not key.removed:
            if key.budgets == request.budgets:
                key.spend(off - amount)
            else:  # what its owner has set since stays as it is
                key.used += off - amount

    # --- workers --------------------------------------------------------------------------------

    def held_by(self, owner_id: int) -> set[str]:
        """Return the images that somebody's worker holds."""
        return {i.id for i in self.images if i.state == PROCESSING and i.holder == owner_id}

    def may_hold(self, image: Image, speed: int | None) -> int:
        """Return how many images like this one a worker may hold; a new one holds ten."""
        if speed is None:
            return 10
        body = image.request.body
        work = body.side**2 * math.ceil(body.work.counted_steps())
        return max(2, min(40, speed * image.request.lease_s // work))

    def fitting(self, owner_id: int, speed: int | None, *, img2img: bool) -> list[Image]:
        """Return what waits for somebody's worker."""
        held = len(self.held_by(owner_id))
        return [
            image
            for image in self.images
            if image.state == WAITING
            and (img2img or not image.request.body.img2img)
            and image.request.only in {None, owner_id}
            and owner_id not in image.failed
            and held < self.may_hold(image, speed)
        ]

    def may_pop(self, owner_id: int, speed: int | None, *, img2img: bool) -> None:
        """Refuse a worker that rests: since it dropped too much, or by its owner's leave."""
        self.caller(owner_id)
        if self._dropped[owner_id, self.now // HOUR_S] > MOST_DROPPED:
            self.resting.add(owner_id)
            raise Refused("WorkerMaintenance")
        own = self.accounts[owner_id]
        fits = self.fitting(owner_id, speed, img2img=img2img)
        if owner_id in self.resting and not any(image.request.owner is own for image in fits):
            raise Refused("WorkerMaintenance")

    def pop(
        self,
        owner_id: int,
        taken: list[str],
        *,
        amount: int,
        mixed: bool,
        img2img: bool,
        speed: int | None,
        prefers: int | None,
    ) -> None:
        """Assert that a worker was given what it should get, and let it hold that."""
        fits = self.fitting(owner_id, speed, img2img=img2img)
        chosen = [owner_id, *([] if prefers is None else [prefers])]
        choice = fits
        for one in reversed(chosen):
            choice = [i for i in fits if i.request.owner is self.accounts[one]] or choice
        if not choice:
            assert taken == []
            return
        assert taken, "something waits"
        images = [self.image(one) for one in taken]
        lead = images[0]
        assert lead in choice
        assert lead.request.rank == max(image.request.rank for image in choice)
        mates = [
            image
            for image in choice
            if image is not lead
            and _look(image) == _look(lead)
            and (mixed or image.request is lead.request)
        ]
        assert len(set(taken)) == len(taken)
        assert all(image in mates for image in images[1:])
        if sum(image.state == WAITING for image in self.images) <= WINDOW:
            room = self.may_hold(lead, speed) - len(self.held_by(owner_id))
            assert len(taken) == min(amount, 1 + len(mates), room)
            left = [image.request.rank for image in mates if image not in images]
            worst = min(image.request.rank for image in images)
            assert not left or worst >= max(left)
        assert len(taken) <= amount
        for image in images:
            image.state, image.claims, image.holder = PROCESSING, image.claims + 1, owner_id
            image.preferred = image.request.owner in [self.accounts[one] for one in chosen]
            image.lease_until = self.now + image.request.lease_s
            if image.request.ends_with_image or image.request.asked_at <= self.now - SLIDE_S:
                image.request.expires_at = self.now + IN_FORCE.request_life_s

    def upload(self, image: Image, claim: int, what: str) -> None:
        image.uploads[claim] = what

    def submit(self, owner_id: int, image: Image, state: str) -> int:
        """Hand an image in; returns the reward."""
        self.caller(owner_id)
        if image.holder is not None and image.holder != owner_id:
            raise Refused("WrongCredentials")
        if image.state in {OK, CENSORED}:
            raise Refused("DuplicateGen")
        if image.state != PROCESSING:
            raise Refused("AbortedGen")
        request = image.request
        if state == "faulted":
            self._fault(image)
            return 0
        if image.claims not in image.uploads:
            raise Refused("BadRequest")
        if image.uploads[image.claims] == BAD:
            del image.uploads[image.claims]
            self._fault(image)
            raise Refused("ImageRefused")
        image.state = OK if state == "ok" else CENSORED
        image.delivered = image.uploads[image.claims]
        request.csam = request.csam or state == "csam"
        self.unjudged.append(image)
        self.delivered += 1
        earned = self._earned(image)
        self.accounts[owner_id].move("REWARD", earned)
        if image.state == CENSORED:
            self._give_back(request, request.price)
        until = self.now + IN_FORCE.request_life_s
        if request.ends_with_image or request.expires_at < until - SLIDE_S:
            request.expires_at = until
        return earned

    def _earned(self, image: Image) -> int:
        """Who drew what he chose earns no more than was paid for it."""
        request = image.request
        if not image.preferred and request.only is None:
            return request.reward
        if request.owner is None or image.state == CENSORED:
            return 0
        return max(0, min(request.reward, request.price - request.waived))

    def _fault(self, image: Image) -> None:
        """A worker gave up or went silent."""
        request = image.request
        assert image.holder is not None
        image.failed.add(image.holder)
        self._dropped[image.holder, self.now // HOUR_S] += 1
        if request.cancelled:
            self._end(image, CANCELLED)
        elif request.expires_at <= self.now:
            self._end(image, EXPIRED)
        elif request.faulted or image.claims >= IN_FORCE.max_faults:
            request.faulted = True
            self._end(image, FAULTED)
            self._end_waiting(request, FAULTED)
        else:
            image.state = WAITING

    def sweep(self) -> None:
        """Leases end, then requests."""
        for image in self.images:
            if image.state == PROCESSING and image.lease_until <= self.now:
                self._fault(image)
        for request in self.requests.values():
            if request.expires_at <= self.now:
                ended = {request.cancelled: CANCELLED, request.faulted: FAULTED}
                self._end_waiting(request, ended.get(True, EXPIRED))

    # --- the data set -----------------------------------------------------------------------------

    def stream(self) -> None:
        """Tell ``share`` of the marks."""
        self._told = [request for request in self.requests.values() if request.csam]

    def judge(self) -> None:
        """Share what was delivered and may be shared; take back what was marked."""
        for image in self.unjudged:
            if image.shareable and not image.withdrawn and not image.forbidden:
                image.copied = True
                self.data_set[image.id] = image.delivered
        self.unjudged = []
        for request in self._told:
            self._withdraw(image for image in request.images if image.copied)

    def withdraw(self, image: Image) -> int:
        """Take one delivered image back, for good; returns how many were there to take."""
        return self._withdraw([image])

    def withdraw_all(self, owner: Account) -> int:
        """Take back what an account shared and what it will of what it asked for by now."""
        owner.withdrawn_before = self.now_ms
        return self._withdraw(
            image for image in self.images if image.request.owner is owner and image.copied
        )

    def _withdraw(self, images: Iterable[Image]) -> int:
        gone = [image for image in images if not image.withdrawn]
        for image in gone:
            image.withdrawn = True
            self.data_set.pop(image.id, None)
        return len(gone)

    def rate(self, request: Request, ratings: dict[str, bool], best: str | None) -> int:
        """Rate images, by their ids, each with or without artifacts, or name the best.

        No rating is a low one. Returns the owner's reward.
        """
        self.visible(request)
        if not ratings and not best:
            raise Refused("AestheticsMissing")
        if not request.shared or request.csam:
            raise Refused("AestheticsNotPublic")
        if not request.done:
            raise Refused("AestheticsNotCompleted")
        if not request.count(OK):
            raise Refused("ProcGenNotFound")
        if best and not ratings and request.count(OK) == 1:
            raise Refused("AestheticsSolo")
        if request.rated:
            raise Refused("AestheticsAlreadyExist")
        request.rated = True
        left = {image.id for image in request.images if image.state == OK and not image.withdrawn}
        if request.owner is None:
            return 0
        kept = [artifacts for image, artifacts in ratings.items() if image in left]
        earned = IN_FORCE.best_alone if best in left else 0
        if kept:
            earned = IN_FORCE.per_rating * len(kept) + IN_FORCE.per_artifacts * sum(kept)
        reward = max(0, min(earned, len(left) * request.price - request.waived))
        if reward:
            request.owner.move("AWARD", reward)
        return reward

    # --- kudos between users ---------------------------------------------------------------------

    def transfer(
        self, sender_id: int, target: Account | SharedKey, amount: int, once: str | None
    ) -> None:
        """Give kudos to a user, or to what a shared key may spend."""
        sender = self.caller(sender_id)
        body = ("transfer", target.id, amount)
        if self._was_done(sender, once, body):
            return
        key = target if isinstance(target, SharedKey) else None
        if key is not None and key.removed:
            raise Refused("InvalidTargetUsername")
        if key is not None and key.expires_at is not None and key.expires_at <= self.now:
            raise Refused("SharedKeyExpired")
        receiver = target.owner if isinstance(target, SharedKey) else target
        self._check_amount(amount)
        if receiver is sender:
            raise Refused("KudosTransferToSelf")
        if receiver.deleted:
            raise Refused("DeletedUser")
        pair = frozenset((sender.id, receiver.id))
        giver, at = self._sent.get(pair, (0, 0))
        if giver == receiver.id and at > self.now - MINUTE_S:
            raise Refused("TooFastKudosTransfers")
        if amount > sender.spendable:
            raise Refused("KudosTransferNotEnough")
        sender.move("TRANSFER", -amount)
        receiver.move("TRANSFER", amount)
        if key is not None and key.budget != UNLIMITED:
            key.budget += amount
        self._sent[pair] = (sender.id, self.now)
        self._remember(sender, once, body)

    def award(self, giver_id: int, receiver_id: int, amount: int, once: str | None) -> None:
        """New kudos, by admins alone."""
        giver = self.caller(giver_id)
        if giver.id not in ADMINS:
            raise Refused("NotAllowedAwards")
        body = ("award", receiver_id, amount)
        if self._was_done(giver, once, body):
            return
        receiver = self.accounts[receiver_id]
        self._check_amount(amount)
        if receiver is giver:
            raise Refused("KudosTransferToSelf")
        if receiver.deleted:
            raise Refused("DeletedUser")
        receiver.move("AWARD", amount)
        self._remember(giver, once, body)

    def _check_amount(self, amount: int) -> None:
        if amount < 0:
            raise Refused("NegativeKudosTransfer")
        if amount == 0:
            raise Refused("InvalidKudosTransferAmount")

    def _was_done(self, account: Account, once: str | None, body: object) -> bool:
        if once is None:
            return False
        before, until = self._done.get((account.id, once), (None, 0))
        if until <= self.now:
            return False
        if before != body:
            raise Refused("IdempotencyKeyConflict")
        return True

    def _remember(self, account: Account, once: str | None, body: object) -> None:
        if once is not None:
            self._done[account.id, once] = (body, self.now + DAY_S)

    # --- shared keys -----------------------------------------------------------------------------

    def add_key(self, owner_id: int, budget: int, days: int) -> SharedKey:
        """Make a shared key, still without its id."""
        owner = self.caller(owner_id)
        if sum(key.owner is owner and not key.removed for key in self.keys.values()) == MAX_KEYS:
            raise Refused("Forbidden")
        return SharedKey("", owner, budget, self._end_of(days))

    def change_key(
        self, owner_id: int, key: SharedKey, *, budget: int | None, days: int | None
    ) -> None:
        self._own(owner_id, key)
        if budget is None and days is None:
            raise Refused("NoSharedKeyModSelected")
        if budget is not None:
            key.budget = budget
            key.budgets += 1
        if days is not None:
            key.expires_at = self._end_of(days)

    def remove_key(self, owner_id: int, key: SharedKey) -> None:
        self._own(owner_id, key)
        key.removed = True

    def _own(self, owner_id: int, key: SharedKey) -> None:
        caller = self.caller(owner_id)
        if key.removed:
            raise Refused("SharedKeyNotFound")
        if key.owner is not caller:
            raise Refused("NotOwner")

    def _end_of(self, days: int) -> int | None:
        return None if days == UNLIMITED else self.now + days * DAY_S


def _look(image: Image) -> Work:
    return image.request.body.work
