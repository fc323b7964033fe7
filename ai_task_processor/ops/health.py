"""Health and readiness, decided from a snapshot of the process. Pure.

``/health`` is about this process only, never about a remote, which a restart would not repair. ``/ready``: are tasks
processed? ``why_idle``: one sentence that says why not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ai_task_processor.core.component import Problem

#: the code of the problem that the last poll failed
POLL_FAILED = "upstream_unavailable"
#: why a listed task is skipped, in words
SKIPPED: Final[Mapping[str, str]] = {
    "in_outbox": "its result waits for delivery",
    "dead_letter": "its result was refused: see outbox list --dead",
    "quarantined": "it crashed the process: see outbox list --dead",
    "running": "it runs already",
    "stale": "it was acknowledged a moment ago",
    "unknown_type": "no processor here takes its type",
    "invalid": "it cannot be used: see record.skipped in the log",
    "duplicate": "it is listed twice",
    "deferred": "it waits for its next attempt",
    "paused": "its processor or its model takes no more now",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of the process at one moment. Reasons are sentences, ages and waits seconds.

    ``problems`` are those of all components, the most specific first. ``isolation``: why slots stay empty for a task
    that runs isolated. ``read_ahead``: tasks that were read and wait for slots. ``released``: tasks in a row that were
    given back without an outcome. ``holding``: the pause between polls was asked for. ``next_poll_s``: until it ends,
    None when there is none. ``paused``: the pause by an operator.
    """

    draining: bool
    polled: bool
    tick_age_s: float
    longest_tick_s: float
    running: int
    slots: int
    problems: Sequence[Problem] = ()
    isolation: str | None = None
    paused: str | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    read_ahead: int = 0
    released: int = 0
    holding: bool = False
    next_poll_s: float | None = None


def unhealthy(snapshot: Snapshot) -> str | None:
    """Why this process should be restarted, or None. (A blocked event loop does not even answer.)"""
    if snapshot.tick_age_s > snapshot.longest_tick_s and not snapshot.draining:
        return f"the poll loop has not moved for {snapshot.tick_age_s:.0f} s"
    return None


def unready(snapshot: Snapshot) -> list[str]:
    """Every reason why tasks are not processed, each beginning with a constant code; empty when they are.

    A pause by an operator is none, it is a note: it is wanted, and not for Kubernetes or an alert to mend. A rollout
    would wait for ever for a paused pod that is not ready.
    """
    reasons = []
    if snapshot.draining:
        reasons.append("draining")
    elif not (snapshot.polled or snapshot.paused) and all(problem.code != POLL_FAILED for problem in snapshot.problems):
        reasons.append("starting")
    return reasons + [str(problem) for problem in snapshot.problems if not problem.ready]


def notes(snapshot: Snapshot) -> list[str]:
    """What an operator may have to mend although tasks are processed, each beginning with a constant code."""
    notes = [str(each) for each in snapshot.problems if each.ready and each.when in ("always", "never")]
    return notes if snapshot.paused is None else [f"paused_by_operator: {snapshot.paused}", *notes]


def state(snapshot: Snapshot) -> str:
    """The state as a label of the ``state`` metric."""
    if snapshot.draining:
        return "draining"
    reasons = unready(snapshot)
    return "starting" if reasons == ["starting"] else "degraded" if reasons else "running"


def why_idle(snapshot: Snapshot) -> str | None:
    """One sentence that says why no task is processed, or why slots are free although tasks are listed; None else."""
    busy = [str(problem) if not problem.ready else problem.message for problem in _at(snapshot, "running")]
    stopped = _stopped(snapshot)
    if snapshot.running and busy and (stopped is None or snapshot.running >= snapshot.slots):
        return busy[0]
    if snapshot.running >= snapshot.slots:
        return None
    if stopped is not None:
        return stopped
    for when in ("always", "free"):
        if held := [problem.message for problem in _at(snapshot, when) if problem.ready]:
            return held[0]
    if snapshot.skipped.get("paused") and (limits := _at(snapshot, "paused")):
        return limits[0].message
    if snapshot.running:
        return None
    if snapshot.skipped.get("unknown_type") and (unserved := _at(snapshot, "unserved")):
        return unserved[0].message
    return _nothing_runs(snapshot)


def _at(snapshot: Snapshot, when: str) -> list[Problem]:
    return [problem for problem in snapshot.problems if problem.when == when]


def _stopped(snapshot: Snapshot) -> str | None:
    """Why slots are kept empty, whatever is listed."""
    if snapshot.paused is not None and not snapshot.draining:
        return snapshot.paused
    if reasons := unready(snapshot):
        return _unready(next((reason for reason in reasons if reason != "starting"), "starting"), snapshot)
    return snapshot.isolation


def _unready(reason: str, snapshot: Snapshot) -> str:
    meaning = {"starting": "the first poll has no answer yet", "draining": "nothing new is claimed"}.get(reason)
    if meaning is not None:
        return f"{reason}: {meaning}"
    return reason + _next_poll(snapshot) if reason.startswith(POLL_FAILED) else reason


def _nothing_runs(snapshot: Snapshot) -> str:
    skipped = [
        f"{count} {reason} ({SKIPPED[reason]})" if reason in SKIPPED else f"{count} {reason}"
        for reason, count in snapshot.skipped.items()
        if count
    ]
    if snapshot.holding:
        sentence = "nothing is claimed: every processor asks for a pause"
    elif snapshot.read_ahead:
        sentence = f"tasks are about to start: {snapshot.read_ahead} are read ahead"
    elif skipped:
        sentence = f"every listed task is skipped: {', '.join(skipped)}"
    elif snapshot.released:
        sentence = "the tasks that started last were given back: see task.released in the log"
    else:
        sentence = "no task is pending"
    return sentence + _next_poll(snapshot)


def _next_poll(snapshot: Snapshot) -> str:
    if snapshot.next_poll_s is None:
        return ""
    return "; next poll " + (f"in {snapshot.next_poll_s:.0f} s" if snapshot.next_poll_s >= 1 else "within a second")
