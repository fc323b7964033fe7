"""The read model: what it is made of, how it reads, and what is remembered of the log."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from ai_task_processor.ops import recent
from ai_task_processor.ops.overview import Section, duration, headline, line, sections
from ai_task_processor.ops.recent import RecentErrors
from ai_task_processor.ops.status import Circuit, Paused, Poll, SlotCount, Status, document
from tests.unit.ops.statuses import CLOSED, WELL, error, status

NOW = datetime(2026, 1, 1, 3, 1, tzinfo=UTC)
SCHEMA = TypeAdapter(Status).json_schema()


def test_every_field_says_what_it_is() -> None:
    """The JSON Schema describes each field of each part, and the document is valid under it."""
    parts = {"Status": SCHEMA, **SCHEMA["$defs"]}
    assert len(parts) > 10
    silent = [
        f"{name}.{field}"
        for name, part in parts.items()
        for field, about in part["properties"].items()
        if not about.get("description")
    ]
    assert silent == []
    jsonschema.validate(asdict(status(last_errors=[error()])), SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document(WELL, {"slots": None}), SCHEMA)


# --- as texts


def texts(section: Section) -> dict[str, list[str]]:
    return {row[0].text: [cell.text for cell in row[1:]] for row in section.rows}


def shown(of: Status, **more: object) -> dict[str, dict[str, list[str]]]:
    return {section.title: texts(section) for section in sections(of, more)}


def test_the_sections_of_a_daemon_that_works() -> None:
    found = shown(WELL, token={"held": True, "trouble": None})
    assert found["Work"] == {
        "Slots": ["3 of 8 in use"],
        "Acknowledged": ["60 a minute, 7,200 in the last hour"],
        "Failed": ["0 a minute, 3 in the last hour"],
        "Last poll": ["2.0 s ago"],
        "Next poll": ["when a slot is free"],
        "Backlog": ["1,200 listed at least, 20 read ahead"],
        "Skipped": ["2 deferred"],
    }
    assert found["Outbox"] == {
        "Waiting": ["4"],
        "Oldest": ["1 min 15 s"],
        "Next due": ["now"],
        "Dead letters": ["0"],
        "Quarantined": ["0"],
        "Size": ["1.2 MB"],
    }
    limits = "30 a minute, 2 at once"
    assert found["Models"] == {"m": ["embedding", limits, "1", "5", "after 429s at most 30 calls a minute"]}
    assert found["Running tasks"] == {"t1": ["text_embedding", "1.5 s"]}
    assert found["Components"] == {"token.held": ["yes"]}
    assert (found["Circuits"], found["Last warnings and errors"]) == ({}, {})


def test_only_circuits_that_are_open_or_paused_are_rows() -> None:
    opened = Circuit(state="open", reason="it answered 503", wait_seconds=12.0)
    circuits = {"a": CLOSED, "b": opened, "c": replace(opened, state="closed", wait_seconds=0.0)}
    found = shown(status(circuits=circuits))["Circuits"]
    assert found == {"b": ["open", "in 12 s", "it answered 503"], "c": ["paused", "now", "it answered 503"]}


DRAINING = {"state": "draining", "not_ready_because": ["draining"], "why_idle": "draining"}
NOTED = {"notes": ["paused: model is paused: down", "sink_off: no address"], "why_idle": "model is paused: down"}
DOWN = {
    "state": "degraded",
    "not_ready_because": ["outbox_full", "upstream_unavailable: down"],
    "why_idle": "outbox_full",
}
PAUSED = {"paused": Paused(since="2026-01-01T03:00:00Z", reason="upgrade"), "why_idle": "paused by an operator"}


@pytest.mark.parametrize(
    ("changes", "state", "tone", "said"),
    [
        ({}, "running, ready", "good", ["3 of 8 slots run tasks"]),
        ({"why_idle": "no task is pending"}, "running, ready", "good", ["no task is pending"]),
        (NOTED, "running, ready, with notes", "warn", ["model is paused: down", "note: sink_off: no address"]),
        (DOWN, "degraded, not ready", "bad", ["outbox_full", "not ready: upstream_unavailable: down"]),
        (DRAINING, "draining, not ready", "warn", ["draining"]),
        (
            PAUSED,
            "running, ready",
            "good",
            ["paused by an operator since 2026-01-01 03:00:00Z: upgrade", "paused by an operator"],
        ),
    ],
)
def test_the_headline(changes: dict[str, Any], state: str, tone: str, said: list[str]) -> None:
    """State, readiness and reasons, each reason once."""
    found = headline(status(**changes))
    assert (found.state, found.tone, [sentence.text for sentence in found.sentences]) == (state, tone, said)


def test_one_line_says_the_essence() -> None:
    assert line(status(slots=SlotCount(total=8, running=0), why_idle="no task is pending")) == (
        "running, ready; 0 of 8 slots; 60 acknowledged and 0 failed in 1 min; "
        "outbox 4 waiting, 0 dead letters; no task is pending"
    )


@pytest.mark.parametrize(
    ("poll", "said"),
    [
        (Poll(under_way=True, last_seconds_ago=None, next_in_seconds=None), ("none yet", "under way")),
        (
            Poll(under_way=False, last_seconds_ago=70.0, next_in_seconds=29.6),
            ("1 min 10 s ago", "in 30 s or earlier"),
        ),
    ],
)
def test_polls(poll: Poll, said: tuple[str, str]) -> None:
    found = shown(status(poll=poll))["Work"]
    assert (*found["Last poll"], *found["Next poll"]) == said


def test_a_daemon_that_drains_polls_no_more() -> None:
    assert shown(status(**DRAINING))["Work"]["Next poll"] == ["none, as it drains"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.6, "1 min"), (3_600, "1 h"), (3_661, "1 h 1 min"), (180_005, "2 d 2 h")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_an_idle_model_without_limits_is_not_noteworthy() -> None:
    """Tasks name models: their number and names must not fill ``/status``."""
    quiet = {"calls_per_minute": None, "calls_at_once": None, "running_calls": 0, "waiting_calls": 0}
    idle = replace(WELL.models[0], **quiet, waits_because=None)  # type: ignore[arg-type]
    assert not idle.noteworthy
    for change in ({"calls_at_once": 1}, {"waiting_calls": 1}, {"paused_because": "down"}, {"calls_per_minute": 0.0}):
        assert replace(idle, **change).noteworthy, change


# --- what is remembered of the log


def event(**fields: object) -> dict[str, object]:
    head = {"timestamp": "2026-01-01T03:00:00.000Z", "level": "warning", "logger": "ai_task_processor.ops.condition"}
    return {**head, "event": "poll.failed", **fields}


def test_what_is_remembered_is_bounded() -> None:
    errors = RecentErrors()
    for number in range(recent.MOST + 5):
        errors.note(event(reason=f"{number} {'x' * 2_000}"))
    errors.note(event(reason=f"{recent.MOST} {'x' * 2_000}"))
    found = errors.latest(NOW)
    assert len(found) == recent.MOST
    assert [each.reason.partition(" ")[0] for each in found][:3] == ["20", "24", "23"]
    assert (found[0].times, found[0].seconds_ago, found[0].component) == (2, 60.0, "poll")
    assert max(len(each.reason) for each in found) == recent.MAX_REASON
