"""Empties large messages of a WebSocket (RFC 6455 §5.2) before its parser gets them, which holds a message whole."""

from typing import Protocol

#: of opcodes (§5.2): frames from this one on are control frames, which are short and stand between others
_CONTROL = 0x8
#: bytes of the extended payload length, by the seven bits of the length
_EXTENDED = {126: 2, 127: 8}


class Parser(Protocol):
    """aiohttp's parser of frames."""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]: ...
    def feed_eof(self) -> None: ...


class ShortMessages:
    """The frames that ``parser`` gets: those over ``max_bytes`` of one message have no payload."""

    def __init__(self, parser: Parser, max_bytes: int) -> None:
        self._parser = parser
        self._max_bytes = max_bytes
        #: the beginning of a frame whose header is not whole
        self._begun = b""
        #: bytes to come of the payload under way, and whether they are left out
        self._left, self._omits = 0, False
        #: bytes of the message under way
        self._size = 0

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        return self._parser.feed_data(self._shortened(self._begun + data))

    def feed_eof(self) -> None:
        self._parser.feed_eof()

    def _shortened(self, data: bytes) -> bytes:
        kept, at, self._begun = [], 0, b""
        while at < len(data):
            if not self._left:
                end = self._header_end(data, at)
                if end > len(data):
                    self._begun = data[at:]
                    break
                kept.append(self._header(data[at:end]))
                at = end
            payload = data[at : at + self._left]
            at += len(payload)
            self._left -= len(payload)
            if not self._omits:
                kept.append(payload)
        return b"".join(kept)

    def _header_end(self, data: bytes, at: int) -> int:
        if len(data) < at + 2:
            return len(data) + 1
        masked = data[at + 1] & 0x80
        return at + 2 + _EXTENDED.get(data[at + 1] & 0x7F, 0) + (4 if masked else 0)

    def _header(self, header: bytes) -> bytes:
        """The header to hand on."""
        length, opcode = header[1] & 0x7F, header[0] & 0x0F
        if extended := _EXTENDED.get(length):
            length = int.from_bytes(header[2 : 2 + extended])
        self._left, self._omits = length, False
        if opcode < _CONTROL:
            self._size = length if opcode else self._size + length
            self._omits = self._size > self._max_bytes
        return bytes((header[0], 0)) if self._omits else header
