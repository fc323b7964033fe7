"""The read model as texts in tables: the page at ``/`` and the ``status`` command show the same. Pure.

A tone says how a text is to be seen. Every text can be understood without it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ai_task_processor.ops.status import Circuit, ModelStatus, RecentError, Status

Tone = Literal["plain", "good", "warn", "bad"]

#: by state: a sign, and how it is to be seen
_STATES: Mapping[str, tuple[str, Tone]] = {
    "running": ("✔", "good"),
    "starting": ("…", "warn"),
    "draining": ("■", "warn"),
    "paused": ("‖", "warn"),
}
_LEVELS: Mapping[str, Tone] = {"warning": "warn", "error": "bad", "critical": "bad"}
#: fields of components that are shown
MOST_FIELDS = 40


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """``sign`` and ``state`` in one word; ``sentences``: why, the most important first."""

    sign: str
    state: str
    tone: Tone
    sentences: Sequence[Cell]
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A table: the first cell of a row is its heading. Without ``columns`` it is a list of names and values.

    ``empty``: what is said when there are no rows.
    """

    title: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]]
    empty: str = ""


def headline(status: Status) -> Headline:
    sign, tone = _STATES.get(status.state, ("▲", "bad"))
    ready = "ready" if status.ready else "not ready"
    if tone == "good" and status.notes:
        sign, tone, ready = "▲", "warn", "ready, with notes"
    slots = f"{_count(status.slots.running)} of {_count(status.slots.total)} slots run tasks"
    sentences = [Cell(status.why_idle or slots, "plain" if status.ready else tone)]
    if status.paused is not None and str(status.paused) != status.why_idle:
        sentences.insert(0, Cell(str(status.paused), "warn"))
    said = status.why_idle or slots
    more = [each for each in status.not_ready_because if not (each.endswith(said) or said.startswith(each))]
    sentences += [Cell(f"not ready: {each}", "bad") for each in more]
    sentences += [Cell(f"note: {each}", "warn") for each in status.notes if not each.endswith(said)]
    return Headline(
        sign=sign,
        state=f"{status.state}, {ready}",
        tone=tone,
        sentences=sentences,
        about=f"version {status.version}, source {status.source}, provider {status.mode}, "
        f"up {duration(status.uptime_seconds)}",
    )


def sections(status: Status, more: Mapping[str, object]) -> Sequence[Section]:
    """``more``: the fields that components add."""
    return (
        Section(title="Work", rows=_work(status)),
        Section(title="Outbox", rows=_outbox(status)),
        Section(
            title="Circuits",
            columns=("Service", "Circuit", "Next call", "Reason"),
            rows=[_circuit(name, each) for name, each in status.circuits.items() if each.reason or _open(each)],
            empty=f"closed: {', '.join(status.circuits)}",
        ),
        Section(
            title="Last warnings and errors",
            columns=("Last", "Event", "Times", "Where", "Reason"),
            rows=[_error(each) for each in status.last_errors],
            empty="none since the start",
        ),
        Section(
            title="Models",
            columns=("Model", "Kind", "Pace", "Calls", "Waiting", "Reason"),
            rows=[_model(each) for each in status.models],
            empty="no calls, limits or pauses now",
        ),
        Section(
            title="Running tasks",
            columns=("Task", "Type", "Age"),
            rows=[(Cell(task.id), Cell(task.type), Cell(duration(task.age_seconds))) for task in status.running_tasks],
            empty="none",
        ),
        Section(title="Components", rows=_fields(more), empty="nothing to add"),
    )


def line(status: Status) -> str:
    """The state on one line."""
    minute, outbox = status.throughput.last_minute, status.outbox
    parts = (
        f"{status.state}, {'ready' if status.ready else 'not ready'}",
        f"{status.slots.running} of {status.slots.total} slots",
        f"{minute.acknowledged} acknowledged and {minute.failed} failed in {duration(minute.seconds)}",
        f"outbox {outbox.waiting} waiting, {outbox.dead_letters} dead letters",
        status.why_idle or "working",
    )
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """Its two largest units: ``3 h 12 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    left, parts = round(seconds), []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        amount, left = divmod(left, length)
        if amount:
            parts.append(f"{amount} {unit}")
        elif parts:
            break
    return " ".join(parts[:2])


def _work(status: Status) -> Sequence[Sequence[Cell]]:
    minute, hour = status.throughput.last_minute, status.throughput.last_hour
    backlog, isolation = status.backlog, status.isolation
    listed = f"{_count(backlog.seen)} listed{'' if backlog.complete else ' at least'}"
    ahead = f", {_count(backlog.read_ahead)} read ahead" if backlog.read_ahead else ""
    skipped = [f"{_count(count)} {reason}" for reason, count in backlog.skipped.items() if count]
    rows = [
        ("Slots", Cell(f"{_count(status.slots.running)} of {_count(status.slots.total)} in use")),
        ("Acknowledged", Cell(f"{_per(minute.acknowledged_per_minute)}, {_count(hour.acknowledged)} in the last hour")),
        (
            "Failed",
            Cell(
                f"{_per(minute.failed_per_minute)}, {_count(hour.failed)} in the last hour",
                "warn" if minute.failed else "plain",
            ),
        ),
        ("Last poll", Cell(_ago(status.poll.last_seconds_ago))),
        ("Next poll", Cell(_next_poll(status))),
        (
            "Backlog",
            Cell(listed + ahead),
        ),
    ]
    if skipped:
        rows.append(("Skipped", Cell(", ".join(skipped))))
    if isolation.waiting or isolation.running:
        rows.append(("Isolated", Cell(f"{isolation.running or 'none'} runs, {isolation.waiting} wait", "warn")))
    return [(Cell(name), cell) for name, cell in rows]


def _next_poll(status: Status) -> str:
    if status.poll.under_way:
        return "under way"
    if status.state == "draining":
        return "none, as it drains"
    if status.paused is not None:
        return "none, as it is paused"
    following = status.poll.next_in_seconds
    return "when a slot is free" if following is None else f"in {duration(following)} or earlier"


def _outbox(status: Status) -> Sequence[Sequence[Cell]]:
    outbox = status.outbox
    due = outbox.next_due_in_seconds
    next_due = "-" if due is None else "now" if due == 0 else f"in {duration(due)}"
    rows = [
        ("Waiting", Cell(_count(outbox.waiting))),
        ("Oldest", Cell("-" if outbox.oldest_age_seconds is None else duration(outbox.oldest_age_seconds))),
        ("Next due", Cell(next_due)),
        ("Dead letters", Cell(_count(outbox.dead_letters), "bad" if outbox.dead_letters else "plain")),
        ("Quarantined", Cell(_count(outbox.quarantined), "bad" if outbox.quarantined else "plain")),
        ("Size", Cell(_size(outbox.bytes))),
    ]
    if outbox.of_other_sources:
        of = ", ".join(f"{_count(count)} {name}" for name, count in outbox.of_other_sources.items())
        rows.append(("Other sources", Cell(of, "warn")))
    return [(Cell(name), cell) for name, cell in rows]


def _open(circuit: Circuit) -> bool:
    return circuit.state != "closed"


def _circuit(name: str, circuit: Circuit) -> Sequence[Cell]:
    tone: Tone = "bad" if circuit.state == "open" else "warn"
    state = circuit.state if _open(circuit) else "paused"
    following = f"in {duration(circuit.wait_seconds)}" if circuit.wait_seconds else "now"
    return Cell(name), Cell(state, tone), Cell(following), Cell(circuit.reason or "")


def _model(model: ModelStatus) -> Sequence[Cell]:
    pace = [] if model.calls_per_minute is None else [_per(model.calls_per_minute)]
    pace += [] if model.calls_at_once is None else [f"{model.calls_at_once} at once"]
    reason = model.paused_because or model.waits_because or ""
    return (
        Cell(model.name),
        Cell(model.kind),
        Cell(", ".join(pace) or "no limit known"),
        Cell(_count(model.running_calls)),
        Cell(_count(model.waiting_calls)),
        Cell(f"paused: {reason}" if model.paused_because else reason, "warn" if reason else "plain"),
    )


def _error(error: RecentError) -> Sequence[Cell]:
    event = Cell(error.event, _LEVELS.get(error.level, "warn"))
    return Cell(_ago(error.seconds_ago)), event, Cell(_count(error.times)), Cell(error.component), Cell(error.reason)


def _fields(more: Mapping[str, object]) -> Sequence[Sequence[Cell]]:
    found = list(_flat("", more))
    return [(Cell(name), Cell(text)) for name, text in found[:MOST_FIELDS]]


def _flat(path: str, value: object) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), each)
    elif value is not None and value != []:
        text = "yes" if value is True else "no" if value is False else str(value)
        yield path, text if len(text) <= 300 else f"{text[:299]}…"


def _per(rate: float) -> str:
    return f"{rate:,.0f} a minute" if rate >= 10 or rate == int(rate) else f"{rate:.1f} a minute"


def _ago(seconds: float | None) -> str:
    return "none yet" if seconds is None else f"{duration(seconds)} ago"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _size(amount: float) -> str:
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
