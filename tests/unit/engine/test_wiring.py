"""What the composition root decides by itself."""

import pytest

from ai_task_processor.engine.wiring import connections


@pytest.mark.parametrize(
    ("delivering", "calling", "limit", "expected"),
    [
        (5, 64, 1024, (5, 64)),
        (2000, 64, 20_000, (2000, 64)),
        (2000, 64, 1024, (926, 29)),
        (2000, 0, 1024, (956, 1)),
        (64, 64, 40, (1, 1)),
    ],
)
def test_connections_leave_descriptors_for_the_rest(
    delivering: int, calling: int, limit: int, expected: tuple[int, int]
) -> None:
    """64 files stay free, whatever is asked for; where that cannot be, one connection each."""
    assert connections(delivering, calling, limit) == expected
    assert sum(expected) + 4 + 64 <= max(limit, 70) + (calling == 0)
