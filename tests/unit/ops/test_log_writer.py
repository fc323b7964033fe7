"""Log lines on their way out: nobody waits for the reader, and what is lost is counted."""

import contextlib
import errno
import os
import pty
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from ai_task_processor.ops import log_writer
from ai_task_processor.ops.log_writer import LineWriter

LINE = b"x" * 199 + b"\n"
Pipe = tuple[int, int]


def notice(lost: int) -> bytes:
    return b"%d lost\n" % lost


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe; what of it is still open at the end is closed."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.fixture
def writer(pipe: Pipe) -> LineWriter:
    return LineWriter(pipe[1], notice)


def read(descriptor: int, lines: int) -> list[bytes]:
    """So many lines, as they come."""
    data = b""
    while data.count(b"\n") < lines:
        data += os.read(descriptor, 2**16)
    return data.splitlines(keepends=True)


def fill(writer: LineWriter, lines: int) -> None:
    """Nobody reads: this must not take long all the same."""
    began = time.monotonic()
    for _ in range(lines):
        writer.write(LINE)
    assert time.monotonic() - began < 5


def test_a_line_is_out_when_write_returns(pipe: Pipe, writer: LineWriter) -> None:
    """As long as there is room no thread is in between: what was logged before a kill is kept."""
    writer.write(LINE)
    assert os.read(pipe[0], 1000) == LINE
    assert writer._thread is None


def test_nobody_waits_for_a_reader_that_stopped(
    pipe: Pipe, writer: LineWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a pipe does not take waits in memory, what memory may not take is counted, and the order is kept."""
    monkeypatch.setattr(log_writer, "MAX_BYTES", 200_000)
    reader, _ = pipe
    fill(writer, 5_000)
    kept = 5_000 - writer.dropped
    assert 200_000 // len(LINE) < kept < 2_000
    writer.flush(0.05)  # nobody reads: it does not wait for long
    told = read(reader, kept + 1)
    assert [line for line in told if line != LINE] == [notice(5_000 - kept)]
    writer.flush(5)
    writer.write(b"after\n")
    assert read(reader, 1) == [b"after\n"]
    assert writer.dropped == 5_000 - kept


def test_the_end_of_the_process_waits_for_the_reader(pipe: Pipe, writer: LineWriter) -> None:
    """``flush`` returns when everything has been taken."""
    fill(writer, 1_000)
    assert len(read(pipe[0], 999)) >= 999
    writer.flush(10)
    assert writer.dropped == 0
    assert writer._given == writer._done > 0


@pytest.mark.parametrize("place", ["pipe", "file", "terminal", "socket"])
def test_a_long_line_arrives_whole_and_in_order(place: str, pipe: Pipe, tmp_path: object) -> None:
    """A traceback between two short lines, wherever the log goes."""
    reader, end = pipe
    if place == "terminal":
        os.close(reader)
        os.close(end)
        reader, end = pty.openpty()
    elif place == "socket":
        theirs, ours = socket.socketpair()
        reader, end = theirs.detach(), ours.detach()
    elif place == "file":
        end = os.open(f"{tmp_path}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        reader = os.open(f"{tmp_path}/log", os.O_RDONLY)
    writer = LineWriter(end, notice)
    lines = [b"before\n", b"y" * 100_000 + b"\n", b"after\n"]
    for line in lines:
        writer.write(line)
    assert b"".join(read(reader, 3)).replace(b"\r\n", b"\n") == b"".join(lines)
    assert writer.dropped == 0


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_reader_that_went_away_costs_lines_and_nothing_else(pipe: Pipe, writer: LineWriter, size: int) -> None:
    """EPIPE at once, or in the thread: counted."""
    os.close(pipe[0])
    for _ in range(3):
        writer.write(b"x" * size)
        writer.flush(5)
    assert writer.dropped == 3


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, ""), BlockingIOError(errno.EAGAIN, "")])
def test_lines_flow_again_after_a_failure(
    pipe: Pipe, writer: LineWriter, failure: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk loses lines and says how many; a descriptor that does not block loses none."""
    write: Callable[[int, bytes], int] = os.write
    left = [failure, failure]

    def failing(descriptor: int, data: bytes) -> int:
        if left:
            raise left.pop()
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", failing)
    for number in range(4):
        writer.write(b"%d\n" % number)
        writer.flush(5)
    lost = failure.errno == errno.ENOSPC
    wanted = [b"2\n", notice(2), b"3\n"] if lost else [b"0\n", b"1\n", b"2\n", b"3\n"]
    assert read(pipe[0], len(wanted)) == wanted
