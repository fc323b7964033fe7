"""The framer finds the records of a JSON array in any bytes, cut anywhere, in bounded memory."""

import json
import time
import tracemalloc
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.sources.rest.framing import ArrayFramer, RecordTooLarge

MAX = 2**20
TEXT = st.text(st.sampled_from('a"\\[]{},: \n\té€😀'), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def frame(data: bytes, sizes: Iterable[int] = (), max_record_bytes: int = MAX) -> list[bytes]:
    """The records of ``data``, fed in chunks of these sizes and the rest at once."""
    framer = ArrayFramer(max_record_bytes)
    records: list[bytes] = []
    for size in sizes:
        records += framer.feed(data[:size])
        data = data[size:]
    records += framer.feed(data)
    framer.finish()
    return records


WRITTEN = st.fixed_dictionaries(
    {
        "separators": st.sampled_from([(",", ":"), (", ", ": "), (" \n,\t", "\r :")]),
        "indent": st.sampled_from([None, 3]),
        "ensure_ascii": st.booleans(),
    }
)
HEADS = st.sampled_from([b"", b"\xef\xbb\xbf", b" \r\n\t", b"\xef\xbb\xbf\n"])


def parsed(records: Iterable[bytes]) -> list[object]:
    return [json.loads(record) for record in records]


@given(st.lists(VALUES, max_size=6), WRITTEN, HEADS, st.lists(st.integers(0, 9), max_size=200))
def test_records_are_the_elements(values: list[object], how: dict[str, Any], head: bytes, sizes: list[int]) -> None:
    assert parsed(frame(head + json.dumps(values, **how).encode() + b"\n", sizes)) == values


LISTING = b'\xef\xbb\xbf [{"a":"]\\"}"} , [1,{"b":[]}],"x\\\\", 12,{"c":{"d":{"e":{"f":"{"}}}},"\xc3\xa9\\u00e9"]'
ELEMENTS: list[object] = [{"a": ']"}'}, [1, {"b": []}], "x\\", 12, {"c": {"d": {"e": {"f": "{"}}}}, "éé"]


def test_a_cut_at_every_byte_yields_only_whole_records() -> None:
    """Whatever the length, what was yielded is whole, in order, and the cut is noticed."""
    for length in range(1, len(LISTING)):
        framer = ArrayFramer(MAX)
        found = parsed(framer.feed(LISTING[:length]))
        assert found == ELEMENTS[: len(found)]
        with pytest.raises(InvalidAnswer):
            framer.finish()
    assert parsed(frame(LISTING)) == ELEMENTS


def test_a_chunk_may_be_one_byte() -> None:
    """Escapes, a BOM and strings may lie across every boundary."""
    assert parsed(frame(LISTING, [1] * len(LISTING))) == ELEMENTS


@pytest.mark.parametrize(
    "data", [b"<!doctype html><p>log in</p>", b'{"data":[]}', b"null", b"\xff[1]", b"\xef\xbb[1]", b"x", b'"[1]"', b"]"]
)
@pytest.mark.parametrize("size", [1, 100])
def test_what_is_no_array_is_refused(data: bytes, size: int) -> None:
    with pytest.raises(InvalidAnswer, match="not a JSON array"):
        frame(data, [size] * len(data))


@pytest.mark.parametrize("data", [b" \n", b"\xef\xbb\xbf", b"\xef\xbb", b"[", b"[1", b'["]'])
def test_what_ends_too_early_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidAnswer, match="ends in the middle"):
        frame(data)


@pytest.mark.parametrize(
    "bad", [b"{nonsense}", b"{]", b"[1}", b"1}", b"tru", b"\xff\xfe", b'{"a":NaN}', b"\\", b'\\"a"', b'{"a" "b"}']
)
def test_a_bad_record_spoils_only_itself(bad: bytes) -> None:
    """Between two good records, whatever closes its own brackets and quotes leaves the others alone."""
    assert frame(b'[{"n":1},' + bad + b',{"n":2}]') == [b'{"n":1}', bad, b'{"n":2}']


@pytest.mark.parametrize(("data", "records"), [(b"", []), (b"[ ]", []), (b"[,1,, ,2,]", [b"1", b"2"])])
def test_nothing_is_no_record(data: bytes, records: list[bytes]) -> None:
    """An API may answer no bytes when it has nothing; stray commas are passed over."""
    assert frame(data) == records


@pytest.mark.parametrize("tail", [b"garbage", b"[3]", b"]]}}", b'"'])
def test_what_follows_the_array_is_ignored(tail: bytes) -> None:
    """Once the array is closed nothing more is read, in the same chunk or in the next ones."""
    assert frame(b"[1,2]" + tail) == [b"1", b"2"]
    assert frame(b"[1,2]" + tail, [5, 1]) == [b"1", b"2"]


def test_depth_has_no_bound() -> None:
    """A record that is nested a hundred thousand deep is framed, and another follows it."""
    deep = b"[" * 100_000 + b"]" * 100_000
    assert frame(b"[" + deep + b",7]", [1000] * 300) == [deep, b"7"]
    with pytest.raises(InvalidAnswer, match="ends in the middle"):
        frame(b"[" + deep[:100_000], [1000] * 300)


def test_a_record_at_the_limit_is_kept_and_one_byte_more_is_not() -> None:
    """The limit is exact, inside a chunk and across chunks, and the next records are whole."""
    for sizes in ((), (4, 4, 4)):
        records = frame(b'["12345678",1]', sizes, max_record_bytes=10)
        assert [(type(record), record) for record in records] == [(bytes, b'"12345678"'), (bytes, b"1")]
        large, after = frame(b'["123456789",1]', sizes, max_record_bytes=10)
        assert isinstance(large, RecordTooLarge)
        assert (type(after), after) == (bytes, b"1")


def huge_listing(total: int) -> Iterator[bytes]:
    yield b'[{"a":1},{"text":"'
    chunk = b'x,]}{[\\"' * 8192
    for _ in range(total // len(chunk)):
        yield chunk
    yield b'"},{"b":2}]'


def test_an_endless_record_passes_in_little_memory() -> None:
    """64 MB in one string: never more than one record and a few chunks are held, and the others survive."""
    framer = ArrayFramer(MAX)
    records: list[bytes] = []
    tracemalloc.start()
    try:
        for chunk in huge_listing(2**26):
            records += framer.feed(chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    framer.finish()
    assert [type(record) for record in records] == [bytes, RecordTooLarge, bytes]
    assert (records[0], records[2]) == (b'{"a":1}', b'{"b":2}')
    assert peak < 2 * MAX + 4 * 2**16


def test_hostile_bytes_take_linear_time() -> None:
    for piece in (b"{", b'{"', b'"\\', b"[{[{", b'{"a":', b"[[[[]]]],", b'\\"', b'{"a":{"b":{"c":{"d":1'):
        small, large = (_cpu_s(b"[" + piece * (size // len(piece))) for size in (2**16, 2**18))
        assert large < 12 * small + 0.05, piece


def _cpu_s(data: bytes) -> float:
    framer = ArrayFramer(MAX)
    started_at = time.process_time()
    for start in range(0, len(data), 2**16):
        for _ in framer.feed(data[start : start + 2**16]):
            pass
    return time.process_time() - started_at
