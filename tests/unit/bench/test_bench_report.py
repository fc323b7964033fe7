"""The comparison's tables and bounds."""

from dataclasses import replace

import pytest

from tests.bench.alone import percentile
from tests.bench.report import Bound, Runs, Section, at_least, at_most, markdown, text
from tests.bench.runner import Run

RUN = Run(
    worker="daemon",
    concurrency=256,
    pending=100,
    tasks=100,
    seconds=1.0,
    cpu_us=300.0,
    tasks_per_s=100.0,
    rss_mb=80.0,
    calls_per_1000=4.0,
    repeated=0,
    missing=0,
    wrong=0,
    upstream_share=0.2,
    broker_us=0.0,
)
LOOP = replace(RUN, worker="loop over aiohttp", cpu_us=200.0)


def missed(bounds: list[Bound]) -> list[str]:
    return [bound.what for bound in bounds if not bound.holds]


def test_a_ratio_is_one_of_medians() -> None:
    """One bad run of three changes nothing."""
    runs = Runs([RUN, replace(RUN, cpu_us=9_000.0), replace(RUN, cpu_us=290.0), LOOP, LOOP, LOOP])
    assert runs.ratio("daemon") == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["missing", "repeated", "wrong"])
def test_one_bad_result_in_any_run_misses(name: str) -> None:
    """A median would hide it."""
    assert missed(Runs([RUN, RUN, RUN]).correct()) == []
    assert len(missed(Runs([RUN, replace(RUN, **{name: 1}), RUN]).correct())) == 1  # type: ignore[arg-type]  # a count


def test_a_busy_upstream_misses() -> None:
    """In whichever run it held somebody up."""
    assert len(missed(Runs([RUN, replace(LOOP, upstream_share=0.81)]).correct())) == 1


def test_others_count_at_their_best() -> None:
    """What runs with several concurrencies has a row for each."""
    other = replace(RUN, worker="arq over aiohttp", concurrency=32, cpu_us=700.0)
    runs = Runs([RUN, other, replace(other, concurrency=256, cpu_us=600.0)])
    assert runs.labels == ["daemon", "arq over aiohttp, 32 jobs", "arq over aiohttp, 256 jobs"]
    assert runs.cheapest_us("arq over aiohttp") == 600.0


def test_both_tables_show_what_was_missed() -> None:
    """For a terminal, and for a document."""
    runs = Runs([RUN, LOOP])
    bounds = [at_most("ratio", runs.ratio("daemon"), 1.0), at_least("rate", 2.0, 1.0)]
    section = Section("a", "title", runs.rows(), bounds)
    assert "MISSED ratio: 1.50 (≤ 1.00)" in text(section)
    assert "| ratio | ≤ 1.00 | 1.50 | MISSED |" in markdown(section)
    assert "ok     rate: 2.00 (≥ 1.00)" in text(section)


def test_percentiles_are_values_that_occurred() -> None:
    """The nearest rank: of 200 values, two are above the 99th."""
    values = [float(number) for number in range(1, 201)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([3.0], 0.99)) == (100.0, 198.0, 3.0)
