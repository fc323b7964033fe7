"""The last warnings and errors in the log, for ``/status``. Memory is bounded, whatever is logged."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from ai_task_processor.ops.status import RecentError

MOST: Final = 20
MAX_REASON: Final = 300
LEVELS: Final = frozenset({"warning", "error", "critical"})
#: events whose reasons hold values of settings, such as addresses and paths, which are not served
_OF_SETTINGS: Final = ("settings.", "tls.")
_NONE: Final = "see the log"
_PACKAGE: Final = f"{__name__.partition('.')[0]}."


class RecentErrors:
    """Equal lines are one entry with a count, so that a line that repeats does not remove the others.

    May be used by several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._errors: OrderedDict[tuple[str, str, str], RecentError] = OrderedDict()

    def note(self, event: Mapping[str, object]) -> None:
        """An event of the log, masked: with ``timestamp``, ``level``, ``logger`` and ``event``."""
        found = RecentError(
            time=str(event["timestamp"]),
            seconds_ago=0.0,
            level=str(event["level"]),
            event=str(event["event"]),
            component=_component(event),
            reason=_reason(event),
            times=1,
        )
        key = found.event, found.component, found.reason
        with self._lock:
            if (before := self._errors.pop(key, None)) is not None:
                found = replace(found, times=before.times + 1)
            elif len(self._errors) >= MOST:
                self._errors.popitem(last=False)
            self._errors[key] = found

    def latest(self, now: datetime) -> Sequence[RecentError]:
        """The newest first."""
        with self._lock:
            found = tuple(reversed(self._errors.values()))
        return [replace(error, seconds_ago=_age_s(error.time, now)) for error in found]

    def clear(self) -> None:
        with self._lock:
            self._errors.clear()


def _age_s(time: str, now: datetime) -> float:
    return round(max(0.0, (now - datetime.fromisoformat(time)).total_seconds()), 1)


def _component(event: Mapping[str, object]) -> str:
    """The component, service or model that it is about; otherwise the module, or what a condition is about."""
    named = next((str(event[key]) for key in ("component", "service", "sink", "model") if event.get(key)), None)
    module = str(event["logger"]).removeprefix(_PACKAGE)
    if named:
        return named[:64]
    return str(event["event"]).partition(".")[0] if module == "ops.condition" else module


def _reason(event: Mapping[str, object]) -> str:
    """The reason, or the type of the exception, on one line."""
    if str(event["event"]).startswith(_OF_SETTINGS):
        return _NONE
    trace = str(event.get("exception", "")).partition("\n")[0]
    text = " ".join(str(event.get("reason") or event.get("error") or trace or _NONE).split())
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 1]}…"
