"""The journal on disk: a line for each change, appended without fsync.

Written lines survive every crash of the process. A loss of power may take the last ones; attempts are then counted
from an earlier number. It contains nothing of a task's content.
"""

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Any, Literal

from ai_task_processor.core import codec
from ai_task_processor.core.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.models.task import InFlight, Task, Tries
from ai_task_processor.ops.condition import Condition
from ai_task_processor.stores.sqlite.schema import FIRST_SOURCE

_FILE = "journal"
#: the file is rewritten when it has this many bytes, and is several times as large as after the last rewrite
_REWRITE_AT, _REWRITE_FACTOR = 2**20, 4
#: attempts are stored for at most so many unfinished tasks, those begun last
REMEMBERED_TASKS = 20_000

#: values in the file: ``alone`` runs isolated, ``suspect`` was in flight at a crash
_State = Literal["running", "alone", "idle", "suspect"]


@dataclass(slots=True)
class _Entry:
    task_type: str
    fingerprint: str
    tries: Tries
    state: _State
    began_at: float = 0.0
    ran_s: float = 0.0

    def died(self, seen_at: float) -> None:
        """Note a crash if this was in flight. ``seen_at``: the last time at which the process was known to run."""
        if self.state in ("running", "alone"):
            self.tries.kills += 1
            self.tries.kills_isolated += self.state == "alone"
            self.state = "suspect"
            self.ran_s = max(self.ran_s, seen_at - self.began_at)


class FileJournal:
    """``ports.Journal`` in the data directory, which must be locked before ``open``."""

    def __init__(
        self,
        directory: Path,
        source: str,
        soon: Callable[[Callable[[], object]], object] = lambda write: write(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``soon`` schedules the writing of ended tasks, which go out together, or earlier with the next begun one.

        Begun tasks are written at once, because the next thing may be a crash. Each has its start time in seconds of
        ``monotonic``: the latest one shows how long the others had been running at a crash.
        """
        self._source = source
        self._soon = soon
        self._monotonic = monotonic
        self._ends: list[bytes] = []
        self.isolated: str | None = None
        self.crashes = 0
        #: ids that a release before schema 2 marked as in progress at the source
        self.marked: set[str] = set()
        self._in_flight: dict[str, InFlight] = {}
        #: lines of unfinished tasks of other sources, by (source, id)
        self._foreign: dict[tuple[str, str], bytes] = {}
        self._path = directory / _FILE
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._file: int | None = None
        self._size = self._rewrite_at = 0
        self._seen_at = 0.0
        self._condition = Condition("outbox.failed", "outbox.restored", ERROR)

    @property
    def in_flight_at_crash(self) -> Mapping[str, InFlight]:
        return self._in_flight

    def open(self) -> None:
        """``read`` and ``start``. Raises ``DataDirectoryError``."""
        self.read()
        self.start()

    def read(self) -> None:
        """Read the lines of earlier processes. Raises ``DataDirectoryError``."""
        with self._named_errors():
            self._replay_all(self._path.read_bytes().split(b"\n") if self._path.exists() else [])

    def start(self) -> None:
        """Rewrite the file, and append to it from now on. Raises ``DataDirectoryError``."""
        with self._named_errors():
            self._rewrite()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataDirectoryError(f"{self._path} cannot be used ({error.strerror})") from error

    def stopping(self) -> None:
        for entry in self._entries.values():
            if entry.state != "suspect":
                entry.state = "idle"
        self._append(b'{"stopped":true}')

    def close(self) -> None:
        if self._file is not None:
            self.stopping()
            os.close(self._file)
            self._file = None

    async def begin(self, tasks: Sequence[Task]) -> Sequence[Tries]:
        entries = [self._entries.get(task.id) or _Entry(task.type, "", Tries(), "idle") for task in tasks]
        began_at = self._monotonic()
        for task, entry in zip(tasks, entries, strict=True):
            entry.fingerprint = codec.fingerprint(task.content)
            entry.state = "alone" if task.id in self._in_flight else "running"
            entry.began_at = began_at
            entry.tries.started += 1
        named = list(zip([task.id for task in tasks], entries, strict=True))
        if not self._append(b"\n".join(self._line(task_id, entry) for task_id, entry in named)):
            for task_id, entry in named:
                entry.tries.started -= 1
                entry.state = "suspect" if task_id in self._in_flight else "idle"
            raise OutboxUnwritable(f"the journal cannot be written: {self._condition.reason}")
        for task_id, entry in named:
            self._entries[task_id] = entry
            self._entries.move_to_end(task_id)
            if self._in_flight.pop(task_id, None):
                self.isolated = task_id
        while len(self._entries) > REMEMBERED_TASKS:
            self._entries.popitem(last=False)
        return [entry.tries for entry in entries]

    async def give_back(self, task_id: str) -> None:
        self._idle(task_id)

    def _idle(self, task_id: str) -> None:
        self._ended(task_id)
        if entry := self._entries.get(task_id):
            entry.state = "idle"
            self._append(self._line(task_id, entry))

    async def settle(self, task_id: str) -> None:
        self._ended(task_id)
        self._in_flight.pop(task_id, None)
        if self._entries.pop(task_id, None):
            self._ends.append(codec.line({"id": task_id, "source": self._source}))
            if len(self._ends) == 1:
                self._soon(self._write_ends)

    def clear(self, task_id: str) -> None:
        if self._in_flight.pop(task_id, None):
            self._idle(task_id)

    def forget_crashes(self) -> None:
        self.crashes = 0
        self._append(self._crashes_line())

    def usable(self) -> bool:
        """Whether the last write succeeded; after a failure it tries an empty line."""
        return self._condition.reason is None or self._append(b"")

    def _ended(self, task_id: str) -> None:
        if self.isolated == task_id:
            self.isolated = None

    def _write_ends(self) -> None:
        if self._ends:
            self._append(self._ends.pop())

    def _append(self, line: bytes) -> bool:
        """Append; false when the disk fails. The newline goes before the line: a torn line damages no other."""
        if self._file is None:
            return False
        if self._ends:
            line = b"\n".join([*self._ends, line])
            self._ends.clear()
        try:
            if self._size > self._rewrite_at:
                self._rewrite()
            written = os.write(self._file, b"\n" + line)
        except OSError as error:
            self._condition.note(os.strerror(error.errno or 0).lower())
            return False
        self._size += written
        self._condition.note(os.strerror(errno.ENOSPC).lower() if written <= len(line) else None)
        return written > len(line)

    def _rewrite(self) -> None:
        """Write the lines still needed into a new file, and rename it over the old one when it is complete."""
        fresh = self._path.with_suffix(".new")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            content = b"".join(b"\n" + line for line in self._lines())
            if os.write(file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fresh.replace(self._path)
        except BaseException:
            os.close(file)
            raise
        if self._file is not None:
            os.close(self._file)
        self._file, self._size = file, len(content)
        self._rewrite_at = max(_REWRITE_AT, _REWRITE_FACTOR * len(content))

    def _lines(self) -> list[bytes]:
        """The lines of all unfinished tasks, and the number of crashes."""
        own = [self._line(task_id, entry) for task_id, entry in self._entries.items()]
        return [self._crashes_line(), *self._foreign.values(), *own]

    def _crashes_line(self) -> bytes:
        return codec.line({"deaths": self.crashes})

    def _replay_all(self, lines: Iterable[bytes]) -> None:
        """Apply the lines of an earlier process, and note a crash for the tasks that were in flight at its end."""
        for line in lines:
            self._replay(line)
        self.crashes += any(entry.state == "running" for entry in self._entries.values())
        for task_id, entry in self._entries.items():
            entry.died(self._seen_at)
            if entry.state == "suspect":
                self._in_flight[task_id] = InFlight(entry.task_type, entry.fingerprint, entry.tries, entry.ran_s)

    def _replay(self, line: bytes) -> None:
        """Apply one line of an earlier process; an unreadable one (torn, or of a later version) is skipped."""
        try:
            read = codec.loads(line)
            if not isinstance(read, dict):
                return
            if "deaths" in read:
                self.crashes = int(read["deaths"])
            elif read.get("stopped"):
                for entry in self._entries.values():
                    entry.state = "suspect" if entry.state == "suspect" else "idle"
            elif (source := read.get("source", FIRST_SOURCE)) != self._source:
                self._foreign.pop((source, read["id"]), None)
                if "state" in read:
                    self._foreign[source, read["id"]] = line
            elif "state" in read:
                self._replay_entry(read)
            else:
                self._entries.pop(read["id"], None)
        except (ValueError, TypeError, KeyError):
            return

    def _replay_entry(self, read: Mapping[str, Any]) -> None:
        entry = _Entry(read["type"], read["fingerprint"], Tries(*map(int, read["tries"])), read["state"])
        entry.began_at, entry.ran_s = float(read.get("at", 0.0)), float(read.get("ran_s", 0.0))
        self._entries[read["id"]] = entry
        self._seen_at = entry.began_at or self._seen_at
        self._entries.move_to_end(read["id"])
        (self.marked.add if read.get("marked") is True else self.marked.discard)(read["id"])

    def _line(self, task_id: str, entry: _Entry) -> bytes:
        line: dict[str, object] = {
            "id": task_id,
            "source": self._source,
            "type": entry.task_type,
            "fingerprint": entry.fingerprint,
            "state": entry.state,
        }
        if entry.state in ("running", "alone"):
            line["at"] = round(entry.began_at, 2)
        if entry.ran_s:
            line["ran_s"] = round(entry.ran_s, 2)
        tries = entry.tries
        line["tries"] = (tries.started, tries.failed, tries.crashed, tries.kills, tries.kills_isolated)
        return codec.line(line)
