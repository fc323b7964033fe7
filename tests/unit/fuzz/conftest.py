"""Fuzzing of everything that is read from outside. Each property runs under one of two profiles.

``ci``: what the normal test run affords, and the same inputs in every run. ``long``: fresh inputs for
about three quarters of an hour::

    HYPOTHESIS_PROFILE=long make test ARGS='tests/unit/fuzz -n0'

A property sets no number of examples of its own, so that the profile decides.
"""

import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=_SLOW)
settings.register_profile("long", max_examples=20_000, deadline=None, suppress_health_check=_SLOW)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A property takes the profile that is loaded when its module is imported: here this one, elsewhere another."""
    before = settings.get_current_profile_name()
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
    try:
        return (yield)
    finally:
        settings.load_profile(before)
