"""What the outbox holds, in memory: who waits, who rests there for other reasons, how many bytes.

It answers without touching the disk and never waits. Strings and integers in two plain
dictionaries, not an object for each record: 100,000 waiting results cost less than 20 MB, and the
garbage collector does not walk through them.
"""

from collections.abc import Iterable
from typing import Final

from ai_task_processor.core.ports import OutboxDepth, Standing
from ai_task_processor.models.task import Record

#: what a record that does not wait stands for, by its state in the table
STANDINGS: Final[dict[str, Standing]] = {"dead": "dead_letter", "quarantined": "quarantined"}

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
        self._resting: dict[str, tuple[str, str, int]] = {}
        self._accepted: dict[str, int] = {}
        self._bytes = 0
        self.reload(rows)

    def reload(self, rows: Iterable[tuple[str, str, str, int]]) -> None:
        """The disk holds something else by now; what was accepted is still on its way to it."""
        for task_id in [*self._waiting, *self._resting]:
            self._bytes -= self._remove(task_id)
        for task_id, state, fingerprint, size in rows:
            self._bytes += size
            if state == "waiting":
                self._waiting[task_id] = size
            else:
                self._resting[task_id] = state, fingerprint, size
        self._watermark.rise_or_fall(self._bytes)

    @property
    def full(self) -> bool:
        return self._watermark.full

    def holds(self, task_id: str, fingerprint: str | None) -> Standing | None:
        if task_id in self._accepted or task_id in self._waiting:
            return "in_outbox"
        state, own, _ = self._resting.get(task_id, ("", "", 0))
        return STANDINGS.get(state) if fingerprint in (None, own) else None

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
        )

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
