"""The vector cache: least recently used goes first, and what it says it takes is what it takes."""

import gc
import os
import tracemalloc
from collections import OrderedDict

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ai_task_processor.processors.embedding.cache import ENTRY_BYTES, VectorCache

ROOM = 10 * (ENTRY_BYTES + 8)
KEYS = st.integers(0, 15)


def key(number: int) -> bytes:
    return VectorCache(1).key("m", b"%d" % number)


class Model(RuleBasedStateMachine):
    """Beside a plain list of what was used last."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = VectorCache(ROOM)
        self.held: OrderedDict[int, tuple[bytes, int]] = OrderedDict()

    @rule(number=KEYS, size=st.integers(0, 3 * ENTRY_BYTES).map(lambda size: size & ~3), tokens=st.integers(0, 9_000))
    def put(self, number: int, size: int, tokens: int) -> None:
        self.cache.put(key(number), bytes(size), tokens)
        self.held.pop(number, None)
        self.held[number] = bytes(size), tokens
        while sum(len(vector) + ENTRY_BYTES for vector, _ in self.held.values()) > ROOM:
            self.held.popitem(last=False)

    @rule(number=KEYS)
    def get(self, number: int) -> None:
        assert self.cache.get(key(number)) == self.held.get(number)
        if number in self.held:
            self.held.move_to_end(number)

    @rule(number=KEYS)
    def put_what_never_fits(self, number: int) -> None:
        self.cache.put(key(100 + number), bytes(ROOM), 1)
        assert self.cache.get(key(100 + number)) is None

    @invariant()
    def it_stays_within_its_bytes(self) -> None:
        assert self.cache.bytes == sum(len(vector) + ENTRY_BYTES for vector, _ in self.held.values()) <= ROOM
        assert len(self.cache) == len(self.held)


TestAgainstAList = Model.TestCase
TestAgainstAList.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_the_least_recently_used_goes_first() -> None:
    """To be asked for counts as use."""
    cache = VectorCache(3 * (ENTRY_BYTES + 4))
    for number in range(3):
        cache.put(key(number), b"abcd", number)
    assert cache.get(key(0)) == (b"abcd", 0)
    cache.put(key(3), b"abcd", 3)
    assert [cache.get(key(number)) is not None for number in range(4)] == [True, False, True, True]


@pytest.mark.parametrize(("dimensions", "entries"), [(1, 10_924), (64, 2_732), (1536, 684)])
def test_a_full_cache_takes_no_more_memory_than_it_may(dimensions: int, entries: int) -> None:
    """Measured, with its keys, objects and table, where the table has just grown, in the course of a long life."""
    most = entries * (4 * dimensions + ENTRY_BYTES)
    gc.collect()
    tracemalloc.start()
    try:
        cache = VectorCache(most)
        before = tracemalloc.get_traced_memory()[0]
        for number in range(3 * entries):
            cache.put(key(number), os.urandom(4 * dimensions), 1_000 + number)
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert (cache.bytes, len(cache)) == (most, entries)
    assert 0.8 * most < peak <= most


def test_a_key_stands_for_model_dimensions_and_text() -> None:
    """16 bytes that differ when any of them does, however names and texts are cut."""
    cache, short = VectorCache(0), VectorCache(0, 64)
    keys = {
        cache.key("m", b"text"),
        cache.key("m2", b"text"),
        cache.key("m", b"2text"),
        cache.key("", b"mtext"),
        cache.key("m\udcff", b"text"),
        cache.key("m", b""),
        short.key("m", b"text"),
        VectorCache(0, 4).key("6m", b"text"),
    }
    assert len(keys) == 8
    assert {len(key) for key in keys} == {16}
    assert cache.key("m", b"text") == VectorCache(99).key("m", b"text")
