"""Health and readiness, decided from a snapshot of the process. Pure.

``/health`` is about this process only, never about a remote, which a restart would not repair. ``/ready``: are tasks
processed? ``why_idle``: one sentence that says why not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ai_task_processor.core.component import Problem

#: the code of the problem that the last poll failed
POLL_FAILED = "upstream_unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of the process at one moment. Reasons are sentences, ages and waits seconds.

    ``problems`` are those of all components, the most specific first. ``isolation``: why slots stay empty for a task
    that runs isolated.
    """

    draining: bool
    polled: bool
    tick_age_s: float
    longest_tick_s: float
    running: int
    slots: int
    problems: Sequence[Problem] = ()
    isolation: str | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)


def unhealthy(snapshot: Snapshot) -> str | None:
    """Why this process should be restarted, or None. (A blocked event loop does not even answer.)"""
    if snapshot.tick_age_s > snapshot.longest_tick_s and not snapshot.draining:
        return f"the poll loop has not moved for {snapshot.tick_age_s:.0f} s"
    return None


def unready(snapshot: Snapshot) -> list[str]:
    """Every reason why tasks are not processed, each beginning with a constant code; empty when they are."""
    reasons = []
    if snapshot.draining:
        reasons.append("draining")
    elif not snapshot.polled and all(problem.code != POLL_FAILED for problem in snapshot.problems):
        reasons.append("starting")
    return reasons + [str(problem) for problem in snapshot.problems if not problem.ready]


def notes(snapshot: Snapshot) -> list[str]:
    """What an operator may have to mend although tasks are processed, each beginning with a constant code."""
    return [str(each) for each in snapshot.problems if each.ready and each.when in ("always", "never")]


def state(snapshot: Snapshot) -> str:
    """The state as a label of the ``state`` metric."""
    if snapshot.draining:
        return "draining"
    reasons = unready(snapshot)
    return "starting" if reasons == ["starting"] else "degraded" if reasons else "running"


def why_idle(snapshot: Snapshot) -> str | None:
    """One sentence that says why no task is processed; None while one is."""
    passing = [problem for problem in snapshot.problems if problem.ready]
    busy = [problem.message for problem in passing if problem.when == "running"]
    if snapshot.running and busy:
        return busy[0]
    if snapshot.running >= snapshot.slots:
        return None
    if reasons := unready(snapshot):
        return next((reason for reason in reasons if reason != "starting"), "starting")
    if snapshot.isolation is not None:
        return snapshot.isolation
    if held := [problem.message for problem in passing if problem.when == "always"]:
        return held[0]
    if snapshot.running:
        return None
    if snapshot.skipped.get("unknown_type") and (unserved := [p.message for p in passing if p.when == "unserved"]):
        return unserved[0]
    waiting = ", ".join(f"{count} {reason}" for reason, count in snapshot.skipped.items() if count)
    return f"every listed task is skipped: {waiting}" if waiting else "no task is pending"
