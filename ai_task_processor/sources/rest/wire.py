"""Parses a listed record into a task, as the profile says. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import translate
from math import isfinite
from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.sources.rest.framing import RecordTooLarge
from ai_task_processor.sources.rest.profile import RestProfile

#: members of a trace carrier (W3C Trace Context §3)
_CARRIER = ("traceparent", "tracestate")
#: for records whose id reaches no URL
ANY_ID = re.compile(r".+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Invalid:
    """A record that cannot become a task, and why. It has nothing of the record's content but a valid id."""

    reason: str
    task_id: str | None = None


class Records:
    """Makes tasks of records. ``id_pattern``: what a whole id must match, because only such ids reach a URL."""

    def __init__(self, profile: RestProfile, id_pattern: re.Pattern[str]) -> None:
        fields = profile.fields
        self._id_pattern = id_pattern
        self._numeric_ids = fields.numeric_ids
        self._pending = profile.states.pending
        self._type = profile.types[0] if fields.type is None else None
        self._paths: Mapping[str, Sequence[str]] = {
            name: keys(pointer) for name, pointer in fields if isinstance(pointer, str)
        }
        #: the members of a record, where no pointer goes deeper
        self._names = {name: path[0] for name, path in self._paths.items() if len(path) == 1}
        self._further = tuple(name for name in _FURTHER if name in self._paths)
        self._strip = re.compile("|".join(map(translate, fields.strip))) if fields.strip else None
        #: The beginning of a record as many APIs write it, with the id first; others are parsed to find the id.
        self.first_id: re.Pattern[bytes] | None = None
        if name := self._names.get("id"):
            quoted = re.escape(codec.dumps(name))
            self.first_id = re.compile(rb"\s*\{\s*" + quoted + rb'\s*:\s*"([A-Za-z0-9._~-]{1,128})"')

    def parse(self, record: bytes) -> Task | Invalid:
        """A record as it was listed."""
        if isinstance(record, RecordTooLarge):
            return Invalid("larger than 1 MiB")
        try:
            raw = codec.loads(record)
        except ValueError:
            return Invalid("not valid JSON")
        return self.task(raw)

    def id_of(self, raw: object) -> object:
        """The id of a parsed record, unchecked."""
        return self._value(raw, "id") if isinstance(raw, dict) else None

    def task(self, raw: object, *, any_state: bool = False) -> Task | Invalid:
        """A parsed record as a task, with the same checks. ``any_state``: it need not be pending."""
        if not isinstance(raw, dict):
            return Invalid("not an object")
        names = self._names
        task_id = raw.get(names["id"]) if "id" in names else self._value(raw, "id")
        if self._numeric_ids and isinstance(task_id, int) and not isinstance(task_id, bool):
            task_id = str(task_id)
        if not isinstance(task_id, str) or not task_id or not self._id_pattern.fullmatch(task_id):
            return Invalid(f"{'.'.join(self._paths['id'])} is missing or does not match TASK_ID_PATTERN")
        kind = self._type or (raw.get(names["type"]) if "type" in names else self._value(raw, "type"))
        if not isinstance(kind, str) or not kind:
            return Invalid("type is not a text", task_id)
        if not any_state and "state" in self._paths and self._value(raw, "state", self._pending) != self._pending:
            return Invalid("state is not pending", task_id)
        return Task(
            id=task_id,
            type=TaskType.named(kind),
            content=self._value(raw, "content") if self._strip is None else self._stripped(self._value(raw, "content")),
            created_at=_instant(self._value(raw, "created_at")),
            raw=raw,
            **({name: _FURTHER[name](self._value(raw, name)) for name in self._further} if self._further else {}),
        )

    def _value(self, raw: dict[str, Any], field: str, default: object = None) -> Any:
        name = self._names.get(field)
        if name is not None:
            return raw.get(name, default)
        if field not in self._paths:
            return default
        value = resolve(raw, self._paths[field])
        return default if value is None else value

    def _stripped(self, content: object) -> object:
        if self._strip is None or not isinstance(content, dict):
            return content
        return {key: value for key, value in content.items() if not self._strip.match(key)}


def _instant(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _positive(value: object) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < 2**53 and isfinite(value) else None  # type: ignore[operator,arg-type]  # a number


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _limit(value: object) -> int | None:
    number = _whole(value)
    return number if number is not None and number > 0 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _carrier(value: object) -> Mapping[str, str] | None:
    if not isinstance(value, Mapping):
        return None
    found = {name: value[name] for name in _CARRIER if isinstance(value.get(name), str)}
    return found or None


_FURTHER: Mapping[str, Any] = {
    "timeout_s": _positive,
    "attempt_limit": _limit,
    "priority": _whole,
    "tenant": _text,
    "trace": _carrier,
}
