"""For all tests: a skip is a failure where nothing may be missing; tests that wait stand among tests that compute."""

import os
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

E2E = Path(__file__).parent / "e2e"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files of end-to-end tests, which wait most of the time, evenly among the others.

    Each worker of a test run begins with a part of the list, so that some wait while others compute.
    """
    tests = Counter(item.path for item in items)
    share: dict[Path, float] = {}
    for waits in (True, False):
        files = [file for file in tests if (E2E in file.parents) == waits]
        before, total = 0, sum(tests[file] for file in files)
        for file in files:
            share[file] = before / total
            before += tests[file]
    items.sort(key=lambda item: share[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """``REQUIRE_ALL=1`` in the environment makes a skip a failure, by its reason."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_ALL is set, and this was not run: {reason}"
    return report
