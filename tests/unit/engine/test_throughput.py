"""Rates of the last minute and hour, in virtual time."""

from ai_task_processor.engine.throughput import HOUR_S, SAMPLE_S, Meter
from tests.unit.conftest import FakeClock


def test_rates_of_the_last_minute_and_hour() -> None:
    """Two tasks a second for an hour and a half, then a quiet half minute: each window counts what is in it."""
    clock, counts = FakeClock(), [0, 0]
    meter = Meter(lambda: (counts[0], counts[1]), clock)
    assert meter.throughput().last_hour.acknowledged_per_minute == 0.0
    for second in range(5_400):
        clock.advance(1.0)
        counts[0] += 2
        counts[1] += second % 60 == 0
        meter.sample()
    for _ in range(30):
        clock.advance(1.0)
        meter.sample()
    found = meter.throughput()
    assert 60.0 <= found.last_minute.seconds < 60.0 + SAMPLE_S
    assert found.last_minute.acknowledged == 2 * (found.last_minute.seconds - 30)
    assert (found.last_minute.failed, found.last_hour.failed) == (0, 59)
    assert HOUR_S <= found.last_hour.seconds < HOUR_S + SAMPLE_S
    assert found.last_hour.acknowledged == 2 * (found.last_hour.seconds - 30)
    assert 118 < found.last_hour.acknowledged_per_minute < 120


def test_just_after_the_start_the_window_is_what_there_is() -> None:
    clock, counts = FakeClock(), [0, 0]
    meter = Meter(lambda: (counts[0], counts[1]), clock)
    clock.advance(10.0)
    counts[0] = 5
    found = meter.throughput().last_minute
    assert (found.acknowledged, found.seconds, found.acknowledged_per_minute) == (5, 10.0, 5.0)
