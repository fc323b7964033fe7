"""The judge: pure functions over a history.

At least once is the promise, so a repetition is no fault by itself. It is explained by an answer that
was lost or made no sense, or by the death of the process within the moment that writing it down
takes; then it is counted. Everything else that happened twice, or never, is a violation.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Literal, get_args

from tests.chaos.book import Fate
from tests.chaos.history import Event, Exchange, Kind

Violation = Literal[
    "lost",
    "stuck",
    "wrong result",
    "falsely failed",
    "falsely succeeded",
    "quarantined",
    "touched",
    "duplicated, unexplained",
    "paid again after stored",
    "repeated after a refusal",
    "not kept as a dead letter",
]

Repeated = Literal["callback", "paid"]

#: What was received is written down within this time, a stop of a second included. A process that was killed later
#: than that, with a working disk, has no excuse.
SAFE_AFTER_S = 2.0
#: a client that drops its connection so soon after an answer may not have read it: its deadline struck
DOUBT_S = 1.5
#: the same in a drain, whose end cuts off what is still on its way
CUT_S = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation by one task."""

    kind: Violation
    task_id: str
    reason: str


@dataclass(slots=True)
class Verdict:
    """``repeated``: what happened again and why, keyed ``callback/kill`` and so on; ``by_kill``: by who was killed."""

    findings: list[Finding] = field(default_factory=list)
    tasks: int = 0
    requests: int = 0
    faulted: int = 0
    kills: int = 0
    terminations: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    by_kill: Counter[tuple[Repeated, str]] = field(default_factory=Counter)

    def count(self, kind: Violation) -> int:
        return sum(finding.kind == kind for finding in self.findings)

    def per_kill(self, what: Repeated) -> float:
        return self.repeated[f"{what}/kill"] / max(self.kills, 1)

    def worst_kill(self, what: Repeated) -> int:
        return max((count for (kind, _), count in self.by_kill.items() if kind == what), default=0)


class Surroundings:
    """What was done to the daemon, and when: the excuses it may have."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._killed = {e.incarnation: e.at for e in events if e.kind == "killed"}
        self._draining = {e.incarnation: e.at for e in events if e.kind == "terminated"}
        self._closed = {e.connection: e.at for e in events if e.kind == "closed"}
        self._full: list[tuple[float, float]] = []
        for event in events:
            if event.kind == "disk-full":
                self._full.append((event.at, float("inf")))
            elif event.kind == "disk-free":
                self._full[-1] = (self._full[-1][0], event.at)

    def safe_by(self, at: float) -> float:
        """When something received at this moment must have been written down."""
        for full, free in self._full:
            if full - SAFE_AFTER_S <= at <= free + SAFE_AFTER_S:
                at = free
        return at + SAFE_AFTER_S

    def disk_worked(self, at: float) -> bool:
        return not any(full <= at <= free + SAFE_AFTER_S for full, free in self._full)

    def excuse(self, task_id: str, before: Event, again: Event) -> Literal["answer", "kill"] | None:
        """Why the same thing was asked for again, if there is a good reason."""
        if not before.intact or task_id in before.spoiled or self._dropped(before):
            return "answer"
        killed_at = self._killed.get(before.incarnation)
        if killed_at is None or again.incarnation == before.incarnation:
            return None
        return "kill" if killed_at <= self.safe_by(before.ended) else None

    def _dropped(self, event: Event) -> bool:
        """Did the client hang up instead of reading? When its process ends, it hangs up on everybody."""
        closed_at = self._closed.get(event.connection, float("inf"))
        if event.ended > self._draining.get(event.incarnation, float("inf")):
            return closed_at - event.ended < CUT_S
        ends_at = min(each.get(event.incarnation, float("inf")) for each in (self._draining, self._killed))
        return closed_at - event.ended < DOUBT_S and closed_at < ends_at


def judge(events: Sequence[Event], fates: Mapping[str, Fate], outbox: Mapping[str, str]) -> Verdict:
    """Classify every task. ``outbox``: what stands in the daemon's outbox at the end, state by task id."""
    events = sorted(events, key=lambda event: event.at)
    around, by_task, kinds = Surroundings(events), defaultdict[str, list[Event]](list), [event.kind for event in events]
    for event in events:
        for task_id in event.tasks:
            by_task[task_id].append(event)
    exchanges = [event for event in events if event.kind in get_args(Exchange)]
    verdict = Verdict(
        tasks=len(fates),
        requests=len(exchanges),
        faulted=sum(bool(event.fault) for event in exchanges),
        kills=kinds.count("killed"),
        terminations=kinds.count("terminated"),
    )
    for task_id, fate in fates.items():
        own = by_task[task_id]
        wrong = [*_end(fate, own, outbox.get(task_id)), *_repetitions(task_id, own, around, verdict)]
        verdict.findings += [Finding(kind, task_id, why) for kind, why in wrong]
    return verdict


def _end(fate: Fate, events: Sequence[Event], standing: str | None) -> Iterator[tuple[Violation, str]]:
    """What became of a task, compared with what had to."""
    if standing == "quarantined":
        yield "quarantined", "it is set aside although it never killed anybody"
    if any(event.callback and not event.correct for event in events):
        yield "wrong result", "what was delivered is not what the model gave"
    if fate == "untouched":
        if events:
            yield "touched", "nobody can process it"
    elif fate == "dead letter":
        if standing != "dead":
            yield "not kept as a dead letter", f"its result was refused, and the outbox says: {standing}"
    elif standing == "waiting":
        yield "stuck", "its outcome is still in the outbox"
    else:
        yield from _state(fate, events)


def _state(fate: Fate, events: Sequence[Event]) -> Iterator[tuple[Violation, str]]:
    state = next((event.state for event in reversed(events) if event.state), "pending")
    if state == "pending":
        yield "stuck", "it is still pending"
    elif fate != state and state == "failed":
        yield "falsely failed", "there was nothing wrong with it"
    elif fate != state:
        yield "falsely succeeded", "nobody could have processed it"
    elif fate == "succeeded" and not any(event.callback for event in events):
        yield "lost", "it reads succeeded, and its result never arrived"


def _repetitions(
    task_id: str, events: Sequence[Event], around: Surroundings, verdict: Verdict
) -> Iterator[tuple[Violation, str]]:
    """Every second time, excused and counted or not."""
    kinds: tuple[tuple[Repeated, Violation], ...] = (
        ("callback", "duplicated, unexplained"),
        ("paid", "paid again after stored"),
    )
    for what, violation in kinds:
        for before, again in pairwise([event for event in events if getattr(event, what)]):
            excuse = around.excuse(task_id, before, again)
            if excuse is None:
                yield violation, f"{what} again by {again.incarnation}, answered well to {before.incarnation} before"
            else:
                verdict.repeated[f"{what}/{excuse}"] += 1
                verdict.by_kill[what, before.incarnation] += excuse == "kill"
    yield from _paid_in_vain(events, around)
    yield from _stubborn(task_id, events, around)


def _stubborn(task_id: str, events: Sequence[Event], around: Surroundings) -> Iterator[tuple[Violation, str]]:
    """A refusal of the task API is kept like a result. That of a model is put to the test, and is free of charge."""
    for before, again in combinations(events, 2):
        if not before.refused or not _same(before, again) or before.kind == "model":
            continue
        if around.excuse(task_id, before, again) is None:
            yield "repeated after a refusal", f"{again.kind} again by {again.incarnation}"
            return


def _paid_in_vain(events: Sequence[Event], around: Surroundings) -> Iterator[tuple[Violation, str]]:
    """A PATCH proves that the result was on disk, unless the disk was full: then it is told from memory."""
    stored = False
    for event in events:
        if event.paid and stored:
            yield "paid again after stored", f"asked for by {event.incarnation} after its result had been reported"
        stored |= event.kind == "patch" and around.disk_worked(event.at)


def _same(before: Event, again: Event) -> bool:
    return before.kind == again.kind and before.body == again.body and again.at > before.ended


def between(events: Sequence[Event], kind: Kind, since: float, until: float) -> list[Event]:
    """Exchanges of a kind that arrived in a span of time."""
    return [event for event in events if event.kind == kind and since <= event.at <= until]


def last(events: Sequence[Event], kind: Kind) -> Event:
    """The youngest event of a kind, which there must be."""
    return next(event for event in reversed(events) if event.kind == kind)
