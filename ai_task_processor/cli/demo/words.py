"""The value types of the demo, and its error."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ai_task_processor.models.task import TaskStatus

SHORTEST_SPAN_S: Final = 0.5
EX_OK, EX_FAILED, EX_INTERRUPTED = 0, 1, 130

Rows = list[tuple[str, str]]


class DemoFailed(Exception):
    """The demo failed; a sentence for each problem. ``log``: show the end of the daemon's log, too."""

    def __init__(self, *problems: str, log: bool = False) -> None:
        super().__init__(*problems)
        self.problems = problems
        self.log = log


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected end of one task. ``reason``: why it stays pending, as in the daemon's ``skipped``."""

    id: str
    state: TaskStatus
    vector: bytes | None = field(default=None, repr=False)
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the task API has seen so far. ``failed``: counts by error code; ``repeated``: number of repeated reports.

    ``first_s``: from the start of the daemon to the first acknowledged task; ``span_s``: from there to the latest.
    """

    succeeded: int
    failed: Counter[str]
    pending: int
    repeated: int
    first_s: float
    span_s: float

    @property
    def settled(self) -> int:
        return self.succeeded + self.failed.total()

    @property
    def per_second(self) -> float:
        """Settled tasks per second; 0 until ``SHORTEST_SPAN_S``, because the first results come in one burst."""
        return (self.settled - 1) / self.span_s if self.span_s >= SHORTEST_SPAN_S else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFigures:
    """How far the verification requests are. ``tasks``: those made so far; ``settled``, ``repeated``: of these."""

    requests: int
    triaged: int
    tasks: int
    settled: int
    repeated: int
    chat_calls: int
    chat_tokens: int

    @property
    def ended(self) -> bool:
        """Whether no task is left that could make a further one."""
        return self.settled == self.tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """From the daemon's metrics and status. ``processed``: counts by status; ``skipped``: listed tasks by reason."""

    url: str
    series: int
    processed: Mapping[TaskStatus, int]
    skipped: Mapping[str, int]
    slots: int
