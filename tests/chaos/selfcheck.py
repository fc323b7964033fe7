"""The judge on trial: histories by hand, and what it has to say about them. Runs first, in no time."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.chaos.book import Fate
from tests.chaos.checker import Verdict, judge
from tests.chaos.history import Event

ANSWERED: dict[str, Any] = {"tasks": ("t",), "status": 200, "intact": True}
ASKED = {**ANSWERED, "kind": "model", "paid": True}
TOLD = {**ANSWERED, "kind": "patch", "state": "succeeded", "callback": True}
LOST_ANSWER = {**TOLD, "status": 0, "intact": False}


def event(at: float, incarnation: str = "#1", **what: Any) -> Event:
    return Event(at=at, ended=at + 0.1, incarnation=incarnation, **what)


def verdict(*events: Event, fate: Fate = "succeeded", outbox: Mapping[str, str] | None = None) -> Verdict:
    return judge(events, {"t": fate}, outbox or {})


def kinds(*events: Event, **more: Any) -> Sequence[str]:
    return [finding.kind for finding in verdict(*events, **more).findings]


def ends() -> None:
    """Every way in which a task can end."""
    assert kinds(event(1, **ASKED), event(2, **TOLD)) == []
    assert kinds() == ["stuck"]
    assert kinds(event(1, **ASKED), event(2, **TOLD), outbox={"t": "waiting"}) == ["stuck"]
    assert kinds(event(1, **{**TOLD, "callback": False})) == ["lost"]
    assert kinds(event(1, **{**TOLD, "correct": False})) == ["wrong result"]
    assert kinds(event(1, **{**TOLD, "state": "failed", "callback": False})) == ["falsely failed"]
    assert kinds(event(1, **TOLD), fate="failed") == ["falsely succeeded"]
    assert kinds(outbox={"t": "quarantined"}) == ["quarantined", "stuck"]
    assert kinds(event(1, **TOLD), fate="untouched") == ["touched"]
    assert kinds(fate="untouched") == []
    assert kinds(fate="dead letter", outbox={"t": "dead"}) == []
    assert kinds(fate="dead letter") == ["not kept as a dead letter"]


def repeated_callbacks() -> None:
    """A second delivery needs a lost answer, or a death before the first could be written down."""
    killed = event(2.5, kind="killed")
    late = event(9, kind="killed")
    again = event(10, "#2", **TOLD)
    assert kinds(event(1, **LOST_ANSWER), event(3, **TOLD)) == []
    assert kinds(event(1, **TOLD), event(3, **TOLD)) == ["duplicated, unexplained"]
    assert kinds(event(1, **TOLD), killed, again) == []
    assert kinds(event(1, **TOLD), late, again) == ["duplicated, unexplained"]
    assert kinds(event(1, **TOLD), event(2, kind="terminated"), again) == ["duplicated, unexplained"]
    assert kinds(event(1, **TOLD), event(2, **TOLD), killed) == ["duplicated, unexplained"]
    assert kinds(event(1, **LOST_ANSWER), event(3, **TOLD), again) == ["duplicated, unexplained"]
    told = verdict(event(1, **LOST_ANSWER), event(2, **TOLD), killed, again)
    assert told.repeated == {"callback/answer": 1, "callback/kill": 1}
    assert told.per_kill("callback") == 1.0
    assert told.kills == 1


def dropped_connections() -> None:
    """A client that hangs up right after an answer may not have read it, unless it was leaving."""
    closed = event(1.5, kind="closed", connection=7)
    first = event(1, **TOLD, connection=7)
    assert kinds(first, closed, event(3, **TOLD)) == []
    assert kinds(first, event(5, kind="closed", connection=7), event(6, **TOLD)) == ["duplicated, unexplained"]
    leaving = event(1.2, kind="terminated")
    assert kinds(first, leaving, closed, event(3, "#2", **TOLD)) == ["duplicated, unexplained"]
    early = event(0.5, kind="terminated")
    cut = event(1.1, kind="closed", connection=7)
    assert kinds(first, early, closed, event(3, "#2", **TOLD)) == ["duplicated, unexplained"]
    assert kinds(first, early, cut, event(3, "#2", **TOLD)) == []


def repeated_payments() -> None:
    """An answer that was received is kept, and a result that was reported had been."""
    killed = event(1.5, kind="killed")
    again, told = event(3, "#2", **ASKED), event(4, "#2", **TOLD)
    assert kinds(event(1, **ASKED), killed, again, told) == []
    assert kinds(event(1, **ASKED), event(2, **ASKED), event(4, **TOLD)) == ["paid again after stored"]
    assert kinds(event(1, **ASKED, spoiled=frozenset("t")), event(2, **ASKED), event(4, **TOLD)) == []
    busy = event(1.3, kind="patch", tasks=("t",), status=500)
    assert kinds(event(1, **ASKED), busy, killed, again, told) == ["paid again after stored"]
    full, free = event(0.5, kind="disk-full"), event(1.4, kind="disk-free")
    assert kinds(full, event(1, **ASKED), busy, free, killed, again, told) == []


def refusals() -> None:
    """A refusal of the task API is not asked for again; that of a model is put to the test."""
    no = event(1, kind="model", tasks=("t",), status=400, intact=True, refused=True)
    failed = event(3, **{**TOLD, "state": "failed", "callback": False})
    assert kinds(no, failed, fate="failed") == []
    asked = {**ASKED, "paid": False, "status": 400}
    assert kinds(no, event(2, **asked), event(2.5, "#2", **asked), failed, fate="failed") == []
    never = event(1, **{**TOLD, "callback": False, "status": 400, "refused": True})
    assert kinds(never, event(2, "#2", **TOLD)) == ["repeated after a refusal"]


def run() -> None:
    """Raises ``AssertionError`` when the judge errs."""
    for check in (ends, repeated_callbacks, dropped_connections, repeated_payments, refusals):
        check()
