"""What comes before and after every command: signals that come too early, standard streams that are closed or broken.

``begin`` is the first thing that the process does, before any larger import: as process one of a container
a signal without a handler is lost, and a file that is opened while a standard stream is closed gets its number,
so that an outbox would receive log lines. Only small modules of the standard library are imported here.
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
#: a signal that ends a command adds its number to this, as shells have it
EX_SIGNALLED = 128

#: the handlers of before ``begin``
_before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
_early: list[int] = []
_mended: "dict[int, _Lasting]" = {}


class _Lasting(io.FileIO):
    """A stream that can always be written to: after an error the rest is lost, and nobody fails by it."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


def begin() -> None:
    """Remember SIGTERM and SIGINT from now on, and mend the standard streams. A second call does nothing."""
    if _before:
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        _before[number] = signal.signal(number, _remember)
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stdout, sys.stderr = _lasting(sys.stdout, 1), _lasting(sys.stderr, 2)


def raise_descriptor_limit() -> None:
    """As many open files as the system lets this process have: each connection is one, and 1,024 is a usual limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS calls its own limit unlimited
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def guarded(command: Callable[[], int]) -> int:
    """Run a command between ``begin`` and a last look at its output; the exit code.

    A reader that went away changes nothing. Output that was lost for another reason (a full disk) is an error.
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
    lost = _mended[1].lost if 1 in _mended else None
    if lost is None or lost.errno == errno.EPIPE or code:
        return code
    sys.stderr.write(f"ai-task-processor: standard output cannot be written: {lost.strerror}\n")
    return EX_IOERR


def early_signals() -> list[int]:
    """The signals that were remembered, for a command that has handlers of its own by now."""
    return _early


def restore_interrupt() -> None:
    """For a command that Ctrl-C interrupts: SIGINT does what it did before ``begin``, and so does an early one."""
    if _before:
        signal.signal(signal.SIGINT, _before[signal.SIGINT])
        if signal.SIGINT in _early:
            signal.raise_signal(signal.SIGINT)


def end_by_signals() -> None:
    """For a command without handlers of its own: SIGTERM ends it even as process one, and so does an early one."""
    restore_interrupt()
    if _before:
        signal.signal(signal.SIGTERM, _end)
        if signal.SIGTERM in _early:
            _end(signal.SIGTERM, None)


def _remember(number: int, _frame: FrameType | None) -> None:
    """The second signal does not wait."""
    if _early:
        os._exit(EX_SIGNALLED + number)
    _early.append(number)


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(EX_SIGNALLED + number)


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    """The same stream, but one that lasts. None: it was closed when Python started."""
    raw = _mended[descriptor] = _Lasting(descriptor, "w", closefd=False)
    if not isinstance(stream, io.TextIOWrapper):
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", "\n")
    buffer = raw if stream.write_through else io.BufferedWriter(raw)  # PYTHONUNBUFFERED has no buffer either
    return io.TextIOWrapper(
        buffer,
        stream.encoding,
        stream.errors,
        "\n",
        stream.line_buffering,
        stream.write_through,
    )
