"""Log lines on their way out of the process: whoever logs never waits for whoever reads.

A reader may stop reading (a stopped container runtime, a pipe that a parent forgot, a terminal under Ctrl-S), and
``write(2)`` would then hold up the event loop, and with it probes and signals. A line goes out at once when there
is room for it, so that it is kept even if the process is killed in the next moment. Otherwise it waits in memory
for a thread; beyond ``MAX_BYTES`` lines are dropped and counted. A reader that has gone away (EPIPE) and a full
disk cost lines, too, and nothing else.
"""

import os
import select
import stat
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

#: what may wait for the reader
MAX_BYTES = 4 * 2**20
#: what the thread writes at once
BATCH_BYTES = 2**16


class LineWriter:
    """Writes whole lines to a file descriptor. ``notice`` makes the line that says how many were dropped.

    ``write`` is for one thread at a time: a logging handler's lock sees to that. There is no other lock, because a
    destructor may log in the middle of anything. Each counter is changed by one side only, or by the one at work.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], bytes]) -> None:
        self._descriptor = descriptor
        self._notice = notice
        mode = os.fstat(descriptor).st_mode
        self._is_file = stat.S_ISREG(mode)
        self._is_slow = stat.S_ISSOCK(mode) or os.isatty(descriptor)
        self._poll = _polled(descriptor)
        self._thread: threading.Thread | None = None
        self._waiting: SimpleQueue[bytes] = SimpleQueue()
        #: bytes that the thread was given, and that it has done with
        self._given = self._done = 0
        #: lines that were not taken, that the thread could not write, and that were reported so far
        self._refused = self._failed = self._reported = 0

    @property
    def dropped(self) -> int:
        """How many lines nobody will ever read."""
        return self._refused + self._failed

    def write(self, line: bytes) -> None:
        """Take this line. Neither blocks nor raises."""
        if self._given == self._done:
            try:
                if self._has_room(len(line)):
                    os.write(self._descriptor, line)
                    self._report(self.write)
                    return
            except BlockingIOError:
                pass
            except OSError:
                self._refused += 1
                return
        self._give(line)

    def flush(self, timeout_s: float) -> None:
        """Wait until everything is written, but no longer than this."""
        ends_at = time.monotonic() + timeout_s
        while self._given != self._done and time.monotonic() < ends_at:
            time.sleep(0.001)

    def _has_room(self, size: int) -> bool:
        """Can so many bytes be written without waiting? A file takes all, a pipe that is ready takes PIPE_BUF.

        A terminal and a socket that are ready may take less, and are left to the thread.
        """
        return self._is_file or (not self._is_slow and size <= select.PIPE_BUF and bool(self._poll.poll(0)))

    def _give(self, line: bytes) -> None:
        if self._given - self._done + len(line) > MAX_BYTES:
            self._refused += 1
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
            self._thread.start()
        self._given += len(line)
        self._waiting.put(line)

    def _run(self) -> None:
        while True:
            batch, lines = bytearray(self._waiting.get()), 1
            while len(batch) < BATCH_BYTES and not self._waiting.empty():
                batch += self._waiting.get()
                lines += 1
            if self._write_all(batch):
                self._report(self._write_all)
            else:
                self._failed += lines
            self._done += len(batch)

    def _report(self, write: Callable[[bytes], object]) -> None:
        """Lines flow again: say how many did not."""
        lost = self.dropped - self._reported
        if lost:
            self._reported += lost
            write(self._notice(lost))

    def _write_all(self, data: bytes | bytearray) -> bool:
        """Write, however long it takes; false when nobody will read it."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                _polled(self._descriptor).poll()
            except OSError:
                return False
        return True


def _polled(descriptor: int) -> "select.poll":
    """A poll object for writing, which serves one thread."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll
