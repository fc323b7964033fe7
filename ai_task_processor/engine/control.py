"""What operators change while the daemon runs: the pause and the log level. The ops port calls it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict

from ai_task_processor.engine.pause import MOST_REASON, Pause
from ai_task_processor.ops import logs
from ai_task_processor.ops.endpoints import Answered

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
#: the longest time after which a level reverts by itself, seconds
MOST_SECONDS = 86_400.0

log = logs.get_logger(__name__)


class Control:
    """``level`` is that of ``LOG_LEVEL``. ``changed`` is called after a pause or resume, to act on it at once."""

    def __init__(self, pause: Pause, *, level: str, changed: Callable[[], None]) -> None:
        self._pause = pause
        self._usual = level
        self._changed = changed
        self._reverts: asyncio.TimerHandle | None = None
        self.actions: Mapping[str, Callable[[Mapping[str, str]], Answered]] = {
            "/pause": self.pause,
            "/resume": self.resume,
            "/log-level": self.log_level,
        }

    def load(self) -> None:
        """Go on with the pause of an earlier process."""
        self._pause.load()
        if self._pause.state is not None:
            log.warning("daemon.paused", reason=str(self._pause.state))

    def status(self) -> Mapping[str, object]:
        """What can be changed, as ``/status`` has it."""
        state = self._pause.state
        return {"paused": None if state is None else asdict(state), "log_level": logs.level()}

    def pause(self, query: Mapping[str, str]) -> Answered:
        """``reason``: printable, at most ``MOST_REASON`` characters."""
        reason = logs.masked(query.get("reason", "").strip())
        if len(reason) > MOST_REASON or not reason.isprintable():
            return 400, {"error": f"reason must be one line of at most {MOST_REASON} characters"}
        try:
            state = self._pause.begin(reason)
        except OSError as error:
            why = f"paused, but only until the daemon ends: DATA_DIR cannot be written ({error.strerror})"
            return 500, {"error": f"{why}; mend that and pause again"}
        finally:
            self._changed()
        log.warning("daemon.paused", reason=str(state))
        return 200, self.status()

    def resume(self, _query: Mapping[str, str]) -> Answered:
        """Claim again; also fine when there is no pause."""
        was = self._pause.state
        try:
            self._pause.end()
        except OSError as error:
            why = f"still paused: paused.json in DATA_DIR cannot be removed ({error.strerror})"
            return 500, {"error": f"{why}; mend that and resume again"}
        self._changed()
        if was is not None:
            log.warning("daemon.resumed", since=was.since)
        return 200, self.status()

    def log_level(self, query: Mapping[str, str]) -> Answered:
        """``level``, and ``seconds`` after which the level of ``LOG_LEVEL`` comes back; until the next start if not."""
        level = query.get("level", "").upper()
        if level not in LEVELS:
            return 400, {"error": f"level must be one of {', '.join(LEVELS)}"}
        seconds = None
        if "seconds" in query:
            try:
                seconds = float(query["seconds"])
            except ValueError:
                seconds = 0.0
            if not 0 < seconds <= MOST_SECONDS:
                return 400, {"error": f"seconds must be a number above 0, up to {MOST_SECONDS:.0f}"}
        self._set_level(level, seconds)
        if self._reverts is not None:
            self._reverts.cancel()
            self._reverts = None
        if seconds is not None:
            self._reverts = asyncio.get_running_loop().call_later(seconds, self._set_level, self._usual, None)
        return 200, self.status()

    def _set_level(self, level: str, seconds: float | None) -> None:
        numbers = logging.getLevelNamesMapping()
        rises = numbers[level] > numbers[logs.level()]
        if not rises:
            logs.set_level(level)
        log.warning("log.level_set", to=level, seconds=seconds)
        if rises:  # after the line, which it may suppress
            logs.set_level(level)
