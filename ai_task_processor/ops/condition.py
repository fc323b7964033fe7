"""Logs a lasting failure when it begins, changes and ends, not at each attempt."""

import logging

from ai_task_processor.ops.logs import get_logger

log = get_logger(__name__)


class Condition:
    """``reason``: the present failure, or None. ``began`` (at ``level``) and ``ended``: the logged events."""

    def __init__(self, began: str, ended: str, level: int = logging.WARNING) -> None:
        self.reason: str | None = None
        self._began = began
        self._ended = ended
        self._level = level

    def note(self, reason: str | None, **details: object) -> None:
        """The failure of the latest attempt, or None when it succeeded. ``details`` stand beside it in the log."""
        if reason == self.reason:
            return
        if reason is None:
            log.info(self._ended, after=self.reason, **details)
        else:
            log.log(self._level, self._began, reason=reason, **details)
        self.reason = reason
