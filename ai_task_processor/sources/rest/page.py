"""The outcome of one reading of the pending list, and the log of records that cannot be used."""

import re
from collections import Counter
from dataclasses import dataclass, field

from ai_task_processor.core.ports import SkipReason
from ai_task_processor.models.task import Task
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.sources.rest.wire import Invalid

#: the most invalid records that are logged, once each, until a list has none
REPORTED_RECORDS = 100
#: types come from outside: the most that are logged at a time, and the most characters of each
REPORTED_TYPES, REPORTED_TYPE_CHARS = 20, 64
#: the invalid records of a page that are remembered
MOST_INVALID = 20
#: temporary reasons: the source knows by the id whether they still hold
PASSING: tuple[SkipReason, ...] = ("running", "in_outbox", "deferred")

#: characters of a type that are masked in the log
_ODD = re.compile(r"[^A-Za-z0-9._:/-]")

log = get_logger(__name__)


@dataclass(slots=True)
class Page:
    """The outcome of one reading. ``complete``: the list was read to its end, and ``limit`` did not cut it.

    ``kept``: records that became candidates. ``listed``: records that were read. ``cut``: the limit has left out the
    oldest, so nothing of it is used. ``left_out``: records that were too many to be held, and newer than the others.
    ``shorter``: the API could not answer with a longer list.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    kept: int = 0
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    bytes_read: int = 0
    oldest: float | None = None
    complete: bool = False
    cut: bool = False
    left_out: int = 0
    shorter: bool = False
    #: creation times of the tasks that were returned or skipped for a temporary reason, seconds since the epoch
    created: dict[str, float | None] = field(default_factory=dict)
    #: the types of those skipped as ``unknown_type``, as far as they are logged
    unknown: set[str] = field(default_factory=set)
    listed: int = 0
    #: the first invalid records
    invalid: list[Invalid] = field(default_factory=list)

    def note_age(self, created_at: float | None) -> None:
        if created_at is not None:
            self.oldest = created_at if self.oldest is None else min(self.oldest, created_at)

    def add(self, later: "Page") -> None:
        """Add the counts of a later part of the same list."""
        self.kept += later.kept
        self.skipped += later.skipped
        self.created |= later.created
        self.unknown |= later.unknown
        self.note_age(later.oldest)

    @property
    def seen(self) -> int:
        return len(self.tasks) + self.kept + self.skipped.total()

    @property
    def lasting(self) -> int:
        """Records that every list will have again, to be skipped: unknown types, dead letters, invalid ones."""
        return self.skipped.total() - sum(self.skipped[reason] for reason in PASSING)


class Oddities:
    """Logs skipped records and types, each once until a whole list has none of them."""

    def __init__(self) -> None:
        self._records: set[int] = set()
        self._types: set[str] = set()

    def invalid(self, record: bytes, found: Invalid) -> None:
        key = hash(record)
        if key not in self._records and len(self._records) < REPORTED_RECORDS:
            self._records.add(key)
            log.warning("record.skipped", reason=found.reason, task_id=found.task_id, bytes=len(record))

    def unknown(self, task_type: str, page: Page) -> None:
        known = task_type[:REPORTED_TYPE_CHARS]
        if known not in self._types:
            if len(self._types) == REPORTED_TYPES:
                return
            self._types.add(known)
            log.warning("type.skipped", task_type=_ODD.sub("?", known))
        page.unknown.add(known)

    def whole(self, page: Page) -> None:
        """A list was read to its end: records and types that it does not have are gone."""
        if not page.skipped["invalid"]:
            self._records.clear()
        for gone in sorted(self._types - page.unknown):
            log.info("type.gone", task_type=_ODD.sub("?", gone))
        self._types &= page.unknown
