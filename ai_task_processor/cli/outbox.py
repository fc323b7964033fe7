"""``ai-task-processor outbox …``: shows stored results beside a running daemon, and leaves requests for it."""

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ai_task_processor.core import codec
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.plugins import find
from ai_task_processor.core.records import to_outcome
from ai_task_processor.core.settings import PartsSettings, load_group
from ai_task_processor.models.task import Completed, Failed, Record, TaskStatus
from ai_task_processor.stores.sqlite import inspection
from ai_task_processor.stores.sqlite.inspection import Summary
from ai_task_processor.stores.sqlite.settings import StoreSettings

EX_OK, EX_NOINPUT = 0, 66
#: seconds for which the command waits until the daemon has carried out a request
WATCH_S: Final = 3.0
_ROW: Final = "{:<28} {:<16} {:<10} {:<11} {:>8} {:>20} {:>9}  {}"


def main(arguments: argparse.Namespace) -> int:
    """Carry out the action; returns the exit code."""
    actions = {"list": _list, "show": _show, "retry": _request, "drop": _request}
    return actions[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    directory = load_group(StoreSettings).data_dir
    count = 0
    for summary in inspection.iter_records(directory):
        if arguments.dead and summary.state == "waiting":
            continue
        if arguments.json:
            _say(codec.dumps(_shown(summary)).decode())
            continue
        if count == 0:
            _say(_ROW.format("TASK", "TYPE", "STATUS", "STATE", "ATTEMPTS", "FINISHED", "BYTES", "REASON"))
        count += 1
        _say(_line(summary))
    if count == 0 and not arguments.json:
        _say("no dead letters" if arguments.dead else "the outbox is empty: everything is delivered")
    return EX_OK


def _show(arguments: argparse.Namespace) -> int:
    found = inspection.load_records(load_group(StoreSettings).data_dir, arguments.task_id)
    for summary, record in found:
        # The body as it would be sent, so that a result can be reported by hand.
        body = codec.dumps(_shown(summary)).removesuffix(b"}") + b',"body":' + _body(record) + b"}"
        _say(body.decode())
    return EX_OK if found else _missing(arguments.task_id)


def _request(arguments: argparse.Namespace) -> int:
    directory = load_group(StoreSettings).data_dir
    unknown = [task_id for task_id in arguments.task_ids if not inspection.load_records(directory, task_id)]
    for task_id in unknown:
        _missing(task_id)
    known = [task_id for task_id in arguments.task_ids if task_id not in unknown]
    if known:
        inspection.leave_request(directory, arguments.action, known)
        _say(_await_requests(directory, len(known)))
    return EX_NOINPUT if unknown else EX_OK


def _await_requests(directory: Path, count: int) -> str:
    """Wait for the daemon to carry out requests; returns what to print."""
    if not inspection.daemon_running(directory):
        return f"{count} noted; no daemon is running here, it will be done at the next start"
    ends_at = time.monotonic() + WATCH_S
    while time.monotonic() < ends_at:
        if inspection.pending_requests(directory) == 0:
            return f"{count} done"
        time.sleep(0.05)
    return f"{count} noted; the daemon has not taken it up yet"


def _body(record: Record) -> bytes:
    if record.status is TaskStatus.PENDING:
        return b"null"  # a quarantined task has no outcome
    outcome, source = to_outcome(record), record.receipt.source
    for name in dict.fromkeys((load_group(PartsSettings).task_source, source)):
        with suppress(ConfigurationError):
            found = find("sources", name).load()
            if found.name == source and hasattr(found, "body_of"):
                body: bytes = found.body_of(outcome)
                return body
    match outcome:
        case Completed(result):
            return b'{"result":' + codec.result_json(result.output, result.vector) + b"}"
        case Failed(failure):
            return codec.line({"error": {"code": failure.code, "message": failure.message}})
        case _:
            return b'{"cancelled":true}'


def _shown(summary: Summary) -> Mapping[str, object]:
    due_at = None if summary.due_at is None else _instant(summary.due_at)
    return asdict(summary) | {"finished_at": _instant(summary.finished_at), "due_at": due_at}


def _line(summary: Summary) -> str:
    return _ROW.format(
        summary.task_id,
        summary.task_type,
        summary.status,
        summary.state,
        summary.attempts,
        _instant(summary.finished_at),
        summary.bytes,
        summary.reason or "",
    ).rstrip()


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _missing(task_id: str) -> int:
    print(f"ai-task-processor: the outbox holds nothing for {task_id!r}", file=sys.stderr)
    return EX_NOINPUT


def _say(text: str) -> None:
    print(text, flush=True)
