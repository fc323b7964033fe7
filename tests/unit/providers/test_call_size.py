"""How large a call may be: what passes, is refused or takes too long, against caps that are played."""

import json
import math
from math import log2

import pytest

from ai_task_processor.providers.call_size import MAX_INPUTS, MAX_TOKENS, PROBE_AFTER, SLOW_PROBE_AFTER, CallSize

#: bytes and tokens of a text
BYTES, TOKENS = 400, 100


def call(size: CallSize, cap: int, waiting: int = 1_000) -> int:
    """One call of as many texts as are allowed: how many they were, 0 when they were more than pass."""
    inputs = max(1, min(waiting, size.most_inputs, size.most_bytes // BYTES))
    if inputs <= cap:
        size.passed(inputs, inputs * BYTES, inputs * TOKENS)
        return inputs
    size.too_large(inputs, inputs * BYTES)
    return 0


def calls(size: CallSize, cap: int, count: int, waiting: int = 1_000) -> list[int]:
    return [call(size, cap, waiting) for _ in range(count)]


def learnt(cap: int) -> CallSize:
    size = CallSize()
    calls(size, cap, 50)
    return size


@pytest.fixture
def size() -> CallSize:
    return CallSize()


def test_without_a_refusal_only_the_published_limits_bound_a_call(size: CallSize) -> None:
    size.passed(2_048, 100_000, 25_000)
    assert (size.most_inputs, size.most_bytes) == (MAX_INPUTS, MAX_TOKENS)


@pytest.mark.parametrize("waiting", [64, 700, 1_000, 2_048])
@pytest.mark.parametrize("cap", [1, 2, 10, 16, 25, 32, 50, 64, 96, 100, 128, 250, 512, 1_000])
def test_a_cap_costs_few_refused_calls_and_is_kept(size: CallSize, cap: int, waiting: int) -> None:
    """At most log2(n / cap) + 3; then calls are as large as the cap, within a quarter."""
    most = min(waiting, MAX_INPUTS)
    assert calls(size, cap, 50, waiting).count(0) <= log2(max(1, most / cap)) + 3
    assert min(calls(size, cap, 2_000, waiting)) >= min(cap, most, MAX_TOKENS // BYTES) / 1.25


@pytest.mark.parametrize("cap", [10, 32, 100])
def test_after_a_restart_nothing_is_refused(cap: int) -> None:
    size = learnt(cap)
    again = CallSize.restored(json.loads(json.dumps(size.state())))
    assert (again.most_inputs, again.most_bytes) == (size.most_inputs, size.most_bytes)
    assert 0 not in calls(again, cap, 2_000)


def test_a_restart_keeps_everything() -> None:
    size = learnt(32)
    size.timed_out(30, 30 * BYTES)
    size.timed_out(30, 30 * BYTES)
    size.too_large(40, 40 * BYTES, stated=33)
    assert CallSize.restored(size.state()).state() == size.state()


GOOD = CallSize().state()


@pytest.mark.parametrize(
    "garbage",
    [
        *({}, None, [], "inputs", 3, {"inputs": [1, 2, 3]}, {name: [] for name in GOOD}, dict.fromkeys(GOOD)),
        *(GOOD | {"inputs": inputs} for inputs in ([1, 2], [None, None, None], [0, 0, None])),
        *(GOOD | {"tokens": tokens} for tokens in ([1, 1e300, None], ["1", 2, None], [True, 2, None])),
        *(GOOD | {"density": density} for density in ([0, 1, 0], [math.nan, 1, 0], [1, 0.5, 0])),
        GOOD | {"slowness": [-1, 1, 1, 1]},
        *(GOOD | {"calls": calls} for calls in ([10**400], [[1]])),
    ],
    ids=lambda garbage: str(garbage)[:200],
)
def test_garbage_is_as_good_as_nothing(garbage: object) -> None:
    size = CallSize.restored(garbage)  # type: ignore[arg-type]  # that is the point
    assert size.state() == GOOD


def test_a_single_text_that_is_refused_caps_nothing(size: CallSize) -> None:
    """ "This text is too long" is about the text."""
    size.too_large(1, 100_000)
    size.too_large(1, 10, stated=5)
    size.timed_out(1, 100_000)
    assert (size.most_inputs, size.most_bytes) == (MAX_INPUTS, MAX_TOKENS)


def test_texts_of_no_size_do_no_harm(size: CallSize) -> None:
    size.passed(30, 0, 0)
    for _ in range(20):
        size.too_large(10, 0)
    assert size.most_inputs >= 1
    assert size.most_bytes >= 1


def test_a_cap_of_size_is_found_though_inputs_are_blamed_first(size: CallSize) -> None:
    """At most 100 texts' bytes pass. Then 1,000 short texts go in one call."""
    calls(size, 100, 30)
    size.too_large(20, 20 * 2_400)
    assert size.most_bytes < 20 * 2_400
    size.passed(99, 99 * BYTES, 99 * TOKENS)
    assert size.most_inputs == MAX_INPUTS


def test_denser_texts_make_smaller_calls(size: CallSize) -> None:
    """A cap of 10,000 tokens, learnt with 4 bytes a token, holds for texts of 2 bytes a token after one of them."""
    calls(size, 10_000 // TOKENS, 40)
    size.too_large(10, 60_000)
    before = size.most_bytes
    size.passed(1, 600, 300)
    assert size.most_bytes <= before / 1.5


def test_a_tiny_call_says_nothing_about_density(size: CallSize) -> None:
    """Two bytes that cost twenty tokens, as a text that shows whether a model is well, make no call smaller."""
    size.passed(40, 40 * BYTES, 40 * TOKENS)
    size.too_large(100, 100 * BYTES, stated=10_000)
    before = size.most_bytes
    size.passed(1, 2, 20)
    assert size.most_bytes == before < 100 * BYTES


def test_a_call_that_is_refused_against_all_likelihood_was_denser(size: CallSize) -> None:
    """So the next calls hold fewer bytes, though as many tokens are known to pass."""
    calls(size, 10_000 // TOKENS, 40)
    size.too_large(10, 60_000)
    size.passed(20, 40_000, 10_000)
    before = size.most_bytes
    size.too_large(20, before)
    assert before / 1.3 <= size.most_bytes <= before / 1.05


@pytest.mark.parametrize("stated", [32, 10, 100])
def test_a_number_in_the_providers_words_is_the_first_guess(size: CallSize, stated: int) -> None:
    """And it is verified by one call that is a little larger."""
    size.too_large(1_000, 400_000, stated=stated)
    assert size.most_inputs == stated
    assert calls(size, stated, 1_000).count(0) == 1
    assert size.most_inputs == stated


def test_a_number_of_tokens_bounds_the_bytes(size: CallSize) -> None:
    size.passed(10, 4_000, 1_000)
    size.too_large(400, 160_000, stated=16_000)
    assert 16_000 * 3 <= size.most_bytes <= 16_000 * 4
    assert size.most_inputs == MAX_INPUTS


@pytest.mark.parametrize("stated", [0, -5, 500_000])
def test_a_number_that_cannot_be_a_cap_is_ignored(size: CallSize, stated: int) -> None:
    size.too_large(1_000, 400_000, stated=stated)
    assert size.most_inputs == 512


def test_a_number_that_is_wrong_is_found_out(size: CallSize) -> None:
    """Told 1, while 100 pass: the call that verifies it passes, and the cap is bisected."""
    size.too_large(1_000, 400_000, stated=1)
    calls(size, 100, 60)
    assert size.most_inputs >= 80


@pytest.mark.parametrize(("before", "after"), [(1_000, 10), (512, 32), (512, 100), (100, 32), (64, 50)])
def test_a_cap_that_is_lowered_is_learnt_anew(before: int, after: int) -> None:
    size = learnt(before)
    assert calls(size, after, 100).count(0) <= log2(before / after) + 3
    assert call(size, after) >= after / 1.5


def test_a_cap_that_is_raised_is_found_after_ten_thousand_calls() -> None:
    size = learnt(32)
    calls(size, 512, PROBE_AFTER + 100)
    assert size.most_inputs >= 400


def test_a_cap_that_stays_costs_one_call_in_ten_thousand() -> None:
    assert calls(learnt(32), 32, 3 * PROBE_AFTER).count(0) <= 3


def timed(size: CallSize, most: int, waiting: int = 64) -> bool:
    """A call that is answered in time when it holds no more than so many."""
    inputs = min(waiting, size.most_inputs)
    if inputs <= most:
        size.passed(inputs, inputs * BYTES, inputs * TOKENS)
    else:
        size.timed_out(inputs, inputs * BYTES)
    return inputs <= most


def test_a_model_too_slow_for_large_calls_gets_smaller_ones(size: CallSize) -> None:
    """20 of 64 texts are answered in time: larger calls are tried ever more rarely."""
    answered = [timed(size, 20) for _ in range(5_000)]
    assert answered[:20].count(False) <= 3
    assert answered[20:].count(False) <= 3 + 5_000 / SLOW_PROBE_AFTER[1]
    assert size.most_inputs >= 16


def test_after_an_outage_calls_grow_again(size: CallSize) -> None:
    for _ in range(20):
        timed(size, 0)
    assert size.most_inputs == 1
    for _ in range(30):
        timed(size, 64)
    assert size.most_inputs >= 64


def test_one_time_out_of_a_usual_call_says_nothing(size: CallSize) -> None:
    timed(size, 64)
    timed(size, 0)
    assert size.most_inputs == MAX_INPUTS
    timed(size, 0)
    assert size.most_inputs == 32
