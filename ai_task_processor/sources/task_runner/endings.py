"""What an outcome means for a row: its next state, its error text, its artifacts. Pure.

The error texts are those that clients of the API know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from ai_task_processor.models.task import Completed, Failed, Failure, Outcome
from ai_task_processor.sources.task_runner.artifacts import Artifact, artifacts_of

TIMED_OUT: Final = "task timed out"
RUNTIME_EXCEEDED: Final = "task_runtime_exceeded"
TOO_LARGE: Final = "artifact_size_exceeded"
REJECTED: Final = "task_rejected_invalid_params"
#: no later attempt would end otherwise; there is no metric of their runs
TERMINAL: Final = frozenset({RUNTIME_EXCEEDED, REJECTED})
#: failures whose code is the text
_CODES: Final = frozenset({TOO_LARGE, REJECTED, "no_extractable_text"})


@dataclass(frozen=True, slots=True)
class Row:
    """The part of a row that decides. ``starts``: how often the task was started, this claim included."""

    type: str
    starts: int
    max_retries: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a run. ``state``: the next one of the row. ``error``: None leaves what is there."""

    state: Literal["completed", "failed", "cancelled", "queued"]
    error: str | None = None
    summary: str = ""
    artifacts: Sequence[Artifact] = field(default=(), repr=False)

    @property
    def measured(self) -> bool:
        """Whether the run has a metric."""
        return self.error not in TERMINAL


def ending(outcome: Outcome, row: Row, run_id: str, *, max_runtime_s: float, max_bytes: int) -> Ending:
    """The end of a run with this outcome."""
    match outcome:
        case Completed(result):
            artifacts, summary = artifacts_of(row.type, result, run_id)
            if any(len(artifact.content) > max_bytes for artifact in artifacts):
                return _failed(TOO_LARGE, row)
            return Ending("completed", None, summary, artifacts)
        case Failed(failure):
            return _failed(_text(failure, row.timeout_s, max_runtime_s), row)
        case _:
            return Ending("cancelled")


def _failed(error: str, row: Row) -> Ending:
    """Queued again while there are retries left: ``max_retries`` beside the first start."""
    retried = error not in TERMINAL and row.starts <= row.max_retries
    return Ending("queued" if retried else "failed", error)


def _text(failure: Failure, timeout_s: float, max_runtime_s: float) -> str:
    late = failure.code == "processor_error" and failure.message.endswith(" timeout")
    if late or failure.code == RUNTIME_EXCEEDED:
        # A task that has less time than any may have ends by its own timeout.
        return RUNTIME_EXCEEDED if max_runtime_s < timeout_s else TIMED_OUT
    text = failure.code if failure.code in _CODES else failure.message or failure.code
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")
