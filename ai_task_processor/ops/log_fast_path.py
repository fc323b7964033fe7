"""The fast path of logging: one line for each settled task goes through it."""

import json
import logging
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite

from structlog import DropEvent
from structlog.typing import EventDict

from ai_task_processor.core import codec
from ai_task_processor.ops.log_context import name_task
from ai_task_processor.ops.log_handler import Handler
from ai_task_processor.ops.log_values import MAX_ITEMS, MAX_TEXT
from ai_task_processor.ops.masking import SENSITIVE_KEY, Masker
from ai_task_processor.ops.recent import LEVELS, RecentErrors

#: events and fields that are cached
MAX_HEADS = 512
#: how the daemon's own events are spelled
EVENT = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,40}")
_FIELD = re.compile(r"[a-z_]{1,40}")
_HEAD = frozenset({"timestamp", "level", "logger", "exc_info", "stack_info"})


class FastPath:
    """Renders events of the daemon whose values are plain and need no cleaning.

    The whole chain takes ten times as long, and a settled task logs a line. Events with anything else (a container, an
    exception in flight, an escape, a long text, anything that may be a secret) go through the chain.
    """

    def __init__(self, handler: Handler, mask: Masker, recent: RecentErrors) -> None:
        self._handler = handler
        self._mask = mask
        self._recent = recent
        self._heads: dict[tuple[str, str, object], str | None] = {}
        self._plain_keys: dict[str, bool] = {}

    def __call__(self, logger: logging.Logger, method: str, event: EventDict) -> EventDict:
        about = logger.name, method, event.get("event")
        head = self._heads.get(about)
        if head is None or sys.exc_info()[1] is not None:
            if len(self._heads) < MAX_HEADS and about not in self._heads:
                self._heads[about] = self._head(*about)
            return event
        fields = dict(name_task(logger, method, event))
        del fields["event"]
        if len(fields) < MAX_ITEMS and (text := self._rendered(fields)) is not None:
            second, rest = divmod(time.time(), 1.0)
            timestamp = f"{_second(int(second))}.{int(rest * 1000):03}Z"
            self._handler.write(f'{{"timestamp":"{timestamp}",{head}{text}\n')
            if method in LEVELS:
                names = {"level": method, "logger": logger.name, "event": about[2]}
                self._recent.note({**fields, **names, "timestamp": timestamp})
            raise DropEvent
        return event

    def _head(self, name: str, method: str, event: object) -> str | None:
        """The beginning of every line of this event; None when it is no event of the daemon."""
        if not isinstance(event, str) or not EVENT.fullmatch(event) or self._mask.may_mask(f"{name} {event}"):
            return None
        return f'"level":"{method}","logger":{json.dumps(name)},"event":"{event}"'

    def _rendered(self, fields: Mapping[str, object]) -> str | None:
        """The rest of the line; None when there is anything to clean."""
        for key, value in fields.items():
            plain = value is None or isinstance(value, int | str) or (isinstance(value, float) and isfinite(value))
            if not plain or not self._is_plain(key):
                return None
        try:
            text = codec.line(fields).decode()
        except (TypeError, ValueError):
            return None
        plain = len(text) < MAX_TEXT and text.isascii() and text.isprintable() and "\\" not in text
        clean = plain and not self._mask.may_mask(text)
        return ("," + text[1:] if fields else "}") if clean else None

    def _is_plain(self, key: str) -> bool:
        plain = self._plain_keys.get(key)
        if plain is None:
            plain = _FIELD.fullmatch(key) is not None and key not in _HEAD and not SENSITIVE_KEY.fullmatch(key)
            if len(self._plain_keys) < MAX_HEADS:
                self._plain_keys[key] = plain
        return plain


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """Cached: most lines are of the same second as the one before."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]
