"""A failure that lasts is told when it begins, when it changes and when it ends, not each time it is met."""

import logging

from ai_task_processor.ops.logs import get_logger

log = get_logger(__name__)


class Condition:
    """One thing that may fail over and over. ``reason`` says how it fails at present, None that it does not.

    ``began`` and ``ended`` are the events that are logged, the first one at ``level``.
    """

    def __init__(self, began: str, ended: str, level: int = logging.WARNING) -> None:
        self.reason: str | None = None
        self._began = began
        self._ended = ended
        self._level = level

    def note(self, reason: str | None) -> None:
        """How the latest attempt failed, or None when it succeeded."""
        if reason == self.reason:
            return
        if reason is None:
            log.info(self._ended, after=self.reason)
        else:
            log.log(self._level, self._began, reason=reason)
        self.reason = reason
