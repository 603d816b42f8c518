"""How a pop finds the best images that a worker can draw, and claims them.

The registry says in which queues images may wait, and how good the best of each may be. A pop reads
only queues whose images its worker can draw, the most promising first, until no other can have a
better image. So it reads one queue, or a few, whatever else waits and however many models it
offers.

A queue's index is eventually consistent, and other workers claim at the same time. So the condition
of the claim decides. Who loses the best image tries others in random order, or concurrent workers
would all chase the same images; and after a few losses it looks again.
"""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

from horde import clock
from horde.records import Generation, Offer, State, User, WorkerContext
from horde.rules.matching import has_blacklisted_word, same_batch, skip_reason
from horde.rules.needs import unmet
from horde.rules.refusals import Busy
from horde.rules.standing import held_limit
from horde.store import Store
from horde.store.counts import ids_of_open
from horde.store.queue import HoldsEnough
from horde.store.queuenames import ANY, QueueName, model_target
from horde.store.registry import Marks

WINDOW = 32
"""Waiting images that are read and matched together."""
MAX_READS = 8
"""Most reads of queues in one look."""
MAX_FURTHER = 2
"""Further reads of a queue whose best images the worker cannot draw, of a megabyte each."""
SHARDS_READ = 2
"""Shards of a queue that are read together."""
MAX_LOOKS = 4
"""Most looks at the queues: another follows if claims were lost, or shards left unread."""
MAX_LOST = 3
"""Claims that are lost before a pop looks again; in its last look it tries all that it has read."""
PREFERRED_WINDOW = 32
"""Most open images of each preferred account that are read; a usual one has no more."""
MAX_PREFERRED = 4
"""Most preferred accounts with open images that a pop looks for."""
FEW_MODELS = 50
"""Up to so many models, a pop reads the marks of each; of more, those of whatever waits."""
MAX_MARKED = 1000
"""Most targets with marks that a pop of many models reads; those with the best images."""


@dataclass(slots=True)
class Claimer:
    """A worker that pops: what it offers, whom it prefers, and what it was refused."""

    store: Store
    context: WorkerContext
    offer: Offer
    priority_users: list[User]
    """The accounts whose images it prefers, in its order."""
    skipped: "Counter[str]" = field(default_factory=Counter)
    """Why images, or whole queues, were skipped, by the Horde's names of the reasons."""
    full: bool = False
    """Whether it holds as many images as it may."""

    def claim(self, generation: Generation) -> list[Generation]:
        """Return the image as claimed, or nothing if it no longer waits; raises HoldsEnough."""
        worker, stats, owner = self.context.worker, self.context.stats, self.context.owner
        claimed = self.store.queue.claim(
            generation,
            worker,
            lease_until=clock.now() + generation.ttl,
            held_limit=held_limit(stats, owner, generation),
            trusted=owner.trusted,
            preferred=any(user.id == generation.user_id for user in self.priority_users),
        )
        return [claimed] if claimed else []

    def fitting(self, window: list[Generation]) -> list[Generation]:
        """Return the images of a window that the worker can draw; count why not the others."""
        fits = []
        for generation in (one for found in window if (one := offered(found, self.offer))):
            reason = skip_reason(generation, self.context, self.offer)
            if reason:
                self.skipped[reason] += 1
            else:
                fits.append(generation)
        if not self.offer.blacklist or not fits:
            return fits
        # Prompts are read only for a worker with a blacklist.
        fits = fits[:WINDOW]
        prompts = self.store.requests.prompts(generation.request_id for generation in fits)
        words = self.offer.blacklist
        allowed = [
            generation
            for generation in fits
            if not has_blacklisted_word(prompts.get(generation.request_id, ""), words)
        ]
        if len(allowed) < len(fits):
            self.skipped["blacklist"] += len(fits) - len(allowed)
        return allowed


def targets(offer: Offer) -> list[str]:
    """Return the targets whose marks a pop reads one by one; none if it offers very many models."""
    models = [model_target(model) for model in offer.models]
    return [*models, ANY] if 0 < len(models) <= FEW_MODELS else []


def offered(generation: Generation, offer: Offer) -> Generation | None:
    """Return an image as a worker would draw it, with one of its models; None if it has none."""
    names = generation.models or [generation.model]
    both = [model for model in offer.models if generation.any_model or model in names]
    if not both or generation.model in both:
        return generation if both else None
    return replace(generation, model=both[0])


# --- preferred images -----------------------------------------------------------------------------


def claim_preferred(take: Claimer, users: list[User]) -> list[Generation]:
    """Claim images of the first of these accounts that has any to draw.

    An account's own item says which images it has open. The first ``MAX_PREFERRED`` that have any
    are looked at, all together in one read.
    """
    asking = [user for user in users if user.open_images][:MAX_PREFERRED]
    ids = [one for user in asking for one in ids_of_open(user)[:PREFERRED_WINDOW]]
    found = take.store.requests.generations_by_id(ids) if ids else []
    for user in asking:
        theirs = [
            generation
            for generation in found
            if generation.user_id == user.id
            and generation.state is State.WAITING
            and offered(generation, take.offer)
            and not skip_reason(generation, take.context, take.offer)
        ]
        theirs.sort(key=lambda generation: -generation.priority)
        claims, _ = _claim_of(take, take.fitting(theirs), len(theirs))
        if claims:
            return claims
    return []


# --- queues ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Look:
    """One look at the queues."""

    marks: Marks
    fits: list[Generation] = field(default_factory=list)
    """The images that the worker can draw, the best first."""
    seen: dict[QueueName, list[Generation]] = field(default_factory=dict)
    """The first window of each queue that was read, here or in a look before that was cut."""
    reads: int = 0
    groups: int = 0
    """Queues that were read, whatever their shards."""
    busy: bool = False
    """Whether a queue with several shards was read."""
    crowded: bool = False
    """Whether there were more queues than one look reads."""
    cut: bool = False
    """Whether it ended without an image for the worker among the shards of one queue."""


def claim_waiting(take: Claimer, marks: Marks, *, fresh: bool) -> list[Generation]:
    """Claim the best image that the worker can draw and others of its batch, up to ``amount``.

    ``marks`` are those of the worker's targets, and ``fresh`` says whether all have just been read.
    A pop of very many models reads its marks here. A pop is empty only if no image waits for the
    worker, or if it holds as many as it may.
    """
    if not targets(take.offer):
        marks, fresh = _best(take, fresh=False)
    look = _Look(marks)
    for number in range(MAX_LOOKS):
        take.skipped.clear()
        _look(take, look)
        most = MAX_LOST if number < MAX_LOOKS - 1 else len(look.fits)
        claims, lost = _claim_of(take, look.fits, most, shuffled=look.busy)
        if look.cut and not take.full and number < MAX_LOOKS - 1:
            marks = look.marks if fresh else _marks(take)
            seen = {queue: window for queue, window in look.seen.items() if queue in marks}
            look, fresh = _Look(marks, seen=seen, crowded=True), True
            continue
        if claims or take.full or (fresh and not lost):
            # Marks that this process only remembers are corrected by others: else a busy queue's
            # marks would be written at each pop.
            if fresh and (look.groups != 1 or look.crowded or not claims):
                _correct(take.store, look, claims)
            return claims
        look = _Look(look.marks if lost else _marks(take))
        fresh = fresh or not lost
    return []


def _marks(take: Claimer) -> Marks:
    """Read the marks of the queues of a worker's targets."""
    wanted = targets(take.offer)
    return take.store.registry.read(wanted) if wanted else _best(take, fresh=True)[0]


def _best(take: Claimer, *, fresh: bool) -> tuple[Marks, bool]:
    """Return the marks of the queues of very many models, and whether they were read now."""
    if not take.offer.models:
        return {}, True
    wanted = {ANY, *map(model_target, take.offer.models)}
    best, read_now = take.store.registry.best(MAX_MARKED, fresh=fresh)
    marks = {queue: mark for queue, mark in best.items() if queue.target in wanted}
    return marks, read_now


def _look(take: Claimer, look: _Look) -> None:
    """Read the most promising queues until no other can have a better image."""
    todo, doubtful = _sorted(take, look)
    look.crowded = look.crowded or len(todo) > MAX_READS
    while todo and look.reads < MAX_READS:
        bound, queues = todo.pop(0)
        if look.fits and look.fits[0].priority >= bound:
            break
        # Of the shards of one queue, two are read: each has its share of the best images.
        random.shuffle(queues)
        look.groups += 1
        look.busy = look.busy or len(queues) > 1
        found = [_read(take, look, queue, len(queues)) for queue in queues[:SHARDS_READ]]
        look.cut = bool(queues[SHARDS_READ:]) and not any(found)
        if look.cut:
            todo.insert(0, (bound, queues[SHARDS_READ:]))
    look.cut = look.cut and not look.fits
    look.crowded = look.crowded or look.cut
    if not look.fits:
        for queue in doubtful[: max(1, MAX_READS - look.reads)]:
            _read(take, look, queue, 1)


def _sorted(
    take: Claimer, look: _Look
) -> tuple[list[tuple[int, list[QueueName]]], list[QueueName]]:
    """Return the queues whose images the worker can draw, the most promising first.

    The shards of a queue are together, with a bound of their priorities. The second list are queues
    that were seen empty, and may have an image whose process did not know that: all that were so a
    moment ago, else one.
    """
    now = clock.now()
    groups: dict[tuple[str, str], list[QueueName]] = {}
    doubtful: list[QueueName] = []
    for queue, mark in look.marks.items():
        if queue in look.seen:
            continue
        reason = unmet(queue.needs, take.context, take.offer)
        if reason:
            take.skipped[reason] += 0 if mark.empty_at else 1
        elif mark.empty_at:
            doubtful.append(queue)
        else:
            groups.setdefault((queue.target, queue.needs), []).append(queue)
    random.shuffle(doubtful)
    young = [queue for queue in doubtful if not look.marks[queue].resting(now)]
    bounded = [
        (max(look.marks[queue].top for queue in queues), queues) for queues in groups.values()
    ]
    return sorted(bounded, key=lambda one: -one[0]), young or doubtful[:1]


def _read(take: Claimer, look: _Look, queue: QueueName, shards: int) -> bool:
    """Read the best images of a queue, further if the worker can draw none of them.

    Returns whether it can draw any.
    """
    window, after = take.store.queue.page(queue, WINDOW if shards == 1 else WINDOW // SHARDS_READ)
    look.reads += 1
    look.seen[queue] = window
    fits = take.fitting(window)
    for _ in range(MAX_FURTHER):
        if fits or after is None:
            break
        window, after = take.store.queue.page(queue, None, after)
        look.reads += 1
        fits = take.fitting(window)
    known = {image.id for image in look.fits}  # an image of several models is in several queues
    look.fits += [image for image in fits if image.id not in known]
    look.fits.sort(key=lambda image: -image.priority)
    return bool(fits)


def _correct(store: Store, look: _Look, claims: list[Generation]) -> None:
    """Correct the marks of the queues that were read, by what they have left."""
    taken = {image.id for image in claims}
    heads: dict[QueueName, int | None] = {}
    for queue, window in look.seen.items():
        left = [image.priority for image in window if image.id not in taken]
        heads[queue] = left[0] if left else window[-1].priority if window else None
    store.registry.correct(heads, look.marks, at_once=look.crowded)


# --- claims ---------------------------------------------------------------------------------------


def _claim_of(
    take: Claimer, fits: list[Generation], most_lost: int, *, shuffled: bool = False
) -> tuple[list[Generation], int]:
    """Claim the first of these images, best first, and others of its batch, up to ``amount``.

    If the first is lost to another worker, others are tried in random order, up to ``most_lost``
    losses. ``shuffled``: even the first is any of them, since very many workers claim at once.
    Returns the claims, and how many were lost before the first.
    """
    claims: list[Generation] = []
    first = 0 if shuffled else 1
    rest, lost = fits[first:], 0
    random.shuffle(rest)
    try:
        for lead in [*fits[:first], *rest]:
            claims += take.claim(lead)
            if claims:
                mates = [one for one in fits if one.id != lead.id]
                for other in mates:
                    if len(claims) >= take.offer.amount:
                        break
                    if same_batch(lead, other, take.offer):
                        claims += take.claim(replace(other, model=lead.model))
                break
            lost += 1
            if lost >= most_lost:
                break
    except HoldsEnough:
        take.skipped["performance"] += 0 if claims else 1
        take.full = True
    except Busy:  # what it has claimed by then must not be lost
        if not claims:
            raise
    return claims, lost
