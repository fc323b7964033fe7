"""Why a record waits: its last failure, and what the daemon beside says about its deliveries."""

import json
from contextlib import closing, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from ai_task_processor.cli.healthcheck import local_addresses
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.settings import OpsSettings
from ai_task_processor.stores.sqlite import inspection
from ai_task_processor.stores.sqlite.inspection import Summary
from ai_task_processor.stores.sqlite.operator_requests import SPREAD

#: the circuit of reports
_CIRCUIT: Final = "api_delivery"
_TIMEOUT_S: Final = 1.0
_MAX_BYTES: Final = 2**24


@dataclass(frozen=True, slots=True)
class Situation:
    """The daemon of a data directory now.

    ``source``: of its tasks; None when it does not answer. ``paused``: why nothing is reported, None when reports are
    tried; ``resumes_in_s``: seconds until the next one.
    """

    running: bool
    source: str | None = None
    paused: str | None = None
    resumes_in_s: float = 0.0


def situation(directory: Path) -> Situation:
    """Ask the daemon that holds the directory, if there is one, at METRICS_HOST and METRICS_PORT."""
    if not inspection.daemon_running(directory):
        return Situation(running=False)
    try:
        return of_status(_status())
    except (ValueError, ConfigurationError):
        return Situation(running=True)


def of_status(status: Any) -> Situation:
    """The situation that a ``/status`` shows. Raises ``ValueError`` when it is none of a daemon."""
    try:
        circuit, source = status["circuits"].get(_CIRCUIT, {}), str(status["source"])
        paused, wait_s = circuit.get("reason"), float(circuit.get("wait_seconds", 0.0))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no status of a daemon") from error
    return Situation(running=True, source=source, paused=None if paused is None else str(paused), resumes_in_s=wait_s)


def _status() -> object:
    ops = load_group(OpsSettings)
    for address in local_addresses(ops.metrics_host):
        connection = HTTPConnection(address, ops.metrics_port, timeout=_TIMEOUT_S)
        with suppress(OSError, HTTPException), closing(connection):
            connection.request("GET", "/status")
            return json.loads(connection.getresponse().read(_MAX_BYTES))
    raise ValueError("no daemon answers")


def why_waiting(summary: Summary, now: Situation, at: float) -> str | None:
    """One sentence; None for a record that does not wait. ``at``: seconds since the epoch."""
    if summary.due_at is None:
        return None
    last = summary.reason or ""
    if not now.running:
        return _joined("no daemon is running here", last)
    if now.source not in (None, summary.source):
        return f"it is delivered when TASK_SOURCE is {summary.source}: the daemon runs with {now.source}"
    if now.paused is not None and not last.startswith("acknowledged"):
        again = f", again in {now.resumes_in_s:.0f} s" if now.resumes_in_s >= 1 else ""
        last = "" if last and last in now.paused else last
        return _joined(f"reports are paused: {now.paused}{again}", last)
    if summary.due_at > at:
        return last or "its next try is not due yet"
    return _joined("it is due and waits for its turn", last) if summary.attempts else last or "it waits for its turn"


def _joined(why: str, last: str) -> str:
    if not last:
        return why
    return f"{why}; {last}" if last == SPREAD else f"{why}; last failure: {last}"
