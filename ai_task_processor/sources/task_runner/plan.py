"""What becomes of the tasks that a claim was admitted: an equal task is not processed twice."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ai_task_processor.models.task import Task
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.sources.task_runner.queued import key_of, type_of

log = get_logger(__name__)


@dataclass(slots=True)
class Plan:
    """``start``, ``repeat`` (an equal one is completed), ``cancel``, ``reject``.

    ``waiting``: number of those that wait for an equal one.
    """

    start: list[Task] = field(default_factory=list)
    repeat: dict[str, Mapping[str, object]] = field(default_factory=dict)
    cancel: list[str] = field(default_factory=list)
    reject: dict[str, str] = field(default_factory=dict)
    waiting: int = 0

    def sort_out(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that are neither cancelled nor rejected."""
        usable = []
        for task in tasks:
            if task.raw["cancel_requested"]:
                self.cancel.append(task.id)
            elif reason := task.raw["nonsense"]:
                self.reject[task.id] = str(reason)
            else:
                usable.append(task)
        return usable

    def decide(
        self,
        tasks: Sequence[Task],
        locked: Collection[str],
        history: dict[str, tuple[Any, ...]],
        calls_nobody: Collection[str],
    ) -> None:
        """``locked``: the run keys that no other claim is looking at. ``history``: the runs so far, by run key.

        ``calls_nobody``: types whose work costs nothing: after a failure they do not wait for an equal one.
        """
        for task in tasks:
            run_id, running, failed, result, has_html = history.get(key_of(task), (None, False, False, None, False))
            again = failed and type_of(task) in calls_nobody
            wants_html = isinstance(task.content, Mapping) and task.content.get("store_raw_html") is True
            if (running and not again) or key_of(task) not in locked:
                self.waiting += 1
            elif _is_result(result) and (has_html or not wants_html):
                summary = f"deduplicated; {result['summary']} (run {run_id})"
                self.repeat[task.id] = {"artifact_ids": result["artifact_ids"], "summary": summary}
            else:
                self.start.append(task)
                if not again:
                    history[key_of(task)] = (None, True, False, None, False)

    def log(self, types: Mapping[str, str]) -> None:
        for task_id in self.cancel:
            log.info("task.cancelled", task_id=task_id, task_type=types[task_id])
        for task_id, reason in self.reject.items():
            log.warning("task.rejected", task_id=task_id, task_type=types[task_id], reason=reason)
        for task_id in self.repeat:
            log.info("task.deduplicated", task_id=task_id, task_type=types[task_id])


def _is_result(result: object) -> bool:
    """Whether it is what the row of a completed task has: ``{"artifact_ids": […], "summary": "…"}``."""
    return isinstance(result, Mapping) and isinstance(result.get("artifact_ids"), list) and "summary" in result
