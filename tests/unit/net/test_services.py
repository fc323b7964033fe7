"""What components share."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from ai_task_processor.net import services as module
from tests.helpers import services


@pytest.mark.parametrize(
    ("asked", "limit", "granted"), [(5, 1024, 5), (2000, 20_000, 2000), (2000, 1024, 480), (64, 1024, 64), (64, 40, 1)]
)
def test_connections_leave_descriptors_for_the_rest(
    asked: int, limit: int, granted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 files stay free, and no client has more than half of the others; a warning says so, with the numbers."""
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(module, "descriptor_limit", lambda: limit)
    monkeypatch.setattr(module, "make_client", lambda network, **options: made.append(options))
    with capture_logs() as logs:
        services({}).client("https://user:secret@api.test/base", asked)
    assert made[0]["connections"] == granted
    assert [f"{limit} files open (ulimit -n)" in line["reason"] for line in logs] == [True] * (granted < asked)
    assert "secret" not in str(logs)


def test_a_gate_is_one_for_all_who_ask() -> None:
    """Polls and reports of a source meet the circuit breaker that the engine looks at."""
    shared = services({})
    assert shared.gate("api_poll") is shared.gate("api_poll") is not shared.gate("api_delivery")
