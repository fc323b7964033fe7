"""Splits the bytes of a JSON array into its records while they arrive, holding one record at most.

The pending list can be a gigabyte, and one record of it too. Only brackets and strings are followed
here, so a record that is not valid JSON inside spoils itself and not its neighbours; what a record
means is for others to parse.
"""

import re
from collections.abc import Iterator

from ai_task_processor.errors import InvalidAnswer

_BETWEEN = re.compile(rb'["\[\]{},]')
_INSIDE = re.compile(rb'["\[\]{}]')
_STRING = re.compile(rb'["\\]')
_WHITE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class RecordTooLarge(bytes):
    """Stands in for a record that was over the limit and was not kept."""


class ArrayFramer:
    """Feed it chunks, take records; ``done`` once the array has been closed.

    Raises ``InvalidAnswer`` when the bytes are no array, and from ``finish`` when they end too early.
    """

    def __init__(self, max_record_bytes: int) -> None:
        self.done = False
        self._max = max_record_bytes
        self._record = bytearray()
        self._too_large = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The records that this chunk completes, in order."""
        start = position = 0 if self._depth else self._opening(chunk)
        while not self.done:
            found = self._next(chunk, position)
            if found is None:
                break
            position = found + 1
            if self._ends_record(chunk[found]):
                self._keep(chunk, start, found)
                start = position
                if record := self._take():
                    yield record
        if self._depth and not self.done:
            self._keep(chunk, start, len(chunk))

    def finish(self) -> None:
        """Call when the bytes have ended."""
        if not self.done:
            raise InvalidAnswer("the list ends in the middle")

    def _opening(self, chunk: bytes) -> int:
        """The position after the opening bracket."""
        text = chunk.removeprefix(_BOM).lstrip(_WHITE)
        if not text:
            return len(chunk)
        if text[:1] != b"[":
            raise InvalidAnswer("the answer is not a JSON array")
        self._depth = 1
        return len(chunk) - len(text) + 1

    def _next(self, chunk: bytes, position: int) -> int | None:
        """Where the next byte is that matters; None when this chunk holds no more of them."""
        while True:
            if self._escaped:
                if position >= len(chunk):
                    return None
                self._escaped = False
                position += 1
            pattern = _STRING if self._in_string else _BETWEEN if self._depth == 1 else _INSIDE
            match = pattern.search(chunk, position)
            if match is None:
                return None
            position = match.end()
            byte = match.group()
            if byte == b"\\":
                self._escaped = True
            elif byte == b'"':
                self._in_string = not self._in_string
            else:
                return match.start()

    def _ends_record(self, byte: int) -> bool:
        if byte in b"[{":
            self._depth += 1
            return False
        if byte == ord(","):
            return True
        self._depth -= 1
        self.done = self._depth == 0
        return self.done

    def _keep(self, chunk: bytes, start: int, end: int) -> None:
        if self._too_large or len(self._record) + end - start > self._max:
            self._too_large = True
            self._record.clear()
        else:
            self._record += memoryview(chunk)[start:end]

    def _take(self) -> bytes:
        if self._too_large:
            self._too_large = False
            return RecordTooLarge(b"too large")
        record = bytes(self._record).strip(_WHITE)
        self._record.clear()
        return record
