"""The journal on disk: a line for each change, appended without waiting for the disk.

What was written survives the death of the process, however sudden; only a loss of power can take
it, and then attempts are counted from an earlier number. Nothing of a task's content is in it.
"""

import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import Literal

from ai_task_processor.core import codec
from ai_task_processor.core.errors import DataDirectoryError, OutboxUnwritable
from ai_task_processor.models.task import Suspect, Task, Tries
from ai_task_processor.ops.condition import Condition

_FILE = "journal"
#: the file is written anew when it has grown to this, and to several times what was worth keeping
_REWRITE_AT, _REWRITE_FACTOR = 2**20, 4
#: attempts are remembered for so many unfinished tasks, those that were begun last
REMEMBERED_TASKS = 20_000

_State = Literal["running", "alone", "idle", "suspect"]


@dataclass(slots=True)
class _Entry:
    task_type: str
    fingerprint: str
    tries: Tries
    state: _State
    marked: bool = False
    began_at: float = 0.0
    ran_s: float = 0.0

    def died(self, seen_at: float) -> None:
        """The process ended without a word while this was in flight, and was last seen alive at that time."""
        if self.state in ("running", "alone"):
            self.tries.kills += 1
            self.tries.kills_alone += self.state == "alone"
            self.state = "suspect"
            self.ran_s = max(self.ran_s, seen_at - self.began_at)


class FileJournal:
    """``ports.Journal`` in the data directory, which must be locked before ``open``."""

    def __init__(
        self,
        directory: Path,
        soon: Callable[[Callable[[], object]], object] = lambda write: write(),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``soon`` calls back in a moment. What ended is written then, or with what begins before, as one.

        To begin is written at once: the next thing that happens may be the end of the process. Each beginning has
        its time in seconds of ``monotonic``: the last one says how long the others had been running at a death.
        """
        self._soon = soon
        self._monotonic = monotonic
        self._ends: list[bytes] = []
        self.alone: str | None = None
        self.deaths = 0
        self._suspects: dict[str, Suspect] = {}
        self._path = directory / _FILE
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._file: int | None = None
        self._size = self._rewrite_at = 0
        self._seen_at = 0.0
        self._condition = Condition("outbox.failed", "outbox.restored", ERROR)

    @property
    def suspects(self) -> Mapping[str, Suspect]:
        return self._suspects

    def open(self) -> None:
        """Read what earlier processes left, and who is suspect. Raises ``DataDirectoryError``."""
        try:
            self._replay_all(self._path.read_bytes().split(b"\n") if self._path.exists() else [])
            self._rewrite()
        except OSError as error:
            raise DataDirectoryError(f"{self._path} cannot be used ({error.strerror})") from error

    def stop(self) -> None:
        """From here on the process may end at any moment, and no task is to blame."""
        for entry in self._entries.values():
            if entry.state != "suspect":
                entry.state = "idle"
        self._append(b'{"stopped":true}')

    def close(self) -> None:
        if self._file is not None:
            self.stop()
            os.close(self._file)
            self._file = None

    def begin(self, task: Task) -> Tries:
        entry = self._entries.get(task.id) or _Entry(task.type, "", Tries(), "idle")
        tries = entry.tries
        alone = task.id in self._suspects
        entry.fingerprint, entry.state = codec.fingerprint(task.content), "alone" if alone else "running"
        entry.began_at = self._monotonic()
        tries.started += 1
        self._entries[task.id] = entry
        self._entries.move_to_end(task.id)
        if not self._note(task.id, entry):
            tries.started -= 1
            entry.state = "suspect" if alone else "idle"
            raise OutboxUnwritable(f"the journal cannot be written: {self._condition.reason}")
        if alone:
            del self._suspects[task.id]
            self.alone = task.id
        while len(self._entries) > REMEMBERED_TASKS:
            self._entries.popitem(last=False)
        return tries

    def give_back(self, task_id: str) -> None:
        self._ended(task_id)
        if entry := self._entries.get(task_id):
            entry.state = "idle"
            self._note(task_id, entry)

    def settle(self, task_id: str) -> None:
        self._ended(task_id)
        self._suspects.pop(task_id, None)
        if self._entries.pop(task_id, None):
            self._ends.append(codec.line({"id": task_id}))
            if len(self._ends) == 1:
                self._soon(self._write_ends)

    def acquit(self, task_id: str) -> None:
        if self._suspects.pop(task_id, None):
            self.give_back(task_id)

    def forget_deaths(self) -> None:
        self.deaths = 0
        self._append(self._deaths_line())

    @property
    def marked(self) -> Sequence[str]:
        return [
            task_id for task_id, entry in self._entries.items() if entry.marked and entry.state in ("idle", "suspect")
        ]

    def mark(self, task_id: str) -> None:
        self._set_mark(task_id, True)

    def unmark(self, task_id: str) -> None:
        self._set_mark(task_id, False)

    def _set_mark(self, task_id: str, marked: bool) -> None:
        entry = self._entries.get(task_id)
        if entry and entry.marked != marked:
            entry.marked = marked
            self._note(task_id, entry)

    def usable(self) -> bool:
        """A journal that failed is tried again with an empty line."""
        return self._condition.reason is None or self._append(b"")

    def _ended(self, task_id: str) -> None:
        if self.alone == task_id:
            self.alone = None

    def _note(self, task_id: str, entry: _Entry) -> bool:
        return self._append(_line(task_id, entry))

    def _write_ends(self) -> None:
        if self._ends:
            self._append(self._ends.pop())

    def _append(self, line: bytes) -> bool:
        """Each line brings the end of the one before it, so that half a line spoils nothing but itself."""
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
        """Put what is worth keeping into a new file, which takes the old one's place when it is whole."""
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
        """What is worth keeping."""
        return [self._deaths_line(), *(_line(task_id, entry) for task_id, entry in self._entries.items())]

    def _deaths_line(self) -> bytes:
        return codec.line({"deaths": self.deaths})

    def _replay_all(self, lines: Iterable[bytes]) -> None:
        """Everything that an earlier process wrote before it died."""
        for line in lines:
            self._replay(line)
        self.deaths += any(entry.state == "running" for entry in self._entries.values())
        for task_id, entry in self._entries.items():
            entry.died(self._seen_at)
            if entry.state == "suspect":
                self._suspects[task_id] = Suspect(entry.task_type, entry.fingerprint, entry.tries, entry.ran_s)

    def _replay(self, line: bytes) -> None:
        """One line of an earlier process; what cannot be read (a torn line, a later version's) is passed over."""
        try:
            told = codec.loads(line)
            if not isinstance(told, dict):
                return
            if "deaths" in told:
                self.deaths = int(told["deaths"])
            elif told.get("stopped"):
                for entry in self._entries.values():
                    entry.state = "suspect" if entry.state == "suspect" else "idle"
            elif "state" in told:
                entry = _Entry(told["type"], told["fingerprint"], Tries(*map(int, told["tries"])), told["state"])
                entry.marked = told.get("marked") is True
                entry.began_at, entry.ran_s = float(told.get("at", 0.0)), float(told.get("ran_s", 0.0))
                self._entries[told["id"]] = entry
                self._seen_at = entry.began_at or self._seen_at
                self._entries.move_to_end(told["id"])
            else:
                self._entries.pop(told["id"], None)
        except (ValueError, TypeError, KeyError):
            return


def _line(task_id: str, entry: _Entry) -> bytes:
    told: dict[str, object] = {
        "id": task_id,
        "type": entry.task_type,
        "fingerprint": entry.fingerprint,
        "state": entry.state,
    }
    if entry.marked:
        told["marked"] = True
    if entry.state in ("running", "alone"):
        told["at"] = round(entry.began_at, 2)
    if entry.ran_s:
        told["ran_s"] = round(entry.ran_s, 2)
    tries = entry.tries
    told["tries"] = (tries.started, tries.failed, tries.crashed, tries.kills, tries.kills_alone)
    return codec.line(told)
