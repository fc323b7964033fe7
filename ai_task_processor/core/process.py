"""Setup and end of every command: early signals, and standard streams that are closed or broken.

``begin`` runs before any larger import. PID 1 of a container ignores signals without a handler. A file opened
while a standard stream is closed gets that stream's descriptor, and log lines would be written into the outbox.
Only small modules of the standard library are imported here.
"""

import contextlib
import errno
import io
import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

EX_IOERR = 74
#: exit code of a command that a signal ended: this plus the signal's number, as in shells
EX_SIGNALLED = 128

#: the signal handlers before ``begin``
_before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
_early: list[int] = []
_streams: "dict[int, _SafeStream]" = {}


class _SafeStream(io.FileIO):
    """A stream whose writes never fail: after an error all further output is discarded."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def begin() -> None:
    """Record SIGTERM and SIGINT from now on, and repair the standard streams. A second call does nothing.

    SIGHUP is ignored until the command is known: to a daemon it means new secrets, and those are not read yet.
    """
    if _before:
        return
    _before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        _before[number] = signal.signal(number, _record)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # open() returns the lowest free descriptor, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout, sys.stderr = _safe(sys.stdout, 1), _safe(sys.stderr, 2)


def raise_descriptor_limit() -> None:
    """Raise the limit of open files to the hard limit: each connection is one, and 1,024 is a usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS reports unlimited and refuses it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def guarded(command: Callable[[], int]) -> int:
    """Run a command after ``begin``, and check its output at the end; returns the exit code.

    A closed pipe is no error. Output that was lost for another reason (a full disk) is one.
    """
    begin()
    try:
        code = command()
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        code = ended.code
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    lost = _streams[1].lost if 1 in _streams else None
    if lost is None or lost.errno == errno.EPIPE or code:
        return code
    sys.stderr.write(f"ai-task-processor: standard output cannot be written: {lost.strerror}\n")
    return EX_IOERR


def early_signals() -> list[int]:
    """The recorded signals, for a command that has now installed its own handlers."""
    return _early


def restore_interrupt() -> None:
    """For a command that Ctrl-C interrupts, and that ends with its terminal: restore SIGINT, and SIGHUP.

    SIGINT is raised again if it came early. Under ``nohup`` SIGHUP was ignored before, and is again.
    """
    if _before:
        signal.signal(signal.SIGHUP, _before[signal.SIGHUP])
        signal.signal(signal.SIGINT, _before[signal.SIGINT])
        if signal.SIGINT in _early:
            signal.raise_signal(signal.SIGINT)


def end_by_signals() -> None:
    """For a command without own handlers: SIGTERM ends it even as PID 1, also one that came early."""
    restore_interrupt()
    if _before:
        signal.signal(signal.SIGTERM, _end)
        if signal.SIGTERM in _early:
            _end(signal.SIGTERM, None)


def _record(number: int, _frame: FrameType | None) -> None:
    """Record the first signal; the second one exits at once."""
    if _early:
        os._exit(EX_SIGNALLED + number)
    _early.append(number)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(EX_SIGNALLED + number)


def _safe(stream: TextIO | None, descriptor: int) -> TextIO:
    """The same stream with writes that never fail. None: it was closed when Python started."""
    raw = _streams[descriptor] = _SafeStream(descriptor, "w", closefd=False)
    if not isinstance(stream, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", "\n")
    buffer = raw if stream.write_through else io.BufferedWriter(raw)  # no buffer with PYTHONUNBUFFERED
    return io.TextIOWrapper(
        buffer,
        stream.encoding,
        stream.errors,
        "\n",
        stream.line_buffering,
        stream.write_through,
    )
