"""Splits the bytes of a JSON array into its records while they arrive, holding one record at most.

The pending list can be a gigabyte, and so can one record. Only brackets and strings are parsed here, so that a record
that is not valid JSON does not affect the others. A million records must pass within one request's deadline: the
regular expression engine scans a usual record in one match.
"""

import re
from collections.abc import Iterator

from ai_task_processor.core.errors import InvalidAnswer

_STRING_REST = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
# Most strings hold no escaped quote: then the first quote is the end, and finding it is eight times faster.
_STRING = rb'"(?:[^"]*+(?<!\\)"|' + _STRING_REST + rb'")'


def _run(plain: bytes, *others: bytes) -> bytes:
    """Characters of ``plain``, whole strings, and ``others``."""
    return plain + rb"*+(?:(?:" + rb"|".join((_STRING, *others)) + rb")" + plain + rb"*+)*+"


_INNER = rb'[^"\[\]{}]'
_NESTED = rb"[\[{]" + _run(_INNER) + rb"[\]}]"
_NESTED = rb"[\[{]" + _run(_INNER, _NESTED) + rb"[\]}]"
_USUAL_RECORD = rb"[\[{]" + _run(_INNER, _NESTED) + rb"[\]}]"
#: what does not change the depth: between the brackets of the array, and inside of a record
_BETWEEN = re.compile(_run(rb'[^"\[\]{,]', _USUAL_RECORD), re.DOTALL)
_INSIDE = re.compile(_run(_INNER), re.DOTALL)
_IN_STRING = re.compile(_STRING_REST, re.DOTALL)
_WHITE = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class RecordTooLarge(bytes):
    """The first bytes of a record that is over the limit."""


class ArrayFramer:
    """Feed it chunks, get records; ``done`` once the array is closed. What follows it is ignored.

    Raises ``InvalidAnswer`` when the bytes are no array, and from ``finish`` when they end too early.
    """

    def __init__(self, max_record_bytes: int) -> None:
        self.done = False
        self._max = max_record_bytes
        self._record = bytearray()
        self._started = False
        self._too_large = False
        self._depth = 0
        self._in_string = False
        self._escaped = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The records that this chunk completes, in order. To be read to its end before the next chunk."""
        if self.done:
            return
        start = position = 0
        if not self._depth:
            chunk = self._opened(chunk)
        while (found := self._next(chunk, position)) < len(chunk):
            position = found + 1
            if self._ends_record(chunk[found]):
                if record := self._take(chunk, start, found):
                    yield record
                start = position
                if self._depth == 0:
                    self.done = True
                    return
        self._keep(chunk, start, len(chunk))

    def finish(self) -> None:
        """Call when the bytes have ended. No bytes at all are an empty list: 204, or a handler that returns nothing."""
        if not self.done and (self._started or self._record):
            raise InvalidAnswer("the list ends in the middle")

    def _opened(self, chunk: bytes) -> bytes:
        """What follows the opening bracket; a part of a byte order mark before it is stored until it is whole."""
        head = bytes(self._record) + chunk
        self._record.clear()
        if not self._started and _BOM.startswith(head):
            return head
        text = (head if self._started else head.removeprefix(_BOM)).lstrip(_WHITE)
        self._started = True
        if text[:1] == b"[":
            self._depth = 1
            return text[1:]
        if text:
            raise InvalidAnswer("the answer is not a JSON array")
        return b""

    def _next(self, chunk: bytes, position: int) -> int:
        """The position of the next bracket or comma that matters; the length of the chunk when there is none."""
        if not self._depth:
            return len(chunk)
        while position < len(chunk):
            if self._in_string:
                position = self._leave_string(chunk, position)
                continue
            found = (_BETWEEN if self._depth == 1 else _INSIDE).match(chunk, position).end()  # type: ignore[union-attr]  # it may match nothing, but it matches
            if chunk[found : found + 1] != b'"':
                return found
            # The string that begins here does not end in this chunk.
            self._in_string = True
            position = found + 1
        return len(chunk)

    def _leave_string(self, chunk: bytes, position: int) -> int:
        """The position after the string's end, or the end of the chunk."""
        end = _IN_STRING.match(chunk, position + self._escaped).end()  # type: ignore[union-attr]  # as above
        self._escaped = chunk[end : end + 1] == b"\\"
        self._in_string = chunk[end : end + 1] != b'"'
        return end + 1

    def _ends_record(self, byte: int) -> bool:
        if byte in b"[{":
            self._depth += 1
            return False
        if byte == ord(","):
            return True
        self._depth -= 1
        return self._depth == 0

    def _keep(self, chunk: bytes, start: int, end: int) -> None:
        left = self._max - len(self._record)
        if end - start > left:
            self._too_large = True
            end = start + left
        self._record += memoryview(chunk)[start:end]

    def _take(self, chunk: bytes, start: int, end: int) -> bytes:
        if not self._record and not self._too_large and end - start <= self._max:
            return chunk[start:end].strip(_WHITE)
        self._keep(chunk, start, end)
        record = bytes(self._record).strip(_WHITE)
        self._record.clear()
        if self._too_large:
            self._too_large = False
            return RecordTooLarge(record[:256])
        return record
