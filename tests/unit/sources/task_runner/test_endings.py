"""What becomes of an outcome: states, error texts, artifacts. (Each type's artifacts: the contract.)"""

from typing import Any

import pytest

from ai_task_processor.models.task import Cancelled, Completed, Failed, Failure, TaskResult, Vector
from ai_task_processor.sources.task_runner.artifacts import artifacts_of
from ai_task_processor.sources.task_runner.endings import Ending, Row, ending

RUN, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
FOUND = {"query": "q", "results": [], "sources_used": ["brave", "other"], "retrieved_at": "now"}
SEARCH = {**FOUND, "raw": {"brave": 1, "other": 2}, "summary": "0 results from brave, other"}


def end(outcome: Any, *, task_type: str = "echo", starts: int = 1, retries: int = 0, timeout_s: float = 60) -> Ending:
    row = Row(task_type, starts, retries, timeout_s)
    return ending(outcome, row, RUN, max_runtime_s=600, max_bytes=20)


@pytest.mark.parametrize(
    ("starts", "retries", "state"),
    [(1, 0, "failed"), (1, 1, "queued"), (2, 1, "failed"), (3, 3, "queued"), (9, 3, "failed")],
)
def test_a_failed_task_is_queued_while_it_has_retries_left(starts: int, retries: int, state: str) -> None:
    assert end(Failed(Failure("fetch_failed", "gone")), starts=starts, retries=retries) == Ending(state, "gone")  # type: ignore[arg-type]


LATE = Failure("processor_error", "3 attempts ended with timeout")


@pytest.mark.parametrize(
    ("failure", "timeout_s", "text", "measured"),
    [
        (LATE, 601, "task_runtime_exceeded", False),
        (LATE, 600, "task timed out", True),
        (Failure("task_runtime_exceeded", "because"), 601, "task_runtime_exceeded", False),
        (Failure("task_runtime_exceeded", "because"), 600, "task timed out", True),
        (Failure("task_rejected_invalid_params", "because"), 60, "task_rejected_invalid_params", False),
        (Failure("no_message"), 60, "no_message", True),
    ],
)
def test_the_text_of_a_failure(failure: Failure, timeout_s: float, text: str, measured: bool) -> None:
    """And whether its run has a metric."""
    found = end(Failed(failure), timeout_s=timeout_s)
    assert (found.error, found.measured) == (text, measured)


def test_a_result_that_is_too_large() -> None:
    """One artifact is enough; a small one of another task is stored."""
    assert end(Completed(TaskResult({"text": "x" * 20})), retries=1) == Ending("queued", "artifact_size_exceeded")
    assert end(Completed(TaskResult({"n": 1}))).state == "completed"
    assert end(Cancelled()) == Ending("cancelled")


def test_ids_follow_from_the_claim() -> None:
    """The same for each report of a claim, others for another claim, and for each artifact."""
    ids = [[each.id for each in artifacts_of("search", TaskResult(SEARCH), run)[0]] for run in (RUN, RUN, OTHER)]
    assert ids[0] == ids[1]
    assert len({*ids[0], *ids[2]}) == 6


@pytest.mark.parametrize("task_type", ["search", "search_batch", "sleep", "fetch_url", "draw"])
@pytest.mark.parametrize("result", [TaskResult({"a": 1}), TaskResult([1]), TaskResult(vector=Vector(b"\0\0\x80?"))])
def test_a_result_of_another_processor(task_type: str, result: TaskResult) -> None:
    """It is stored as it is."""
    (artifact,), summary = artifacts_of(task_type, result, RUN)
    assert (artifact.type, artifact.content_type, summary) == (
        f"{task_type}_result",
        "application/json",
        f"{task_type} result",
    )
    assert artifact.content in (b'{"a":1}', b"[1]", b"[1.0]")
