"""What the outbox holds, in memory: who waits, who rests there for other reasons, how many bytes.

It answers without touching the disk and never waits. Strings and integers in two plain
dictionaries, not an object for each record: 100,000 waiting results cost less than 20 MB, and the
garbage collector does not walk through them.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from ai_task_processor.core.ports import Held, OutboxDepth, Standing
from ai_task_processor.models.task import Record

#: what a record that does not wait stands for, by its state in the table
STANDINGS: Final[dict[str, Standing]] = {"dead": "dead_letter", "quarantined": "quarantined"}

_RESUME_AT = 0.9
_IN_OUTBOX: Final = Held("in_outbox", "")


class Watermark:
    """Full at the limit, and no longer full at 90 % of it: claiming does not flicker around the limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.full = False

    def rise_or_fall(self, level: int) -> None:
        if level >= self._max_bytes:
            self.full = True
        elif level <= self._max_bytes * _RESUME_AT:
            self.full = False


class Ledger:
    """The committed records, and above them those that were accepted and are on their way to the disk.

    A failed commit only takes the accepted ones away again, so that nothing has to be undone. Records of other
    sources than ``source`` are counted, and nothing else.
    """

    def __init__(self, source: str, max_bytes: int) -> None:
        self._source = source
        self._watermark = Watermark(max_bytes)
        self._foreign: Counter[str] = Counter()
        self._waiting: dict[str, int] = {}
        self._resting: dict[str, tuple[str, str, int]] = {}
        self._accepted: dict[str, int] = {}
        self._foreign_bytes = 0
        self._bytes = 0

    def reload(self, rows: Iterable[tuple[str, str, str, str, int]]) -> None:
        """(source, task_id, state, fingerprint, size) of what the disk holds; what was accepted is on its way to it."""
        for task_id in [*self._waiting, *self._resting]:
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
                self._resting[task_id] = state, fingerprint, size
        self._watermark.rise_or_fall(self._bytes)

    @property
    def full(self) -> bool:
        return self._watermark.full

    def held(self, task_id: str) -> Held | None:
        if task_id in self._accepted or task_id in self._waiting:
            return _IN_OUTBOX
        if task_id not in self._resting:
            return None
        state, fingerprint, _ = self._resting[task_id]
        return Held(STANDINGS[state], fingerprint)

    def depth(self, oldest_finished_at: float | None) -> OutboxDepth:
        """``oldest_finished_at``: of what waited when somebody looked."""
        arriving = self._accepted.keys() - self._waiting.keys()
        waiting = len(self._waiting) + len(arriving)
        resting = [state for task_id, (state, _, _) in self._resting.items() if task_id not in arriving]
        return OutboxDepth(
            waiting=waiting,
            dead=resting.count("dead"),
            quarantined=resting.count("quarantined"),
            bytes=self._bytes,
            oldest_finished_at=oldest_finished_at if waiting else None,
            foreign=dict(self._foreign),
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

    def keep(self, record: Record) -> None:
        """An accepted record is on disk; it stands in place of what was there."""
        self._arrive(record)
        replaced = self._remove(record.task_id)
        self._waiting[record.task_id] = record.size
        self._count(-replaced)

    def forget(self, task_id: str) -> None:
        self._count(-self._remove(task_id))

    def quarantine(self, record: Record) -> None:
        self._count(record.size - self._remove(record.task_id))
        self._resting[record.task_id] = "quarantined", record.fingerprint, record.size

    def bury(self, task_id: str, fingerprint: str | None) -> None:
        if fingerprint is not None and task_id in self._waiting:
            self._resting[task_id] = "dead", fingerprint, self._waiting.pop(task_id)

    def revive(self, task_id: str) -> None:
        """A dead letter waits again; a quarantined task is let go."""
        state, _, size = self._resting.get(task_id, ("", "", 0))
        if state == "dead":
            del self._resting[task_id]
            self._waiting[task_id] = size
        elif state:
            self.forget(task_id)

    def _arrive(self, record: Record) -> None:
        # The same task may be on its way twice.
        left = self._accepted.pop(record.task_id) - 1
        if left:
            self._accepted[record.task_id] = left

    def _remove(self, task_id: str) -> int:
        waiting = self._waiting.pop(task_id, 0)
        _, _, resting = self._resting.pop(task_id, ("", "", 0))
        return waiting + resting

    def _count(self, change: int) -> None:
        self._bytes += change
        self._watermark.rise_or_fall(self._bytes)
