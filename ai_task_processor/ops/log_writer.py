"""Writes log lines without blocking.

A reader may stop reading (a stopped container runtime, a forgotten pipe, a terminal under Ctrl-S); ``write(2)`` would
then block the event loop, and with it probes and signals. A line is written at once when that does not block, so that
it survives a kill in the next moment. Otherwise a thread writes it later; beyond ``MAX_BYTES`` lines are dropped and
counted. When the reader is gone (EPIPE) or the disk is full, lines are lost and nothing else happens.
"""

import os
import select
import stat
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

#: bytes that may wait for the thread
MAX_BYTES = 4 * 2**20
#: bytes that the thread writes at once
BATCH_BYTES = 2**16


class LineWriter:
    """Writes whole lines to a file descriptor. ``notice`` makes the line that says how many were dropped.

    ``write`` is for one thread at a time, which a logging handler's lock ensures. There is no other lock, because a
    destructor may log at any point. No counter is changed by two threads at the same time.
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
        #: bytes that were queued for the thread, and that it has processed
        self._given = self._done = 0
        #: lines that were not queued, that the thread could not write, and that were reported as dropped
        self._refused = self._failed = self._reported = 0

    @property
    def dropped(self) -> int:
        """How many lines are lost."""
        return self._refused + self._failed

    def write(self, line: bytes) -> None:
        """Write or queue this line. Neither blocks nor raises."""
        if self._given == self._done:
            try:
                if self._is_ready(len(line)):
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

    def _is_ready(self, size: int) -> bool:
        """Can ``size`` bytes be written without blocking? A file accepts all, a pipe that is ready PIPE_BUF.

        A terminal and a socket that are ready may accept less: the thread writes to them.
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
        """After a line was written: write how many were lost before it."""
        lost = self.dropped - self._reported
        if lost:
            self._reported += lost
            write(self._notice(lost))

    def _write_all(self, data: bytes | bytearray) -> bool:
        """Write, however long it takes; false after an error."""
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
    """A poll object for writing; each thread needs its own."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll
