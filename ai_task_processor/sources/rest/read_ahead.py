"""Candidates: listed records that wait for the next free slots, so that one list fills many slots.

They save requests to an API that ignores ``limit`` and builds the whole list for each one. Candidates are stored as
the bytes of their records: 470 bytes and 150 for the index, where a parsed task takes 1,600; parsing again costs 6 µs.
Long records are compressed: twice as many fit, for 50 µs each. Pure: no clock, no IO.

A candidate is only a record that was listed. Whether it may start is decided when it is taken. An acknowledged id is
dropped at once, which has the effect of storing every acknowledgement since the list was requested.
"""

import zlib
from collections import deque
from collections.abc import Callable

#: memory of a candidate beside its record: its id, a place in the order and one in the index
ENTRY_BYTES = 160
#: records from this size on are compressed: to list a shorter one again costs less
LONG_BYTES = 1_024
#: the first byte of a compressed record; JSON never begins with it
_COMPRESSED = zlib.compress(b"")[:1]
#: After a sign that the list is out of date, candidates are used for this many times as long as the list took to read:
#: so at most a tenth of the time is spent on reading lists, however often such signs come.
WORTH = 10.0


class ReadAhead:
    """At most ``max_bytes`` of candidates in the order of the list, for at most ``max_age_s``; 0 of either: none.

    ``monotonic``: seconds of a clock that never jumps.
    """

    def __init__(self, max_bytes: int, max_age_s: float, monotonic: Callable[[], float]) -> None:
        self._max_bytes = max_bytes if max_age_s > 0 else 0
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._order: deque[str] = deque()
        self._records: dict[str, bytes] = {}
        self._bytes = 0
        self._asked_at = self._read_at = self._ends_at = 0.0
        self._reading = self._doubted = False

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._records

    @property
    def enabled(self) -> bool:
        return self._max_bytes > 0

    @property
    def used_bytes(self) -> int:
        """The memory that counts against ``max_bytes``."""
        return self._bytes

    @property
    def reading_s(self) -> float:
        """Seconds since the last list was requested."""
        return self._monotonic() - self._asked_at

    def asked(self) -> None:
        """A list is about to be requested: it replaces the candidates."""
        self.clear()
        self._reading, self._doubted = True, False
        self._asked_at = self._monotonic()

    def answered(self) -> None:
        """The list begins to arrive: its age counts from now."""
        self.clear()
        self._ends_at = self._monotonic() + self._max_age_s

    def keep(self, task_id: str, record: bytes) -> bool:
        """Add a candidate to the end; false when it does not fit."""
        if len(record) >= LONG_BYTES:
            record = zlib.compress(record, 1)
        size = len(record) + ENTRY_BYTES
        if self._bytes + size > self._max_bytes:
            return False
        self._order.append(task_id)
        self._records[task_id] = record
        self._bytes += size
        return True

    def read(self) -> None:
        """The list has been read."""
        self._read_at = self._monotonic()
        self._reading = False
        if self._doubted:
            self.doubt()

    def doubt(self) -> None:
        """A sign that the list is out of date: a wake-up, or a task of it that is gone.

        A list that was read in 5 ms is dropped 50 ms later or now, one that took 3 s serves for 30 s.
        """
        self._doubted = True
        if not self._reading:
            self._ends_at = min(self._ends_at, self._read_at + WORTH * (self._read_at - self._asked_at))

    def take(self) -> bytes | None:
        """The next candidate's record; None when there is none, or the list is too old."""
        if self._monotonic() >= self._ends_at:
            self.clear()
        while self._order:
            task_id = self._order.popleft()
            if task_id in self._records:
                record = self._dropped(task_id)
                return zlib.decompress(record) if record[:1] == _COMPRESSED else record
        return None

    def drop(self, task_id: str) -> None:
        """Remove a candidate that must not start any more."""
        if task_id in self._records:
            self._dropped(task_id)

    def clear(self) -> None:
        """Remove all candidates."""
        self._order.clear()
        self._records.clear()
        self._bytes = 0

    def _dropped(self, task_id: str) -> bytes:
        record = self._records.pop(task_id)
        self._bytes -= len(record) + ENTRY_BYTES
        return record
