"""``outbox``: which records are listed and chosen, what is asked before, and why each of them waits."""

import asyncio
import io
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ai_task_processor.cli.main import main
from ai_task_processor.cli.outbox import table
from ai_task_processor.cli.outbox.arguments import seconds_of
from ai_task_processor.cli.outbox.table import row_of, span
from ai_task_processor.cli.outbox.waits import Situation, of_status, why_waiting
from ai_task_processor.core.clock import SystemClock
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.stores.sqlite import inspection
from ai_task_processor.stores.sqlite.inspection import Summary
from ai_task_processor.stores.sqlite.operator_requests import SPREAD
from tests.contract.outboxes import record, store

NOW = 1_800_000_000.0
BUSY, GONE = "refused (HTTP 413): Entity too large", "gone (HTTP 404)"
WAITING = Summary(
    task_id="a",
    task_type="t",
    status=TaskStatus.SUCCEEDED,
    state="waiting",
    finished_at=NOW - 7_500,
    due_at=NOW + 45,
    attempts=3,
    reason="the task API answered 500: no",
    bytes=10,
    source="aletheia",
)
RUNS = Situation(running=True, source="aletheia")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five records: ``new`` and ``old`` wait, ``busy`` and ``gone`` are dead letters, ``kills`` is quarantined."""

    async def fill() -> None:
        async with store(tmp_path, clock=SystemClock()) as outbox:
            now = time.time()
            await outbox.put(record("new", finished_at=now))
            await outbox.put(record("old", finished_at=now - 90_000, task_type="answer"))
            await outbox.put(record("busy", body=b'"a result"', finished_at=now - 7_200, task_type="answer"))
            await outbox.put(record("gone", finished_at=now - 60))
            await outbox.bury("busy", BUSY)
            await outbox.bury("gone", GONE)
            await outbox.quarantine(record("kills", status=TaskStatus.PENDING, finished_at=now, reason="it kills"))

    asyncio.run(fill())
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def requested(directory: Path) -> dict[str, str]:
    """What the next daemon does, by task id."""

    async def apply() -> dict[str, str]:
        async with store(directory, clock=SystemClock()) as outbox:
            return dict(await outbox.apply_requests())

    return asyncio.run(apply())


def types(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """An operator at a terminal answers the next question."""
    keyboard = io.StringIO(text + "\n")
    keyboard.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", keyboard)


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ("--all", "new old busy gone kills"),
        ("--dead", "busy gone kills"),
        ("--type answer", "old busy"),
        ("--type answer --type text_embedding --dead", "busy gone kills"),
        ("--reason TOO", "busy"),
        ("--reason HTTP", "busy gone"),
        ("--older-than 1h", "old busy"),
        ("--older-than 1d", "old"),
        ("--older-than 1h --dead", "busy"),
        ("--type nothing", ""),
        ("busy new", "busy new"),
        ("busy new --dead", "busy"),
    ],
)
def test_filters_choose_the_same_records_everywhere(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: str, chosen: str
) -> None:
    """A rehearsal lists them and changes nothing; a drop of them drops them."""
    given, names = arguments.split(), set(chosen.split())
    assert main(["outbox", "drop", *given, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:-1]} == names
    assert lines[-1].startswith(f"{len(names)} record{'s' * (len(names) != 1)} would be dropped; nothing is changed;")
    assert inspection.pending_requests(directory) == 0
    assert main(["outbox", "drop", *given, "--yes"]) == 0
    assert requested(directory).keys() == names
    assert {summary.task_id for summary in inspection.list_records(directory)}.isdisjoint(names)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("retry", 64, "name the TASK_IDs to retry, or choose records with --all, --dead"),
        ("drop --all", 64, "drop of 5 records needs --yes"),
        ("retry --dead", 64, "retry of 3 records needs --yes"),
        ("retry --type nothing", 0, ""),
        ("drop nobody", 66, "the outbox holds nothing for 'nobody'"),
        ("retry nobody --dry-run", 66, "the outbox holds nothing for 'nobody'"),
        ("show nobody", 66, "the outbox holds nothing for 'nobody'"),
    ],
)
def test_what_is_not_clear_changes_nothing(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, words: str
) -> None:
    """A request without a choice, and a choice that nobody confirms; the message says what to do."""
    assert main(["outbox", *arguments.split()]) == code
    assert words in capsys.readouterr().err
    assert inspection.pending_requests(directory) == 0


@pytest.mark.parametrize(
    ("action", "answer", "code"),
    [
        ("drop", "3", 0),
        ("drop", "y", 1),
        ("drop", "2", 1),
        ("drop", "", 1),
        ("retry", "y", 0),
        ("retry", "YES", 0),
        ("retry", "", 1),
        ("retry", "3", 1),
    ],
)
def test_a_choice_is_confirmed_on_a_terminal(
    directory: Path, monkeypatch: pytest.MonkeyPatch, action: str, answer: str, code: int
) -> None:
    """A drop needs the number, because it cannot be undone."""
    types(monkeypatch, answer)
    assert main(["outbox", action, "--dead"]) == code
    assert len(requested(directory)) == (0 if code else 3)


def test_many_retries_are_spread_and_few_are_not(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three at ten a minute are six seconds apart; at the usual rate they are due at once."""
    assert main(["outbox", "retry", "--dead", "--yes", "--per-minute", "10"]) == 0
    assert (
        "3 records to be retried, spread over 18 s (10 a minute): no daemon is running here" in capsys.readouterr().out
    )
    requested(directory)
    due = sorted(s.due_at for s in inspection.list_records(directory) if s.reason == SPREAD and s.due_at is not None)
    assert [round(later - due[0]) for later in due] == [0, 6]  # the quarantined task is deleted
    assert main(["outbox", "retry", "busy", "gone"]) == 0
    requested(directory)
    assert all(s.attempts == 0 and s.reason is None for s in inspection.find_records(directory, ["busy", "gone"]))


def test_json_has_what_the_table_shows(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With seconds for programs; a dead letter has no next try and does not wait."""
    assert main(["outbox", "list", "--json"]) == 0
    found = {entry["task_id"]: entry for entry in map(json.loads, capsys.readouterr().out.splitlines())}
    assert found["new"]["waits_for"] == "no daemon is running here"
    assert found["new"]["next_try_in_seconds"] == 0
    assert 7_200 <= found["busy"]["age_seconds"] < 7_300
    assert (found["busy"]["waits_for"], found["busy"]["next_try_in_seconds"]) == (None, None)


# --- why a record waits


@pytest.mark.parametrize(
    ("change", "now", "why"),
    [
        ({}, RUNS, "the task API answered 500: no"),
        ({"state": "dead", "due_at": None}, RUNS, None),
        ({}, Situation(running=False), "no daemon is running here; last failure: the task API answered 500: no"),
        ({"reason": None, "attempts": 0}, Situation(running=False), "no daemon is running here"),
        ({}, replace(RUNS, paused="connection refused", resumes_in_s=12.3),
         "reports are paused: connection refused, again in 12 s; last failure: the task API answered 500: no"),
        ({"reason": "connection refused"}, replace(RUNS, paused="connection refused"),
         "reports are paused: connection refused"),
        ({"reason": SPREAD}, replace(RUNS, paused="down"), f"reports are paused: down; {SPREAD}"),
        ({"reason": "acknowledged; sink s3: down"}, replace(RUNS, paused="down"), "acknowledged; sink s3: down"),
        ({"source": "acme"}, RUNS, "it is delivered when TASK_SOURCE is acme: the daemon runs with aletheia"),
        ({"source": "acme"}, Situation(running=True), "the task API answered 500: no"),
        ({"due_at": NOW - 1}, RUNS,
         "it is due and waits for its turn; last failure: the task API answered 500: no"),
        ({"due_at": NOW - 1, "reason": None, "attempts": 0}, RUNS, "it waits for its turn"),
        ({"reason": None}, RUNS, "its next try is not due yet"),
    ],
)  # fmt: skip
def test_a_waiting_record_says_why(change: dict[str, Any], now: Situation, why: str | None) -> None:
    """The daemon's pause and the last failure, whatever of them there is."""
    assert why_waiting(replace(WAITING, **change), now, NOW) == why


def test_a_pause_is_read_from_the_status_and_anything_else_is_no_daemon() -> None:
    circuits = {"api_delivery": {"state": "open", "reason": "down", "wait_seconds": 4.5}, "model": {"reason": "no"}}
    assert of_status({"source": "s", "circuits": circuits}) == Situation(True, "s", "down", 4.5)
    assert of_status({"source": "s", "circuits": {}}) == Situation(True, "s")
    others: list[object] = [
        {},
        [],
        None,
        "x",
        {"source": "s", "circuits": 5},
        {"source": "s", "circuits": {"api_delivery": 1}},
    ]
    for other in others:
        with pytest.raises(ValueError, match="no status"):
            of_status(other)


# --- how it looks


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (45.4, "45 s"), (720, "12 min"), (7_500, "2 h 5 min"), (273_700, "3 d 4 h"), (3_590, "1 h 0 min")],
)
def test_a_span_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("text", "seconds"), [("45s", 45), ("30m", 1_800), ("2h", 7_200), ("1d12h", 129_600)])
def test_spans_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("width", [40, 80, 119, 120, 200])
def test_nothing_is_cut_on_a_terminal_of_any_width(width: int) -> None:
    """The whole reason is there, on lines that fit; control characters of a remote are not."""
    reason = "the task API answered 500: \x1b[31m" + " ".join(f"word{number}" for number in range(40))
    shown, console = io.StringIO(), Console(width=width, force_terminal=True, color_system=None, highlight=False)
    console.file = shown
    rows = [row_of(replace(WAITING, task_id=f"task-{number}", reason=reason), RUNS, NOW) for number in range(3)]
    assert table.print_on(console, rows) == 3
    text = shown.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    for word in ("task-2", "2 h 5 min", "in 45 s", "word0", "word39", "waiting", "3 waiting: the task API answered"):
        assert word in " ".join(text.split())


def test_a_long_list_on_a_terminal_says_how_many_more_there_are() -> None:
    shown, console = io.StringIO(), Console(width=200, force_terminal=True, color_system=None, highlight=False)
    console.file = shown
    assert table.print_on(console, (row_of(WAITING, RUNS, NOW) for _ in range(table.SHOWN + 7))) == table.SHOWN + 7
    assert shown.getvalue().splitlines()[-1].startswith("and 7 more: ")


def test_lines_are_aligned() -> None:
    """Every column begins where its head does, whatever is in it."""
    summaries = [WAITING, replace(WAITING, task_id="b" * 30, state="dead", due_at=None, reason=BUSY)]
    head, *lines = table.lines(row_of(summary, RUNS, NOW) for summary in summaries)
    assert [line.index(text) for line, text in zip(lines, ("the task API", BUSY), strict=True)] == [
        head.index("REASON")
    ] * 2


def test_show_on_a_terminal_is_for_people(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The facts one below the other and the body; JSON on demand and elsewhere."""
    assert main(["outbox", "show", "busy"]) == 0
    assert json.loads(capsys.readouterr().out)["reason"] == BUSY
    monkeypatch.setattr(Console, "is_terminal", property(lambda _: True))
    monkeypatch.setenv("TERM", "xterm")
    assert main(["outbox", "show", "busy"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in (BUSY, "2 h 0 min", "attempts", "aletheia", "body"))
    assert main(["outbox", "show", "busy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "dead"
