"""Makes the values of an event plain, masked, printable and bounded."""

import itertools
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ai_task_processor.ops.log_exceptions import describe, shown
from ai_task_processor.ops.masking import MASK, SENSITIVE_KEY, Masker

if TYPE_CHECKING:
    from structlog.typing import EventDict

MAX_TEXT = 2_000
MAX_TRACEBACK = 10_000  # the one longer value: a chain of causes with its frames
MAX_ITEMS = 30
MAX_DEPTH = 3
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Cleaner:
    """The last step before rendering: makes every value plain, masked, printable and bounded."""

    def __init__(self, mask: Masker) -> None:
        self._mask = mask
        self._key = lru_cache(maxsize=512)(self._key_once)

    def __call__(self, _logger: object, _method: str, event: "EventDict") -> "EventDict":
        trace = event.pop("exception", None)
        clean = self._mapping(event, MAX_DEPTH)
        if trace is not None:
            clean["exception"] = self._text(_as_text(trace), MAX_TRACEBACK)
        return clean

    def _mapping(self, mapping: Mapping[Any, object], depth: int) -> dict[str, object]:
        clean = {}
        for given, value in itertools.islice(mapping.items(), MAX_ITEMS):
            key, sensitive = self._key(_as_text(given))
            clean[key] = MASK if sensitive else self._value(value, depth - 1)
        return clean

    def _key_once(self, key: str) -> tuple[str, bool]:
        return self._text(key), SENSITIVE_KEY.fullmatch(key) is not None

    def _value(self, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return self._container(value, depth)
        text = _as_text(value)
        clean = self._text(text)
        # neither a secret of digits nor NaN, which is no JSON, stays a number
        return value if isinstance(value, int | float) and clean == text and text[-1:].isdigit() else clean

    def _container(self, value: Mapping[Any, object] | Collection[object], depth: int) -> object:
        if depth <= 0:
            return f"<{type(value).__name__} of {len(value)}>"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        items = [self._value(item, depth - 1) for item in itertools.islice(value, MAX_ITEMS)]
        return items if len(value) <= MAX_ITEMS else [*items, f"… ({len(value)} items)"]

    def _text(self, text: str, limit: int = MAX_TEXT) -> str:
        text = self._mask(text)
        if len(text) > limit:
            text = f"{text[:limit]}… ({len(text)} characters)"
        return text if text.isprintable() else _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _as_text(value: object) -> str:
    """A value of an event as text."""
    if isinstance(value, BaseException):
        return describe(value)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, datetime):
        return value.isoformat()
    return shown(value, str)
