"""What the outbox holds, in memory: who waits, who is dead, how many bytes.

It answers without touching the disk and never waits. Strings and integers in two plain
dictionaries, not an object for each record: 100,000 waiting results cost less than 20 MB, and the
garbage collector does not walk through them.
"""

from collections.abc import Iterable
from typing import Literal

from ai_task_processor.models.task import Record
from ai_task_processor.ports import OutboxDepth

_RESUME_AT = 0.9


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

    A failed commit only takes the accepted ones away again, so that nothing has to be undone.
    """

    def __init__(self, max_bytes: int, rows: Iterable[tuple[str, str, str, int]]) -> None:
        """``rows``: (task_id, state, fingerprint, size) of what the disk holds."""
        self._watermark = Watermark(max_bytes)
        self._waiting: dict[str, int] = {}
        self._dead: dict[str, tuple[str, int]] = {}
        self._accepted: dict[str, int] = {}
        self._bytes = 0
        for task_id, state, fingerprint, size in rows:
            self._bytes += size
            if state == "waiting":
                self._waiting[task_id] = size
            else:
                self._dead[task_id] = fingerprint, size
        self._watermark.rise_or_fall(self._bytes)

    @property
    def full(self) -> bool:
        return self._watermark.full

    def holds(self, task_id: str, fingerprint: str | None) -> Literal["in_outbox", "dead_letter"] | None:
        if task_id in self._accepted or task_id in self._waiting:
            return "in_outbox"
        dead = self._dead.get(task_id)
        return "dead_letter" if dead and fingerprint in (None, dead[0]) else None

    def depth(self, oldest_finished_at: float | None) -> OutboxDepth:
        arriving = self._accepted.keys() - self._waiting.keys()
        dead = len(self._dead) - len(arriving & self._dead.keys())
        return OutboxDepth(len(self._waiting) + len(arriving), dead, self._bytes, oldest_finished_at)

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

    def bury(self, task_id: str, fingerprint: str | None) -> None:
        if fingerprint is not None and task_id in self._waiting:
            self._dead[task_id] = fingerprint, self._waiting.pop(task_id)

    def revive(self, task_id: str) -> None:
        if task_id in self._dead:
            _, self._waiting[task_id] = self._dead.pop(task_id)

    def _arrive(self, record: Record) -> None:
        # The same task may be on its way twice.
        left = self._accepted.pop(record.task_id) - 1
        if left:
            self._accepted[record.task_id] = left

    def _remove(self, task_id: str) -> int:
        waiting = self._waiting.pop(task_id, 0)
        _, dead = self._dead.pop(task_id, ("", 0))
        return waiting + dead

    def _count(self, change: int) -> None:
        self._bytes += change
        self._watermark.rise_or_fall(self._bytes)
