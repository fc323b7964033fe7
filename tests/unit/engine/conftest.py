"""For all tests of the engine: what is logged is kept for the test."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.unit.engine.parts import Logs


@pytest.fixture(autouse=True)
def logs() -> Iterator[Logs]:
    with capture_logs() as captured:
        yield captured
