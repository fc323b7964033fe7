"""An index of the outbox in memory: waiting records, dead letters and quarantined tasks, and their bytes.

It answers without disk access. Strings and integers in two plain dictionaries, not an object per
record: 100,000 waiting results cost less than 20 MB, and the garbage collector does not traverse them.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from ai_task_processor.core.ports import Held, OutboxDepth, Standing
from ai_task_processor.models.task import Record

#: the standing of a record that does not wait, by its state in the table
STANDINGS: Final[dict[str, Standing]] = {"dead": "dead_letter", "quarantined": "quarantined"}

_RESUME_AT = 0.9
_IN_OUTBOX: Final = Held("in_outbox", "")


class Watermark:
    """Full from the limit on, until the level falls to 90 % of it (hysteresis)."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.full = False

    def rise_or_fall(self, level: int) -> None:
        if level >= self._max_bytes:
            self.full = True
        elif level <= self._max_bytes * _RESUME_AT:
            self.full = False


class Ledger:
    """The committed records, and separately those that were accepted and are not committed yet.

    A failed commit only removes accepted ones, so that nothing has to be undone. Records of sources other than
    ``source`` are only counted.
    """

    def __init__(self, source: str, max_bytes: int) -> None:
        self._source = source
        self._watermark = Watermark(max_bytes)
        self._foreign: Counter[str] = Counter()
        self._waiting: dict[str, int] = {}
        self._not_waiting: dict[str, tuple[str, str, int]] = {}
        self._accepted: dict[str, int] = {}
        self._foreign_bytes = 0
        self._bytes = 0

    def reload(self, rows: Iterable[tuple[str, str, str, str, int]]) -> None:
        """Replace the committed records by these rows: (source, task_id, state, fingerprint, size)."""
        for task_id in [*self._waiting, *self._not_waiting]:
            self._bytes -= self._remove(task_id)
        self._bytes -= self._foreign_bytes
        self._foreign.clear()
        self._foreign_bytes = 0
        for source, task_id, state, fingerprint, size in rows:
            self._bytes += size
            if source != self._source:
                self._foreign[source] += 1
                self._foreign_bytes += size
            elif state == "waiting":
                self._waiting[task_id] = size
            else:
                self._not_waiting[task_id] = state, fingerprint, size
        self._watermark.rise_or_fall(self._bytes)

    @property
    def full(self) -> bool:
        return self._watermark.full

    def held(self, task_id: str) -> Held | None:
        if task_id in self._accepted or task_id in self._waiting:
            return _IN_OUTBOX
        if task_id not in self._not_waiting:
            return None
        state, fingerprint, _ = self._not_waiting[task_id]
        return Held(STANDINGS[state], fingerprint)

    def depth(self, oldest_finished_at: float | None, next_due_at: float | None = None) -> OutboxDepth:
        """Both times: of the waiting records, as of the last query."""
        arriving = self._accepted.keys() - self._waiting.keys()
        waiting = len(self._waiting) + len(arriving)
        not_waiting = [state for task_id, (state, _, _) in self._not_waiting.items() if task_id not in arriving]
        return OutboxDepth(
            waiting=waiting,
            dead=not_waiting.count("dead"),
            quarantined=not_waiting.count("quarantined"),
            bytes=self._bytes,
            oldest_finished_at=oldest_finished_at if waiting else None,
            foreign=dict(self._foreign),
            next_due_at=next_due_at if waiting else None,
        )

    def foreign_changed(self, source: str, dropped_bytes: int) -> None:
        """An operator retried or dropped a record of another source."""
        if dropped_bytes:
            self._foreign -= Counter({source: 1})
            self._foreign_bytes -= dropped_bytes
            self._count(-dropped_bytes)

    def accept(self, record: Record) -> None:
        self._count(record.size)
        self._accepted[record.task_id] = self._accepted.get(record.task_id, 0) + 1

    def refuse(self, record: Record) -> None:
        """The commit of an accepted record failed."""
        self._arrive(record)
        self._count(-record.size)

    def committed(self, record: Record) -> None:
        """An accepted record is on disk, and has replaced the task's earlier one."""
        self._arrive(record)
        replaced = self._remove(record.task_id)
        self._waiting[record.task_id] = record.size
        self._count(-replaced)

    def forget(self, task_id: str) -> None:
        self._count(-self._remove(task_id))

    def quarantine(self, record: Record) -> None:
        self._count(record.size - self._remove(record.task_id))
        self._not_waiting[record.task_id] = "quarantined", record.fingerprint, record.size

    def bury(self, task_id: str, fingerprint: str | None) -> None:
        if fingerprint is not None and task_id in self._waiting:
            self._not_waiting[task_id] = "dead", fingerprint, self._waiting.pop(task_id)

    def revive(self, task_id: str) -> None:
        """A dead letter waits again; a quarantined task is removed, so that it may start."""
        state, _, size = self._not_waiting.get(task_id, ("", "", 0))
        if state == "dead":
            del self._not_waiting[task_id]
            self._waiting[task_id] = size
        elif state:
            self.forget(task_id)

    def _arrive(self, record: Record) -> None:
        # Two records of one task may be accepted at once.
        left = self._accepted.pop(record.task_id) - 1
        if left:
            self._accepted[record.task_id] = left

    def _remove(self, task_id: str) -> int:
        waiting = self._waiting.pop(task_id, 0)
        _, _, not_waiting = self._not_waiting.pop(task_id, ("", "", 0))
        return waiting + not_waiting

    def _count(self, change: int) -> None:
        self._bytes += change
        self._watermark.rise_or_fall(self._bytes)
