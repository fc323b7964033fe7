"""``outbox retry`` and ``outbox drop``: chooses records, asks, leaves requests, and watches the daemon take them up."""

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ai_task_processor.cli.outbox import table, waits
from ai_task_processor.cli.outbox.selection import Selection
from ai_task_processor.stores.sqlite import inspection
from ai_task_processor.stores.sqlite.inspection import Summary
from ai_task_processor.stores.sqlite.operator_requests import REQUESTED_AHEAD_S

EX_OK, EX_FAILED, EX_USAGE, EX_NOINPUT = 0, 1, 64, 66
#: the command waits until the daemon has carried out its requests, unless none was for so many seconds
WATCH_S: Final = 3.0
#: retries that take no longer than this at their rate are all due at once, seconds
AT_ONCE_S: Final = 1.0
#: from so many requests on a terminal shows a bar
MANY: Final = 500
#: what a drop means for its task
AGAIN: Final = "; a task that is still listed is processed again (ai-task-processor pause prevents that)"


class Show(Protocol):
    """Shows how many requests are carried out."""

    def __call__(self, done: int) -> None: ...


def request(arguments: argparse.Namespace, directory: Path) -> int:
    """Carry out ``retry`` or ``drop``; returns the exit code."""
    selection, at = Selection.of(arguments), time.time()
    if not (arguments.task_ids or arguments.all or selection.filters):
        choices = "--all, --dead, --type, --reason, --older-than"
        return complain(f"name the TASK_IDs to {arguments.action}, or choose records with {choices}", EX_USAGE)
    if arguments.task_ids:
        found = inspection.find_records(directory, arguments.task_ids)
    else:
        found = list(inspection.iter_records(directory))
    known = {summary.task_id for summary in found}
    missing = [task_id for task_id in dict.fromkeys(arguments.task_ids) if task_id not in known]
    for task_id in missing:
        complain_missing(task_id)
    chosen = [summary for summary in found if selection.takes(summary, at)]
    code = EX_NOINPUT if missing else EX_OK
    if arguments.dry_run:
        return _rehearse(arguments.action, chosen, directory, at) or code
    if not chosen:
        if not missing:
            say("no record is chosen: nothing is done")
        return code
    if not (arguments.task_ids or arguments.yes) and (refused := _unconfirmed(arguments.action, len(chosen))):
        return refused
    task_ids = list(dict.fromkeys(summary.task_id for summary in chosen))
    return _leave(arguments, directory, task_ids) or code


def _rehearse(action: str, chosen: list[Summary], directory: Path, at: float) -> int:
    situation = waits.situation(directory)
    show((table.row_of(summary, situation, at) for summary in chosen), "")
    say(f"{_records(len(chosen))} would be {_past(action)}; nothing is changed{_consequence(action)}")
    return EX_OK


def _unconfirmed(action: str, count: int) -> int:
    """Ask on a terminal; 0 when it is confirmed. A drop needs the number: it cannot be undone."""
    if not sys.stdin.isatty():
        return complain(f"{action} of {_records(count)} needs --yes where nobody can be asked", EX_USAGE)
    if action == "drop":
        question, right = f"Drop {_records(count)} with their results for good? Type the number to go on: ", str(count)
    else:
        question, right = f"Retry {_records(count)}? [y/N] ", "y"
    print(question, end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip().lower().replace(",", "")
    if answer == right or (right == "y" and answer == "yes"):
        return EX_OK
    return complain("not confirmed: nothing is changed", EX_FAILED)


def _leave(arguments: argparse.Namespace, directory: Path, task_ids: list[str]) -> int:
    every_s = 60.0 / arguments.per_minute if arguments.action == "retry" else 0.0
    takes_s = every_s * len(task_ids)
    if takes_s <= AT_ONCE_S:
        every_s = 0.0
    inspection.leave_request(directory, arguments.action, task_ids, from_s=time.time(), every_s=every_s)
    spread = f", spread over {table.span(takes_s)} ({arguments.per_minute} a minute)" if every_s else ""
    say(_watched(directory, len(task_ids), arguments.action, spread) + _consequence(arguments.action))
    return EX_OK


def _watched(directory: Path, count: int, action: str, spread: str) -> str:
    """Wait for the daemon to carry out the requests; returns what to print."""
    if not inspection.daemon_running(directory):
        return f"{_records(count)} to be {_past(action)}{spread}: no daemon is running here, run and drain do it"
    with _progress(count) as show_done:
        left, moved_at = _left(directory), time.monotonic()
        while left and time.monotonic() - moved_at < WATCH_S:
            time.sleep(0.05)
            before, left = left, _left(directory)
            if left < before:
                moved_at = time.monotonic()
            show_done(max(0, count - left))
    if left:
        return f"{_records(count)} to be {_past(action)}{spread}: the daemon has not taken up {left} of them yet"
    return f"{_records(count)} {_past(action)}{spread}"


def _left(directory: Path) -> int:
    """The requests that a daemon carries out now: retries of many come later."""
    return inspection.pending_requests(directory, time.time() + REQUESTED_AHEAD_S)


@contextmanager
def _progress(count: int) -> Iterator[Show]:
    console = Console()
    if count < MANY or not console.is_terminal or console.is_dumb_terminal:
        yield lambda done: None  # noqa: ARG005 - shows nothing
        return
    columns = TextColumn("carried out"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("", total=count)
        yield lambda done: progress.update(bar, completed=done)


def show(rows: Iterator[table.Row], empty: str) -> None:
    """Print rows on a terminal or elsewhere; ``empty`` when there are none."""
    console = Console(highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        if not table.print_on(console, rows) and empty:
            say(empty)
        return
    count = 0
    for count, line in enumerate(table.lines(rows), 1):  # noqa: B007 - counted
        say(line)
    if not count and empty:
        say(empty)


def say(text: str) -> None:
    print(text, flush=True)


def complain(text: str, code: int) -> int:
    print(f"ai-task-processor: {text}", file=sys.stderr)
    return code


def complain_missing(task_id: str) -> int:
    return complain(f"the outbox holds nothing for {task_id!r}", EX_NOINPUT)


def _past(action: str) -> str:
    return "dropped" if action == "drop" else "retried"


def _consequence(action: str) -> str:
    return AGAIN if action == "drop" else ""


def _records(count: int) -> str:
    return "1 record" if count == 1 else f"{count} records"
