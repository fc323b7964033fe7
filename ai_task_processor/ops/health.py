"""What the probes answer: pure verdicts over a snapshot of the process.

``/health`` is about this process alone, never about a remote: a restart does not mend those.
``/ready`` says whether work flows; ``why_idle`` says in a sentence why it does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of the process at one moment. Reasons are sentences, ages and waits seconds.

    ``isolation``: why slots are kept empty for a task that runs isolated.
    ``token_problem``: why there is no token. It is nobody's trouble that one expired while none was needed.
    ``report_problem``: why results are not taken until somebody changes something.
    """

    draining: bool
    polled: bool
    tick_age_s: float
    longest_tick_s: float
    token_problem: str | None
    poll_problem: str | None
    outbox_full: bool
    outbox_writable: bool
    disk_full: bool
    running: int
    slots: int
    isolation: str | None = None
    mode: str
    report_problem: str | None = None
    holds: Mapping[str, str] = field(default_factory=dict)
    #: why model calls that are ready do not start, by model
    paced: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)


def unhealthy(snapshot: Snapshot) -> str | None:
    """Why this process should be restarted, or None. (A blocked event loop does not even answer.)"""
    if snapshot.tick_age_s > snapshot.longest_tick_s and not snapshot.draining:
        return f"the poll loop has not moved for {snapshot.tick_age_s:.0f} s"
    return None


def unready(snapshot: Snapshot) -> list[str]:
    """Every reason why work does not flow, each beginning with a constant code; empty when it does."""
    reasons = []
    starting = not snapshot.polled and snapshot.poll_problem is None
    if snapshot.draining:
        reasons.append("draining")
    elif starting:
        reasons.append("starting")
    if snapshot.token_problem is not None and not starting:
        reasons.append(f"token_unavailable: {snapshot.token_problem}")
    if snapshot.poll_problem is not None:
        reasons.append(f"upstream_unavailable: {snapshot.poll_problem}")
    if snapshot.report_problem is not None:
        reasons.append(f"results_refused: {snapshot.report_problem}")
    if snapshot.outbox_full:
        reasons.append("outbox_full")
    if not snapshot.outbox_writable:
        reasons.append("outbox_unwritable")
    if snapshot.disk_full:
        reasons.append("disk_full: what is left on DATA_DIR is kept for results on their way")
    return reasons


def state(snapshot: Snapshot) -> str:
    """In a word of the metrics' catalogue."""
    if snapshot.draining:
        return "draining"
    reasons = unready(snapshot)
    return "starting" if reasons == ["starting"] else "degraded" if reasons else "running"


def why_idle(snapshot: Snapshot) -> str | None:
    """One sentence for whoever wonders why nothing is being processed; None while something is."""
    if snapshot.running and snapshot.paced:
        model, reason = next(iter(snapshot.paced.items()))
        return f"tasks in slots wait for the model {model}: {reason}"
    if snapshot.running >= snapshot.slots:
        return None
    if reasons := unready(snapshot):
        return next((reason for reason in reasons if reason != "starting"), "starting")
    if snapshot.isolation is not None:
        return snapshot.isolation
    if snapshot.holds:
        service, reason = next(iter(snapshot.holds.items()))
        return f"{service} is paused: {reason}"
    if snapshot.running:
        return None
    if snapshot.skipped.get("unknown_type") and snapshot.mode == "none":
        return "OPENAI_API_KEY is not set, so text embeddings stay pending"
    waiting = ", ".join(f"{count} {reason}" for reason, count in snapshot.skipped.items() if count)
    return f"every listed task is skipped: {waiting}" if waiting else "no task is pending"
