"""The actions of ``outbox``: shows records here; ``requests`` retries and drops them."""

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ai_task_processor.cli import bodies
from ai_task_processor.cli.outbox import table, waits
from ai_task_processor.cli.outbox.requests import EX_OK, complain_missing, request, say, show
from ai_task_processor.cli.outbox.selection import Selection
from ai_task_processor.core import codec
from ai_task_processor.core.checks import printable
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.plugins import find
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.records import to_outcome
from ai_task_processor.core.settings import PartsSettings
from ai_task_processor.models.task import Record, TaskStatus
from ai_task_processor.stores.sqlite import inspection
from ai_task_processor.stores.sqlite.inspection import Summary
from ai_task_processor.stores.sqlite.settings import StoreSettings


def main(arguments: argparse.Namespace) -> int:
    """Carry out the action; returns the exit code."""
    actions = {"list": _list, "show": _show, "retry": request, "drop": request}
    return actions[arguments.action](arguments, load_group(StoreSettings).data_dir)


def _list(arguments: argparse.Namespace, directory: Path) -> int:
    selection, at = Selection.of(arguments), time.time()
    records = inspection.iter_records(directory)
    chosen = (summary for summary in records if selection.takes(summary, at))
    first = next(chosen, None)
    situation = waits.situation(directory)
    summaries = _before(first, chosen)
    if arguments.json:
        for summary in summaries:
            say(codec.dumps(_shown(summary, situation, at)).decode())
        return EX_OK
    dead = arguments.dead and not (arguments.type or arguments.reason or arguments.older_than)
    chooses = "no record is chosen" if selection.filters else "the outbox is empty"
    empty = "no dead letters" if dead else chooses
    show((table.row_of(summary, situation, at) for summary in summaries), empty)
    return EX_OK


def _before(first: Summary | None, others: Iterator[Summary]) -> Iterator[Summary]:
    if first is not None:
        yield first
        yield from others


def _show(arguments: argparse.Namespace, directory: Path) -> int:
    found, at = inspection.load_records(directory, arguments.task_id), time.time()
    if not found:
        return complain_missing(arguments.task_id)
    situation, console = waits.situation(directory), Console(highlight=False)
    plain = arguments.json or not console.is_terminal or console.is_dumb_terminal
    for summary, record in found:
        # The body as it would be sent, so that a result can be reported by hand.
        fields, body = _shown(summary, situation, at), _body(record)
        if plain:
            say((codec.dumps(fields).removesuffix(b"}") + b',"body":' + body + b"}").decode())
            continue
        grid = Table(box=None, show_header=False, pad_edge=False)
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        row = table.row_of(summary, situation, at)
        for name, text in zip(table.HEAD, row.cells, strict=True):
            grid.add_row(name.lower(), text)
        grid.add_row("finished", _instant(summary.finished_at))
        grid.add_row("bytes", str(summary.bytes))
        grid.add_row("source", printable(summary.source))
        console.print(grid)
        say("body")
        for line in bodies.for_terminal(body).splitlines():
            say(printable(line))
    return EX_OK


def _body(record: Record) -> bytes:
    if record.status is TaskStatus.PENDING:
        return b"null"  # a quarantined task has no outcome
    outcome, source = to_outcome(record), record.receipt.source
    for name in dict.fromkeys((load_group(PartsSettings).task_source, source)):
        with suppress(ConfigurationError):
            found = find("sources", name).load()
            if found.name == source:
                return bodies.as_reported(found, outcome)[1]
    return bodies.as_reported(None, outcome)[1]


def _shown(summary: Summary, situation: waits.Situation, at: float) -> Mapping[str, object]:
    """The fields of a record, as JSON. ``waits_for`` and ``next_try_in_seconds``: None when it does not wait."""
    due_at = summary.due_at
    return asdict(summary) | {
        "finished_at": _instant(summary.finished_at),
        "due_at": None if due_at is None else _instant(due_at),
        "age_seconds": round(max(0.0, at - summary.finished_at)),
        "next_try_in_seconds": None if due_at is None else round(max(0.0, due_at - at)),
        "waits_for": waits.why_waiting(summary, situation, at),
    }


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
