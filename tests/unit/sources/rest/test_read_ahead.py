"""Candidates: in the order of the list, within their bytes and their age, and no longer than they can be trusted."""

import gc
import tracemalloc
from typing import Any

import pytest

from ai_task_processor.sources.rest.read_ahead import ENTRY_BYTES, LONG_BYTES, WORTH, ReadAhead


def listed(ahead: ReadAhead, clock: Any, *ids: str, took_s: float = 0.0) -> None:
    """A list that took so long brings these candidates."""
    ahead.asked()
    clock.advance(took_s)
    ahead.answered()
    for task_id in ids:
        assert ahead.keep(task_id, task_id.encode())
    ahead.read()


@pytest.fixture
def ahead(clock: Any) -> ReadAhead:
    return ReadAhead(10_000, 30.0, clock.monotonic)


def test_candidates_come_in_the_order_of_the_list(ahead: ReadAhead, clock: Any) -> None:
    """First in, first out, each once; ``len`` and ``in`` tell what is there."""
    listed(ahead, clock, "c", "a", "b")
    assert (len(ahead), "a" in ahead, "x" in ahead) == (3, True, False)
    assert [ahead.take() for _ in range(4)] == [b"c", b"a", b"b", None]
    assert (len(ahead), ahead.used_bytes, "a" in ahead) == (0, 0, False)


@pytest.mark.parametrize(
    ("max_bytes", "age_s", "kept"), [(0, 30.0, 0), (10_000, 0.0, 0), (3 * (ENTRY_BYTES + 5), 30.0, 3)]
)
def test_the_bound_in_bytes_is_kept_and_0_keeps_nothing(clock: Any, max_bytes: int, age_s: float, kept: int) -> None:
    """As many as fit with what their index takes."""
    ahead = ReadAhead(max_bytes, age_s, clock.monotonic)
    ahead.asked()
    ahead.answered()
    assert [ahead.keep(f"{n}", b"12345") for n in range(5)] == [n < kept for n in range(5)]
    assert ahead.enabled == (kept > 0)
    assert ahead.used_bytes == max_bytes if kept else ahead.used_bytes == 0
    ahead.take()
    assert ahead.keep("late", b"12345") == (kept > 0), "what was taken makes room"


def test_the_bound_is_one_of_memory() -> None:
    """4 MiB of usual records take less than 4 MiB and a dictionary's growth, the index included."""
    ahead = ReadAhead(2**22, 30.0, lambda: 0.0)
    source = bytes(500) * 10_000
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        count = 0
        while ahead.keep(f"{count:024x}", source[count * 470 : (count + 1) * 470]):
            count += 1
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert count == 2**22 // (470 + ENTRY_BYTES)
    assert used < 1.05 * 2**22


@pytest.mark.parametrize("size", [0, LONG_BYTES - 8, LONG_BYTES, 50_000])
def test_long_records_are_kept_small_and_come_back_as_they_were(clock: Any, size: int) -> None:
    """Byte for byte, whatever their length; a text takes half of its bytes or less."""
    record = b'{"t":"%s"}' % b" ".join(b"%d words" % n for n in range(size // 4))[:size]
    ahead = ReadAhead(10**6, 30.0, clock.monotonic)
    ahead.asked()
    ahead.answered()
    assert ahead.keep("a", record)
    assert ahead.used_bytes - ENTRY_BYTES <= len(record) / (1 if len(record) < LONG_BYTES else 2)
    assert (ahead.take(), ahead.used_bytes) == (record, 0)


def test_they_are_as_old_as_the_answer(ahead: ReadAhead, clock: Any) -> None:
    """A list that took 10 s to make serves 30 s from its beginning, and then not a moment more."""
    listed(ahead, clock, "a", "b", "c", took_s=10.0)
    clock.advance(29.9)
    assert ahead.take() == b"a"
    clock.advance(0.1)
    assert ahead.take() is None
    assert len(ahead) == 0


def test_a_new_list_replaces_the_old_one(ahead: ReadAhead, clock: Any) -> None:
    listed(ahead, clock, "a", "b")
    ahead.asked()
    assert ahead.take() is None
    listed(ahead, clock, "b")
    assert [ahead.take(), ahead.take()] == [b"b", None]


def test_what_is_dropped_does_not_come(ahead: ReadAhead, clock: Any) -> None:
    """Its memory is free at once; who was never here can be dropped as well."""
    listed(ahead, clock, "a", "b", "c")
    ahead.drop("a")
    ahead.drop("a")
    ahead.drop("x")
    assert (len(ahead), ahead.used_bytes) == (2, 2 * (ENTRY_BYTES + 1))
    assert [ahead.take() for _ in range(3)] == [b"b", b"c", None]


@pytest.mark.parametrize(("took_s", "served_s"), [(0.0, 0.0), (0.005, 0.05), (1.0, 10.0), (20.0, 30.0)])
@pytest.mark.parametrize("when", ["while it is read", "after it", "a thousand times"])
def test_a_doubt_ends_a_list_when_it_was_worth_its_price(
    ahead: ReadAhead, clock: Any, took_s: float, served_s: float, when: str
) -> None:
    """A cheap list is replaced at once, a dear one when it has served ten times as long as it took, or is old."""
    ahead.asked()
    clock.advance(took_s)
    ahead.answered()
    for n in range(3):
        ahead.keep(f"{n}", b"%d" % n)
    if when == "while it is read":
        ahead.doubt()
    ahead.read()
    for _ in range({"after it": 1, "a thousand times": 1_000}.get(when, 0)):
        ahead.doubt()
    assert WORTH * took_s == pytest.approx(served_s) or served_s == 30.0
    if served_s:
        clock.advance(served_s - 0.001)
        assert ahead.take() == b"0"
        clock.advance(0.0011)
    assert ahead.take() is None


def test_a_doubt_about_an_earlier_list_does_not_touch_the_next(ahead: ReadAhead, clock: Any) -> None:
    """The next list was asked for after it."""
    listed(ahead, clock, "a")
    ahead.doubt()
    listed(ahead, clock, "b")
    clock.advance(29.0)
    assert ahead.take() == b"b"
