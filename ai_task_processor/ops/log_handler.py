"""The standard library's handler that all lines of the log go through."""

import contextlib
import logging
from typing import TextIO

from ai_task_processor.ops.log_exceptions import without_exceptions
from ai_task_processor.ops.log_writer import LineWriter

#: the end of the process waits this long for the reader of the log, seconds
FLUSH_S = 0.5


class Handler(logging.Handler):
    """Writes a line whatever it contains: logging never raises, and never shows a secret."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            self._writer: LineWriter | None = LineWriter(stream.fileno(), self._notice)
        except (OSError, ValueError, AttributeError):
            self._writer = None  # a stream in memory

    def format(self, record: logging.LogRecord) -> str:
        try:
            line = super().format(without_exceptions(record))
        except Exception:  # noqa: BLE001  # boundary: other libraries' arguments need not fit their own message
            about = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
            line = super().format(logging.makeLogRecord({**about, "msg": "log.failed"}))
        return line

    def emit(self, record: logging.LogRecord) -> None:
        # Logging must not raise, and the standard library would print the record's arguments.
        with contextlib.suppress(Exception):
            self._write(self.format(record) + "\n")

    def write(self, line: str) -> None:
        """Write a line that is rendered already."""
        with self.lock, contextlib.suppress(Exception):  # type: ignore[union-attr]  # a handler in use has a lock
            self._write(line)

    def _write(self, line: str) -> None:
        data = line.encode(self._encoding, "backslashreplace")
        if self._writer is None:
            self._stream.write(data.decode(self._encoding))
            self._stream.flush()
        else:
            self._writer.write(data)

    @property
    def dropped(self) -> int:
        return 0 if self._writer is None else self._writer.dropped

    def drain(self, timeout_s: float) -> None:
        """Wait for the thread to write its lines."""
        if self._writer is not None:
            self._writer.flush(timeout_s)

    def flush(self) -> None:
        """What the standard library calls at the end of the process."""
        self.drain(FLUSH_S)

    def _notice(self, lost: int) -> bytes:
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "_logger": None}
        event = {"event": "log.dropped", "lines": lost}
        line = self.format(logging.makeLogRecord({**about, "_name": "warning", "msg": event}))
        return f"{line}\n".encode(self._encoding, "backslashreplace")
