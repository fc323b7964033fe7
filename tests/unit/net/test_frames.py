"""Large messages of a WebSocket lose their content before they are held."""

import random
from collections.abc import Sequence

import pytest

from ai_task_processor.net.frames import ShortMessages

MOST = 70_000
TEXT, MORE, PING, FINAL = 0x1, 0x0, 0x9, 0x80


class Kept:
    """A parser that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        self.ended = True


def frame(first: int, size: int, mask: bytes = b"") -> bytes:
    """A frame (RFC 6455 §5.2) with so much payload."""
    flag = 0x80 if mask else 0
    if size < 126:
        head = bytes((first, flag | size))
    elif size < 2**16:
        head = bytes((first, flag | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, flag | 127)) + size.to_bytes(8)
    return head + mask + bytes(range(256)) * (size // 256) + bytes(size % 256)


def empty(first: int) -> bytes:
    return bytes((first, 0))


@pytest.mark.parametrize(
    ("frames", "kept"),
    [
        ([frame(FINAL | TEXT, size) for size in (0, 1, 125, 126, 65_535, 65_536, MOST)], None),
        ([frame(FINAL | TEXT, MOST + 1), frame(FINAL | TEXT, 5)], [empty(FINAL | TEXT), frame(FINAL | TEXT, 5)]),
        ([frame(FINAL | TEXT, MOST, b"mask"), frame(FINAL | PING, 3, b"mask")], None),
        ([frame(FINAL | TEXT, MOST + 1, b"mask"), frame(PING, 3)], [empty(FINAL | TEXT), frame(PING, 3)]),
        (
            [frame(TEXT, 60_000), frame(FINAL | PING, 9), frame(MORE, 10_000), frame(MORE, 1), frame(FINAL | MORE, 2)],
            [frame(TEXT, 60_000), frame(FINAL | PING, 9), frame(MORE, 10_000), empty(MORE), empty(FINAL | MORE)],
        ),
    ],
    ids=["short", "long", "masked", "long and masked", "in parts"],
)  # fmt: skip
@pytest.mark.parametrize("pieces", ["bytes", "some", "whole"])
def test_only_what_is_too_long_is_left_out(frames: Sequence[bytes], kept: Sequence[bytes] | None, pieces: str) -> None:
    """However the bytes come. What stands between the parts of a message, a ping, is not of it."""
    parser, data, rng = Kept(), b"".join(frames), random.Random(1)
    short = ShortMessages(parser, MOST)
    at = 0
    while at < len(data):
        size = {"bytes": 1 if at < 5_000 else 7_919, "some": rng.randrange(1, 40_000), "whole": len(data)}[pieces]
        assert short.feed_data(data[at : at + size]) == (False, b"")
        at += size
    assert parser.data == b"".join(frames if kept is None else kept)
    short.feed_eof()
    assert parser.ended
